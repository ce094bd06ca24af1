"""The versions that a bucket keeps of what was overwritten or deleted: seeing them, reading them, taking away the newest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from trinity_snap.errors import TargetError
from trinity_snap.targets.names import check_name, check_prefix, is_object_name
from trinity_snap.targets.protocol import MAX_OBJECT_BYTES
from trinity_snap.targets.s3_lock import of_version, retention_of_puts

if TYPE_CHECKING:
    from trinity_snap.targets.s3 import S3Target

__all__ = ["Version", "list_versions", "put_over", "read_version", "remove_version"]

_MAX_PAGES = 1 << 15


@dataclass(frozen=True)
class Version:
    """One version of an object. A `marker` has no bytes: it says that the object was deleted. `time` is the store's."""

    name: str
    id: str
    size: int
    time: datetime
    marker: bool


def list_versions(target: S3Target, prefix: str = "") -> dict[str, list[Version]]:
    """Every object whose name begins with `prefix`, with its versions, the one that readers get first.

    In a bucket that keeps none there is one of each. Raise TargetDenied, TargetError.
    """
    check_prefix(prefix)
    found: dict[str, list[tuple[bool, Version]]] = {}
    for latest, version in _list(target, prefix):
        found.setdefault(version.name, []).append((latest, version))
    return {name: _in_order(versions) for name, versions in found.items()}


def _in_order(versions: list[tuple[bool, Version]]) -> list[Version]:
    """Newest first: so they are listed; the one that the store calls the latest goes before all."""
    return [version for _, version in sorted(versions, key=lambda one: not one[0])]


def _list(target: S3Target, prefix: str) -> Iterator[tuple[bool, Version]]:
    after: dict[str, str] = {}
    for _ in range(_MAX_PAGES):
        answer = _page(target, prefix, after)
        for key, marker in (("Versions", False), ("DeleteMarkers", True)):
            for found in answer.get(key) or ():
                name = str(found.get("Key", ""))[len(target.root) :]
                if str(found.get("Key", "")).startswith(target.root + prefix) and is_object_name(name):
                    yield bool(found.get("IsLatest")), _version(name, found, marker)
        if not answer.get("IsTruncated"):
            return
        going_on = {"KeyMarker": answer.get("NextKeyMarker"), "VersionIdMarker": answer.get("NextVersionIdMarker")}
        later = {name: str(value) for name, value in going_on.items() if value}
        if not later or later == after:
            raise TargetError(f"The list of versions of {target.url} breaks off.", next_step="See how the store is.")
        after = later
    raise TargetError(f"The list of versions of {target.url} does not end.", next_step="See how the store is.")


def _page(target: S3Target, prefix: str, after: dict[str, str]) -> dict[str, Any]:  # answers of boto3 have no type
    answer: dict[str, Any] = target.run(
        f"The versions in {target.url} cannot be listed",
        lambda _: target.client.list_object_versions(Bucket=target.bucket, Prefix=target.root + prefix, **after),
        of_object=False,
    )
    return answer


def _version(name: str, found: dict[str, Any], marker: bool) -> Version:
    time = found.get("LastModified")
    return Version(
        name,
        str(found.get("VersionId") or ""),
        0 if marker else int(found.get("Size", -1)),
        time if isinstance(time, datetime) else datetime.fromtimestamp(0, UTC),
        marker,
    )


def read_version(target: S3Target, version: Version) -> bytes:
    """The bytes of one version. Raise ObjectMissing, TargetDenied, TargetError."""
    name = check_name(version.name)
    if version.size > MAX_OBJECT_BYTES:
        raise TargetError(f"{name} in {target.url} has {version.size} bytes, more than any object of a repository has.")

    def read(_: int) -> bytes:
        answer = target.client.get_object(Bucket=target.bucket, Key=target.root + name, **of_version(version.id))
        body = answer["Body"]
        try:
            data: bytes = body.read(version.size + 1)
        finally:
            body.close()
        if len(data) != version.size:
            raise TargetError(f"{name} came from {target.url} only in part.", transient=True)
        return data

    return target.run(f"A version of {name} cannot be read from {target.url}", read)


def remove_version(target: S3Target, version: Version) -> None:
    """Remove one version, or one delete marker, for good. Raise TargetDenied (also if it is locked), TargetError."""
    key = target.root + check_name(version.name)
    target.run(
        f"A version of {version.name} cannot be removed from {target.url}",
        lambda _: target.client.delete_object(Bucket=target.bucket, Key=key, **of_version(version.id)),
    )


def put_over(target: S3Target, name: str, data: bytes) -> None:
    """Make `data` the newest version of an object, whatever is there. Raise TargetDenied, TargetError."""
    import base64
    import hashlib

    key = target.root + check_name(name)
    md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    lock = retention_of_puts(target.settings)
    target.run(
        f"{name} cannot be stored in {target.url}",
        lambda _: target.client.put_object(Bucket=target.bucket, Key=key, Body=data, ContentMD5=md5, **lock),
        of_object=False,
    )
