"""What an SFTP server, and the way to it, can do wrong: nothing is lost, nothing is named by halves, all is said plainly."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.engine.target_conformance import flat_name, pack_name
from tests.faults.sshd import Sshd, needs_sshd, open_to_all, sshd
from tests.faults.wire import Wire, wire_to
from trinity_snap.errors import KeyFileError, ObjectMissing, TargetDenied, TargetError, TargetFull, UsageError
from trinity_snap.targets import TargetSettings
from trinity_snap.targets.retries import Retries
from trinity_snap.targets.sftp import SftpTarget
from trinity_snap.targets.sftp_address import split_sftp_url
from trinity_snap.targets.sftp_client import SftpClient
from trinity_snap.targets.sftp_command import ssh_command
from trinity_snap.targets.sftp_put import ABANDONED_SECONDS
from trinity_snap.targets.sftp_session import ConnectionLost

pytestmark = needs_sshd

SOON = Retries(attempts=4, first_seconds=0.01)
ONCE = Retries(attempts=1)
PATIENT = Retries(attempts=60, first_seconds=0.05, longest_seconds=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as made:
        yield made


@pytest.fixture(scope="module")
def the_wire(server: Sshd) -> Iterator[Wire]:
    with wire_to(server.port) as made:
        yield made


@pytest.fixture
def wire(the_wire: Wire, server: Sshd) -> Iterator[Wire]:
    server.know(server.port, the_wire.port)
    the_wire.reset()
    yield the_wire
    the_wire.reset()
    the_wire.cut()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    return path


@pytest.fixture
def target(server: Sshd, wire: Wire, root: Path) -> SftpTarget:
    """Through the wire."""
    return SftpTarget(server.settings(str(root), port=wire.port), retries=SOON)


def temporaries(root: Path) -> list[Path]:
    return list((root / ".tmp").iterdir())


def once(condition: Callable[[], bool]) -> Callable[[], bool]:
    """True the first time that the condition holds, and never again."""
    lock, done = threading.Lock(), False

    def check() -> bool:
        nonlocal done
        with lock:
            if done or not condition():
                return False
            done = True
            return True

    return check


# -- connections that break -------------------------------------------------------------------------------------------


def test_a_server_killed_in_the_middle_of_a_put_leaves_nothing_with_a_name(
    target: SftpTarget, wire: Wire, server: Sshd, root: Path
) -> None:
    data, name = os.urandom(8 << 20), pack_name(os.urandom(8))
    target._retries = ONCE
    target.put_if_absent(flat_name(), b"before")
    before = wire.bytes_sent

    def in_the_middle() -> bool:
        if wire.bytes_sent - before < 3 << 20:
            return False
        server.stop()
        return True

    wire.before_request = once(in_the_middle)
    try:
        with pytest.raises(TargetError) as caught:
            target.put_if_absent(name, data)
        assert caught.value.transient
        assert not (root / name).exists()
        assert len(temporaries(root)) == 1  # half of it, without a name
    finally:
        server.start()
    assert target.put_if_absent(name, data) is True
    assert target.get(name) == data


def test_a_put_goes_on_when_the_server_comes_back(target: SftpTarget, wire: Wire, server: Sshd, root: Path) -> None:
    data, name = os.urandom(8 << 20), pack_name(os.urandom(8))

    def restart() -> bool:
        if wire.bytes_sent < 3 << 20:
            return False
        server.stop()
        server.start()
        return True

    target._retries = PATIENT
    wire.before_request = once(restart)
    assert target.put_if_absent(name, data) is True
    assert wire.connections >= 2
    assert (root / name).read_bytes() == data
    assert not temporaries(root)


def test_a_get_goes_on_when_the_connection_breaks(target: SftpTarget, wire: Wire) -> None:
    data = os.urandom(8 << 20)
    name = pack_name(data)
    target.put_if_absent(name, data)
    seen = 0

    def in_the_middle() -> bool:
        nonlocal seen
        seen += 1
        return seen > 30

    wire.before_answer = once(in_the_middle)
    assert target.get(name) == data
    assert wire.connections == 2


@pytest.mark.parametrize("length", [100, 3 << 20])
def test_a_put_whose_answer_was_lost_is_known_to_be_done(
    target: SftpTarget, wire: Wire, root: Path, length: int
) -> None:
    data, name = os.urandom(length), flat_name()
    wire.before_answer = once(lambda: (root / name).exists())
    assert target.put_if_absent(name, data) is True
    assert wire.connections == 2
    assert (root / name).read_bytes() == data


@pytest.mark.parametrize("named", [False, True])
def test_an_object_of_somebody_else_is_not_taken_for_ones_own_after_a_break(
    target: SftpTarget, wire: Wire, server: Sshd, root: Path, named: bool
) -> None:
    """The connection breaks before the server is asked for the name, or when it has refused and not yet said so."""
    other, name = SftpTarget(server.settings(str(root))), flat_name()
    other.put_if_absent(flat_name(), b"")
    written = once(lambda: any(one.stat().st_size == 5 for one in root.glob(".tmp/*")))
    theirs_is_there = False

    def others_are_quicker() -> bool:
        nonlocal theirs_is_there
        if not written():
            return False
        assert other.put_if_absent(name, b"other") is True
        theirs_is_there = True
        return not named

    wire.before_request = others_are_quicker
    wire.before_answer = once(lambda: named and theirs_is_there and not temporaries(root))
    assert target.put_if_absent(name, b"mine!") is False
    assert wire.connections == 2
    assert target.get(name) == b"other"


def test_idle_connections_that_broke_cost_no_try(target: SftpTarget, wire: Wire) -> None:
    name = flat_name()
    target.put_if_absent(name, b"x")
    wire.cut()
    target._retries = ONCE
    deadline = time.monotonic() + 60
    while target._connections._idle and target._connections._idle[0].alive():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert target.get(name) == b"x"


def test_a_server_that_is_away_is_a_passing_fault(target: SftpTarget, server: Sshd) -> None:
    target._retries = ONCE
    server.stop()
    try:
        with pytest.raises(TargetError, match="cannot be reached") as caught:
            target.stat("repository")
    finally:
        server.start()
    assert caught.value.transient
    with pytest.raises(ObjectMissing):
        target.stat("repository")


def test_a_server_that_stops_answering_is_given_up(server: Sshd, wire: Wire, root: Path) -> None:
    gate = threading.Event()
    settings = server.settings(str(root), port=wire.port)
    client = SftpClient(ssh_command(settings, split_sftp_url(settings.url)))
    client.attributes(client.lstat(str(root)))
    client.patience(1)
    wire.before_request = lambda: gate.wait(60) and False
    try:
        with pytest.raises(ConnectionLost, match="does not answer any more"):
            client.attributes(client.lstat(str(root)))
        assert client.closed
    finally:
        gate.set()


# -- who is let in ----------------------------------------------------------------------------------------------------


def test_an_unknown_server_is_refused_and_the_operator_told_how_to_make_it_known(
    server: Sshd, root: Path, tmp_path: Path
) -> None:
    known = tmp_path / "known_hosts"
    known.touch()
    target = SftpTarget(server.settings(str(root), known_hosts_file=known))
    with pytest.raises(TargetDenied, match=r"host key of 127\.0\.0\.1 port \d+ is not known") as caught:
        target.put_if_absent(flat_name(), b"x")
    assert not caught.value.transient
    assert not known.read_text() and not list(root.iterdir())
    command, check = re.findall(r"`(ssh-key(?:scan|gen -lF)[^`]*)`", caught.value.next_step)
    subprocess.run(["bash", "-c", command], check=True, capture_output=True)
    shown = subprocess.run(["bash", "-c", check], check=True, capture_output=True, text=True).stdout
    own = subprocess.run(
        ["ssh-keygen", "-lf", f"{server.home}/host_key.pub"], check=True, capture_output=True, text=True
    ).stdout
    assert own.split()[1] in shown
    assert target.put_if_absent(flat_name(), b"x") is True


def test_a_server_with_another_key_is_refused(server: Sshd, root: Path, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{server.port} {server.public_key}\n")  # a key, but not the server's
    before = known.read_bytes()
    target = SftpTarget(server.settings(str(root), known_hosts_file=known))
    with pytest.raises(TargetDenied, match="another host key than the one that is known") as caught:
        target.get("repository")
    assert "Somebody may be answering in its place" in caught.value.next_step
    assert known.read_bytes() == before


@pytest.mark.parametrize("passphrase", ["", "secret"])
def test_a_key_that_does_not_open_is_refused_without_asking_anybody(
    server: Sshd, root: Path, tmp_path: Path, passphrase: str
) -> None:
    key = tmp_path / "other_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", key], check=True)
    target = SftpTarget(server.settings(str(root), ssh_key_file=key))
    with pytest.raises(TargetDenied, match="does not let this user in") as caught:
        target.stat("repository")
    assert "authorized_keys" in caught.value.next_step


def test_a_key_that_ssh_would_pass_over_is_named(server: Sshd, tmp_path: Path) -> None:
    key = tmp_path / "key"
    with pytest.raises(KeyFileError, match="No such file"):
        SftpTarget(server.settings("/x", ssh_key_file=key))
    key.write_bytes(server.key.read_bytes())
    key.chmod(0o644)
    with pytest.raises(KeyFileError, match="Others may read") as caught:
        SftpTarget(server.settings("/x", ssh_key_file=key))
    assert "chmod 600" in caught.value.next_step


def test_files_with_names_that_ssh_would_change_are_found(server: Sshd, root: Path, tmp_path: Path) -> None:
    odd = tmp_path / "100% sure, %h"
    odd.mkdir()
    for one in (server.key, server.known_hosts):
        (odd / one.name).write_bytes(one.read_bytes())
        (odd / one.name).chmod(0o600)
    settings = server.settings(str(root), ssh_key_file=odd / server.key.name, known_hosts_file=odd / "known_hosts")
    assert SftpTarget(settings).put_if_absent(flat_name(), b"x") is True
    with pytest.raises(UsageError, match="cannot use a file named"):
        SftpTarget(server.settings(str(root), known_hosts_file=tmp_path / "${HOME}"))


def test_a_name_that_nobody_knows_is_said() -> None:
    with pytest.raises(TargetError, match=r"nobody-knows.invalid: it cannot be reached .*Could not resolve hostname"):
        SftpTarget(TargetSettings("sftp://nobody-knows.invalid/x"), retries=ONCE).stat("repository")


@pytest.mark.parametrize(
    ("subsystem", "words"),
    [("# none", "offers no SFTP"), ("Subsystem sftp /bin/echo hello, this is no packet", "not as an SFTP server does")],
)
def test_a_server_without_sftp_is_said(tmp_path: Path, root: Path, subsystem: str, words: str) -> None:
    with sshd(tmp_path / "sshd") as server:
        configuration = server.home / "sshd_config"
        server.stop()
        configuration.write_text(configuration.read_text().replace("Subsystem sftp internal-sftp", subsystem))
        server.start(configured=True)
        with pytest.raises(TargetError, match=words) as caught:
            SftpTarget(server.settings(str(root)), retries=ONCE).stat("repository")
        assert not caught.value.transient


# -- what the server refuses ------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 4 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=40", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_a_full_disk_is_said_and_nothing_of_the_object_stays(server: Sshd, small: Path) -> None:
    target = SftpTarget(server.settings(str(small)))
    kept = os.urandom(1 << 20)
    target.put_if_absent(pack_name(kept), kept)
    with pytest.raises(TargetFull, match="no room left") as caught:
        target.put_if_absent(pack_name(b"large"), os.urandom(8 << 20))
    assert not caught.value.transient
    assert not temporaries(small) and not (small / pack_name(b"large")).exists()
    assert target.get(pack_name(kept)) == kept
    assert target.put_if_absent(flat_name(), b"small") is True


def test_a_disk_without_room_for_another_file_is_full(server: Sshd, small: Path) -> None:
    target = SftpTarget(server.settings(str(small)))

    def fill() -> None:
        for _ in range(50):
            target.put_if_absent(flat_name(), b"x")

    with pytest.raises(TargetFull):
        fill()
    assert not temporaries(small)


def test_a_filesystem_that_can_only_be_read_is_said(server: Sshd, small: Path) -> None:
    target = SftpTarget(server.settings(str(small)))
    target.put_if_absent("repository", b"x")
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    with pytest.raises(TargetDenied, match="can only be read"):
        target.put_if_absent(flat_name(), b"x")
    with pytest.raises(TargetDenied, match="can only be read"):
        target.delete("repository")
    assert target.get("repository") == b"x"


def test_a_user_without_rights_is_told_so(server: Sshd) -> None:
    server.let_in("nobody")
    with open_to_all() as root:
        (root / "repository").write_bytes(b"x")
        (root / "repository").chmod(0o600)
        target = SftpTarget(server.settings(str(root), user="nobody"))
        for operation in (
            lambda: target.put_if_absent(flat_name(), b"x"),
            lambda: target.get("repository"),
            lambda: target.delete("repository"),
        ):
            with pytest.raises(TargetDenied, match="refused permission"):
                operation()
        assert [one.name for one in root.iterdir()] == ["repository"]
        with pytest.raises(TargetDenied):
            SftpTarget(server.settings(f"{root}/deeper/still", user="nobody"), create=True)


def test_a_directory_that_is_not_there_is_said_and_never_made_unasked(server: Sshd, tmp_path: Path) -> None:
    target = SftpTarget(server.settings(f"{tmp_path}/not/there"))
    for operation in (
        lambda: target.put_if_absent(flat_name(), b"x"),
        lambda: target.get("repository"),
        lambda: list(target.list_prefix("")),
    ):
        with pytest.raises(TargetError, match="there is no directory"):
            operation()
    assert not (tmp_path / "not").exists()
    (tmp_path / "file").touch()
    with pytest.raises(TargetError, match="is no directory there"):
        SftpTarget(server.settings(f"{tmp_path}/file")).stat("repository")


def test_a_directory_that_goes_away_is_an_error_and_not_an_empty_repository(server: Sshd, root: Path) -> None:
    target = SftpTarget(server.settings(str(root)))
    target.put_if_absent("repository", b"x")
    root.rename(root.with_name("elsewhere"))
    for operation in (lambda: target.put_if_absent(flat_name(), b"x"), lambda: list(target.list_prefix("points/"))):
        with pytest.raises(TargetError, match="there is no directory"):
            operation()
    assert not root.exists()


def test_other_things_in_the_place_of_objects_are_passed_over(server: Sshd, root: Path) -> None:
    target = SftpTarget(server.settings(str(root)))
    link, directory = flat_name(), flat_name()
    target.put_if_absent(flat_name(), b"x")
    (root / link).symlink_to("/etc/hostname")
    (root / directory).mkdir()
    (root / "points" / "not-an-object").touch()
    assert len(list(target.list_prefix("points/"))) == 1
    for name in (link, directory):
        with pytest.raises(TargetError, match="not a regular file"):
            target.get(name)
        assert target.put_if_absent(name, b"x") is False


# -- writers ----------------------------------------------------------------------------------------------------------


def test_of_two_writers_with_connections_of_their_own_one_succeeds(server: Sshd, root: Path) -> None:
    targets = [SftpTarget(server.settings(str(root))) for _ in range(2)]
    for _ in range(20):
        name, both = flat_name(), threading.Barrier(2)

        def put(number: int, name: str = name, both: threading.Barrier = both) -> bool:
            both.wait(60)
            return targets[number].put_if_absent(name, bytes([number]) * 1000)

        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(put, range(2)))
        assert sorted(outcomes) == [False, True]
        assert targets[0].get(name) == bytes([outcomes.index(True)]) * 1000
    assert not temporaries(root)


def test_what_dead_writers_left_is_removed_and_nothing_else(server: Sshd, root: Path) -> None:
    (root / ".tmp").mkdir()
    now = time.time()
    ages = {"a" * 32: ABANDONED_SECONDS + 60, "b" * 32: ABANDONED_SECONDS - 600, "not-ours": 10 * ABANDONED_SECONDS}
    for name, age in ages.items():
        path = root / ".tmp" / name
        path.touch()
        os.utime(path, (now - age, now - age))
    SftpTarget(server.settings(str(root))).put_if_absent(flat_name(), b"x")
    assert {one.name for one in temporaries(root)} == {"b" * 32, "not-ours"}


@pytest.mark.parametrize("what", [".tmp/*", "points"])
def test_a_writer_whose_file_or_directory_was_removed_writes_again(
    target: SftpTarget, wire: Wire, root: Path, what: str
) -> None:
    target.put_if_absent("repository", b"x")
    data, name = os.urandom(3 << 20), flat_name()

    written = once(lambda: any(one.stat().st_size == len(data) for one in root.glob(".tmp/*")))

    def remove_it_then() -> bool:
        for path in root.glob(what) if written() else ():
            path.rmdir() if path.is_dir() else path.unlink()
        return False

    wire.before_request = remove_it_then
    assert target.put_if_absent(name, data) is True
    assert (root / name).read_bytes() == data
    assert not temporaries(root)


def test_an_object_gets_its_time_when_it_gets_its_name(target: SftpTarget, wire: Wire, root: Path) -> None:
    target.put_if_absent("repository", b"x")
    data, name = os.urandom(1 << 20), flat_name()
    written = once(lambda: any(one.stat().st_size == len(data) for one in root.glob(".tmp/*")))
    released = 0.0

    def sleep_before_it_is_named() -> bool:
        nonlocal released
        if written():
            time.sleep(2.5)  # what a laptop does when it is closed
            released = time.time()
        return False

    wire.before_request = sleep_before_it_is_named
    assert target.put_if_absent(name, data) is True
    assert released and target.stat(name).time_ns >= int(released) * 10**9
    assert (root / name).read_bytes() == data


def test_times_are_never_set_and_files_are_durable_before_they_have_names(tmp_path: Path, root: Path) -> None:
    log = tmp_path / "requests"
    with sshd(tmp_path / "sshd") as server:
        configuration = server.home / "sshd_config"
        server.stop()
        logged = f"Subsystem sftp exec /usr/lib/openssh/sftp-server -e -l DEBUG3 2>>{log}"
        configuration.write_text(configuration.read_text().replace("Subsystem sftp internal-sftp", logged))
        server.start(configured=True)
        data = os.urandom(1 << 20)
        SftpTarget(server.settings(str(root))).put_if_absent(pack_name(data), data)
    said = log.read_text()
    assert "setstat" not in said.lower()
    order = [
        r"open id \d+ name \S*/\.tmp/\w+ flags .*" if False else r"/\.tmp/[0-9a-f]{32}",
        r"request \d+: write",
        r"request \d+: fsync",
        r"hardlink old .*/packs/",
        r"request \d+: fsync",
        r"request \d+: remove",
    ]
    at = 0
    for step in order:
        found = re.compile(step).search(said, at)
        assert found, (step, said)
        at = found.end()


def test_what_is_sent_is_held_back_to_the_bandwidth(server: Sshd, root: Path) -> None:
    target = SftpTarget(server.settings(str(root), bandwidth_bytes=1 << 20))
    target.put_if_absent(flat_name(), b"x")
    start = time.monotonic()
    target.put_if_absent(flat_name(), bytes(2 << 20))
    assert time.monotonic() - start > 1.5
