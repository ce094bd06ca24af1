"""Receipts: what was found out once and need not be asked again (docs/format.md section 14).

A receipt can only make more be kept, stored, or checked later: nothing is ever deleted because of what one says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from trinity_snap.errors import ForeignRepository, IntegrityError, ObjectMissing, TargetError
from trinity_snap.repository.documents import hex_field, sign_document, verify_document
from trinity_snap.repository.keys import REPOSITORY_ID_BYTES, HostSecret
from trinity_snap.targets.protocol import Target

__all__ = [
    "PACKS_PER_RECEIPT",
    "Receipts",
    "put_checks",
    "put_clock",
    "put_forgotten",
    "put_hold",
    "put_points",
    "read_receipts",
]

PACKS_PER_RECEIPT = 50_000

_ID = re.compile(r"[0-9a-f]{32}")
_PACK = re.compile(r"[0-9a-f]{64}")
_REASON_LENGTH = 300
_ATTEMPTS = 5


@dataclass
class Receipts:
    """What all receipts say. `points`: the times of points that count, by id; `holds`: the receipts that hold a point.

    `checked`: when packs (SHA-256) were last found whole; `damage`: when they were last found damaged, and how. Both are Unix
    time in ns by the clock of who checked.
    """

    points: dict[str, int] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)
    holds: dict[str, list[str]] = field(default_factory=dict)
    point_receipts: dict[str, set[str]] = field(default_factory=dict)
    forgotten_receipts: dict[str, set[str]] = field(default_factory=dict)
    clocks: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    checked: dict[bytes, int] = field(default_factory=dict)
    damage: dict[bytes, tuple[int, str]] = field(default_factory=dict)
    check_receipts: list[str] = field(default_factory=list)

    @property
    def damaged_packs(self) -> dict[bytes, str]:
        """The packs (SHA-256) that were damaged when they were looked at last, and how."""
        return {
            digest: reason
            for digest, (time_ns, reason) in self.damage.items()
            if time_ns >= self.checked.get(digest, 0)
        }

    def missing(self, present: Iterable[str]) -> set[str]:
        """The points that counted once, were not forgotten, and are not there."""
        return set(self.points) - self.forgotten - set(present)


def _put(target: Target, host: HostSecret, payload: Mapping[str, object]) -> str:
    name = f"receipts/{os.urandom(16).hex()}"
    document = sign_document("receipt", {"repository": host.repository_id.hex(), **payload}, host.mac_key)
    target.put_if_absent(name, document)
    return name


def put_points(target: Target, host: HostSecret, points: Mapping[str, int]) -> str:
    """Note that these points count, and when the storage got them (Unix time in ns). Return the receipt's name."""
    return _put(target, host, {"subject": "points", "points": sorted(map(list, points.items()))})


def put_forgotten(target: Target, host: HostSecret, points: Iterable[str]) -> str:
    """Note that these points are about to be deleted on purpose. Return the receipt's name."""
    return _put(target, host, {"subject": "forgotten", "points": sorted(points)})


def put_hold(target: Target, host: HostSecret, point: str) -> str:
    """Note that a point is not to be forgotten. Return the receipt's name."""
    return _put(target, host, {"subject": "hold", "point": point})


def put_checks(
    target: Target, host: HostSecret, checked: Mapping[bytes, int], damage: Mapping[bytes, tuple[int, str]]
) -> list[str]:
    """Note when packs (SHA-256) were found whole or damaged, Unix time in ns, in receipts of bounded size. Return their names."""
    ordered = sorted(checked, key=lambda digest: (checked[digest], digest))
    names = []
    for start in range(0, max(len(ordered), 1), PACKS_PER_RECEIPT):
        groups: dict[int, list[str]] = {}
        for digest in ordered[start : start + PACKS_PER_RECEIPT]:
            groups.setdefault(checked[digest], []).append(digest.hex())
        found = (
            [] if start else [[one.hex(), when, why[:_REASON_LENGTH]] for one, (when, why) in sorted(damage.items())]
        )
        if groups or found:
            payload = {
                "subject": "checked",
                "checks": [[when, packs] for when, packs in groups.items()],
                "damaged": found,
            }
            names.append(_put(target, host, payload))
    return names


def put_clock(target: Target, host: HostSecret) -> tuple[str, int]:
    """Ask the storage for its time (Unix time in ns) by putting a receipt that says nothing. Return its name and the time."""
    for _ in range(_ATTEMPTS):
        name = _put(target, host, {"subject": "clock"})
        with suppress(ObjectMissing):  # who stood still for a day here finds it tidied away
            return name, target.stat(name).time_ns
    raise TargetError(f"What is put into {target.url} is removed at once.", untouched="Nothing was removed.")


def read_receipts(target: Target, host: HostSecret) -> Receipts:
    """Read all receipts. Those that are damaged, or of a kind that is not known, are passed over."""
    for attempt in range(_ATTEMPTS):
        receipts = Receipts()
        try:
            for name in target.list_prefix("receipts/"):
                try:
                    _take(receipts, name, verify_document("receipt", target.get(name), host.mac_key), host)
                except ForeignRepository:
                    continue
                except (IntegrityError, TypeError, ValueError):
                    receipts.damaged.append(name)
        except ObjectMissing:  # another prune has just put a new one in the place of several
            if attempt == _ATTEMPTS - 1:
                raise
            continue
        break
    return receipts


def _take(receipts: Receipts, name: str, payload: Mapping[str, object], host: HostSecret) -> None:
    if hex_field(payload, "repository", REPOSITORY_ID_BYTES) != host.repository_id:
        raise IntegrityError(f"{name} is of another repository.")
    subject, points = payload.get("subject"), payload.get("points", [])
    if not isinstance(points, list):
        raise TypeError
    if subject == "points":
        for point, time_ns in points:
            receipts.points[_id(point)] = int(time_ns)
        receipts.point_receipts[name] = {point for point, _ in points}
    elif subject == "forgotten":
        receipts.forgotten_receipts[name] = set(map(_id, points))
        receipts.forgotten |= receipts.forgotten_receipts[name]
    elif subject == "hold":
        receipts.holds.setdefault(_id(payload.get("point")), []).append(name)
    elif subject == "clock":
        receipts.clocks.append(name)
    elif subject == "checked":
        _take_checks(receipts, payload)
        receipts.check_receipts.append(name)


def _take_checks(receipts: Receipts, payload: Mapping[str, object]) -> None:
    checks, damaged = payload.get("checks", []), payload.get("damaged", [])
    if not isinstance(checks, list) or not isinstance(damaged, list):
        raise TypeError
    for time_ns, packs in checks:
        for pack in packs:
            digest = _pack(pack)
            receipts.checked[digest] = max(int(time_ns), receipts.checked.get(digest, 0))
    for pack, time_ns, reason in damaged:
        digest = _pack(pack)
        receipts.damage[digest] = max((int(time_ns), str(reason)), receipts.damage.get(digest, (0, "")))


def _id(value: object) -> str:
    if not isinstance(value, str) or _ID.fullmatch(value) is None:
        raise ValueError(value)
    return value


def _pack(value: object) -> bytes:
    if not isinstance(value, str) or _PACK.fullmatch(value) is None:
        raise ValueError(value)
    return bytes.fromhex(value)
