"""What an agent declares as its data: `~/.trinity/data-paths.yaml` and `persistent-state.yaml` (Trinity #1169, #383).

Both are YAML with one list of patterns, relative to the agent's home: `data_paths:` and `persistent_state:`. In a pattern
`*` and `?` stand for anything but `/`, `**` for any number of directories, `[…]` and `{a,b}` for one of several. What is in a
directory that fits belongs to it. The files are the agent's own: they are read within bounds, and one that cannot be
understood declares everything, so that a mistake never costs data.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from trinity_snap.backup.exclusion import Expression

__all__ = ["DATA_PATHS", "Declared", "left_out", "read_declared", "units"]

DATA_PATHS = b".trinity/data-paths.yaml"
_FILES = {DATA_PATHS: "data_paths", b".trinity/persistent-state.yaml": "persistent_state"}
_MAX_BYTES = 64 * 1024
_MAX_PATTERNS = 500
_MAX_ALTERNATIVES = 100


@dataclass(frozen=True)
class Declared:
    """The patterns, without duplicates, in the order of the files; none if everything is to be taken, and `why` says why."""

    patterns: tuple[str, ...] = ()
    why: str = ""


def read_declared(open_file: Callable[[bytes], int]) -> Declared:
    """What is declared in a home. `open_file` opens a path from its root, following no link, or raises OSError."""
    patterns: list[str] = []
    found = False
    for path, key in _FILES.items():
        try:
            descriptor = open_file(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            return Declared(why=f"~/{os.fsdecode(path)} cannot be read ({error.strerror})")
        try:
            text = os.read(descriptor, _MAX_BYTES + 1)
        finally:
            os.close(descriptor)
        try:
            patterns += understand(text, key)
        except ValueError as error:
            return Declared(why=f"~/{os.fsdecode(path)}: {error}")
        found = True
    if not found:
        return Declared(why="it has neither ~/.trinity/data-paths.yaml nor persistent-state.yaml")
    if not patterns:
        return Declared(why="it declares no paths")
    return Declared(tuple(dict.fromkeys([*patterns, *map(os.fsdecode, _FILES)])))


def understand(text: bytes, key: str) -> list[str]:
    """The patterns in a file. Raise ValueError, in words, if it is none, or one of them cannot be within the home."""
    import yaml

    if len(text) > _MAX_BYTES:
        raise ValueError("it is too long")
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError("it is no YAML") from error
    listed = data.get(key) if isinstance(data, dict) else None
    if listed is None and data in (None, {}):
        return []
    if not isinstance(listed, list) or len(listed) > _MAX_PATTERNS or not all(isinstance(each, str) for each in listed):
        raise ValueError(f"it has no list of patterns `{key}`")
    return [_within(each) for each in listed]


def left_out(patterns: Sequence[str]) -> Expression:
    """What of a home is left out when just these patterns are taken: all but what fits, what is in it, and what leads there."""
    kept = []
    for pattern in _written_out(patterns):
        parts = pattern.split("/")
        kept.append(f"{_expression(parts)}(?:/.*)?")
        for count in range(1, len(parts)):
            if parts[count - 1] == "**":
                kept.append(f"{_expression(parts[: count - 1])}(?:/.*)?" if count > 1 else ".*")
                break
            kept.append(_expression(parts[:count]))
    return Expression(rf"(?s:(?!(?:{'|'.join(dict.fromkeys(kept))})\Z).)")


def units(patterns: Sequence[str], paths: Iterable[bytes]) -> Iterator[bytes]:
    """Of paths in the order of a manifest those that fit a pattern themselves, without what is in them."""
    fits = re.compile(rf"(?s:(?:{'|'.join(_expression(each.split('/')) for each in _written_out(patterns))})\Z)")
    inside = b"\0"
    for path in paths:
        if path and not path.startswith(inside) and fits.match(os.fsdecode(path)):
            inside = path + b"/"
            yield path


def _within(pattern: str) -> str:
    text = pattern.strip().removeprefix("~/").removeprefix("./").removeprefix("/home/developer/")
    while text.endswith(("/", "/**")):  # a directory stands for what is in it
        text = text.removesuffix("/").removesuffix("/**")
    if not text or text.startswith("/") or {"..", ".", ""} & set(text.split("/")) or "\0" in text:
        raise ValueError(f"{pattern!r:.80} is no pattern within the home")
    return text


def _written_out(patterns: Iterable[str]) -> list[str]:
    """The patterns with `{a,b}` written out."""
    done: list[str] = []
    waiting = list(patterns)
    while waiting:
        pattern = waiting.pop(0)
        match = re.search(r"\{([^{}]*)\}", pattern)
        if match is None or len(done) + len(waiting) > _MAX_ALTERNATIVES * _MAX_PATTERNS:
            done.append(pattern)
        else:
            waiting += [pattern[: match.start()] + one + pattern[match.end() :] for one in match[1].split(",")]
    return done


def _expression(parts: Sequence[str]) -> str:
    """One path that fits: `**` at the end is a path of any depth, elsewhere any number of directories.

    The patterns are the agent's: what follows a star is taken where it fits first, for good, so that no path takes long.
    """
    runs: list[list[str]] = [[]]
    for part in parts:
        if part == "**":
            runs.append([])
        else:
            runs[-1].append(_name(part))
    text = "/".join(runs[0])
    for number, run in enumerate(runs[1:], 1):
        text += "/" if number == 1 and runs[0] else ""
        if number < len(runs) - 1:
            text += f"(?>(?:[^/]+/)*?{''.join(f'{name}/' for name in run)})" if run else ""
        else:
            text += f"(?:[^/]+/)*{'/'.join(run)}" if run else ".+"
    return text


def _name(part: str) -> str:
    """One part of a path that fits: what is between two stars is taken where it fits first."""
    first, *others = re.split(r"\*+", part)
    text = _piece(first)
    for number, piece in enumerate(others, 1):
        text += f"(?>[^/]*?{_piece(piece)})" if number < len(others) else f"[^/]*{_piece(piece)}"
    return text


def _piece(part: str) -> str:
    text, at = "", 0
    while at < len(part):
        one = part[at]
        end = part.find("]", at + 2)
        if one == "[" and end > 0:
            inner = part[at + 1 : end]
            negated = inner.startswith("!")
            escaped = re.sub(r"([\\\[\]^&~|])", r"\\\1", inner[negated:])
            try:
                re.compile(f"[{escaped}]")
            except re.error:
                escaped = re.escape(inner[negated:])
            text += f"(?!/)[{'^' if negated else ''}{escaped}]"
            at = end + 1
            continue
        text += "[^/]" if one == "?" else re.escape(one)
        at += 1
    return text
