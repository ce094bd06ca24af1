"""The protocol with one step left out or done wrongly, each a change of the product's own code."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from blake3 import blake3

from tests.model.machine import MINUTE_NS, WAITS, Machine
from trinity_snap.repository import prune as prune_module
from trinity_snap.repository import repack as repack_module
from trinity_snap.repository import session as session_module
from trinity_snap.repository import supersede as supersede_module
from trinity_snap.repository import survey as survey_module
from trinity_snap.repository.fences import Fence
from trinity_snap.repository.lease import LEASE, Lease
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.prune_plan import Judgement, Marks, decide_fence, judge
from trinity_snap.repository.receipts import put_clock, put_forgotten
from trinity_snap.repository.session import Session
from trinity_snap.repository.survey import survey
from trinity_snap.repository.tenure import Tenure

Break = Callable[[pytest.MonkeyPatch], None]


def a_run_does_not_look_at_fences(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(session_module, "read_new_fences", lambda target, host, known: {})


def a_run_does_not_look_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "look_again", lambda self: None)


def a_run_does_not_ask_whether_its_session_is_there(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tenure, "look", lambda self: None)


def a_run_names_packs_whose_key_is_gone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tenure, "vouch_for", lambda self, pack: None)


def a_run_believes_its_own_clock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tenure, "counts", lambda self, point: None)


def a_run_takes_pages_over_without_asking(patch: pytest.MonkeyPatch) -> None:
    def require(self: Session, packs: Iterable[int]) -> None:
        packs_of_pages = set(packs)
        assert -1 not in packs_of_pages

    patch.setattr(Session, "require", require)


def a_run_lists_packs_before_fences(patch: pytest.MonkeyPatch) -> None:
    list_packs = Session._list_packs
    begin = Session._begin

    def first(self: Session, recipients: Any) -> None:
        begin(self, recipients)
        self._too_early = {bytes.fromhex(name[-64:]) for name in self._target.list_prefix("packs/")}  # type: ignore[attr-defined]

    def later(self: Session) -> set[bytes]:
        condemned = frozenset[bytes]().union(*self._fences.values())
        return self._too_early - condemned  # type: ignore[attr-defined, no-any-return]

    del list_packs
    patch.setattr(Session, "_begin", first)
    patch.setattr(Session, "_list_packs", later)


def a_session_object_is_put_after_the_lists(patch: pytest.MonkeyPatch) -> None:
    list_packs, put = Session._list_packs, Session._put

    def hold_back(self: Session, name: str, data: Any) -> None:
        if name.startswith("sessions/"):
            self._held_back = name, data  # type: ignore[attr-defined]
        else:
            put(self, name, data)

    def then_put(self: Session) -> set[bytes]:
        alive = list_packs(self)
        put(self, *self._held_back)  # type: ignore[attr-defined]
        self._began_ns = vars(session_module)["running_ns"]()  # the clock of the model
        return alive

    patch.setattr(Session, "_put", hold_back)
    patch.setattr(Session, "_list_packs", then_put)


def a_point_counts_however_late(patch: pytest.MonkeyPatch) -> None:
    right = judge

    def forgiving(packs: Any, time_ns: int, session_ns: int, *others: Any, **more: Any) -> Judgement:
        return right(packs, min(time_ns, session_ns), session_ns, *others, **more)

    patch.setattr(survey_module, "judge", forgiving)


def a_point_counts_without_its_packs(patch: pytest.MonkeyPatch) -> None:
    right = judge

    def forgiving(
        packs: Any, time_ns: int, session_ns: int, fences: Any, existing: Any, *more: Any, **named: Any
    ) -> Any:
        return right(packs, time_ns, session_ns, fences, existing | packs, *more, **named)

    patch.setattr(survey_module, "judge", forgiving)


def what_disobeys_frees_packs(patch: pytest.MonkeyPatch) -> None:
    add = Marks.add
    patch.setattr(Marks, "add", lambda self, packs, verdict: add(self, packs, replace(verdict, obedient=True)))


def _with_lease(patch: pytest.MonkeyPatch, name: str, changed: Lease) -> None:
    original = getattr(prune_module, name)
    patch.setattr(prune_module, name, lambda *arguments: original(*arguments[:-1], changed))


def prune_does_not_wait(patch: pytest.MonkeyPatch) -> None:
    _with_lease(patch, "decide_fence", Lease(0, 0))


def prune_waits_for_the_margin_only(patch: pytest.MonkeyPatch) -> None:
    _with_lease(patch, "decide_fence", Lease(0, LEASE.margin_ns))


def prune_does_not_mark_again(patch: pytest.MonkeyPatch) -> None:
    decide = decide_fence
    patch.setattr(
        prune_module,
        "decide_fence",
        lambda fence, now, marks, existing, lease: decide(fence, now, Marks(), existing, lease),
    )


def prune_deletes_without_a_fence(patch: pytest.MonkeyPatch) -> None:
    def at_once(target: Any, host: Any, packs: Iterable[bytes]) -> str:
        for digest in packs:
            target.delete(pack_name(digest.hex()))
        return "fences/" + "0" * 32

    patch.setattr(prune_module, "put_fence", at_once)


def prune_removes_the_fence_first(patch: pytest.MonkeyPatch) -> None:
    delete = prune_module._Work._delete

    def fence_first(self: Any, decision: Any, packs: frozenset[bytes]) -> None:
        self.target.delete(decision.fence.name)
        patch_is_there(self)
        delete(self, decision, packs)

    def patch_is_there(self: Any) -> None:
        self._is_there = lambda fence: True

    patch.setattr(prune_module._Work, "_delete", fence_first)


def prune_takes_a_time_from_after_its_look(patch: pytest.MonkeyPatch) -> None:
    look = survey

    def late(repository: Any, **named: Any) -> Any:
        found = look(repository, **named)
        clock, found.now_ns = put_clock(repository.target, repository.host)
        repository.target.delete(clock)
        return found

    patch.setattr(prune_module, "survey", late)


def prune_believes_the_clock_of_hosts(patch: pytest.MonkeyPatch) -> None:
    decide = decide_fence

    def by_a_wrong_clock(fence: Fence, now: int, *others: Any) -> Any:
        return decide(fence, now + 20 * 3600 * 10**9, *others)

    patch.setattr(prune_module, "decide_fence", by_a_wrong_clock)


def repack_lets_go_before_another_is_there(patch: pytest.MonkeyPatch) -> None:
    move = repack_module._Repack._move_point

    def first(self: Any, session: Any, point: Any, *others: Any) -> None:
        put_forgotten(self.target, self.repository.host, [point.id])
        self.target.delete(f"points/{point.id}")
        move(self, session, point, *others)

    patch.setattr(repack_module._Repack, "_says_no_more", lambda self, point: True)
    patch.setattr(repack_module._Repack, "_move_point", first)


def repack_passes_over_what_runs_came_to_need(patch: pytest.MonkeyPatch) -> None:
    move = repack_module._Repack._move_point

    def carefree(self: Any, session: Any, point: Any, facts: Any, needs: Any, held: Any, where: Any) -> None:
        move(self, session, point, facts, [one for one in needs if one in where], held, where)

    patch.setattr(repack_module._Repack, "_move_point", carefree)


def repack_believes_that_all_was_stored(patch: pytest.MonkeyPatch) -> None:
    """It does not read back what it has stored: here, half of it."""
    store, read_back = Session.store, repack_module._Repack._read_back

    def forgetful(self: Session, data: Any) -> bytes:
        return chunk_id(self, data) if vars(self).get("forgetful") else store(self, data)

    def chunk_id(self: Session, data: Any) -> bytes:
        return blake3(data, key=self._host.chunk_id_key).digest()

    copy = repack_module._Repack._copy

    def half(self: Any, session: Any, *others: Any) -> Any:
        session.forgetful = True
        return copy(self, session, *others)

    def believing(self: Any, session: Any, held: set[bytes]) -> Any:
        where = read_back(self, session, held)
        *_, name = self.target.list_prefix("packs/")
        some = bytes.fromhex(name[-64:]), self.target.stat(name).size
        return {one: where.get(one, some) for one in held}

    patch.setattr(Session, "store", forgetful)
    patch.setattr(repack_module._Repack, "_copy", half)
    patch.setattr(repack_module._Repack, "_read_back", believing)


def repack_believes_that_what_it_put_counts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(supersede_module, "_stands", lambda point: True)


def two_repacks_do_not_agree_whose_points_stay(patch: pytest.MonkeyPatch) -> None:
    agreed = supersede_module.superseded
    looks = itertools.count()

    def each_its_own(found: Any) -> Any:
        pairs = [(keeper, others) for keeper, others in agreed(found) if any(other.repacked for other in others)]
        if not pairs or next(looks) % 2:
            return agreed(found)
        turned = []
        for keeper, others in pairs:
            other = next(one for one in others if one.repacked)
            turned.append((other, [keeper, *(one for one in others if one is not other)]))
        return turned

    patch.setattr(supersede_module, "superseded", each_its_own)


def repack_believes_hosts_that_a_point_was_repacked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(survey_module, "vouched", lambda repository, point: point.repacked)


# -- the order of events in which each break does harm ----------------------------------------------------------------

Story = Callable[[Machine], None]


def _a_run_commits_after_two_prunes(machine: Machine) -> None:
    machine.begin(state="relied on", ending="runs first")
    machine._prune_whole()
    machine._pass("half a lease")
    machine._prune_whole()


def _a_run_stands_still_for_a_week(machine: Machine, tree: str, place: str) -> None:
    """Its clock does not say so, and a prune has tidied its session."""
    machine.begin(state="needed", ending="runs first")
    for _ in range(8):  # fewer are not worth looking
        machine._run_to("c", "y", "list fences/")
        machine.a_process_is_killed(0, late=False)
    before = set(machine.storage.list_prefix("sessions/"))
    machine._run_to(tree, "x", place)
    (session,) = set(machine.storage.list_prefix("sessions/")) - before
    for _ in range(4):
        machine._pass("two leases")
    machine.writers[0].clock_offset_ns -= 4 * WAITS["two leases"]
    machine._prune_whole()
    assert session not in machine.storage.objects


def _a_run_without_anything_new_stands_still_for_a_week(machine: Machine) -> None:
    _a_run_stands_still_for_a_week(machine, "a", "list packs/")
    machine.a_run_ends(0)


def _a_run_stores_under_a_session_that_went(machine: Machine) -> None:
    _a_run_stands_still_for_a_week(machine, "c", "put packs/")
    machine._go_on_to(machine.writers[0], "put points/")
    for _ in machine.writers:
        machine.a_process_is_killed(0, late=False)
    machine._run_whole("c", "y")


def _a_run_with_a_wrong_clock_stands_still(machine: Machine) -> None:
    machine.begin(state="needed", ending="runs first")
    machine._run_to("a", "x", "put points/")
    machine._pass("two leases")
    machine.writers[0].clock_offset_ns -= WAITS["two leases"]
    machine.a_run_ends(0)


def _a_run_begins_before_the_end_of_a_prune(machine: Machine) -> None:
    machine.begin(state="due", ending="runs first")
    machine._run_to("a", "x", "put points/")
    machine._prune_whole()


def _a_fence_comes_just_before_the_second_look(machine: Machine) -> None:
    machine.begin(state="not needed", ending="runs first")
    machine._run_to("a", "x", "list fences/")
    machine._go_on_to(machine.writers[0], "list fences/")
    machine._prune_whole()


def _a_run_stands_between_its_lists(machine: Machine) -> None:
    machine.begin(state="due", ending="runs first")
    machine._run_to("a", "x", "list fences/")
    machine._prune_whole()


def _a_run_stands_before_its_session(machine: Machine) -> None:
    machine.begin(state="not needed", ending="runs first")
    machine._run_to("a", "x", "put sessions/")
    machine._prune_whole()
    machine._prune_whole(after="lease and margin")


def _a_point_comes_late_while_two_prunes_are_at_work(machine: Machine) -> None:
    machine.begin(state="relied on, due", ending="prunes first")
    machine.a_prune_begins("delete packs/")
    machine.a_run_ends(0)
    machine._prune_whole()


def _a_hostile_point_names_what_is_gone(machine: Machine) -> None:
    machine.begin(state="due", ending="prunes first")
    machine._prune_whole()
    machine.a_hostile_host_makes_a_point({0}, fresh=True, receipt=False)
    machine._prune_whole()


def _a_hostile_point_names_what_is_being_deleted(machine: Machine) -> None:
    machine.begin(state="due", ending="prunes first")
    machine.a_prune_begins("delete packs/")
    machine.a_hostile_host_makes_a_point({0}, fresh=True, receipt=False)
    machine._prune_whole()
    machine._run_whole("a", "x")


def _a_run_commits_what_was_fenced_meanwhile(machine: Machine) -> None:
    machine.begin(state="relied on, fenced", ending="prunes first")
    machine.a_run_ends(0)
    machine._prune_whole(after="lease and margin")


def _a_run_begins_while_packs_are_deleted(machine: Machine) -> None:
    machine.begin(state="due", ending="prunes first")
    machine.a_prune_begins("delete packs/")
    machine._run_whole("a", "x")


def _a_prune_stands_still_after_its_look(machine: Machine) -> None:
    machine.begin(state="relied on, fenced", ending="prunes first")
    machine.a_prune_begins("put receipts/")
    machine._pass("half a lease")
    machine.a_run_ends(0)
    machine._pass("lease and margin")


def _a_pack_is_half_dead(machine: Machine) -> None:
    """One file of two is needed."""
    machine.begin(state="needed", ending="runs first")
    machine._run_whole("cd", "x")
    machine._run_whole("c", "x")
    machine._collect()
    machine.whatever_counts_is_whole()
    (both,) = [name for name in machine.storage.list_prefix("points/") if machine.trees[name[7:]] == "cd"]
    machine._forget(list(machine.storage.list_prefix("points/")).index(both))
    machine._pass("lease and margin")


def _a_point_moves(machine: Machine) -> None:
    _a_pack_is_half_dead(machine)
    machine._repack_to("put points/")
    machine.whatever_counts_is_whole()


def _a_repack_is_whole(machine: Machine) -> None:
    _a_pack_is_half_dead(machine)
    machine.a_whole_repack()


def _a_run_commits_what_is_being_repacked(machine: Machine) -> None:
    _a_pack_is_half_dead(machine)
    machine._repack_to("put packs/")
    machine._run_whole("cd", "y")
    machine._go_on(machine.prunes, 0, 10_000)


def _a_repack_stands_still_before_a_point(machine: Machine) -> None:
    _a_pack_is_half_dead(machine)
    repacking = machine._repack_to("put points/")
    machine._pass("two leases")
    repacking.clock_offset_ns -= 1000 * MINUTE_NS * 60  # and does not notice
    machine._go_on(machine.prunes, 0, 10_000)


def _two_repacks_at_once(machine: Machine) -> None:
    _a_pack_is_half_dead(machine)
    one = machine._repack_to("put points/")
    other = machine._repack_to("put points/")
    for repacking in (one, other):
        machine._go_on_to(repacking, "list receipts/")
    machine._go_on_to(one, "delete points/")
    machine._go_on_to(other, "delete points/")
    machine._go_on(machine.prunes, 0, 10_000)
    machine._go_on(machine.prunes, 0, 10_000)


def _a_hostile_host_says_that_it_has_repacked_a_point(machine: Machine) -> None:
    _a_pack_is_half_dead(machine)
    names = list(machine.storage.list_prefix("points/"))
    machine.a_hostile_host_makes_a_point_of_another(names[-1])
    machine.a_whole_repack()


BREAKS: dict[Break, Story] = {
    repack_lets_go_before_another_is_there: _a_point_moves,
    repack_passes_over_what_runs_came_to_need: _a_run_commits_what_is_being_repacked,
    repack_believes_that_all_was_stored: _a_repack_is_whole,
    repack_believes_that_what_it_put_counts: _a_repack_stands_still_before_a_point,
    two_repacks_do_not_agree_whose_points_stay: _two_repacks_at_once,
    repack_believes_hosts_that_a_point_was_repacked: _a_hostile_host_says_that_it_has_repacked_a_point,
    a_run_does_not_look_at_fences: _a_run_begins_before_the_end_of_a_prune,
    a_run_does_not_look_again: _a_fence_comes_just_before_the_second_look,
    a_run_does_not_ask_whether_its_session_is_there: _a_run_without_anything_new_stands_still_for_a_week,
    a_run_names_packs_whose_key_is_gone: _a_run_stores_under_a_session_that_went,
    a_run_believes_its_own_clock: _a_run_with_a_wrong_clock_stands_still,
    a_run_takes_pages_over_without_asking: _a_fence_comes_just_before_the_second_look,
    a_run_lists_packs_before_fences: _a_run_stands_between_its_lists,
    a_session_object_is_put_after_the_lists: _a_run_stands_before_its_session,
    a_point_counts_however_late: _a_point_comes_late_while_two_prunes_are_at_work,
    a_point_counts_without_its_packs: _a_hostile_point_names_what_is_gone,
    what_disobeys_frees_packs: _a_hostile_point_names_what_is_being_deleted,
    prune_does_not_wait: _a_run_commits_after_two_prunes,
    prune_waits_for_the_margin_only: _a_run_commits_after_two_prunes,
    prune_believes_the_clock_of_hosts: _a_run_commits_after_two_prunes,
    prune_deletes_without_a_fence: _a_run_commits_after_two_prunes,
    prune_does_not_mark_again: _a_run_commits_what_was_fenced_meanwhile,
    prune_removes_the_fence_first: _a_run_begins_while_packs_are_deleted,
    prune_takes_a_time_from_after_its_look: _a_prune_stands_still_after_its_look,
}
"""Each break, and the shortest story in which the machine sees it."""
