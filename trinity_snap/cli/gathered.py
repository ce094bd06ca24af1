"""Options that several commands share, as the fields of one dataclass."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any

Command = Callable[..., int]


def gathered(kind: type[Any], *, without: Collection[str] = ()) -> Callable[[Command], Command]:
    """Give a command the fields of the dataclass `kind` as options, after its own; it gets them together, as `common`.

    The fields' annotations are typer's. Those in `without` are no options of this command, and keep their defaults.
    """
    options = [one for one in inspect.signature(kind, eval_str=True).parameters.values() if one.name not in without]

    def decorate(command: Command) -> Command:
        own = [one for one in inspect.signature(command, eval_str=True).parameters.values() if one.name != "common"]

        @functools.wraps(command)
        def called(**given: object) -> int:
            common = kind(**{one.name: given.pop(one.name) for one in options})
            return command(**given, common=common)

        called.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]  # typer looks there
        return called

    return decorate
