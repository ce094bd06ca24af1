"""trinity-snap as the benchmark runs it: a plain directory, and a fresh process for each step.

python -m tests.bench.product version | init | backup --tree DIR | restore --tree DIR     --home DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

AGENT = "bench"


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.product")
    parser.add_argument("command", choices=["version", "init", "backup", "restore"])
    parser.add_argument("--home", type=Path)
    parser.add_argument("--tree", type=Path)
    options = parser.parse_args()
    if options.command == "version":
        from trinity_snap import __version__

        sys.stdout.write(f"trinity-snap {__version__}\n")
    else:
        {"init": _init, "backup": _backup, "restore": _restore}[options.command](options.home, options.tree)
    return 0


def _init(home: Path, _: Path | None) -> None:
    from trinity_snap.repository.identity import save_host_key, save_identity
    from trinity_snap.repository.keys import generate_host_secret, generate_identity
    from trinity_snap.repository.repository import Repository
    from trinity_snap.targets import open_target

    host, operator, recovery = (
        generate_host_secret(),
        generate_identity("operator"),
        generate_identity("recovery"),
    )
    save_host_key(home / "host.key", host)
    save_identity(home / "identity.key", operator, "operator")
    target = open_target(str(home / "repository"), create=True)
    Repository.create(target, host, [operator.recipient, recovery.recipient])


def _backup(home: Path, tree: Path) -> None:
    from trinity_snap.backup.engine import backup_tree
    from trinity_snap.repository.identity import load_host_key
    from trinity_snap.repository.repository import Repository
    from trinity_snap.targets import open_target

    target = open_target(str(home / "repository"))
    repository = Repository.open(target, host=load_host_key(home / "host.key"))
    done = backup_tree(repository, home / "cache", tree, agent=AGENT)
    if done.problems:
        raise SystemExit(f"not everything was backed up: {done.problems[:3]}")


def _restore(home: Path, destination: Path) -> None:
    from trinity_snap.repository.identity import load_identity
    from trinity_snap.repository.repository import Repository
    from trinity_snap.restore import execute, plan_restore
    from trinity_snap.targets import open_target

    identity = load_identity(home / "identity.key")
    repository = Repository.open(open_target(str(home / "repository")), identity=identity)
    point = repository.resolve("latest", agent=AGENT)
    plan = plan_restore(repository, point, state_dir=home / "state", to=destination)
    execute(plan, repository)


if __name__ == "__main__":
    sys.exit(main())
