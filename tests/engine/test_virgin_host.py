"""Check mode on a host where nothing was ever installed is true, and units that roles write are good ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("ansible")
ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = Path(sys.executable).with_name("ansible-playbook")
CHANGES = {
    "backup": 1, "policy": 1, "prune": 1, "repair": 1, "restore_host": 0, "recover": 0, "status": 0, "uninstall": 0, "verify": 0,
    "drill": 1,
}  # fmt: skip


def test_check_mode_is_true_on_a_virgin_host_and_leaves_no_trace(tmp_path: Path) -> None:
    place = tmp_path / "collections/ansible_collections/trinity"
    place.mkdir(parents=True)
    (place / "snap").symlink_to(ROOT)
    host = tmp_path / "host"
    variables = {
        "trinity_snap_link": f"{host}/bin/trinity-snap", "trinity_snap_prefix": f"{host}/opt",
        "trinity_snap_policy": f"{host}/etc/policy.yml", "trinity_snap_settings": {"target": "/mnt/x"},
        "ansible_python_interpreter": "/usr/bin/python3", "ansible_become": False,
    }  # fmt: skip
    done = subprocess.run(
        [ANSIBLE, *(f"trinity.snap.{name}" for name in CHANGES), "-i", "localhost,", "-c", "local", "--check", "--diff",
         "-e", json.dumps(variables)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections"), "ANSIBLE_NOCOLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    recaps = re.findall(r"(?m)^localhost .*changed=(\d+) .*unreachable=0 .*failed=0 ", done.stdout)
    steps = [int(now) - int(before) for before, now in zip(["0", *recaps], recaps, strict=False)]
    assert dict(zip(CHANGES, steps, strict=True)) == CHANGES, "the numbers add up over the playbooks of one call"
    assert not host.exists()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("job", ["backup", "verify", "prune"])
def test_systemd_finds_no_fault_with_timers_and_their_services(job: str, tmp_path: Path) -> None:
    jinja2 = pytest.importorskip("jinja2")
    templates = {
        "timer": ROOT / "roles/schedule/templates/timer.j2",
        "service": ROOT / "roles/schedule/templates/service.j2",
    }
    if job == "backup":
        templates["service"] = ROOT / "roles/install/templates/trinity-snap-backup.service.j2"
    defaults = yaml.safe_load((ROOT / "roles/schedule/defaults/main.yml").read_text())
    when = defaults[f"trinity_snap_schedule_{job}"] or "daily"
    values = {
        **defaults,
        "trinity_snap_link": "/bin/true",
        "ansible_managed": "by Ansible",
        "trinity_snap_docker_host": "",
    }
    values |= {"_trinity_snap_job": job, "_trinity_snap_times": {job: when}}
    values |= {"_trinity_snap_switches": {"verify": "--read-data=5%%"}}
    units = []
    for kind, template in templates.items():
        unit = tmp_path / f"trinity-snap-{job}.{kind}"
        made = jinja2.Environment(
            loader=jinja2.FileSystemLoader(template.parent), keep_trailing_newline=True, trim_blocks=True,
            undefined=jinja2.StrictUndefined,
        )  # fmt: skip
        made.filters["bool"] = bool
        unit.write_text(made.from_string(template.read_text()).render(values))
        units.append(str(unit))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", *units],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = [
        line for line in (done.stdout + done.stderr).splitlines() if str(tmp_path) in line or "trinity-snap" in line
    ]
    assert said == []
    assert subprocess.run(["systemd-analyze", "calendar", when], capture_output=True, check=False).returncode == 0
