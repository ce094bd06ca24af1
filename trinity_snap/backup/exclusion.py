"""Patterns of what is left out of a source, as one regular expression for paths from its root."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate

__all__ = ["Expression", "compile_exclusion"]


class Expression(str):
    """A pattern that is a regular expression already: paths that it matches from their beginning are left out."""

    __slots__ = ()


def compile_exclusion(patterns: Sequence[str]) -> re.Pattern[str] | None:
    """One expression for all of them; plain ones are as the policy's `exclude` has them. None if there are none."""
    if not patterns:
        return None
    return re.compile("|".join(each if isinstance(each, Expression) else translate(each) for each in patterns))
