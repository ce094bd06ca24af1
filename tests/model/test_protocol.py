"""The protocol of runs and prunes survives everything that the model does to it, and no step of it can be left out."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import run_state_machine_as_test

from tests.model.breakages import BREAKS, Break, Story
from tests.model.machine import HAPPENED, DamageMachine, Machine

MACHINES = int(os.environ.get("TRINITY_SNAP_MODEL_MACHINES", "60"))
"""How many are tried."""


def test_runs_and_prunes_lose_nothing_whatever_happens_in_whatever_order() -> None:
    HAPPENED.clear()
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=MACHINES,
            stateful_step_count=25,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
    for what in ("committed", "fenced_packs", "deleted_packs", "released_packs", "repacked"):
        assert HAPPENED[what], HAPPENED


def test_nothing_is_lost_either_when_packs_that_are_in_use_are_fenced_because_they_are_damaged() -> None:
    HAPPENED.clear()
    # What stands in for a pack depends on which pack a run happened to put a chunk into: the same steps may go on differently.
    with suppress(FlakyStrategyDefinition):
        run_state_machine_as_test(
            DamageMachine,
            settings=settings(
                max_examples=max(MACHINES // 2, 1),
                stateful_step_count=25,
                deadline=None,
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )
    assert HAPPENED["found damaged"]


def tell(story: Story) -> None:
    machine = Machine()
    try:
        story(machine)
        machine.whatever_counts_is_whole()
    finally:
        machine.teardown()


@pytest.mark.parametrize("story", sorted(set(BREAKS.values()), key=str))
def test_the_protocol_as_it_is_survives_the_story(story: Story) -> None:
    tell(story)


@pytest.mark.parametrize("broken", BREAKS, ids=lambda one: one.__name__)
def test_the_model_sees_what_is_broken(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        tell(BREAKS[broken])
