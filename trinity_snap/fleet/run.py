"""A fleet run: batch after batch, until all hosts are through, too many have failed, or somebody asks to end.

A host that was lost in the middle is `unknown`: what it was doing goes on there, or has died there. It gets a recover play, which
leaves runs alone that are alive, and is asked how the run ended that it was on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime

from trinity_snap.errors import TrinitySnapError
from trinity_snap.fleet.limits import in_batches
from trinity_snap.fleet.model import FleetResult, HostResult
from trinity_snap.fleet.outcomes import Tracker, Watcher
from trinity_snap.fleet.player import Played, Player
from trinity_snap.fleet.private import private_directory
from trinity_snap.fleet.request import ACTIONS, Action, FleetRequest
from trinity_snap.fleet.signals import Stop, noticing
from trinity_snap.wording import plural

_ASK_AGAIN_SECONDS = 5.0
_RECOVER_WAIT = "30s"


def run_fleet(request: FleetRequest, watcher: Watcher, stop: Stop | None = None) -> FleetResult:
    """Do it, and say what became of every host. In the main thread: signals are noted in `stop` meanwhile.

    Raise UsageError if there are no hosts, and TrinitySnapError if Ansible could not begin at all.
    """
    began = time.monotonic()
    started = datetime.now(UTC).isoformat()
    with noticing(stop or Stop()) as asked, private_directory() as directory:
        player = Player(request, directory)
        names = player.hosts()
        watcher.begin(request.action.name, request.run_id, len(names))
        results = {name: HostResult(name) for name in names}
        result = FleetResult(request.action.name, request.run_id, started, list(results.values()))
        for batch in in_batches(names, request.sizes()):
            result.stopped = _enough(request, result)
            if result.stopped or asked.asked:
                break
            results.update(_batch(player, batch, watcher, asked))
            result.hosts = list(results.values())
        result.signal = asked.number
    if result.stopped:
        watcher.note(result.stopped)
    result.duration_seconds = time.monotonic() - began
    return result


def _enough(request: FleetRequest, result: FleetResult) -> str | None:
    """The sentence on why no further batch is begun, if there is a reason."""
    waiting = result.count("not-started")
    bad = len(result.hosts) - waiting - result.count("done")
    if request.max_failures is None or not waiting or not request.max_failures.passed(bad, len(result.hosts)):
        return None
    return (
        f"{plural(bad, 'host')} of {len(result.hosts)} did not succeed, which is more than {request.max_failures}: "
        f"{plural(waiting, 'host')} {'was' if waiting == 1 else 'were'} not begun."
    )


def _batch(player: Player, batch: list[str], watcher: Watcher, asked: Stop) -> dict[str, HostResult]:
    request = player.request
    tracker = Tracker(request.action, batch, watcher)
    played = player.play(
        request.action.playbook, batch, _own_variables(request), tracker.handle, _cancelled(asked, asked.times)
    )
    tracker.finish()
    _complain(tracker, played)
    lost = [one for one in tracker.results.values() if one.outcome == "unknown" or one.left_quiesced]
    if lost and request.action.holds and not request.check:
        _recover(player, lost, watcher, asked)
    return tracker.results


def _own_variables(request: FleetRequest) -> dict[str, object]:
    return {"trinity_snap_run_id": request.run_id} if request.action.name == "backup" else {}


def _cancelled(asked: Stop, times: int) -> Callable[[], bool]:
    """Whether somebody asked to end since `times`."""
    return lambda: asked.times > times


def _complain(tracker: Tracker, played: Played) -> None:
    """Raise TrinitySnapError if Ansible ended before it began anything on any host."""
    untouched = all(one.outcome == "not-started" for one in tracker.results.values())
    if untouched and played.code and not played.cancelled:
        raise TrinitySnapError(
            f"Ansible could not begin. {played.complaint}".strip(), untouched="Nothing was done on these hosts."
        )


def _recover(player: Player, lost: list[HostResult], watcher: Watcher, asked: Stop) -> None:
    """Let hosts undo what a dead run left, and learn how their runs ended. A second request to end ends this, too."""
    hosts = {one.host: one for one in lost}
    interrupted, times = asked.asked, asked.times
    how_many = plural(len(hosts), "host")
    watcher.note(f"Recovering {how_many} that did not end well: {', '.join(sorted(hosts))}.", hosts)
    found = _quietly(player, ACTIONS["recover"], hosts, {"trinity_snap_recover_wait": _RECOVER_WAIT}, asked, times)
    for name, one in found.items():
        hosts[name].recovery, hosts[name].recovered = _recovered(one), one.outcome == "done"
    if player.request.action.name != "backup":
        return
    until = time.monotonic() + (0 if interrupted else player.request.reconnect_seconds)
    waiting = [name for name, one in found.items() if one.outcome != "failed" and hosts[name].outcome == "unknown"]
    while waiting and asked.times == times:
        said = _quietly(player, ACTIONS["status"], waiting, {"trinity_snap_status_max_age": ""}, asked, times)
        alive = {name for name in waiting if found[name].answer.get("left_to")}
        waiting = [
            name for name in waiting if not _learn(hosts[name], said[name], player.request.run_id, alive=name in alive)
        ]
        if time.monotonic() > until:
            break
        if waiting:
            time.sleep(_ASK_AGAIN_SECONDS)
    for one in hosts.values():
        if one.outcome != "unknown" and not one.left_quiesced:
            watcher.host_ended(one)


def _quietly(
    player: Player, action: Action, hosts: Iterable[str], variables: dict[str, object], asked: Stop, times: int
) -> dict[str, HostResult]:
    """The results of a play that the operator did not ask for."""
    quiet = Player(replace(player.request, action=action, check=False), player.directory, player.plays)
    tracker = Tracker(action, hosts, _Nobody())
    quiet.play(action.playbook, hosts, variables, tracker.handle, _cancelled(asked, times))
    player.plays = quiet.plays
    tracker.finish()
    return tracker.results


def _recovered(one: HostResult) -> str:
    if one.outcome != "done":
        return f"It could not be recovered from here ({one.outcome}): {one.message or 'it did not answer.'}"
    if one.answer.get("left_to"):
        return f"Nothing to undo: {one.answer['left_to']}"
    undone = [str(name) for key in ("resumed", "started", "removed") for name in _list(one.answer.get(key))]
    return f"Undone: {', '.join(undone)}." if undone else "There was nothing to undo."


def _learn(lost: HostResult, said: HostResult, run_id: str, *, alive: bool) -> bool:
    """Take what a host remembers of the run `run_id` into its result. False if that is to be asked again.

    `alive` says that a run was alive there a moment ago.
    """
    if not said.answer:
        return False
    running = said.answer.get("running")
    if isinstance(running, dict) and running.get("run_id") == run_id:
        return False
    agents = [
        one for one in said.agents if isinstance(last := one.get("last_run"), dict) and last.get("run_id") == run_id
    ]
    ends = [one["last_run"] for one in agents]
    if not ends and alive:
        return False
    if not ends:
        lost.message = "It did not answer, and the host remembers no run of this id: the run died, or never began."
        return True
    bad = [
        str(end.get("error") or end.get("outcome"))
        for end in ends
        if isinstance(end, dict) and end.get("outcome") != "done"
    ]
    lost.outcome = "failed" if bad else "done"
    lost.message = "The connection was lost; the host says how its run ended."
    lost.message += f" {' '.join(bad)}" if bad else ""
    lost.changed = True
    lost.answer = {"run_id": run_id, "agents": agents}
    return True


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


class _Nobody:
    """A watcher that does not look."""

    def begin(self, action: str, run_id: str, hosts: int) -> None:
        """Ignore it."""

    def host_started(self, host: str) -> None:
        """Ignore it."""

    def host_ended(self, result: HostResult) -> None:
        """Ignore it."""

    def note(self, sentence: str, hosts: Iterable[str] = ()) -> None:
        """Ignore it."""
