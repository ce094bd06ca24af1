import errno
import json
import os
import subprocess
import sys
from contextlib import suppress

import pytest

from trinity_snap.errors import HostBusy, TrinitySnapError
from trinity_snap.quiesce.journal import Journal, Leftover, forget_old, journals, read_journal
from trinity_snap.quiesce.lock import HostLock
from trinity_snap.quiesce.processes import ProcessIdentity, this_process


def test_what_was_noted_and_not_undone_is_open(tmp_path):
    journal = Journal.start(tmp_path, "run-1")
    journal.pausing(["a", "b", "c"])
    journal.resumed("b", "run")
    journal.making([Leftover("snapshot", tmp_path / "s1", "btrfs"), Leftover("staging", tmp_path / "s2", "precopy")])
    journal.removed(tmp_path / "s1")
    state = read_journal(journal.path)
    assert state.held == ("a", "c")
    assert [leftover.where for leftover in state.leftovers] == [tmp_path / "s2"]
    assert state.process == this_process()
    assert not journal.end()
    assert not read_journal(journal.path).ended


def test_a_journal_ends_when_all_is_undone(tmp_path):
    journal = Journal.start(tmp_path, "run-1")
    journal.pausing(["a"])
    journal.resumed("a", "guardian")
    assert journal.end()
    assert read_journal(journal.path).ended


def test_a_line_cut_off_by_a_full_disk_does_not_spoil_the_next(tmp_path, monkeypatch):
    def write_half(descriptor, data):
        os.write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    journal = Journal.start(tmp_path, "run-1")
    with monkeypatch.context() as full:
        full.setattr("trinity_snap.quiesce.journal.write_all", write_half)
        with pytest.raises(OSError, match="No space"):
            journal.pausing(["a"])
        journal.resumed("b", "run")  # what is undone needs no note
    journal.pausing(["c"])
    assert read_journal(journal.path).held == ("c",)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_what_was_let_go_of_while_the_disk_was_full_is_nobodys_to_resume(tmp_path):
    """Somebody else may have paused it since."""
    containers = [f"{number:064x}" for number in range(100)]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", tmp_path], check=True)
    try:
        journal = Journal.start(tmp_path, "run-1")
        journal.pausing(containers)
        with suppress(OSError), open(tmp_path / "data", "wb", buffering=0) as file:
            while file.write(bytes(1024)):
                pass
        for container in containers:
            journal.resumed(container, "run")
        assert read_journal(journal.path).held == ()
        assert journal.end()
        again = Journal.reopen(journal.path)
        with pytest.raises(OSError, match="No space"):  # nothing begins that could not be noted to be over
            again.pausing(containers * 2)
        again.close()
        assert read_journal(journal.path).held == ()
    finally:
        journal.close()
        subprocess.run(["umount", tmp_path], check=True)


def test_a_line_cut_off_by_a_crash_says_nothing_and_does_not_spoil_the_next(tmp_path):
    journal = Journal.start(tmp_path, "run-1")
    journal.pausing(["a"])
    journal.close()
    whole = journal.path.read_bytes()
    for length in range(len(whole) + 1):
        journal.path.write_bytes(whole[:length])
        again = Journal.reopen(journal.path)
        again.resumed("a", "recover")
        assert again.end()
        lines = journal.path.read_bytes().splitlines()
        assert json.loads(lines[-1])["event"] == "ended"
        assert read_journal(journal.path).held == ()


def test_a_run_id_is_used_once(tmp_path):
    Journal.start(tmp_path, "run-1").close()
    with pytest.raises(TrinitySnapError, match="run-1"):
        Journal.start(tmp_path, "run-1")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 200])
def test_a_run_id_cannot_lead_elsewhere(tmp_path, name):
    with pytest.raises(ValueError):
        Journal.start(tmp_path, name)


def test_old_journals_that_ended_are_forgotten_and_open_ones_never(tmp_path):
    Journal.start(tmp_path, "open").close()
    for number in range(30):
        Journal.start(tmp_path, f"run-{number}").end()
    forget_old(tmp_path)
    left = {path.stem for path in journals(tmp_path)}
    assert "open" in left
    assert len(left) == 21


def test_a_process_is_told_from_a_later_one_of_the_same_number():
    me = this_process()
    assert me.is_alive()
    assert not ProcessIdentity(me.pid, me.start_ticks + 1, me.boot_id).is_alive()
    assert not ProcessIdentity(me.pid, me.start_ticks, "another boot").is_alive()
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    assert not ProcessIdentity(child.pid, 0, me.boot_id).is_alive()
    child.wait()


def test_a_second_run_is_told_who_holds_the_host(tmp_path):
    with HostLock(tmp_path, "first"):
        with pytest.raises(HostBusy, match=rf"first.*{os.getpid()}") as busy, HostLock(tmp_path, "second"):
            pass
        assert busy.value.exit_code == 3
    with HostLock(tmp_path, "third"):
        pass


def test_a_full_disk_keeps_nobody_from_the_lock(tmp_path, monkeypatch):
    def full(*ignored):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with HostLock(tmp_path, "first"), pytest.raises(HostBusy, match="has not said which"), HostLock(tmp_path, "second"):
        pass
    with HostLock(tmp_path, "third"):
        pass
