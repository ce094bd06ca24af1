"""trinity-snap on a throw-away host: its own policy, keys, state and target, and the command run as an operator would."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.daemon import Daemon, environment
from trinity_snap.policy import load_policy
from trinity_snap.policy.schema import Policy
from trinity_snap.repository.identity import load_host_key, load_identity
from trinity_snap.repository.repository import Repository
from trinity_snap.targets import open_target

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass
class Product:
    """One installation."""

    home: Path
    daemon: Daemon
    target: Path
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def policy_file(self) -> Path:
        return self.home / "etc" / "policy.yml"

    @property
    def policy(self) -> Policy:
        return load_policy(self.policy_file)

    def write_policy(self, **settings: Any) -> None:
        self.policy_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        document = {"target": str(self.target), "state": {"directory": str(self.home / "state")}, **settings}
        self.policy_file.write_text(json.dumps(document))

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "trinity_snap", *arguments],
            cwd=CHECKOUT,
            env=environment(self.daemon, TRINITY_SNAP_POLICY=str(self.policy_file), **self.extra, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int | None = 0, **more: str) -> dict[str, Any]:
        """Run with `--json`. Return what it printed; require that exit code (None: any)."""
        process = self.start(*arguments, "--json", **more)
        output, errors = process.communicate(timeout=300)
        assert "Traceback" not in output + errors, output + errors
        assert code is None or process.returncode == code, (process.returncode, output, errors)
        answer = json.loads(output) if output.strip() else {}
        assert isinstance(answer, dict)
        return answer

    def repository(self) -> Repository:
        keys = self.policy.keys
        assert keys.identity is not None
        return Repository.open(
            open_target(self.policy.target.settings()),
            host=load_host_key(keys.host_key),
            identity=load_identity(keys.identity),
        )


def install(home: Path, daemon: Daemon, target: Path | None = None, **settings: Any) -> Product:
    """Write a policy and run `trinity-snap init`."""
    product = Product(home, daemon, target or home / "target")
    product.write_policy(**settings)
    product.run("init")
    return product


def volume(daemon: Daemon, name: str) -> Path:
    """Where a volume's data lies on this machine."""
    return Path(daemon.client.volumes.get(name).attrs["Mountpoint"])


def leftovers(product: Product) -> list[str]:
    """Snapshots and staging directories that are still there."""
    found = [str(path) for path in (product.home / "state" / "staging").glob("*")]
    for top in {product.daemon.data_root.parent, product.daemon.data_root, product.daemon.data_root / "volumes"}:
        found += [str(path) for path in (top / ".trinity-snap").glob("*")] if (top / ".trinity-snap").exists() else []
    return found
