"""The effective policy: every setting with its value and where that comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trinity_snap.policy.fields import plain, walk
from trinity_snap.policy.schema import Policy, Section

DEFAULT = "default"


@dataclass(frozen=True)
class Effective:
    """One setting: dotted name, plain value, and its origin: `default`, `file:line`, or an override's."""

    setting: str
    value: object
    origin: str


def explain(policy: Policy, agent: str | None = None) -> list[Effective]:
    """Every setting of a policy, in the order of the schema; for one agent, with its overrides applied.

    Without an agent, the overrides are listed as settings of their own.
    """
    rows = list(_rows(policy, policy, ""))
    if agent is None:
        for name, override in policy.overrides.items():
            prefix = f"overrides.{name}"
            rows += [row for row in _rows(policy, override, f"{prefix}.") if row.origin != DEFAULT]
        return rows
    override_of = {row.setting: row for row in _override_rows(policy, agent)}
    return [override_of.get(row.setting, row) for row in rows]


def _override_rows(policy: Policy, agent: str) -> Iterator[Effective]:
    override = policy.overrides.get(agent)
    if override is None:
        return
    prefix = f"overrides.{agent}."
    for row in _rows(policy, override, prefix):
        if row.value is not None:
            setting = row.setting.removeprefix(prefix)
            yield Effective(setting, row.value, f"override for {agent}, {row.origin}")


def _rows(policy: Policy, section: Section, prefix: str) -> Iterator[Effective]:
    for setting in walk(type(section), deep=False):
        name = f"{prefix}{setting.name}"
        if name == "overrides":
            continue
        value = getattr(section, setting.name)
        if isinstance(value, Section):
            yield from _rows(policy, value, f"{name}.")
        else:
            yield Effective(name, plain(value), _origin(policy, name))


def _origin(policy: Policy, name: str) -> str:
    line = policy.sources.get(name)
    return DEFAULT if line is None else f"{policy.path}:{line}"
