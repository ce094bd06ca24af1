"""The kinds of value that a policy holds: how each is checked, and how it is put into words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, Strict, WithJsonSchema

from trinity_snap.targets.settings import check_address, split_bucket_url
from trinity_snap.targets.sftp_address import split_sftp_url

__all__ = [
    "AbsolutePath",
    "Address",
    "Allowed",
    "Calendar",
    "Count",
    "CountOrNone",
    "ExcludeGlob",
    "Flag",
    "Glob",
    "Kept",
    "KeyPath",
    "LockDays",
    "Percent",
    "PingUrl",
    "Rate",
    "ReplicaName",
    "Requests",
    "Seconds",
    "Share",
    "Size",
    "Span",
    "TargetUrl",
    "Text",
    "format_size",
    "parse_size",
    "share_of",
    "span_of",
]

_UNITS = {
    "": 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_SIZE = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,6}))? ?([A-Za-z]{0,3})")
_MAX_SIZE = 1 << 60


@dataclass(frozen=True)
class Allowed:
    """What a setting may be, in words; it hangs on the setting's type."""

    words: str


def parse_size(value: object) -> int:
    """The bytes that `67108864`, `"64MiB"` or `"1.5 GiB"` stands for. Raise ValueError."""
    if isinstance(value, bool):
        raise ValueError("it is not a size")
    if isinstance(value, int):
        size = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())) and match[3] in _UNITS:
        unit = _UNITS[match[3]]
        fraction = match[2] or ""
        size = int(match[1]) * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
    else:
        raise ValueError("it is not a size")
    if not 0 <= size <= _MAX_SIZE:
        raise ValueError("it is out of range")
    return size


def share_of(value: str, whole: int) -> int:
    """The bytes that a `Share` such as `20%` or `8GiB` stands for, of a whole of that size. Raise ValueError."""
    if value.endswith("%"):
        percent = int(value[:-1]) if value[:-1].isdecimal() and len(value) <= 4 else 0
        if not 1 <= percent <= 100:
            raise ValueError("it is no percentage from 1% to 100%")
        return whole * percent // 100
    return parse_size(value)


def format_size(size: int) -> str:
    """`size` bytes the way a policy has them: `67108864` gives `64MiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)


def _rate(value: object) -> int:
    rate = parse_size(value)
    if rate < 1 << 16:
        raise ValueError("it is too little to work with")
    return rate


def _clean(value: str) -> str:
    if not value or not value.isprintable():
        raise ValueError("it is empty, or has characters that cannot be printed")
    return value


def _relative(value: str) -> str:
    if value != value.strip("/"):
        raise ValueError("no path from a volume's root begins or ends with `/`")
    return _clean(value)


def _absolute(value: object) -> Path:
    path = _path(value)
    if not path.is_absolute():
        raise ValueError("it is not an absolute path")
    return path


def _path(value: object) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str):
        raise ValueError("it is not a path")
    if ".." in PurePosixPath(_clean(value)).parts:
        raise ValueError("it has `..` in it")
    return Path(value)


def _share(value: object) -> str:
    text = str(parse_size(value)) if isinstance(value, int) else value
    if not isinstance(text, str) or (not text.endswith("%") and parse_size(text) == 0):
        raise ValueError("it is neither a size nor a percentage")
    share_of(text, 0)
    return text


def span_of(value: str) -> timedelta:
    """The time that a `Span` such as `90min`, `26h` or `1y` (365 days) stands for. Raise ValueError."""
    from trinity_snap.errors import UsageError
    from trinity_snap.report.times import parse_duration

    try:
        return parse_duration(value)
    except UsageError as error:
        raise ValueError("it is no length of time") from error


def _span(value: str) -> str:
    if not span_of(value):
        raise ValueError("it is no time at all")
    return value


def _replica_name(value: str) -> str:
    if re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", value) is None:
        raise ValueError("it has other characters than a-z, 0-9, _ and -, or more than 40")
    return value


def _target_url(value: str) -> str:
    if value.startswith("/"):
        _path(value)
    elif value.startswith("s3:"):
        split_bucket_url(value)
    elif value.startswith("sftp:"):
        split_sftp_url(value)
    elif not re.fullmatch(r"file://(localhost)?/[^?#]*", _clean(value)):
        raise ValueError("it is not a target that this version knows")
    return value


def _calendar(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9*:/.,~_+ -]{1,200}", value) is None or not value.strip():
        raise ValueError("it is no calendar expression of systemd's")
    return value


def _ping_url(value: str) -> str:
    parts = urlsplit(_clean(value))
    if "@" in parts.netloc or parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ValueError("it is not an address such as https://hc-ping.com/uuid")
    _ = parts.port  # raises ValueError if it is no number
    return value


Text = Annotated[str, Strict(), AfterValidator(_clean), Allowed("a text")]
Glob = Annotated[str, Strict(), AfterValidator(_clean), Allowed("a pattern with `*` and `?`")]
ExcludeGlob = Annotated[
    str, Strict(), AfterValidator(_relative), Allowed("a pattern with `*` and `?`, without `/` at its ends")
]
Flag = Annotated[bool, Strict(), Allowed("true or false")]
Count = Annotated[int, Strict(), Field(ge=1, le=100), Allowed("a whole number from 1 to 100")]
CountOrNone = Annotated[int, Strict(), Field(ge=0, le=100), Allowed("a whole number from 0 to 100")]
Percent = Annotated[int, Strict(), Field(ge=1, le=100), Allowed("a whole percentage from 1 to 100")]
Requests = Annotated[int, Strict(), Field(ge=1, le=64), Allowed("a whole number from 1 to 64")]
LockDays = Annotated[int, Strict(), Field(ge=1, le=3650), Allowed("a whole number of days from 1 to 3650")]
Seconds = Annotated[
    float,
    Strict(),
    Field(gt=0, le=15, allow_inf_nan=False),
    Allowed("a number of seconds, more than 0, at most 15"),
]
Patience = Annotated[
    float,
    Strict(),
    Field(gt=0, le=600, allow_inf_nan=False),
    Allowed("a number of seconds, more than 0, at most 600"),
]
LongPatience = Annotated[
    float,
    Strict(),
    Field(gt=0, le=7200, allow_inf_nan=False),
    Allowed("a number of seconds, more than 0, at most 7200"),
]
Rate = Annotated[
    int,
    BeforeValidator(_rate),
    Allowed("a number of bytes, or a size such as 10MiB, at least 64KiB"),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 65536}, {"type": "string", "pattern": f"^{_SIZE.pattern}$"}]}
    ),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Allowed("a number of bytes, or a size such as 64MiB or 1GiB"),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{_SIZE.pattern}$"}]}),
]
Share = Annotated[
    str,
    BeforeValidator(_share),
    Allowed("a percentage such as 20%, or a size such as 8GiB"),
    WithJsonSchema({"type": "string", "pattern": f"^([1-9][0-9]?%|100%|{_SIZE.pattern})$"}),
]
Kept = Annotated[int, Strict(), Field(ge=0, le=10_000), Allowed("a whole number from 0 to 10000")]
AbsolutePath = Annotated[
    Path,
    BeforeValidator(_absolute),
    Allowed("an absolute path without `..`"),
    WithJsonSchema({"type": "string", "pattern": "^/"}),
]
KeyPath = Annotated[
    Path,
    BeforeValidator(_path),
    Allowed("a path; a relative one starts at the policy's directory"),
    WithJsonSchema({"type": "string", "minLength": 1}),
]
TargetUrl = Annotated[
    str,
    Strict(),
    AfterValidator(_target_url),
    Allowed(
        "an absolute path such as /var/backups/trinity-snap, file:///var/backups/trinity-snap, s3://bucket/prefix, or "
        "sftp://user@host/path"
    ),
]
ReplicaName = Annotated[str, Strict(), AfterValidator(_replica_name), Allowed("a name of a-z, 0-9, _ and -")]
Span = Annotated[str, Strict(), AfterValidator(_span), Allowed("a length of time such as 90min, 26h, 30d, 8w or 1y")]
PingUrl = Annotated[
    str, Strict(), AfterValidator(_ping_url), Allowed("an address such as https://hc-ping.com/uuid, without a password")
]
Calendar = Annotated[
    str,
    Strict(),
    AfterValidator(_calendar),
    Allowed("a calendar expression of systemd's such as `daily`, `Mon..Fri 03:30` or `*-*-* 0/6:00`"),
]
Address = Annotated[str, Strict(), AfterValidator(check_address), Allowed("an address such as https://host:port")]
