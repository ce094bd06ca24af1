"""The wheel is the command and the Ansible collection at once."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.fleet.conftest import ANSIBLE, ROOT

pytestmark = pytest.mark.fleet
PLACE = "ansible_collections/trinity/snap/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(place)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = place.glob("*.whl")
    return built


def test_the_wheel_carries_the_whole_collection(wheel: Path) -> None:
    carried = {name.removeprefix(PLACE) for name in zipfile.ZipFile(wheel).namelist() if name.startswith(PLACE)}
    expected = {"galaxy.yml", "README.md", "LICENSE"}
    for directory in ("meta", "plugins", "roles", "playbooks"):
        files = (path for path in (ROOT / directory).rglob("*") if path.is_file())
        expected |= {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    assert carried == expected


def test_the_wheel_carries_no_tests_and_no_scripts(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"trinity_snap", "ansible_collections"}


def test_ansible_finds_playbooks_roles_and_modules_in_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "ANSIBLE_COLLECTIONS_PATH": str(tmp_path)}
    for playbook in ("install", "backup", "restore"):
        done = subprocess.run(
            [str(ANSIBLE), f"trinity.snap.{playbook}", "-i", "localhost,", "-c", "local", "--check",
             "-e", f"trinity_snap_link={tmp_path}/none", "-e", f"trinity_snap_policy={tmp_path}/none.yml",
             "-e", f"trinity_snap_prefix={tmp_path}/opt", "-e", "trinity_snap_restore_agents=web",
             "-e", "ansible_python_interpreter=/usr/bin/python3"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    documented = subprocess.run(
        [str(ANSIBLE.with_name("ansible-doc")), "-t", "module", "trinity.snap.trinity_snap_backup"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "docker_host" in documented.stdout, documented.stderr
