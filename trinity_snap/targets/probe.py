"""What a target does against overwriting and deleting, found out by doing where that is possible."""

from __future__ import annotations

import base64
import hashlib
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from trinity_snap.errors import TargetError
from trinity_snap.targets.protocol import Target

if TYPE_CHECKING:
    from trinity_snap.targets.s3 import S3Target

__all__ = ["Protection", "probe"]

_PROBE_LOCK = timedelta(minutes=20)  # the least that is sure to be in the future by the store's clock, too
_BUT = ", but for who has s3:BypassGovernanceRetention"


@dataclass(frozen=True)
class Protection:
    """What keeps objects from harm at a target. None: it could not be found out.

    `refuses_overwriting`: a second object of the same name is refused. `versioning`: what is overwritten or deleted can
    be had back. `object_lock`: the bucket can lock objects, so that nobody deletes them for a time; `object_lock_days`
    and `object_lock_mode`: for how long and how it does so by default, 0 and None for not at all. `lock_days` and
    `lock_mode`: what the policy asks for with every object, in place of the bucket's default.
    """

    refuses_overwriting: bool
    versioning: bool | None
    object_lock: bool | None
    object_lock_days: int | None
    local: bool
    object_lock_mode: str | None = None
    lock_mode: str | None = None
    lock_days: int = 0

    def to_json(self) -> dict[str, object]:
        """As `--json` shows it."""
        return {
            "refuses_overwriting": self.refuses_overwriting,
            "versioning": self.versioning,
            "object_lock": self.object_lock,
            "object_lock_days": self.object_lock_days,
            "object_lock_mode": self.object_lock_mode,
            "lock": None if self.lock_mode is None else {"mode": self.lock_mode, "days": self.lock_days},
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
        if self.lock_mode or self.object_lock_days:
            said.append(self._locked())
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

    def _locked(self) -> str:
        own = self.lock_mode is not None
        mode, days = (self.lock_mode, self.lock_days) if own else (self.object_lock_mode, self.object_lock_days)
        default = f"{self.object_lock_days} days, {self.object_lock_mode}" if self.object_lock_days else "none"
        return (
            f"Object lock is in force, {'as the policy says' if own else 'by default of the bucket'}: for {days} days nobody"
            f" can delete or replace for good what was stored{_BUT if mode == 'governance' else ''}. What is needed for"
            " longer has to be extended: `trinity-snap target extend`, on the control node."
            + (f" Default of the bucket: {default}." if own else "")
        )


def probe(target: Target) -> Protection:
    """Find out what protects a target. Puts one small object under a name that no repository has, and removes it.

    Raise TargetDenied, TargetError if nothing can be stored there, or nothing locked although the policy asks for that.
    """
    from trinity_snap.targets.s3 import S3Target
    from trinity_snap.targets.s3_lock import bucket_lock, keeps_versions, no_lock
    from trinity_snap.targets.sftp import SftpTarget

    if isinstance(target, SftpTarget):
        from trinity_snap.targets.sftp_probe import probe_sftp

        return probe_sftp(target)
    if not isinstance(target, S3Target):
        return Protection(refuses_overwriting=True, versioning=False, object_lock=False, object_lock_days=0, local=True)
    lock, settings = bucket_lock(target), target.settings
    if settings.lock_mode is not None and lock is not None and not lock.enabled:
        raise no_lock(f"{target.url} cannot be used", target.bucket)
    return Protection(
        _refuses(target),
        keeps_versions(target),
        None if lock is None else lock.enabled,
        None if lock is None else lock.days,
        local=False,
        object_lock_mode=None if lock is None else lock.mode,
        lock_mode=settings.lock_mode,
        lock_days=settings.lock_days,
    )


def _refuses(target: S3Target) -> bool:
    from botocore.exceptions import ClientError

    from trinity_snap.targets.s3_errors import status_of
    from trinity_snap.targets.s3_lock import no_lock, retention_of_puts

    content = b"trinity-snap probe\n"
    md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()  # object lock wants one
    lock = retention_of_puts(target.settings, _PROBE_LOCK)
    what = {"Bucket": target.bucket, "Key": f"{target.root}probe-{secrets.token_hex(16)}"}
    doing = f"Nothing can be stored in {target.url}"

    def put(_: int) -> bool:
        try:
            target.client.put_object(**what, Body=content, ContentMD5=md5, IfNoneMatch="*", **lock)
        except ClientError as error:
            # 412: there is one. 501 and the like: the store does not know the header, and says so.
            if status_of(error) in (409, 412):
                return False
            if status_of(error) not in (400, 501):
                raise
            put_at_all()
        return True

    def put_at_all() -> None:
        try:
            target.client.put_object(**what, Body=content, ContentMD5=md5, **lock)
        except ClientError as error:
            if lock and status_of(error) in (400, 501):
                raise no_lock(doing, target.bucket) from error
            raise

    try:
        target.run(doing, put)
        return not target.run(doing, put)
    finally:
        with suppress(TargetError):
            target.run("", lambda _: target.client.delete_object(**what))
