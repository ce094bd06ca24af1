"""What is wrong with a policy, in sentences: where, what, what is allowed, and what was perhaps meant."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING

from trinity_snap.policy.document import Document, Location, dotted
from trinity_snap.policy.fields import field_at, section_at, walk, words_for
from trinity_snap.policy.schema import Policy, ReplicaSection, Rule
from trinity_snap.targets.settings import without_password

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_ONE_OF = {
    "a list of rules": f"a mapping with {', '.join(Rule.model_fields)}",
    "a list of replicas": f"a mapping with {', '.join(ReplicaSection.model_fields)}",
    "a list of absolute paths": "an absolute path without `..`",
    "a list of patterns": "a pattern with `*` and `?`",
}
"""What an element of a list may be, by what the list may be."""


def explain_mistakes(error: ValidationError, document: Document, name: str) -> list[str]:
    """One line per mistake, in the order of the file."""
    found: dict[tuple[int, str], str] = {}
    for detail in error.errors(include_url=False, include_input=True):
        location = _in_file(detail["loc"], document)
        line = document.line_of(location)
        setting = dotted(location) or "policy"
        found.setdefault((line, setting), f"{name}:{line}: {setting}: {_sentence(detail, location)}")
    return [sentence for _, sentence in sorted(found.items(), key=lambda item: item[0][0])]


def _in_file(location: Location, document: Document) -> Location:
    """The part of pydantic's location that is in the file, with one step more if that is a missing key."""
    if location[:2] == ("target", "url") and ("target", "url") not in document.lines:
        return ("target",)  # the short form
    for length in range(len(location), 0, -1):
        if location[:length] in document.lines:
            missing = location[length : length + 1]
            section = section_at(Policy, location[:length])
            keep = bool(missing) and section is not None and missing[0] in section.model_fields
            return location[: length + 1] if keep else location[:length]
    return location[:1]


def _sentence(detail: ErrorDetails, location: Location) -> str:
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _joined("there is no such setting", *_meant_key(location))
    if kind == "missing":
        return _joined("it is missing", *_allowed(location))
    value = detail["input"]
    if value is None:
        wrong = "it is empty"
    elif kind == "value_error":
        wrong = str(detail["ctx"]["error"]) if "ctx" in detail else "it is not allowed"
        if location == ("target",) and isinstance(value, str):
            location = ("target", "url")
        if section_at(Policy, location) is not None:
            return _joined(wrong)
        wrong = f"{_shown(value)}: {wrong}"
    else:
        wrong = f"{_shown(value)} is not allowed"
    return _joined(wrong, *_allowed(location), *_meant_value(value, location))


def _joined(*parts: str) -> str:
    sentence = "; ".join(parts)
    return sentence if sentence.endswith("?") else f"{sentence}."


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return without_password(repr(value))[:80]


def _allowed(location: Location) -> Iterator[str]:
    field = field_at(Policy, location)
    section = section_at(Policy, location)
    if field is not None and (words := words_for(field)):
        yield f"allowed: {_ONE_OF.get(words, words) if isinstance(location[-1], int) else words}"
    elif section is not None:
        yield f"allowed: a mapping with {', '.join(section.model_fields)}"


def _meant_key(location: Location) -> Iterator[str]:
    key = str(location[-1])
    section = section_at(Policy, location[:-1])
    siblings = list(section.model_fields) if section is not None else []
    near = get_close_matches(key.lower(), siblings, n=1, cutoff=0.6)
    elsewhere = [
        setting.name
        for setting in walk(Policy)
        if setting.name.rpartition(".")[2] == key and not set("<[") & set(setting.name)
    ]
    if near:
        yield f"did you mean `{near[0]}`?"
    elif elsewhere:
        yield f"did you mean `{elsewhere[0]}`?"
    elif siblings:
        yield f"known here: {', '.join(siblings)}"


def _meant_value(value: object, location: Location) -> Iterator[str]:
    field = field_at(Policy, location)
    if field is None or not isinstance(value, str):
        return
    words = set(words_for(field).replace(",", " ").split()) - {"or", "null"}
    near = get_close_matches(value.lower(), sorted(words), n=1, cutoff=0.7)
    if near:
        yield f"did you mean `{near[0]}`?"
