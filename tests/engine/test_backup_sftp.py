"""Whole backups and restores through an SFTP server: interrupted, slow, breaking, and with hardly any rights."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.engine.target_conformance import flat_name
from tests.engine.test_backup_engine import make_tree, on_disk
from tests.engine.test_backup_s3 import fill
from tests.faults.faulty import Crash, CrashingTarget
from tests.faults.sshd import Sshd, needs_sshd, open_to_all, sshd
from tests.faults.wire import Wire, wire_to
from trinity_snap.backup.engine import Committed, backup_tree
from trinity_snap.errors import TargetDenied
from trinity_snap.progress import NullProgress
from trinity_snap.repository.keys import HostSecret, Identity, generate_host_secret
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.verify import verify
from trinity_snap.restore.write import write_and_check
from trinity_snap.targets import Target
from trinity_snap.targets.probe import probe
from trinity_snap.targets.sftp import SftpTarget
from trinity_snap.targets.sftp_client import SftpClient
from trinity_snap.targets.sftp_policy import server_settings
from trinity_snap.targets.sftp_probe import SftpProtection
from trinity_snap.targets.sftp_session import Refused
from trinity_snap.targets.sftp_wire import TRUNCATE, WRITING

pytestmark = needs_sshd


@dataclass
class Remote:
    """A repository on an SFTP server."""

    target: SftpTarget
    home: Path
    identities: tuple[Identity, Identity]
    host: HostSecret = field(default_factory=generate_host_secret)

    def make(self) -> Remote:
        Repository.create(self.target, self.host, [identity.recipient for identity in self.identities])
        return self

    def open(self, target: Target | None = None) -> Repository:
        return Repository.open(target or self.target, host=self.host, identity=self.identities[0])

    def backup(self, root: Path, target: Target | None = None) -> Committed:
        host_only = Repository.open(target or self.target, host=self.host)
        return backup_tree(host_only, self.home / "cache", root, agent="web")

    def restore(self, point_id: str, name: str, target: Target | None = None) -> Path:
        repository = self.open(target)
        point = repository.read_point(point_id)
        reader = repository.reader(point)
        (volume,) = point.volumes
        holder = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY)
        try:
            write_and_check(
                reader, holder, name.encode(), "web", lambda: reader.entries(volume), NullProgress(),
                devices=False, total=0, damaged_is_fatal=True,
            )  # fmt: skip
        finally:
            os.close(holder)
        return self.home / name


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as made:
        yield made


@pytest.fixture
def wire(server: Sshd) -> Iterator[Wire]:
    with wire_to(server.port) as made:
        server.know(server.port, made.port)
        yield made


@pytest.fixture
def remote(server: Sshd, wire: Wire, tmp_path: Path, identities: tuple[Identity, Identity]) -> Remote:
    target = SftpTarget(server.settings(f"{tmp_path}/there/repository", port=wire.port), create=True)
    return Remote(target, tmp_path, identities).make()


def test_every_byte_comes_back_and_a_lost_cache_costs_no_second_upload(
    remote: Remote, wire: Wire, tmp_path: Path
) -> None:
    root = tmp_path / "tree"
    make_tree(root, 100)
    committed = remote.backup(root)
    assert on_disk(remote.restore(committed.id, "back")) == on_disk(root)
    packs = set(remote.target.list_prefix("packs/"))
    shutil.rmtree(tmp_path / "cache")
    before = wire.bytes_sent
    again = remote.backup(root)
    assert again.bytes_read > 5_000_000
    assert wire.bytes_sent - before < 500_000
    assert set(remote.target.list_prefix("packs/")) == packs
    assert on_disk(remote.restore(again.id, "again")) == on_disk(root)
    assert verify(remote.open(), remote.open().points(), read_data=True).good
    assert not list(tmp_path.glob("there/repository/.tmp/*"))


def test_a_backup_and_a_restore_over_connections_that_break_again_and_again(
    remote: Remote, wire: Wire, tmp_path: Path
) -> None:
    root = tmp_path / "tree"
    fill(root, 24)
    blocks, limit, breaks = 0, 100, 0

    def now_and_then() -> bool:  # ever more rarely: an object that is never sent as a whole never arrives
        nonlocal blocks, limit, breaks
        blocks += 1
        if blocks < limit:
            return False
        blocks, limit, breaks = 0, limit * 3 // 2, breaks + 1
        return True

    wire.before_request = wire.before_answer = now_and_then
    committed = remote.backup(root)
    assert breaks >= 3
    breaks, limit = 0, 100
    back = remote.restore(committed.id, "back")
    assert breaks >= 2
    assert on_disk(back) == on_disk(root)
    wire.before_request = wire.before_answer = lambda: False
    assert verify(remote.open(), remote.open().points(), read_data=True).good


def test_an_interrupted_run_goes_on_where_it_was(remote: Remote, wire: Wire, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    fill(root, 24)

    class DiesAtTheCommit(CrashingTarget):
        def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
            if name.startswith("points/"):
                raise Crash
            return super().put_if_absent(name, data)

    with pytest.raises(Crash):
        remote.backup(root, DiesAtTheCommit(remote.target))
    stored = set(remote.target.list_prefix("packs/"))
    assert len(stored) > 1
    shutil.rmtree(tmp_path / "cache")
    committed = remote.backup(root)
    assert set(remote.target.list_prefix("packs/")) == stored
    assert on_disk(remote.restore(committed.id, "back")) == on_disk(root)


def test_with_latency_uploads_go_on_side_by_side_and_so_do_restores(remote: Remote, wire: Wire, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    fill(root, 64)
    wire.latency = 0.015
    committed = remote.backup(root)
    assert wire.most_at_once >= 2
    back = remote.restore(committed.id, "back")
    assert wire.most_at_once > remote.target.parallel_puts
    assert on_disk(back) == on_disk(root)


# -- a server that lets hosts add, and nothing else -------------------------------------------------------------------


@dataclass
class Guarded:
    """A server set up as `target policy` says, with one key for the host and one for the control node."""

    server: Sshd
    base: Path
    host: SftpTarget
    control: SftpTarget


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    with open_to_all("/var/lib") as base, sshd(tmp_path / "sshd") as server:  # a chroot belongs to root up to /
        settings = server.settings("/repository", user="nobody")
        for_host = server_settings(settings, control=False)
        other_key = tmp_path / "control_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other_key], check=True)
        for_control = server_settings(replace(settings, ssh_key_file=other_key), control=True)
        server.stop()

        def here(text: object) -> str:
            return (
                str(text).replace("/srv/trinity-snap", f"{base}/srv").replace("/etc/ssh/trinity-snap", f"{base}/keys")
            )

        prepare = for_host["prepare"]
        assert isinstance(prepare, list) and prepare[0].startswith("useradd")
        for command in prepare[1:]:
            subprocess.run(here(command), shell=True, check=True)
        public = other_key.with_suffix(".pub").read_text()
        keys = Path(here(for_host["authorized_keys_file"]))
        keys.write_text(
            f"{for_host['authorized_keys']}\n{str(for_control['authorized_keys']).replace('ssh-ed25519 AAAA…', public)}\n"
        )
        server.extra = here(for_host["sshd_config"]) + "\n"
        server.start()
        yield Guarded(server, base, SftpTarget(settings), SftpTarget(replace(settings, ssh_key_file=other_key)))


def test_a_host_makes_backups_with_the_printed_rights_and_can_destroy_nothing(
    guarded: Guarded, tmp_path: Path, identities: tuple[Identity, Identity]
) -> None:
    root, target = tmp_path / "tree", guarded.host
    make_tree(root, 50)
    remote = Remote(target, tmp_path, identities).make()
    first = remote.backup(root)
    shutil.rmtree(tmp_path / "cache")
    (root / "new").write_bytes(b"new" * 100_000)
    second = remote.backup(root)
    assert not first.problems and not second.problems
    names = sorted(target.list_prefix(""))
    before = {name: (target.get(name), target.stat(name)) for name in names}
    point = f"{target.root}/{next(iter(target.list_prefix('points/')))}"
    other = f"{target.root}/.tmp/{'e' * 32}"
    attempts: list[Callable[[SftpClient], object]] = [
        lambda client: client.answer(client.remove(point)),
        lambda client: client.answer(client.rename(point, other)),
        lambda client: client.answer(client.replace(other, point)),
        lambda client: client.answer(client.chmod(point, 0o600)),
        lambda client: client.handle(client.open(point, WRITING)),
        lambda client: client.handle(client.open(point, WRITING | TRUNCATE)),
        lambda client: client.answer(client.hardlink(other, point)),
        lambda client: client.answer(client.request(15, b"\0\0\0\x12/repository/points")),  # RMDIR
        lambda client: client.answer(client.rename(f"{target.root}/points", f"{target.root}/gone")),
    ]
    with target._connections.one() as client:
        client.close_file(client.handle(client.open(other, 0x2 | 0x8, 0o600)))
        for attempt in attempts:
            with pytest.raises(Refused):
                attempt(client)
    with pytest.raises(TargetDenied):
        target.delete(names[0])
    assert {name: (target.get(name), target.stat(name)) for name in names} == before
    assert on_disk(remote.restore(second.id, "back")) == on_disk(root)
    assert verify(remote.open(guarded.control), remote.open().points(), read_data=True).good


def test_the_probe_says_what_each_key_may_do(guarded: Guarded, server: Sshd, tmp_path: Path) -> None:
    host, control = probe(guarded.host), probe(guarded.control)
    assert isinstance(host, SftpProtection) and isinstance(control, SftpProtection)
    assert (host.refuses_overwriting, host.may_change, host.may_delete) == (True, False, False)
    assert "can destroy no recovery point" in host.consequences()[0]
    assert (control.refuses_overwriting, control.may_change, control.may_delete) == (True, True, True)
    assert "change and delete every recovery point" in control.consequences()[0]
    plain = SftpTarget(server.settings(str(tmp_path)))
    assert probe(plain) == control
    assert not list((tmp_path / ".tmp").iterdir())


def test_the_control_node_clears_up_what_hosts_may_not_remove(guarded: Guarded) -> None:
    name = flat_name()
    guarded.host.put_if_absent(name, b"x")
    temporary = guarded.base / "srv/nobody/repository/.tmp"
    (left,) = temporary.iterdir()
    assert left.stat().st_nlink == 2  # a name, and no room
    long_ago = time.time() - 7200
    os.utime(left, (long_ago, long_ago))
    SftpTarget(guarded.server.settings("/repository", user="nobody")).put_if_absent(flat_name(), b"y")
    assert left.exists()
    guarded.control.put_if_absent(flat_name(), b"z")
    assert not left.exists()
    assert guarded.host.get(name) == b"x"
