"""The collection installs as collections do, from the tree and offline, and from the wheel; then Ansible knows it by name."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("ansible")
ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PLAYBOOKS = sorted(f"trinity.snap.{path.stem}" for path in (ROOT / "playbooks").glob("*.yml"))


def run(*command: str | Path, cwd: Path, **more: str) -> str:
    """Run it without the checkout's configuration, so that nothing of the checkout is found by chance."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment = {**kept, "HOME": str(cwd), "ANSIBLE_NOCOLOR": "1", **more}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_every_playbook(directory: Path, **where: str) -> None:
    """Ansible finds all of them by name and can read them."""
    said = run(BIN / "ansible-playbook", "--syntax-check", "-i", "localhost,", *PLAYBOOKS, cwd=directory, **where)
    assert said.count("playbook: ") == len(PLAYBOOKS)


def test_an_archive_of_the_tree_installs_offline_and_its_playbooks_are_known_by_name(tmp_path: Path) -> None:
    run(BIN / "ansible-galaxy", "collection", "build", ROOT, "--output-path", tmp_path, cwd=tmp_path)
    (archive,) = tmp_path.glob("trinity-snap-*.tar.gz")
    place = tmp_path / "collections"
    run(BIN / "ansible-galaxy", "collection", "install", "--offline", "--force", archive, "-p", place, cwd=tmp_path)
    installed = place / "ansible_collections/trinity/snap"
    for part in ("playbooks", "roles", "plugins/modules"):
        assert {path.name for path in (installed / part).iterdir() if path.name != "__pycache__"} == {
            path.name for path in (ROOT / part).iterdir() if path.name != "__pycache__"
        }
    assert not (installed / "trinity_snap").exists()
    assert [path.name for path in (installed / "tests").iterdir()] == ["sanity"]
    check_every_playbook(tmp_path, ANSIBLE_COLLECTIONS_PATH=str(place))


def test_a_wheel_that_pip_builds_carries_the_collection_and_its_playbooks_are_known_by_name(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = (sys.executable, "-m", "pip", "wheel", ROOT, "--no-deps", "--no-build-isolation", "-w", tmp_path, "-q")
    run(*build, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    check_every_playbook(tmp_path, PYTHONPATH=str(tmp_path / "site"), ANSIBLE_COLLECTIONS_PATH=str(tmp_path / "none"))
