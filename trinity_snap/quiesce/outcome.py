"""What came of the critical section, and how strong that makes the recovery point of each agent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from trinity_snap.agents.discover import quiesce_set
from trinity_snap.agents.inventory import Container
from trinity_snap.agents.model import Agent, HeldContainer
from trinity_snap.policy.settings import Mode
from trinity_snap.quiesce.events import Event
from trinity_snap.quiesce.hooks import Hook
from trinity_snap.quiesce.stopping import Stop
from trinity_snap.snapshot.protocol import Provider

Level = Literal["running", "frozen", "at rest"]
Consistency = Literal["file-consistent", "crash-consistent", "host-crash-consistent", "application-consistent"]
ORDER: Sequence[Consistency] = (
    "file-consistent", "crash-consistent", "host-crash-consistent", "application-consistent",
)  # fmt: skip
"""The labels of recovery points, the weakest first."""

_LEVELS: Sequence[Level] = ("running", "frozen", "at rest")


@dataclass(frozen=True)
class AgentHold:
    """How an agent was held during the snapshot.

    `level`: of all containers that can write to its sources, at least one ran (or may have run); all were
    frozen or did not run; or they were brought to rest by a hook or a clean shutdown. `shortfall` is why that
    is less than the policy asks for, empty if it is not. `note` is what an operator may want to know besides.
    """

    level: Level
    shortfall: str = ""
    note: str = ""

    def consistency(self, *, atomic: bool) -> Consistency:
        """The label of a view, which is of one instant by itself if `atomic`."""
        if self.level == "at rest":
            return "application-consistent"
        if self.level == "frozen":
            return "host-crash-consistent"
        return "crash-consistent" if atomic else "file-consistent"


@dataclass(frozen=True)
class Pause:
    """How long one container was paused. For several containers at once the times overlap."""

    container: HeldContainer
    seconds: float


@dataclass(frozen=True)
class CriticalResult:
    """What came of the critical section.

    `created_ns` is the instant. `agents` says for each agent by name how it was held; `refused` names those of
    which the policy wants no recovery point as things went, with the reason. `stopped` is for how many
    seconds an agent was shut down. `why` says why the whole hold failed, empty if it did not. `left_behind` are
    sentences, one for each agent that may still be at rest because its after-hook failed.
    """

    created_ns: int
    pauses: tuple[Pause, ...] = ()
    agents: Mapping[str, AgentHold] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    stopped: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    why: str = ""
    left_behind: tuple[str, ...] = ()

    @property
    def held(self) -> dict[str, float]:
        """Container id → seconds paused."""
        return {pause.container.id: pause.seconds for pause in self.pauses}

    def consistency(self, agent: str, providers: Collection[Provider]) -> Consistency:
        """The label of an agent's recovery point whose views these providers made: the weakest of theirs."""
        hold, in_doubt = self.agents[agent], AgentHold("running")
        labels = ((in_doubt if each.doubt else hold).consistency(atomic=each.atomic) for each in providers)
        return min(labels, key=ORDER.index)

    def shortfall(self, agent: str, providers: Collection[Provider]) -> str:
        """Why an agent's recovery point is weaker than the policy asks for, empty if it is not."""
        hold = self.agents[agent]
        doubts = [each.doubt for each in providers if each.doubt and hold.level != "running"]
        return hold.shortfall or "; ".join(doubts)


def loosened(
    events: Sequence[Event], until_ns: int, writers: Sequence[HeldContainer], agents: Sequence[Agent],
    look_again: Callable[[], Sequence[Container]],
) -> dict[str, str]:  # fmt: skip
    """Which agents had a writer that began to run before the snapshot was made: agent → why.

    `events` begin before the writers were looked up. Whatever starts or is resumed until then was not held all
    the time, be it a container of `writers` or one that came later; `look_again` lists the containers anew.
    """
    written = {writer.id: (writer.name, writer.agents) for writer in writers}
    running = {writer.id for writer in writers if writer.state == "running"}
    began = {
        event.container: event.action
        for event in reversed(events)
        if event.at_ns <= until_ns
        and (event.action in ("start", "unpause") or (event.action == "die" and event.container in running))
    }
    unknown = began.keys() - written.keys()
    if unknown:
        later, _ = quiesce_set([one for one in look_again() if one.id in unknown], agents)
        written |= {writer.id: (writer.name, writer.agents) for writer in later}
        # One that is gone already can still be told by what it mounted.
        for event in events:
            if event.action == "mount" and event.container in unknown - written.keys():
                owners = frozenset(agent.name for agent in agents for one in agent.sources if one.name == event.volume)
                written[event.container] = (event.container[:12], owners)
    words = {"start": "started", "unpause": "resumed", "die": "ended"}
    return {
        agent: f"somebody else {words[action]} {written[container][0]} during the snapshot"
        for container, action in began.items()
        if container in written
        for agent in written[container][1]
    }


def judge(
    agents: Sequence[Agent],
    modes: Mapping[str, Mode],
    writers: Sequence[HeldContainer],
    hooks: Sequence[Hook],
    stops: Sequence[Stop],
    loose: Mapping[str, str],
    why: str,
) -> dict[str, AgentHold]:
    """How each agent was held.

    `writers` are as they were right before the pause. `loose` names agents of which a writer ran, `why` says why
    all of them did, empty if they did not.
    """
    hook_of = {hook.agent: hook for hook in hooks}
    stop_of = {stop.agent: stop for stop in stops}
    rested = {hook.container for hook in hooks if hook.succeeded} | {stop.container for stop in stops if stop.is_clean}
    killed = {stop.container for stop in stops if stop.asked and not stop.is_clean}
    rough = [one for one in writers if one.id not in rested and (one.state == "running" or one.id in killed)]
    judged = {}
    for agent in agents:
        mode = modes[agent.name]
        if mode == "none":
            judged[agent.name] = AgentHold("running")
            continue
        level, shortfall, note = _own_level(mode, agent, hook_of.get(agent.name), stop_of.get(agent.name))
        if loose.get(agent.name) or why:
            judged[agent.name] = AgentHold("running", loose.get(agent.name) or why)
            continue
        others = [one.name for one in rough if agent.name in one.agents]
        if level == "at rest" and others:
            level = "frozen"
            note = note or f"{', '.join(others)} can write to its volumes, too, and was not brought to rest"
        judged[agent.name] = AgentHold(level, shortfall, note)
    return judged


def _own_level(mode: Mode, agent: Agent, hook: Hook | None, stop: Stop | None) -> tuple[Level, str, str]:
    """What mode and agent alone would come to, the shortfall, and a note."""
    if mode == "hooks" and hook is not None:
        if hook.is_absent:
            return "frozen", "", f"it has no {hook.settings.before}, and was only paused"
        if hook.succeeded:
            return "at rest", "", ""
        return "frozen", f"its before-hook failed: {hook.failure}", ""
    if mode == "stop" and stop is not None:
        if stop.is_clean:
            return "at rest", "", ""
        if stop.failure:
            return "frozen", f"it was not shut down cleanly: {stop.failure}", ""
        return "frozen", "", f"it was {agent.state} before and is not known to have been shut down cleanly"
    return "frozen", "", ""
