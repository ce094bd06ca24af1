"""The command line with a repository on an SFTP server: what it prints, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.sshd import Sshd, needs_sshd, sshd
from tests.unit.test_cli_json import assert_same_shape, documented
from tests.unit.test_cli_repository import Host, make_host
from trinity_snap.setup.home import find_home
from trinity_snap.targets.sftp_address import SftpAddress, split_sftp_url

__all__ = ["make_host"]  # a fixture

pytestmark = needs_sshd


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as made:
        yield made


@pytest.fixture
def host(make_host, server: Sshd, tmp_path: Path) -> Host:
    host: Host = make_host()
    host.policy.parent.mkdir()
    for name in ("user_key", "user_key.pub", "known_hosts"):
        path = host.policy.parent / name
        path.write_bytes((server.home / name).read_bytes())
        path.chmod(0o600)
    write_policy(host, f"sftp://root@127.0.0.1:{server.port}{tmp_path}/storage/host1")
    return host


def write_policy(host: Host, url: str) -> None:
    target = {"url": url, "ssh_key_file": "user_key", "known_hosts_file": "known_hosts"}
    host.policy.write_text(json.dumps({"target": target, "state": {"directory": str(host.home / "state")}}))
    host.policy.chmod(0o600)


def test_a_repository_on_an_sftp_server_from_init_to_restore(host: Host, tmp_path: Path) -> None:
    made = host.json("init")
    assert made["target"].startswith("sftp://root@127.0.0.1:")
    assert made["same_disk"] is False
    assert (made["protection"]["refuses_overwriting"], made["protection"]["may_delete"]) == (True, True)
    assert "can change and delete every recovery point" in made["protection"]["consequences"][0]
    assert (tmp_path / "storage/host1/repository").stat().st_mode & 0o777 == 0o400
    again = host.json("init", "--target", made["target"] + "/")
    assert (again["changed"], again["protection"]) == (False, None)
    assert "says sftp://host/other" in host.text("init", "--target", "sftp://host/other", code=2)
    point = host.back_up()
    assert [one["id"] for one in host.json("list")["points"]] == [point]
    host.text("restore", "web", "--to", str(tmp_path / "back"))
    (restored,) = (tmp_path / "back").rglob("sub/file")
    assert restored.read_text() == "content"
    assert host.json("verify", "--read-data")["good"] is True
    checked = host.json("target", "check")
    assert checked["repository"] is True
    assert_same_shape(checked, documented("target check", 1))
    assert "can be used; there is a repository" in host.text("target", "check")


def test_what_to_set_up_on_the_server_is_printed_with_this_hosts_own_key(host: Host, server: Sshd) -> None:
    printed = host.json("target", "policy")
    assert_same_shape(printed, documented("target policy", 1))
    assert printed["authorized_keys"].startswith('restrict,command="internal-sftp -d / -p open,close,')
    assert printed["authorized_keys"].endswith(server.public_key)
    allowed = printed["authorized_keys"].split(" -p ")[1].split('"')[0].split(",")
    assert not {"remove", "rename", "posix-rename", "setstat", "fsetstat", "lsetstat", "rmdir", "symlink"} & set(
        allowed
    )
    known = subprocess.run(
        ["/usr/lib/openssh/sftp-server", "-Q", "requests"], capture_output=True, text=True, check=True
    )
    assert set(allowed) <= set(known.stdout.split())
    text = host.text("target", "policy")
    assert "ChrootDirectory /srv/trinity-snap/%u" in text and "In /etc/ssh/trinity-snap/root, one line:" in text
    control = host.text("target", "policy", "--control")
    assert "-p open" not in control and server.public_key not in control


def test_init_at_a_server_that_is_not_known_makes_nothing(host: Host) -> None:
    (host.policy.parent / "known_hosts").write_text("")
    before = host.files()
    answer = host.json("init", code=1)
    assert answer["error"] == "TargetDenied"
    assert "host key of 127.0.0.1" in answer["message"] and "ssh-keyscan" in answer["next_step"]
    assert host.files() == before


def test_init_takes_a_server_as_target_and_no_password(make_host, tmp_path: Path) -> None:
    home = find_home(tmp_path / "policy.yml", "sftp://backup@store.example.org:2222/~/host1")
    assert home.text is not None and "sftp://backup@store.example.org:2222/~/host1" in home.text
    settings = home.policy.target.settings()
    assert split_sftp_url(settings.url) == SftpAddress("backup", "store.example.org", 2222, "host1", settings.url)
    host: Host = make_host()
    said = host.text("init", "--target", "sftp://backup:secret@127.0.0.1/x", code=2)
    assert "a password must not be in it" in said and "secret" not in said


def test_a_repository_in_a_directory_needs_no_ssh(tmp_path: Path) -> None:
    code = (
        "import sys; from trinity_snap.targets import open_target; open_target(sys.argv[1], create=True); "
        "import trinity_snap.cli; print([name for name in sys.modules if 'sftp_' in name and 'address' not in name])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
