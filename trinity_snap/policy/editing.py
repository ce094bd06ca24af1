"""Changing one setting in the text of a policy, with every comment and all else as it is.

A setting is named as `policy show` names it: `retention.daily`, `overrides.researcher.exclude`. What has its own place in the
file is replaced there; what is commented out at its default, as `init` writes it, gets its line; anything else is added to
its section, which is made if it is missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from trinity_snap.errors import UsageError
from trinity_snap.policy.document import parse_document

__all__ = ["Change", "change_text", "parse_change"]

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9/._-]*")
_WORDS = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))


@dataclass(frozen=True)
class Change:
    """One setting by its dotted name, as steps, and its new value."""

    steps: tuple[str, ...]
    value: object

    @property
    def name(self) -> str:
        """The dotted name."""
        return ".".join(self.steps)


def parse_change(text: str) -> Change:
    """The change that `NAME=VALUE` means; the value is YAML. Raise UsageError.

    What begins with `*` is a text, such as a schedule: an alias of YAML's has no place in a policy.
    """
    name, equals, value = text.partition("=")
    steps = tuple(name.strip().split("."))
    if not equals or not all(steps):
        raise UsageError(
            f"{text!r:.80} is no setting with a value.",
            untouched="The policy is as it was.",
            next_step="Write it as NAME=VALUE, such as retention.daily=7 or 'exclude=[\"*.tmp\"]'.",
        )
    if value.startswith("*"):
        return Change(steps, value)
    try:
        return Change(steps, parse_document(value, f"the value of {name}").data)
    except RecursionError as error:
        raise UsageError(f"The value of {name} is nested too deeply.") from error


def change_text(text: str, changes: Sequence[Change], path: Path) -> str:
    """The text of the policy at `path` with these changes, one after the other. Raise PolicyError, UsageError."""
    for change in changes:
        parse_document(text, str(path))  # says what is wrong, and where
        text = _change(text, change)
    return text


def _change(text: str, change: Change) -> str:
    if text and not text.endswith("\n"):
        text += "\n"
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        return f"{text}{_line('', change.steps, change.value)}"
    node, above, key = root, None, None
    for depth, step in enumerate(change.steps):
        if not isinstance(node, yaml.MappingNode):
            if depth and _is_null(node):
                return _fill_empty_section(text, key, depth, change)
            if depth == 1 and change.steps[0] == "target" and isinstance(node, yaml.ScalarNode):
                # `target: /path` is short for a section
                section = {"url": str(node.value), **_nested(change.steps[1:], change.value)}
                return _replace(text, node, _flow(section))
            raise UsageError(
                f"{'.'.join(change.steps[:depth])} is no section in the policy, so that it has no {change.name}.",
                untouched="The policy is as it was.",
                next_step="`trinity-snap policy edit` opens all of it.",
            )
        above = node
        found = next(((k, v) for k, v in node.value if k.value == step), None)
        if found is None:
            return _add(text, above, change, depth)
        key, node = found
    return _replace(text, node, _flow(change.value), key)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _replace(text: str, node: yaml.Node, value: str, key: yaml.Node | None = None) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        # A block goes up to the next token; what is commented below it stays.
        assert key is not None
        last = _last_mark(node)
        return f"{text[: key.end_mark.index]}: {value}{text[last:]}"
    if start == end and key is not None:  # an empty value
        start = end = text.index(":", key.end_mark.index) + 1
        return f"{text[:start]} {value}{text[end:]}"
    return f"{text[:start]}{value}{text[end:]}"


def _last_mark(node: yaml.Node) -> int:
    """Where the last scalar or flow collection in a node ends."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last_mark(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _fill_empty_section(text: str, key: yaml.Node | None, depth: int, change: Change) -> str:
    """Give a section that has nothing, or only comments, its first setting: in the place of its comment, if it has one."""
    assert key is not None
    indent = " " * (key.start_mark.column + 2)
    start = text.index("\n", key.end_mark.index) + 1
    end = start
    while end < len(text):
        line_end = text.find("\n", end) + 1 or len(text)
        line = text[end:line_end]
        if line.strip() and not line.startswith(indent):
            break
        end = line_end
    return _put_in(text, start, end, indent, change.steps[depth:], change.value)


def _add(text: str, section: yaml.MappingNode, change: Change, depth: int) -> str:
    steps = change.steps[depth:]
    if section.flow_style:
        at = section.start_mark.index + 1
        nested = _nested(steps, change.value)
        inner = _flow(nested)[1:-1]
        return f"{text[:at]}{inner}{', ' if section.value else ''}{text[at:]}"
    first = section.value[0][0]
    indent = " " * first.start_mark.column
    start = text.rfind("\n", 0, first.start_mark.index) + 1
    end = _last_mark(section)
    end = text.find("\n", end) + 1 or len(text)
    while depth == 0 and end < len(text):
        end = len(text)
    while depth and end < len(text):
        line_end = text.find("\n", end) + 1 or len(text)
        line = text[end:line_end]
        if not line.startswith(f"{indent}#"):
            break
        end = line_end
    while depth and start:  # comments above the first one that is set belong to the section, too
        before = text.rfind("\n", 0, start - 1) + 1
        if not text[before:start].startswith(f"{indent}#"):
            break
        start = before
    return _put_in(text, 0 if depth == 0 else start, end, indent, steps, change.value)


def _put_in(text: str, start: int, end: int, indent: str, steps: Sequence[str], value: object) -> str:
    """Set it between `start` and `end`: on its commented line, if there is one, else at the end."""
    line = _line(indent, steps, value)
    commented = re.compile(rf"^{indent}#{re.escape(steps[0])}:.*\n", re.MULTILINE)
    match = commented.search(text, start, end)
    if match:
        return f"{text[: match.start()]}{line}{text[match.end() :]}"
    return f"{text[:end]}{line}{text[end:]}"


def _line(indent: str, steps: Sequence[str], value: object) -> str:
    return f"{indent}{_flow(steps[0])}: {_flow(_nested(steps[1:], value) if len(steps) > 1 else value)}\n"


def _nested(steps: Sequence[str], value: object) -> dict[str, object]:
    return {steps[0]: _nested(steps[1:], value) if len(steps) > 1 else value}


def _flow(value: object) -> str:
    """A value on one line of YAML that can stand anywhere."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(str(key))}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)
