"""One run of a policy on this host: discover, quiesce, snapshot, resume, ship, release."""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.agents import PLATFORM_AGENT, Agent, Discovery, Source, connect, discover, watcher_notes
from trinity_snap.backup.engine import AgentPoint, Engine, SourceSpec
from trinity_snap.backup.keep import keep_locally
from trinity_snap.backup.replicas import replicate_after
from trinity_snap.backup.result import AgentResult, RunResult, remember
from trinity_snap.backup.selection import Selections
from trinity_snap.backup.shipper import Shipped
from trinity_snap.errors import (
    DockerUnavailable,
    HostBusy,
    SnapshotError,
    TargetError,
    TrinitySnapError,
    UsageError,
)
from trinity_snap.progress import NullProgress, Progress
from trinity_snap.quiesce import CriticalResult, Drain, HostLock, Journal, critical_section, recover
from trinity_snap.quiesce.steps import step
from trinity_snap.repository.identity import load_host_key
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.session import Tally
from trinity_snap.repository.trust import Trust
from trinity_snap.snapshot import Prepare, Provider, select_providers
from trinity_snap.snapshot.local import LocalAgent, local_source, prune
from trinity_snap.snapshot.protocol import TORN, SourceKey, source_key
from trinity_snap.snapshot.view import SourceView
from trinity_snap.targets import open_target
from trinity_snap.trinity.autonomy import schedules_held
from trinity_snap.trinity.platform import dump_warnings
from trinity_snap.wording import plural

if TYPE_CHECKING:
    from docker import DockerClient

    from trinity_snap.policy.schema import Policy

__all__ = ["run_backup"]

_COMMIT_BYTES = 256 * 1024 * 1024
_NEXT_STEP = {
    errno.ENOSPC: "Free some space there, or on the disk of the state directory, then run again.",
    errno.EDQUOT: "Raise the quota there, or that of the state directory, then run again.",
    errno.EROFS: "See in the kernel log why the filesystem became read-only, then run again.",
    errno.EIO: "See in the kernel log whether a disk is failing, then run again.",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`), then run again.",
}


@dataclass
class _Work:
    """One agent of the run on its way to a recovery point."""

    agent: Agent
    sources: tuple[Source, ...]
    result: AgentResult
    shipped: list[tuple[SourceSpec, Shipped]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time that the block takes as spent on this agent."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.result.duration_seconds = round(self.result.duration_seconds + time.monotonic() - began, 3)


def run_backup(
    policy: Policy,
    agents: Sequence[str] | None = None,
    progress: Progress | None = None,
    *,
    run_id: str | None = None,
) -> RunResult:
    """Back up the agents of this host (those named, or all) and return what came of it.

    `run_id` (32 hex digits) is shared by the hosts of a fleet run; a fresh one is drawn if there is none. An agent that
    fails does not keep the others from being backed up. Replicas come last, when the host is no longer held.
    Raise HostBusy, DockerUnavailable, AgentMissing, PolicyError, KeyFileError, RepositoryError or TargetError if the
    run could not begin; then nothing was paused.
    """
    run = _Run(policy, progress or NullProgress(), run_id or os.urandom(16).hex())
    result = run.run(agents)
    if policy.replicas:
        replicate_after(policy, result, progress)
        run.remember()
    return result


class _Run:
    def __init__(self, policy: Policy, progress: Progress, run_id: str) -> None:
        if len(run_id) != 32 or set(run_id) - set("0123456789abcdef"):
            raise UsageError(f"{run_id!r} is no run id: it has 32 hexadecimal digits.")
        self.policy = policy
        self.progress = progress
        self.state: Path = policy.state.directory
        self.result = RunResult(run_id, policy.host_name, _now())
        self._began = time.monotonic()
        self._quiet_ns = 0
        self._autoheal: tuple[str, ...] = ()
        self._selections = Selections(policy, self._note)

    def run(self, names: Sequence[str] | None) -> RunResult:
        """Do it."""
        _allow_many_files()
        with HostLock(self.state, self.result.run_id) as lock:
            try:
                client = self._connect()
                if client is not None:
                    lock.hold_daemon(client)
                self._recover(client)
                discovery = self._discover(client, names)
                repository = self._open_repository()
            except HostBusy:
                raise
            except TrinitySnapError as error:
                self.result.error = error.to_json()
                self.remember()  # a run that cannot begin is one that `status` has to show
                raise
            works = self._works(discovery)
            try:
                if any(work.result.outcome != "skipped" for work in works):
                    self._back_up(client, repository, works, whole=not names)
            except (TrinitySnapError, OSError) as error:
                failure = _as_ours(error)
                self.result.error = failure.to_json()
                _fail(works, failure)
            except KeyboardInterrupt:
                self._was_interrupted(works)
                raise
            if any(work.result.point for work in works):
                self._prune(None if names else discovery)
            self._finish(works)
        return self.result

    # -- before -----------------------------------------------------------------------------------------------------

    def _connect(self) -> DockerClient | None:
        try:
            return connect()
        except DockerUnavailable:
            discovered = self.policy.agents.discover.trinity or self.policy.agents.rules
            if discovered or not self.policy.platform.paths:
                raise
            return None

    def _recover(self, client: DockerClient | None) -> None:
        report = recover(self.state, client)
        if report.runs:
            self._note(f"Cleaned up after {len(report.runs)} earlier run(s) that did not end: {report.to_json()}.")

    def _discover(self, client: DockerClient | None, names: Sequence[str] | None) -> Discovery:
        self.progress.stage("looking at this host")
        if client is None:
            from trinity_snap.agents.platform import platform_agent

            found = Discovery((platform_agent([Path(path) for path in self.policy.platform.paths]),), ())
        else:
            found = discover(client, self.policy)
            self._autoheal = found.autoheal
        return found.select(names) if names else found

    def _open_repository(self) -> Repository:
        host = load_host_key(self.policy.keys.host_key)
        trust = Trust(self.policy.keys.pins, self.state)
        return Repository.open(open_target(self.policy.target.settings()), host=host, trust=trust)

    def _works(self, discovery: Discovery) -> list[_Work]:
        works = []
        for agent in discovery.agents:
            result = AgentResult(agent.name)
            if not agent.sources:
                result.outcome = "skipped"
                why = "; ".join(f"{left.what}: {left.why}" for left in agent.not_covered)
                result.error = f"It has nothing that is backed up. {why}".strip()
            if agent.rule == PLATFORM_AGENT:
                self._note_all(dump_warnings([source.path for source in agent.sources]))
            works.append(_Work(agent, agent.sources, result))
            _fail_if_gone(works[-1])
        return works

    # -- during -----------------------------------------------------------------------------------------------------

    def _back_up(self, client: DockerClient | None, repository: Repository, works: list[_Work], *, whole: bool) -> None:
        step("discovered")
        providers, active = self._choose_providers([work for work in works if work.sources])
        if not active:
            return
        with ExitStack() as stack:
            engine = stack.enter_context(Engine(repository, self.state / "cache", self.progress))
            for name in (*repository.damaged_lists, *engine.session.unreadable_index):
                self._note(f"{name} in the repository is damaged or was not written by this host; it was passed over.")
            journal = Journal.start(self.state, self.result.run_id)
            stack.callback(journal.end)
            stack.callback(self._release, providers)
            step("journal-started")
            agents = [work.agent for work in active] if client is not None else []
            with schedules_held(self.policy, journal, agents, self._note, self._leave_behind):
                instant = self._snapshot(client, engine, journal, providers, active)
            step("shipping")
            self._ship_all(engine, providers, active, instant)
            step("shipped")
            self._keep(providers, active, instant)
            if whole and self.policy.keys.identity is None:  # names of what is gone are nobody's business on this host
                engine.forget_others(_spec(source) for work in works for source in work.sources)

    def _choose_providers(self, works: list[_Work]) -> tuple[list[Provider], list[_Work]]:
        """The providers for all agents that have not failed; one whose volume is gone by now fails alone."""
        while True:
            active = [work for work in works if work.result.error is None]
            sources = [source for work in active for source in work.sources]
            try:
                return select_providers(sources, self.policy, self.state), active
            except (SnapshotError, OSError):
                if not [work for work in active if _fail_if_gone(work)]:
                    raise

    def _snapshot(
        self,
        client: DockerClient | None,
        engine: Engine,
        journal: Journal,
        providers: Sequence[Provider],
        active: Sequence[_Work],
    ) -> CriticalResult:
        owner = {source_key(source): work for work in active for source in work.sources}

        def ship_pass(source: Source, view: SourceView, number: int) -> Mapping[bytes, tuple[int, int, int, int]]:
            started_ns = time.time_ns()
            work = owner[source_key(source)]
            engine.session.count_in(work.tally)
            exclude = self._selections.exclude(work.agent.name, source, view)
            with work.timed():
                return engine.ship_pass(_spec(source), view, source.path, number, started_ns, exclude)

        agents = [work.agent for work in active]
        quiesce = self.policy.quiesce
        settings = {agent.name: self.policy.for_agent(agent.name).quiesce for agent in agents}
        drain = None if client is None else Drain(client, agents, settings)
        if drain is not None and drain.is_wanted:
            self.progress.stage("waiting for agents to be idle")
            self._note_all(drain.wait())
        self.progress.stage("preparing snapshots")
        budget_seconds = self.policy.quiesce.budget_seconds
        setting = Prepare(self.result.run_id, journal, self.progress, ship_pass, self._note, budget_seconds)
        for provider in providers:
            provider.prepare(setting)
        step("prepared")
        failed = {key for provider in providers for key in provider.failures()}
        # Whoever gets no recovery point anyway is not held or shut down for one.
        agents = [work.agent for work in active if failed.isdisjoint(map(source_key, work.sources))]
        if drain is not None:
            self._note_all(drain.look())
        self.progress.stage("holding agents still")
        # What was written to a file after it was flushed may change again unseen until the instant.
        self._quiet_ns = time.time_ns()
        instant = critical_section(
            client,
            agents,
            providers,
            journal,
            settings=settings,
            budget_seconds=quiesce.budget_seconds,
            on_budget_exceeded=quiesce.on_budget_exceeded,
            stop_seconds=quiesce.stop_seconds,
            on_hook_failure=quiesce.on_hook_failure,
        )
        self.result.created = datetime.fromtimestamp(instant.created_ns / 1e9, UTC).isoformat()
        self._note_all(instant.notes)
        for sentence in instant.left_behind:
            self._leave_behind(sentence)
        short = [agent.name for agent in agents if instant.agents[agent.name].shortfall]
        if short:
            self._note_all(watcher_notes(self._autoheal, (), quiesce.budget_seconds))
        if instant.why:
            self._note(f"The guarantee is weaker than asked for: {instant.why}.")
        return instant

    def _ship_all(
        self,
        engine: Engine,
        providers: Sequence[Provider],
        active: Sequence[_Work],
        instant: CriticalResult,
    ) -> None:
        provider_of = {source_key(source): provider for provider in providers for source in provider.sources}
        pending: list[_Work] = []
        committed_bytes = engine.session.bytes_stored
        self.progress.stage("shipping")
        for work in active:
            if work.agent.name in instant.refused:
                work.result.error = instant.refused[work.agent.name]
                self._note(f"{work.agent.name} was not backed up: {work.result.error}")
                continue
            engine.session.count_in(work.tally)
            try:
                with work.timed():
                    self._ship(engine, provider_of, work, instant)
            except TargetError:
                raise
            except (TrinitySnapError, OSError) as error:
                work.result.error = str(error)
                self._note(f"{work.agent.name} could not be backed up: {error}")
                continue
            pending.append(work)
            if engine.session.bytes_stored - committed_bytes >= _COMMIT_BYTES:
                self._commit_all(engine, provider_of, pending, instant)
                pending, committed_bytes = [], engine.session.bytes_stored
        self._commit_all(engine, provider_of, pending, instant)

    def _ship(
        self,
        engine: Engine,
        provider_of: Mapping[SourceKey, Provider],
        work: _Work,
        instant: CriticalResult,
    ) -> None:
        for source in work.sources:
            provider = provider_of[source_key(source)]
            view = provider.view(source)
            exclude = self._selections.exclude(work.agent.name, source, view)
            try:
                shipped = engine.ship(_spec(source), view, min(instant.created_ns, self._quiet_ns), exclude)
                shipped.problems += self._problems(work, source, provider)
            finally:
                provider.check(source)  # a snapshot that broke is the reason of whatever else went wrong
            work.shipped.append((replace(_spec(source), selection=self._selections.patterns(source)), shipped))
            if shipped.excluded:
                self._note(
                    f"{work.agent.name}: {shipped.excluded} entries of {source.name} are excluded by the policy."
                )

    def _problems(self, work: _Work, source: Source, provider: Provider) -> list[tuple[bytes, str]]:
        """What a view does not show as it should; of an agent of mode `none`, torn files are what was asked for."""
        problems = list(provider.problems(source))
        if self.policy.for_agent(work.agent.name).quiesce.mode == "none":
            torn = [path for path, reason in problems if reason == TORN]
            if torn:
                self._note(f"{work.agent.name}: {len(torn)} files of {source.name} may be torn, as with mode none.")
            problems = [(path, reason) for path, reason in problems if reason != TORN]
        return problems

    def _commit_all(
        self,
        engine: Engine,
        provider_of: Mapping[SourceKey, Provider],
        pending: Sequence[_Work],
        instant: CriticalResult,
    ) -> None:
        if pending:
            step("before-commit")
            engine.flush()
        for work in pending:
            try:
                self._commit(engine, provider_of, work, instant)
            except TargetError:
                raise
            except (TrinitySnapError, OSError) as error:
                work.result.error = str(error)
            step("committed")

    def _commit(
        self,
        engine: Engine,
        provider_of: Mapping[SourceKey, Provider],
        work: _Work,
        instant: CriticalResult,
    ) -> None:
        providers = {provider_of[source_key(source)] for source in work.sources}
        consistency = instant.consistency(work.agent.name, providers)
        shortfall = instant.shortfall(work.agent.name, providers)
        pause = self._pause_of(work.agent, instant)
        point = AgentPoint(
            agent=work.agent.name,
            host=self.result.host,
            run_id=self.result.run_id,
            created_ns=instant.created_ns,
            mode=self.policy.for_agent(work.agent.name).quiesce.mode,
            provider="+".join(sorted(provider.name for provider in providers)),
            consistency=consistency,
            pause_ns=int(pause * 1e9),
            container=work.agent.definition,
        )
        committed = engine.commit(point, work.shipped)
        result = work.result
        result.point, result.consistency, result.provider = committed.id, consistency, point.provider
        result.pause_seconds = round(pause, 6)
        result.stopped_seconds = round(instant.stopped.get(work.agent.name, 0.0), 6)
        result.files, result.bytes, result.bytes_read = committed.files, committed.bytes, committed.bytes_read
        result.bytes_stored = committed.point_bytes + work.tally.bytes
        result.problems = [
            {"volume": volume, "path": os.fsdecode(path), "reason": reason}
            for volume, path, reason in committed.problems
        ]
        result.outcome = "incomplete" if committed.problems else "downgraded" if shortfall else "done"
        if committed.problems:
            left_out = plural(len(committed.problems), "entry", "entries")
            result.error = f"{left_out} could not be backed up; the rest is in the point."
        elif shortfall:
            result.error = f"{shortfall[0].upper()}{shortfall[1:]}."

    @staticmethod
    def _pause_of(agent: Agent, instant: CriticalResult) -> float:
        if agent.container_id is not None and agent.container_id in instant.held:
            return instant.held[agent.container_id]
        return max((pause.seconds for pause in instant.pauses if agent.name in pause.container.agents), default=0.0)

    # -- after ------------------------------------------------------------------------------------------------------

    def _keep(self, providers: Sequence[Provider], active: Sequence[_Work], instant: CriticalResult) -> None:
        """Keep the snapshots of what was stored, if the policy wants that."""
        if not self.policy.snapshot.keep:
            return
        agents = [
            LocalAgent(
                work.agent.name, work.result.consistency, tuple(map(local_source, work.sources)), work.result.point
            )
            for work in active
            if work.result.point is not None
        ]
        try:
            left_out = keep_locally(self.state, self.result.run_id, instant.created_ns, agents, providers)
        except (SnapshotError, OSError) as error:
            self._note(f"No local snapshot was kept: {error}")
            return
        if left_out:
            self._note(f"No local snapshot of {', '.join(left_out)}.")

    def _prune(self, discovery: Discovery | None) -> None:
        """Remove the local snapshots that are too many; after a run that stored nothing all stay."""
        agents = None if discovery is None else {agent.name for agent in discovery.agents}
        try:
            problems = prune(self.state, self.policy.snapshot.keep, agents)
        except SnapshotError as error:
            problems = [str(error)]
        for problem in problems:
            self._note(problem)

    def _release(self, providers: Sequence[Provider]) -> None:
        for provider in providers:
            try:
                provider.release()
            except (SnapshotError, OSError) as error:
                self._leave_behind(
                    f"The provider “{provider.name}” could not remove what it made for this run: {error}"
                )

    def _leave_behind(self, message: str) -> None:
        self.result.left_behind.append(message)
        self.progress.note(message)

    def _note(self, message: str) -> None:
        self.result.notes.append(message)
        self.progress.note(message)

    def _note_all(self, messages: Sequence[str]) -> None:
        for message in messages:
            self._note(message)

    def _was_interrupted(self, works: Sequence[_Work]) -> None:
        """Have `status` show it: some agents may have their point, and the others do not."""
        failure = TrinitySnapError("The run was interrupted.", next_step="Run again.")
        self.result.error = failure.to_json()
        _fail(works, failure)
        self._finish(works)

    def _finish(self, works: Sequence[_Work]) -> None:
        self.result.agents = [work.result for work in works]
        self.result.duration_seconds = round(time.monotonic() - self._began, 3)
        self.result.settle()
        self.remember()

    def remember(self) -> None:
        """Keep the result for `status`."""
        try:
            remember(self.result, self.state, with_names=self.policy.keys.identity is not None)
        except OSError as error:
            self._note(f"The result could not be kept in {self.state}: {error.strerror}.")


def _allow_many_files() -> None:
    """Every level of a live tree is an open directory while it is walked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _fail(works: Sequence[_Work], error: TrinitySnapError) -> None:
    for work in works:
        if work.result.outcome == "failed" and work.result.error is None:
            work.result.error = str(error)


def _as_ours(error: TrinitySnapError | OSError) -> TrinitySnapError:
    if isinstance(error, TrinitySnapError):
        return error
    where = f" at {os.fsdecode(error.filename)}" if error.filename else ""
    return TrinitySnapError(
        f"The run could not go on: {error.strerror or error}{where}.",
        untouched="Recovery points that were made before are whole.",
        next_step=_NEXT_STEP.get(error.errno or 0, "Mend that, then run again.")
        + " `trinity-snap recover` undoes what this run may have left.",
    )


def _fail_if_gone(work: _Work) -> bool:
    """Whether something of an agent is not where it should be; the result then says what."""
    missing = [source for source in work.sources if not os.path.lexists(source.path)]
    if missing:
        work.result.error = "; ".join(
            f"{source.name} should be at {source.path}, and nothing is there" for source in missing
        )
    return bool(missing)


def _spec(source: Source) -> SourceSpec:
    return SourceSpec(
        source.name,
        source.kind,
        str(source.path) if source.kind == "path" else "",
        source.destination,
        source.driver or "local",
        dict(source.labels),
        dict(source.options),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat()
