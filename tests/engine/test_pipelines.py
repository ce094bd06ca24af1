"""The files of docs/pipelines do what docs/pipelines.md says, as far as that can be seen without a cloud."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engine.test_fleet_command import Fleet

pytest.importorskip("ansible_runner")
ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "docs/pipelines"
ANSIBLE = Path(sys.executable).with_name("ansible-playbook")
needs_ansible = pytest.mark.skipif(not ANSIBLE.exists(), reason="needs ansible-core")
needs_terraform = pytest.mark.skipif(shutil.which("terraform") is None, reason="needs terraform")


def load(name: str) -> Any:
    return yaml.safe_load((FILES / name).read_text())


def program(place: Path, name: str, text: str) -> None:
    path = place / name
    path.write_text(text)
    path.chmod(0o755)


# -- cloud-init -------------------------------------------------------------------------------------------------------


def test_user_data_is_what_cloud_init_takes_and_holds_no_secret(tmp_path: Path) -> None:
    text = (FILES / "user-data.yml").read_text()
    assert text.startswith("#cloud-config\n")
    (user,) = load("user-data.yml")["users"]
    assert user["ssh_authorized_keys"] == ["${operator_key}"] and user["lock_passwd"] is True
    assert not re.search(r"PRIVATE KEY|password:|(?<!lock_)passwd:|aws_|identity", text)
    cloud_init = shutil.which("cloud-init")
    if cloud_init is not None:
        filled = tmp_path / "user-data.yml"
        filled.write_text(text.replace("${operator_key}", "ssh-ed25519 AAAA operator"))
        checked = subprocess.run([cloud_init, "schema", "-c", filled], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mkfs.btrfs") is None, reason="needs root and btrfs-progs")
def test_volumes_come_to_a_disk_of_their_own_and_a_disk_with_data_is_not_made_anew(tmp_path: Path) -> None:
    (script,) = load("user-data.yml")["write_files"]
    program(tmp_path, "prepare", script["content"])
    place, fstab, image = tmp_path / "volumes", tmp_path / "fstab", tmp_path / "image"
    fstab.touch()
    with image.open("wb") as file:
        file.truncate(256 << 20)
    disk = subprocess.run(
        ["losetup", "--find", "--show", image], capture_output=True, text=True, check=True
    ).stdout.strip()
    prepare = [str(tmp_path / "prepare"), disk, str(place), str(fstab)]
    try:
        subprocess.run(prepare, check=True, capture_output=True)
        kind = ["stat", "--file-system", "--format", "%T", str(place)]
        assert subprocess.run(kind, capture_output=True, text=True, check=True).stdout == "btrfs\n"
        (place / "kept").write_text("data")
        subprocess.run(["umount", place], check=True)
        for _ in range(2):
            subprocess.run(prepare, check=True, capture_output=True)
        assert (place / "kept").read_text() == "data"
        (line,) = fstab.read_text().splitlines()
        assert re.fullmatch(rf"UUID=[0-9a-f-]{{36}} {place} btrfs defaults,nofail 0 0", line)
    finally:
        subprocess.run(["umount", place], check=False, capture_output=True)
        subprocess.run(["losetup", "--detach", disk], check=False)
    missing = subprocess.run(
        [tmp_path / "prepare", "/dev/no-such-disk", place, fstab], capture_output=True, check=False
    )
    assert missing.returncode == 0


# -- the last step ----------------------------------------------------------------------------------------------------

RECORD = """#!/bin/sh
echo "$(basename "$0") $*" >>"$CALLS"
case "$*" in
  "key host-key "*) echo secret >"$3"; ls -ld "$(dirname "$3")" | cut -c 1-10 >>"$CALLS" ;;
esac
case "$*" in $FAILING) exit $CODE ;; esac
"""


def provision(tmp_path: Path, *arguments: str, failing: str = "nothing", code: int = 1) -> tuple[int, list[str]]:
    commands, memory = tmp_path / "bin", tmp_path / "memory"
    commands.mkdir(exist_ok=True)
    memory.mkdir(exist_ok=True)
    for name in ("ansible-playbook", "trinity-snap"):
        program(commands, name, RECORD)
    calls = tmp_path / "calls"
    calls.unlink(missing_ok=True)
    environment = {
        "PATH": f"{commands}:/usr/bin:/bin", "CALLS": str(calls), "INVENTORY": "inventory.yml", "POLICIES": "/policies",
        "XDG_RUNTIME_DIR": str(memory), "FAILING": failing, "CODE": str(code),
    }  # fmt: skip
    done = subprocess.run([FILES / "provision.sh", *arguments], env=environment, cwd=FILES, check=False)
    assert list(memory.iterdir()) == []
    return done.returncode, [line.replace(f"{FILES}/", "") for line in calls.read_text().splitlines()]


ENDING = [
    "trinity-snap fleet backup -i inventory.yml --limit host1",
    "ansible-playbook trinity.snap.schedule -i inventory.yml --limit host1",
    "trinity-snap fleet status -i inventory.yml --limit host1 --max-age 1h",
]
RESTORE = "trinity-snap fleet restore -i inventory.yml --limit host1 --all --containers --grant --yes"


def test_a_new_host_is_installed_backed_up_and_scheduled(tmp_path: Path) -> None:
    assert provision(tmp_path, "host1") == (0, [
        "ansible-playbook ready.yml -e host_key_file= -i inventory.yml --limit host1",
        "ansible-playbook trinity.snap.install -i inventory.yml --limit host1",
        *ENDING,
    ])  # fmt: skip


def test_agents_of_a_lost_host_are_restored_before_the_first_backup(tmp_path: Path) -> None:
    code, calls = provision(tmp_path, "host1", "host9")
    assert code == 0
    assert calls[2:] == [f"{RESTORE} -e trinity_snap_restore_grant_policy=/policies/host9.yml", *ENDING]


def test_a_server_in_its_own_place_gets_its_host_key_by_way_of_memory(tmp_path: Path) -> None:
    code, calls = provision(tmp_path, "host1", "host1")
    assert code == 0
    (key,) = re.findall(r"key host-key (\S+) --policy /policies/host1.yml", calls[0])
    assert key.startswith(str(tmp_path / "memory")) and calls[1] == "drwx------"
    assert f"host_key_file={key}" in calls[2] and "ready.yml" in calls[2]


@pytest.mark.parametrize(
    "failing", ["*host-key*", "*ready.yml*", "*install*", "*restore*", "*backup*", "*schedule*", "*status*"]
)
def test_whatever_fails_ends_it_and_leaves_no_key(tmp_path: Path, failing: str) -> None:
    code, calls = provision(tmp_path, "host1", "host1", failing=failing)
    assert code == 1
    assert re.search(failing.strip("*"), calls[-1] if failing != "*host-key*" else calls[0])


def test_a_weaker_guarantee_does_not_end_it(tmp_path: Path) -> None:
    code, calls = provision(tmp_path, "host1", failing="fleet backup*", code=12)
    assert code == 0 and calls[-3:] == ENDING


@needs_ansible
def test_the_playbooks_and_variables_are_there(tmp_path: Path) -> None:
    place = tmp_path / "collections/ansible_collections/trinity"
    place.mkdir(parents=True)
    (place / "snap").symlink_to(ROOT)
    named = sorted(set(re.findall(r"trinity\.snap\.\w+", (FILES / "provision.sh").read_text())))
    assert named == ["trinity.snap.install", "trinity.snap.schedule"]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections")}
    done = subprocess.run(
        [ANSIBLE, "--syntax-check", FILES / "ready.yml", *named, "-i", FILES / "inventory.yml"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    specified = "".join(path.read_text() for path in (ROOT / "roles").glob("*/defaults/main.yml"))
    for name in set(re.findall(r"\btrinity_snap_\w+", "".join(path.read_text() for path in FILES.iterdir()))):
        assert f"{name}:" in specified, name


@needs_ansible
def test_a_fresh_server_is_made_ready_and_a_key_that_is_there_stays(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("cloud-init", "docker"):
        program(commands, name, "#!/bin/sh\nexit 0\n")
    key = tmp_path / "host.key"
    key.write_text("first\n")
    given = {
        "ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": "/usr/bin/python3",
        "policy_directory": str(tmp_path / "etc"), "credentials_directory": str(tmp_path / "aws"),
        "host_key_file": str(key), "s3_credentials": "[default]\n",
    }  # fmt: skip

    def play() -> str:
        done = subprocess.run(
            [ANSIBLE, FILES / "ready.yml", "-i", "one,", "-e", json.dumps(given)], capture_output=True, text=True,
            env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "changed=4 " in play()
    key.write_text("second\n")
    assert "changed=0 " in play()
    brought = tmp_path / "etc/host.key"
    assert brought.read_text() == "first\n" and brought.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "aws/credentials").stat().st_mode & 0o777 == 0o600


@needs_ansible
def test_the_last_steps_are_taken_by_the_real_command(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {})
    fleet.add("host1", "done")
    fleet.start("status", "--json").communicate()  # writes the inventory
    commands = tmp_path / "bin"
    commands.mkdir()
    program(commands, "ansible-playbook", "#!/bin/sh\n")
    program(commands, "trinity-snap", f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m trinity_snap "$@"\n')
    environment = {**os.environ, "PATH": f"{commands}:/usr/bin:/bin", "INVENTORY": str(tmp_path / "inventory.yml")}
    done = subprocess.run(
        [FILES / "provision.sh", "host1"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert fleet.hosts["host1"].calls() == ["status", "backup", "status"]


# -- Terraform and CI -------------------------------------------------------------------------------------------------


@needs_terraform
def test_terraform_provisions_each_new_server_once_and_a_replaced_one_again(tmp_path: Path) -> None:
    for path in FILES.iterdir():
        shutil.copy(path, tmp_path)
    program(tmp_path, "provision.sh", '#!/bin/sh\necho "$1<$2 $INVENTORY $POLICIES" >>calls\n')
    environment = {**os.environ, "TF_VAR_operator_key": "ssh-ed25519 AAAA operator", "CHECKPOINT_DISABLE": "1"}

    def terraform(*words: str) -> str:
        done = subprocess.run(
            ["terraform", *words, "-no-color"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def provisioned() -> list[str]:
        lines = sorted((tmp_path / "calls").read_text().splitlines()) if (tmp_path / "calls").exists() else []
        (tmp_path / "calls").unlink(missing_ok=True)
        return [line.split()[0] for line in lines]

    terraform("init", "-input=false")
    assert "configuration is valid" in terraform("validate")
    apply = ("apply", "-auto-approve", "-input=false")
    terraform(*apply)
    assert provisioned() == ["host1<host1", "host2<host9", "host3<"]
    terraform(*apply)
    assert provisioned() == []
    inventory = tmp_path / "inventory.yml"
    inventory.write_text(inventory.read_text().replace("192.0.2.12", "192.0.2.99"))
    terraform(*apply)
    assert provisioned() == ["host2<host9"]
    assert (
        "ssh-ed25519 AAAA operator"
        in yaml.safe_load(terraform("output", "-raw", "user_data"))["users"][0]["ssh_authorized_keys"]
    )


def test_the_workflow_runs_the_last_step_and_keeps_secrets_in_memory(tmp_path: Path) -> None:
    workflow = load("restore-host.yml")
    inputs = workflow[True]["workflow_dispatch"]["inputs"]  # `on` is a boolean for YAML 1.1
    assert set(inputs) == {"host", "lost"}
    (job,) = workflow["jobs"].values()
    (step,) = (one for one in job["steps"] if one.get("name") == "Provision")
    assert "${{" not in step["run"], "an input in a script would be run"
    memory = tmp_path / "memory"
    memory.mkdir()
    program(
        tmp_path,
        "provision.sh",
        '#!/bin/sh\nenv >environment; cat "$ANSIBLE_PRIVATE_KEY_FILE" "$ANSIBLE_VAULT_PASSWORD_FILE"\n',
    )
    environment = {
        "PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(memory), "HOST": "host1", "LOST": "", "SSH_KEY": "the key",
        "VAULT_PASSWORD": "the password",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "the key\nthe password\n" and list(memory.iterdir()) == []
    assert "the password" not in (tmp_path / "environment").read_text()


def test_every_program_of_the_shell_is_in_good_grammar() -> None:
    (script,) = load("user-data.yml")["write_files"]
    for text in ((FILES / "provision.sh").read_text(), script["content"]):
        assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
