"""Walking the schema: every setting with its dotted name, default and words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from trinity_snap.policy.schema import Section
from trinity_snap.policy.values import Allowed, format_size

_MISSING = object()


@dataclass(frozen=True)
class Setting:
    """One key of a section: dotted name, what it is for, what it may be, and its default if it has one.

    `section` is the model below it, None for a plain value; `many` is `list` or `map` if there may be many.
    """

    name: str
    description: str
    allowed: str
    default: object
    required: bool
    section: type[Section] | None
    many: str = ""


def walk(model: type[Section], prefix: str = "", *, deep: bool = True) -> Iterator[Setting]:
    """Every setting of a section in the order of the schema, a section before what is in it."""
    for key, field in model.model_fields.items():
        name = f"{prefix}{key}"
        section, many = _section_of(field.annotation)
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        yield Setting(name, field.description or "", _allowed(field), default, field.is_required(), section, many)
        if deep and section is not None:
            inner = {"list": f"{name}[].", "map": f"{name}.<agent>."}.get(many, f"{name}.")
            yield from walk(section, inner)


def field_at(model: type[Section], location: tuple[str | int, ...]) -> FieldInfo | None:
    """The field that a location such as ("agents", "rules", 0, "name") means, or None."""
    field: FieldInfo | None = None
    section: type[Section] | None = model
    many = ""
    for step in location:
        if many:
            many = ""
            continue
        if section is None or step not in section.model_fields:
            return None if section is not None or isinstance(step, str) else field
        field = section.model_fields[str(step)]
        section, many = _section_of(field.annotation)
    return field


def section_at(model: type[Section], location: tuple[str | int, ...]) -> type[Section] | None:
    """The section that a location means, or None."""
    section: type[Section] | None = model
    many = ""
    for step in location:
        if many:
            many = ""
            continue
        if section is None or step not in section.model_fields:
            return None
        section, many = _section_of(section.model_fields[str(step)].annotation)
    return section


def words_for(field: FieldInfo) -> str:
    """What a field may be, in words."""
    return _allowed(field)


def plain(value: object) -> object:
    """A value of a policy as JSON and YAML have it."""
    if isinstance(value, Section):
        return {key: plain(inner) for key, inner in value}
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def in_yaml(setting_name: str, value: object) -> str:
    """A plain value on one line of YAML; the settings that are sizes get a unit."""
    import json

    if setting_name.endswith("_bytes") and isinstance(value, int):
        return format_size(value)
    value = plain(value)
    if isinstance(value, str) and value.replace("/", "").replace("-", "").replace(".", "").isalnum():
        return value
    return json.dumps(value, ensure_ascii=False)


def _section_of(annotation: Any) -> tuple[type[Section] | None, str]:  # typing's own objects have no type
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, ""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated or origin in (Union, UnionType):
        return next((found for one in arguments if (found := _section_of(one))[0]), (None, ""))
    if origin is tuple and (inner := _section_of(arguments[0])[0]):
        return inner, "list"
    if origin is dict and (inner := _section_of(arguments[1])[0]):
        return inner, "map"
    return None, ""


def _allowed(field: FieldInfo) -> str:
    words = _words([*field.metadata, field.annotation])
    return f"{words}, or null" if words and not field.is_required() and field.default is None else words


def _words(parts: list[Any]) -> str:
    for part in parts:
        if isinstance(part, Allowed):
            return part.words
    for part in parts:
        origin = get_origin(part)
        if origin is Annotated or origin in (Union, UnionType):
            if found := _words(list(get_args(part))):
                return found
            if metadata := getattr(part, "__metadata__", ()):
                return _words(list(metadata))
    return ""
