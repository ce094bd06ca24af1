"""Object lock: what a put says of it, and how the lock of an object that is there is seen and extended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from trinity_snap.errors import TargetDenied, TargetError
from trinity_snap.targets.settings import TargetSettings

if TYPE_CHECKING:
    from trinity_snap.targets.s3 import S3Target

__all__ = [
    "BucketLock",
    "Retention",
    "bucket_lock",
    "extend_retention",
    "keeps_versions",
    "no_lock",
    "of_version",
    "retention_of",
    "retention_of_puts",
]


@dataclass(frozen=True)
class Retention:
    """That nobody can delete an object before `until`; `mode` is `governance` or `compliance`."""

    mode: str
    until: datetime


@dataclass(frozen=True)
class BucketLock:
    """Whether a bucket locks objects at all, and for how many days, in which mode, those that are put without a word of it."""

    enabled: bool
    mode: str | None
    days: int


def retention_of_puts(settings: TargetSettings, time: timedelta | None = None) -> dict[str, Any]:  # for boto3
    """What a put says of object lock, for that time instead of the settings' days: nothing without a mode in them."""
    if settings.lock_mode is None:
        return {}
    until = datetime.now(UTC) + (time or timedelta(days=settings.lock_days))
    return {"ObjectLockMode": settings.lock_mode.upper(), "ObjectLockRetainUntilDate": until}


def no_lock(doing: str, bucket: str) -> TargetError:
    """That a lock is wanted in a bucket that has none."""
    return TargetError(
        f"{doing}: `target.lock` asks for object lock, and the bucket {bucket} does not lock objects.",
        untouched="Nothing was stored.",
        next_step=(
            "Turn on object lock for the bucket (many stores can do that only when it is made), or set `target.lock.mode` "
            "to null."
        ),
    )


def bucket_lock(target: S3Target) -> BucketLock | None:
    """What the bucket says of object lock; None if these credentials may not know, or the store does not say."""
    answer = _ask(target, "get_object_lock_configuration")
    if answer is None:
        return None
    configuration = _mapping(answer.get("ObjectLockConfiguration"))
    default = _mapping(_mapping(configuration.get("Rule")).get("DefaultRetention"))
    days = int(default.get("Days") or 0) + 365 * int(default.get("Years") or 0)
    mode = str(default.get("Mode") or "").lower() if days else ""
    return BucketLock(configuration.get("ObjectLockEnabled") == "Enabled", mode or None, days)


def keeps_versions(target: S3Target) -> bool | None:
    """Whether what is overwritten or deleted in the bucket can be had back; None if it does not say."""
    answer = _ask(target, "get_bucket_versioning")
    return None if answer is None else answer.get("Status") == "Enabled"


def _ask(target: S3Target, operation: str) -> dict[str, Any] | None:  # answers of boto3 have no type
    """The answer about the bucket, empty if the store says that there is no such thing, None if it does not say."""
    try:
        answer: dict[str, Any] = target.run(
            f"{target.url} cannot be asked", lambda _: getattr(target.client, operation)(Bucket=target.bucket)
        )
    except TargetDenied:
        return None
    except TargetError as error:
        # ObjectLockConfigurationNotFoundError has status 404; a store that does not know the request has 4xx or 501.
        return None if error.transient else {}
    return answer


def retention_of(target: S3Target, name: str, version: str) -> Retention | None:
    """The lock of one version of an object; None without one. Raise ObjectMissing, TargetDenied, TargetError."""
    answer = target.run(
        f"{name} cannot be looked at in {target.url}",
        lambda _: target.client.head_object(Bucket=target.bucket, Key=target.root + name, **of_version(version)),
    )
    mode, until = answer.get("ObjectLockMode"), answer.get("ObjectLockRetainUntilDate")
    if not mode or not isinstance(until, datetime):
        return None
    return Retention(str(mode).lower(), until)


def extend_retention(target: S3Target, name: str, version: str, retention: Retention) -> None:
    """Give one version of an object a lock that ends later than what it has. Raise TargetDenied, TargetError."""
    what = {"Mode": retention.mode.upper(), "RetainUntilDate": retention.until}
    target.run(
        f"The lock of {name} in {target.url} cannot be extended",
        lambda _: target.client.put_object_retention(
            Bucket=target.bucket, Key=target.root + name, Retention=what, **of_version(version)
        ),
    )


def of_version(version: str) -> dict[str, str]:
    """The argument of boto3 that names a version; none for the only one of a bucket without versions."""
    return {"VersionId": version} if version else {}


def _mapping(value: object) -> Mapping[str, Any]:  # answers of boto3 have no type
    return value if isinstance(value, dict) else {}
