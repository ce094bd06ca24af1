"""A stand-in for OpenZFS's command `zfs`, for machines whose kernel has no ZFS: snapshots are copies, mounts are bind mounts.

It knows the calls that the provider makes, and answers as zfs(8) of OpenZFS 2 does. `FAKE_ZFS` names its directory, which has a
directory for each dataset's content below `datasets`, and what it was asked in `log`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HOME = Path(os.environ["FAKE_ZFS"])


def main() -> None:
    with open(HOME / "log", "a") as log:
        log.write(json.dumps(sys.argv[1:]) + "\n")
    file = HOME / "state"
    state: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"snapshots": {}, "clones": {}}
    verb, *words = sys.argv[1:]
    options = dict(
        words[at + 1].split("=", 1) for at, word in enumerate(words) if word == "-o" and "=" in words[at + 1]
    )
    names = [word for at, word in enumerate(words) if word[0] != "-" and (at == 0 or words[at - 1] not in ("-o", "-t"))]
    globals()[f"_{verb}"](state, names, options, words)
    file.write_text(json.dumps(state))


def _fail(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.exit(1)


def _content(name: str) -> Path:
    return HOME / "copies" / name.replace("/", "%")


def _version(state: dict[str, Any], names: list[str], options: dict[str, str], words: list[str]) -> None:
    sys.stdout.write("zfs-2.1.11-1\nzfs-kmod-2.1.11-1\n")


def _snapshot(state: dict[str, Any], names: list[str], options: dict[str, str], words: list[str]) -> None:
    for name in names:
        if name in state["snapshots"]:
            _fail(f"cannot create snapshot '{name}': dataset already exists\nno snapshots were created")
    for name in names:
        shutil.copytree(HOME / "datasets" / name.partition("@")[0].replace("/", "%"), _content(name), symlinks=True)
        state["snapshots"][name] = options


def _clone(state: dict[str, Any], names: list[str], options: dict[str, str], words: list[str]) -> None:
    snapshot, clone = names
    if snapshot not in state["snapshots"]:
        _fail(f"cannot open '{snapshot}': dataset does not exist")
    state["clones"][clone] = {**options, "origin": snapshot}


def _mount(state: dict[str, Any], names: list[str], options: dict[str, str], words: list[str]) -> None:
    clone = state["clones"][names[0]]
    assert clone["canmount"] == "noauto" and clone["readonly"] == "on"
    place = clone["mountpoint"]
    subprocess.run(["mount", "--bind", str(_content(clone["origin"])), place], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)


def _list(state: dict[str, Any], names: list[str], options: dict[str, str], words: list[str]) -> None:
    columns = words[words.index("-o") + 1].split(",")
    known = {**state["snapshots"], **state["clones"]}
    for name in names:
        if name not in known:
            _fail(f"cannot open '{name}': dataset does not exist")
    for name in names or [*known]:
        row = {"name": name, "mounted": "no", **known[name]}
        sys.stdout.write("\t".join(row.get(column, "-") for column in columns) + "\n")


def _destroy(state: dict[str, Any], names: list[str], options: dict[str, str], words: list[str]) -> None:
    assert len(words) == 1, "nothing is to be destroyed recursively"
    (name,) = names
    if name in state["clones"]:
        del state["clones"][name]
    elif any(clone["origin"] == name for clone in state["clones"].values()):
        _fail(f"cannot destroy '{name}': snapshot has dependent clones\nuse '-R' to destroy the following datasets:")
    else:
        del state["snapshots"][name]
        shutil.rmtree(_content(name))


if __name__ == "__main__":
    main()
