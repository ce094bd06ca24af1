"""Trinity's API: asked with care, and what was switched off is on again whatever becomes of the run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.trinity import KEY, FakeAgent, FakeTrinity, serve
from trinity_snap.agents.model import Agent
from trinity_snap.errors import KeyFileError, LeftQuiesced, TrinityRefused, TrinityUnreachable
from trinity_snap.quiesce.journal import Journal, read_journal
from trinity_snap.quiesce.recover import recover
from trinity_snap.quiesce.steps import AUTONOMY_STEPS
from trinity_snap.trinity.autonomy import HeldSchedules
from trinity_snap.trinity.client import Autonomy, TrinityClient, find_key
from trinity_snap.trinity.settings import TrinitySettings


@pytest.fixture
def trinity() -> Iterator[FakeTrinity]:
    agents = {
        "on": FakeAgent(True, {"a": True, "b": False}),
        "off": FakeAgent(False, {"a": True}),
        "trinity-system": FakeAgent(True, system=True),
    }
    with serve(FakeTrinity(agents=agents)) as running:
        yield running


@pytest.fixture
def settings(trinity: FakeTrinity, tmp_path: Path) -> TrinitySettings:
    key = tmp_path / "key"
    key.write_text(f"{KEY}\n")
    key.chmod(0o600)
    return TrinitySettings(trinity.url, key)


def agent(name: str, state: str = "running") -> Agent:
    return Agent(name, name, f"agent-{name}", state, ())  # type: ignore[arg-type]  # a state


AGENTS = [agent("on"), agent("off"), agent("trinity-system"), agent("unknown"), agent("stopped", "exited")]


def puts(trinity: FakeTrinity) -> list[str]:
    return [path for method, path in trinity.asked if method == "PUT"]


# -- the client -------------------------------------------------------------------------------------------------------


def test_what_it_answers_is_understood(trinity: FakeTrinity, settings: TrinitySettings):
    client = TrinityClient(settings)
    assert client.version()["enterprise_features"] == ["agent_backup"]
    assert client.agent_names() == ["on", "off", "trinity-system"]
    assert client.autonomy("on") == Autonomy(True, 1)
    client.start("on")
    assert trinity.containers == {"agent-on": True}
    assert KEY not in repr(client)


def test_refusals_and_silence_are_told_apart(trinity: FakeTrinity, settings: TrinitySettings):
    client = TrinityClient(settings)
    with pytest.raises(TrinityRefused, match="Agent not found") as refused:
        client.autonomy("nobody/../on")
    assert refused.value.status == 404
    trinity.key = "another"
    with pytest.raises(TrinityRefused, match="Could not validate"):
        client.autonomy("on")
    trinity.broken = True
    with pytest.raises(TrinityUnreachable, match="database is locked"):
        client.autonomy("on")
    with pytest.raises(TrinityUnreachable):
        TrinityClient(TrinitySettings("http://127.0.0.1:9")).version()


def test_the_key_goes_nowhere_but_to_the_configured_address(trinity: FakeTrinity, settings: TrinitySettings):
    with serve(FakeTrinity()) as other:
        trinity.redirect = other.url
        with pytest.raises(TrinityRefused):
            TrinityClient(settings).autonomy("on")
        assert other.asked == []


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    key = tmp_path / "key"
    key.write_text("k")
    key.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        find_key(TrinitySettings("http://x", key))
    (tmp_path / "trinity-snap-trinity").write_text("from systemd\n".replace(" ", "-"))
    (tmp_path / "trinity-snap-trinity").chmod(0o400)
    with pytest.raises(KeyFileError, match="There is no key"):
        find_key(TrinitySettings("http://x"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert find_key(TrinitySettings("http://x")) == "from-systemd"


# -- autonomy ---------------------------------------------------------------------------------------------------------


def hold(settings: TrinitySettings, state: Path, inside: Callable[[], None]) -> tuple[list[str], list[str], Path]:
    notes: list[str] = []
    left: list[str] = []
    journal = Journal.start(state, "run")
    with HeldSchedules(settings, journal, AGENTS, notes.append, left.append):
        inside()
    journal.end()
    return notes, left, journal.path


def test_who_was_on_is_off_meanwhile_and_on_again_and_nobody_else_is_touched(
    trinity: FakeTrinity, settings: TrinitySettings, tmp_path: Path
):
    def inside() -> None:
        assert not trinity.agents["on"].autonomy

    notes, left, journal = hold(settings, tmp_path, inside)
    assert trinity.agents["on"] == FakeAgent(True, {"a": True, "b": False})
    assert not trinity.agents["off"].autonomy
    assert puts(trinity) == [
        "/api/agents/on/autonomy",
        "/api/agents/trinity-system/autonomy",
        "/api/agents/on/autonomy",
    ]
    assert [note.split(":")[0] for note in notes] == [
        "The schedules of trinity-system were not held",
        "The schedules of unknown were not held",
    ]
    assert left == []
    assert read_journal(journal).ended


def test_a_trinity_that_is_down_does_not_keep_a_backup_from_being_made(
    trinity: FakeTrinity, settings: TrinitySettings, tmp_path: Path
):
    trinity.broken = True
    notes, left, _ = hold(settings, tmp_path, lambda: None)
    assert ("Schedules were not held" in notes[0], left) == (True, [])


def test_a_trinity_that_goes_down_meanwhile_gets_its_autonomy_back_later(
    trinity: FakeTrinity, settings: TrinitySettings, tmp_path: Path
):
    def break_it() -> None:
        trinity.broken = True

    _, left, journal = hold(settings, tmp_path, break_it)
    assert "could not be switched on again" in left[0]
    assert not read_journal(journal).ended
    trinity.broken = False
    wait_for(lambda: trinity.agents["on"].autonomy)
    wait_for(lambda: not read_journal(journal).autonomy)


def test_one_from_before_autonomy_was_a_gate_is_told_on(
    trinity: FakeTrinity, settings: TrinitySettings, tmp_path: Path
):
    trinity.bulk = True
    _, left, _ = hold(settings, tmp_path, lambda: None)
    assert "1 enabled schedules and has 2 now" in left[0]


def test_an_agent_that_is_renamed_meanwhile_is_named(trinity: FakeTrinity, settings: TrinitySettings, tmp_path: Path):
    def rename() -> None:
        trinity.agents["renamed"] = trinity.agents.pop("on")

    _, left, journal = hold(settings, tmp_path, rename)
    assert "if it was renamed" in left[0].lower()
    assert read_journal(journal).ended


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


DRIVER = """
import sys, os, signal
from pathlib import Path
from tests.unit.test_trinity_api import AGENTS
from trinity_snap.quiesce.journal import Journal
from trinity_snap.trinity.autonomy import HeldSchedules
from trinity_snap.trinity.settings import TrinitySettings
url, key, state = sys.argv[1:]
journal = Journal.start(Path(state), "run")
with HeldSchedules(TrinitySettings(url, Path(key)), journal, AGENTS, print, print):
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("step", [*AUTONOMY_STEPS, ""])
def test_autonomy_is_on_again_after_the_run_was_killed(
    step: str, trinity: FakeTrinity, settings: TrinitySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TRINITY_SNAP_CRASH_AT", step)
    command = [sys.executable, "-c", DRIVER, settings.url, str(settings.key_file), str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -9, done.stderr
    journal = tmp_path / "state/journal/run.jsonl"
    wait_for(lambda: not read_journal(journal).autonomy)
    assert trinity.agents["on"] == FakeAgent(True, {"a": True, "b": False})
    assert not trinity.agents["off"].autonomy


def test_recover_does_what_neither_run_nor_warden_could(
    trinity: FakeTrinity, settings: TrinitySettings, tmp_path: Path
):
    program = (
        "import sys; from pathlib import Path; from trinity_snap.quiesce.journal import HeldAutonomy, Journal; "
        "Journal.start(Path(sys.argv[1]), 'run').holding_autonomy("
        f"HeldAutonomy('on', {settings.url!r}, {str(settings.key_file)!r}))"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "state")], check=True)
    trinity.agents["on"].autonomy = False
    trinity.broken = True
    with pytest.raises(LeftQuiesced, match="the autonomy of on"):
        recover(tmp_path / "state", None)
    trinity.broken = False
    assert recover(tmp_path / "state", None).autonomy == ["on"]
    assert trinity.agents["on"].autonomy
    assert recover(tmp_path / "state", None).runs == []


# -- what the real one refuses ----------------------------------------------------------------------------------------


def test_the_fake_refuses_what_the_real_one_refuses(trinity: FakeTrinity, settings: TrinitySettings):
    """So that what passes against it has done things in the right order: database first, then volumes, then start."""
    client = TrinityClient(settings)
    trinity.volumes["agent-lost-workspace"] = {"trinity.agent-name": "lost"}
    trinity.volumes["agent-clone-workspace"] = {}
    assert trinity.answer("POST", "/api/agents", f"Bearer {KEY}", {"name": "lost"})[0] == 409
    with pytest.raises(TrinityRefused) as refused:
        client.start("lost")
    assert "its database may be older" in str(refused.value)
    trinity.agents["renamed"] = FakeAgent(base="lost")
    assert trinity.sweep() == []
    client.start("renamed")
    assert trinity.containers == {"agent-renamed": True}
    assert set(trinity.volumes) == {"agent-lost-workspace", "agent-clone-workspace"}, "under its old name, and reused"
    del trinity.agents["renamed"]
    assert trinity.sweep() == ["agent-lost-workspace"]
