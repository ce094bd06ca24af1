"""The least that may be allowed in a bucket, as policies of AWS IAM, which many other stores take too."""

from __future__ import annotations

from trinity_snap.errors import UsageError
from trinity_snap.targets.settings import split_bucket_url

__all__ = ["control_policy", "heal_policy", "host_policy"]

_HOST_READS = ("repository", "recipients/*", "index/*", "fences/*")
"""What a run reads: whose repository it is, to whom it seals, which chunks there are, which packs are about to be deleted.
Nothing that needs an identity."""

_Statement = dict[str, object]


def host_policy(url: str, *, lock_days: int | None = None) -> dict[str, object]:
    """What a host needs to make backups: add objects, list their names, read what a writer needs. It deletes nothing.

    Where the store knows the condition `s3:if-none-match`, it replaces nothing either. With `lock_days` it locks what it
    adds for so long; it cannot lift a lock, nor lock anything for longer. Raise UsageError for a target that is no bucket.
    """
    bucket, root = _place(url)
    everything = [f"{bucket}/{root}*"]
    lock: list[_Statement] = []
    if lock_days is not None:
        # A day more, as the store's clock may be behind and may count days that have begun.
        longest: dict[str, object] = {
            "NumericLessThanEquals": {"s3:object-lock-remaining-retention-days": str(lock_days + 1)}
        }
        lock = [_statement("LockNoLongerThanNeeded", ["s3:PutObjectRetention"], everything, longest)]
    return _document(
        _statement("AddWithoutReplacing", ["s3:PutObject"], everything, {"Null": {"s3:if-none-match": "false"}}),
        *lock,
        _statement("ReadWhatAWriterNeeds", ["s3:GetObject"], [f"{bucket}/{root}{name}" for name in _HOST_READS]),
        _list(bucket, root),
        _look(bucket),
    )


def control_policy(url: str, *, lock: bool = False) -> dict[str, object]:
    """What the trusted side needs: read everything, older versions too, add, and delete what is no longer needed.

    It deletes no versions. With `lock` it may also see and extend locks.
    Raise UsageError for a target that is no bucket.
    """
    return _document(*_control(url, ["s3:GetObjectRetention", "s3:PutObjectRetention"] if lock else []))


def heal_policy(url: str, *, lock: bool = False) -> dict[str, object]:
    """What `target heal` needs: the same, and to delete versions, which is to destroy what is not locked.

    Raise UsageError for a target that is no bucket.
    """
    more = ["s3:DeleteObjectVersion", *(["s3:GetObjectRetention", "s3:PutObjectRetention"] if lock else [])]
    return _document(*_control(url, more))


def _control(url: str, more: list[str]) -> list[_Statement]:
    bucket, root = _place(url)
    actions = ["s3:GetObject", "s3:GetObjectVersion", "s3:PutObject", "s3:DeleteObject", *more]
    return [
        _statement("UseObjects", actions, [f"{bucket}/{root}*"]),
        _list(bucket, root, "s3:ListBucketVersions"),
        _look(bucket),
    ]


def _place(url: str) -> tuple[str, str]:
    try:
        bucket, prefix = split_bucket_url(url)
    except ValueError as error:
        raise UsageError(
            f"The target {url} is no bucket, so there is no policy for it.",
            next_step="Who may read and write a directory is said by its mode and owner.",
        ) from error
    return f"arn:aws:s3:::{bucket}", f"{prefix}/" if prefix else ""


def _document(*statements: _Statement) -> dict[str, object]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _statement(
    name: str, actions: list[str], resources: list[str], condition: dict[str, object] | None = None
) -> _Statement:
    statement: _Statement = {"Sid": name, "Effect": "Allow", "Action": actions, "Resource": resources}
    return statement if condition is None else {**statement, "Condition": condition}


def _list(bucket: str, root: str, *more: str) -> _Statement:
    condition: dict[str, object] = {"StringLike": {"s3:prefix": f"{root}*"}}
    return _statement("ListNames", ["s3:ListBucket", *more], [bucket], condition if root else None)


def _look(bucket: str) -> _Statement:
    return _statement("SeeWhatProtects", ["s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration"], [bucket])
