"""What a target does against overwriting and deleting, found out by doing where that is possible."""

from __future__ import annotations

import base64
import hashlib
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trinity_snap.errors import TargetDenied, TargetError
from trinity_snap.targets.protocol import Target

if TYPE_CHECKING:
    from trinity_snap.targets.s3 import S3Target

__all__ = ["Protection", "probe"]


@dataclass(frozen=True)
class Protection:
    """What keeps objects from harm at a target. None: it could not be found out.

    `refuses_overwriting`: a second object of the same name is refused. `versioning`: what is overwritten or deleted can
    be had back. `object_lock`: for so many days by default nobody can delete an object; 0 means not at all.
    """

    refuses_overwriting: bool
    versioning: bool | None
    object_lock_days: int | None
    local: bool

    def to_json(self) -> dict[str, object]:
        """As `--json` shows it."""
        return {
            "refuses_overwriting": self.refuses_overwriting,
            "versioning": self.versioning,
            "object_lock_days": self.object_lock_days,
            "consequences": self.consequences(),
        }

    def consequences(self) -> list[str]:
        """What that means, in whole sentences."""
        if self.local:
            return ["Whoever is root on this host can change and delete every recovery point in that directory."]
        said = []
        if not self.refuses_overwriting:
            said.append(
                "The store overwrites objects although it is asked not to. No honest run gives a name twice, so backups"
                " are safe from each other; whoever has the host's credentials can replace objects, unless versions are"
                " kept."
            )
        if self.object_lock_days:
            said.append(
                f"Object lock is in force: for {self.object_lock_days} days nobody can delete or replace what was stored."
            )
        elif self.versioning:
            said.append(
                "Versions are kept: what is overwritten or deleted can be had back, until somebody deletes versions."
                " Give this host's credentials no right to do that (s3:DeleteObjectVersion)."
            )
        elif self.versioning is None or self.object_lock_days is None:
            said.append(
                "Whether the bucket keeps versions, or locks objects, could not be found out with these credentials;"
                " see there. Without either, whoever has credentials that may delete can delete every recovery point."
            )
        else:
            said.append(
                "The bucket keeps no versions and locks no objects: whoever has credentials that may delete or overwrite"
                " can destroy every recovery point. Turn on versioning, or object lock, and give this host credentials"
                " that may not delete."
            )
        return said


def probe(target: Target) -> Protection:
    """Find out what protects a target. Puts one small object under a name that no repository has, and removes it.

    Raise TargetDenied, TargetError if nothing can be stored there.
    """
    from trinity_snap.targets.s3 import S3Target

    if not isinstance(target, S3Target):
        return Protection(refuses_overwriting=True, versioning=False, object_lock_days=0, local=True)
    return Protection(_refuses(target), _keeps_versions(target), _locks_for_days(target), local=False)


def _refuses(target: S3Target) -> bool:
    from botocore.exceptions import ClientError

    from trinity_snap.targets.s3_errors import status_of

    content = b"trinity-snap probe\n"
    md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()  # object lock wants one
    what = {"Bucket": target.bucket, "Key": f"{target.root}probe-{secrets.token_hex(16)}"}
    doing = f"Nothing can be stored in {target.url}"

    def put(_: int) -> bool:
        try:
            target.client.put_object(**what, Body=content, ContentMD5=md5, IfNoneMatch="*")
        except ClientError as error:
            # 412: there is one. 501 and the like: the store does not know the header, and says so.
            if status_of(error) in (409, 412):
                return False
            if status_of(error) not in (400, 501):
                raise
            target.client.put_object(**what, Body=content, ContentMD5=md5)
        return True

    try:
        target.run(doing, put)
        return not target.run(doing, put)
    finally:
        with suppress(TargetError):
            target.run("", lambda _: target.client.delete_object(**what))


def _keeps_versions(target: S3Target) -> bool | None:
    answer = _ask(target, "get_bucket_versioning")
    return None if answer is None else answer.get("Status") == "Enabled"


def _locks_for_days(target: S3Target) -> int | None:
    answer = _ask(target, "get_object_lock_configuration")
    if answer is None:
        return None
    retention = answer.get("ObjectLockConfiguration", {}).get("Rule", {}).get("DefaultRetention", {})
    return int(retention.get("Days", 0)) + 365 * int(retention.get("Years", 0))


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
