"""Where keys come from besides plain files: what systemd has encrypted or given, and commands of the operator's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.test_cli_json import assert_same_shape, documented
from tests.unit.test_cli_repository import Host
from trinity_snap.credentials import encrypt, is_encrypted
from trinity_snap.errors import KeyFileError, TargetDenied
from trinity_snap.targets.s3_client import read_credentials

VAULT = Path(sys.executable).with_name("ansible-vault")
S3 = "[default]\naws_access_key_id = AKIA\naws_secret_access_key = quiet\n"


def _systemd_creds() -> bool:
    found = shutil.which("systemd-creds")
    if found is None or os.geteuid() != 0:
        return False
    return subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0


needs_systemd_creds = pytest.mark.skipif(not _systemd_creds(), reason="needs root and systemd-creds")


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Host:
    for name in ("CREDENTIAL_ENCRYPTION_KEY", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(
        "SYSTEMD_CREDENTIAL_SECRET", str(tmp_path / "credential.secret")
    )  # this machine's stays as it is
    made = Host(tmp_path, capsys, monkeypatch)
    made.json("init", "--target", str(tmp_path / "repository"))
    change(made, "  #directory: /var/lib/trinity-snap", f"  directory: {tmp_path / 'state'}")
    return made


def change(host: Host, old: str, new: str) -> None:
    text = host.policy.read_text()
    assert old in text
    host.policy.write_text(text.replace(old, new))


@needs_systemd_creds
def test_systemd_encrypts_the_secrets_of_a_host_where_they_are_and_everything_goes_on(host: Host) -> None:
    home = host.policy.parent
    credentials = home / "s3"
    credentials.write_text(S3)
    credentials.chmod(0o600)
    change(host, "\n#replicas: []", '\nreplicas: [{name: away, url: "s3://backups/p", credentials_file: s3}]')
    before = host.files()
    planned = host.json("key", "encrypt", "--dry-run")
    assert planned["changed"] is True and host.files() == before
    done = host.json("key", "encrypt")
    assert_same_shape(done, documented("key encrypt"))
    assert {Path(one["file"]).name: one["changed"] for one in done["files"]} == {"host.key": True, "s3": True}
    after = host.files()
    changed = {name for name in before if before[name] != after[name]}
    assert set(after) == set(before) and changed == {"host.key", "s3"}
    for name, secret in (("host.key", b'"secret"'), ("s3", b"quiet")):
        assert secret not in after[name] and is_encrypted(after[name])
        assert (home / name).stat().st_mode & 0o777 == 0o600
    assert host.json("key", "encrypt")["changed"] is False and host.files() == after
    point = host.back_up()
    assert [one["id"] for one in host.json("list")["points"]] == [point]
    assert host.json("verify")["good"] is True
    assert read_credentials(credentials).secret_key == "quiet"


@needs_systemd_creds
def test_what_was_encrypted_for_another_host_or_another_purpose_does_not_open(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    credentials = tmp_path / "s3"
    credentials.write_text(S3)
    credentials.chmod(0o600)
    credentials.write_bytes(encrypt(credentials, "trinity-snap-host-key"))
    with pytest.raises(TargetDenied, match="for another purpose"):
        read_credentials(credentials)
    host.json("key", "encrypt")
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(tmp_path / "another.secret"))
    refused = host.json("list", code=1)
    assert refused["error"] == "KeyFileError" and "for another host" in refused["message"]
    assert "key host-key" in refused["next_step"]


@needs_systemd_creds
@pytest.mark.parametrize("writes", [1, 2, 3])
def test_an_encryption_that_breaks_off_anywhere_leaves_a_key_that_works(
    host: Host, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    class Cut(BaseException):
        pass

    left = writes

    def count(act: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: object, **more: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Cut
            act(*arguments, **more)

        return counted

    monkeypatch.setattr(os, "replace", count(os.replace))
    monkeypatch.setattr(os, "rename", count(os.rename))
    monkeypatch.setattr(os, "link", count(os.link))
    try:
        host.json("key", "encrypt")
    except Cut:
        pass
    monkeypatch.undo()
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(host.home / "credential.secret"))
    host.back_up()
    assert {path.name for path in host.policy.parent.iterdir() if "host" in path.name} == {"host.key"}


def test_a_host_key_that_systemd_gives_to_a_unit_is_enough(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    given = host.home / "credentials"
    given.mkdir()
    (host.policy.parent / "host.key").rename(given / "trinity-snap-host-key")
    (given / "trinity-snap-host-key").chmod(0o400)
    assert host.json("verify", "--hashes", code=1)["error"] == "KeyFileError"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    host.back_up()
    assert host.json("verify", "--hashes")["good"] is True
    assert len(host.json("list")["points"]) == 1


def test_a_command_gives_the_identity_and_nothing_of_it_is_shown(host: Host) -> None:
    point = host.back_up()
    elsewhere = host.home / "store"
    elsewhere.mkdir()
    (host.policy.parent / "identity.key").rename(elsewhere / "operator")
    assert host.json("list", code=1)["error"] == "KeyFileError"
    change(host, "  #identity_command: null", "  identity_command: [cat, ../store/operator]")
    for command in (["list"], ["verify", "--read-data"], ["status"]):
        assert "seed" not in host.text(*command)
    assert host.json("list")["points"][0]["id"] == point
    change(host, "[cat, ../store/operator]", f'[sh, -c, "cat {elsewhere}/operator; exit 3", hush-4711]')
    said = host.text("list", code=1)
    assert "exit code 3" in said and "seed" not in said and "hush" not in said
    change(host, "[sh, ", "[no-such-program, ")
    assert "cannot be run" in host.text("list", code=1)


@pytest.mark.skipif(not VAULT.exists(), reason="needs ansible-vault")
def test_an_identity_stays_in_ansible_vault(host: Host) -> None:
    point = host.back_up()
    identity = host.policy.parent / "identity.key"
    password = host.home / "vault-password"
    password.write_text("correct horse\n")
    subprocess.run([VAULT, "encrypt", "--vault-password-file", password, identity], check=True, capture_output=True)
    assert identity.read_bytes().startswith(b"$ANSIBLE_VAULT;")
    refused = host.json("list", code=1)
    assert "Ansible Vault" in refused["message"] and "identity_command" in refused["next_step"]
    command = f'[{VAULT}, view, --vault-password-file, "{password}", identity.key]'
    change(host, "  #identity_command: null", f"  identity_command: {command}")
    assert host.json("list")["points"][0]["id"] == point


def test_what_is_no_key_of_systemds_is_said_to_be_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KeyFileError, match="no `systemd-creds`"):
        encrypt(tmp_path / "any", "trinity-snap-host-key")
    assert not is_encrypted(b"{}") and not is_encrypted(S3.encode()) and not is_encrypted(b"")
