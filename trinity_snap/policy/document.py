"""YAML into plain values, with the line of each."""

from __future__ import annotations

from dataclasses import dataclass, field

import yaml

from trinity_snap.errors import PolicyError

Location = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_MAX_DEPTH = 32
_MAX_NODES = 50_000


@dataclass
class Document:
    """What a YAML file holds: `data`, and the line (from 1) of everything in it by location."""

    data: object = None
    lines: dict[Location, int] = field(default_factory=dict)

    def line_of(self, location: Location) -> int:
        """The line of a location, or of the nearest thing around it."""
        for length in range(len(location), -1, -1):
            line = self.lines.get(location[:length])
            if line is not None:
                return line
        return 1


def dotted(location: Location) -> str:
    """A location as people write it: `agents.rules[0].name`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return "".join(steps).removeprefix(".")


def parse_document(text: str, name: str) -> Document:
    """Parse one YAML document. Raise PolicyError naming file and line.

    Keys are texts as they are written, dates are texts too; aliases, tags and repeated keys are refused.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        reason = " ".join(part for part in (error.context, error.problem) if part) or "it cannot be read"
        raise PolicyError(f"{name}:{line}: this is no YAML: {reason}.") from error
    except yaml.YAMLError as error:
        raise PolicyError(f"{name}:1: this is no YAML: {' '.join(str(error).split())}.") from error
    except RecursionError as error:
        raise PolicyError(f"{name}:1: this is nested too deeply.") from error
    reader = _Reader(name)
    if root is not None:
        reader.document.data = reader.read(root, ())
    return reader.document


class _Reader:
    def __init__(self, name: str) -> None:
        self.document = Document()
        self._name = name
        self._seen: set[int] = set()
        self._constructor = yaml.SafeLoader("")

    def read(self, node: yaml.Node, location: Location, line: int | None = None) -> object:
        line = node.start_mark.line + 1 if line is None else line
        self.document.lines[location] = line
        if id(node) in self._seen:
            raise self._error(line, "an alias (`*`) cannot be used here; write the value out")
        self._seen.add(id(node))
        if len(location) > _MAX_DEPTH or len(self._seen) > _MAX_NODES:
            raise self._error(line, "this is nested too deeply, or too long")
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.read(inner, (*location, number)) for number, inner in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, line)
        raise self._error(line, f"the tag {node.tag} is not known")

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(line, "a key must be a text")
            key = str(key_node.value)
            if key in mapping:
                first = self.document.lines[(*location, key)]
                raise self._error(line, f"{key!r:.60} occurs twice; it was there in line {first}")
            mapping[key] = self.read(value_node, (*location, key), line)
        return mapping

    def _scalar(self, node: yaml.ScalarNode, line: int) -> object:
        value = str(node.value)
        kind = node.tag.removeprefix(_TAG)
        try:
            match kind:
                case "null":
                    return None
                case "bool":
                    return bool(self._constructor.construct_yaml_bool(node))
                case "int":
                    return int(self._constructor.construct_yaml_int(node))
                case "float":
                    return float(self._constructor.construct_yaml_float(node))
                case "str" | "timestamp" | "value" | "merge":
                    return value
        except (ValueError, KeyError, IndexError, OverflowError) as error:
            raise self._error(line, f"{value!r:.60} cannot be read as {kind}") from error
        raise self._error(line, f"the tag {node.tag!r:.80} is not known")

    def _error(self, line: int, reason: str) -> PolicyError:
        return PolicyError(f"{self._name}:{line}: {reason}.")
