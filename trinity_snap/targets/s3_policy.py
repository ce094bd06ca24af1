"""The least that may be allowed in a bucket, as policies of AWS IAM, which many other stores take too."""

from __future__ import annotations

from trinity_snap.errors import UsageError
from trinity_snap.targets.settings import split_bucket_url

__all__ = ["control_policy", "host_policy"]

_HOST_READS = ("repository", "recipients/*", "index/*")
"""What a run reads: whose repository it is, to whom it seals, and which chunks there are. Nothing that needs an identity."""


def host_policy(url: str) -> dict[str, object]:
    """What a host needs to make backups: add objects, list their names, read what a writer needs. It deletes nothing.

    Where the store knows the condition `s3:if-none-match`, it replaces nothing either. Raise UsageError for a target
    that is no bucket.
    """
    bucket, root = _place(url)
    return _document(
        _statement(
            "AddWithoutReplacing", ["s3:PutObject"], [f"{bucket}/{root}*"], {"Null": {"s3:if-none-match": "false"}}
        ),
        _statement("ReadWhatAWriterNeeds", ["s3:GetObject"], [f"{bucket}/{root}{name}" for name in _HOST_READS]),
        _list(bucket, root),
        _look(bucket),
    )


def control_policy(url: str) -> dict[str, object]:
    """What the trusted side needs: read everything, add, and delete what is no longer needed, but no versions of it.

    Raise UsageError for a target that is no bucket.
    """
    bucket, root = _place(url)
    actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    return _document(_statement("UseObjects", actions, [f"{bucket}/{root}*"]), _list(bucket, root), _look(bucket))


def _place(url: str) -> tuple[str, str]:
    try:
        bucket, prefix = split_bucket_url(url)
    except ValueError as error:
        raise UsageError(
            f"The target {url} is no bucket, so there is no policy for it.",
            next_step="Who may read and write a directory is said by its mode and owner.",
        ) from error
    return f"arn:aws:s3:::{bucket}", f"{prefix}/" if prefix else ""


def _document(*statements: dict[str, object]) -> dict[str, object]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _statement(
    name: str, actions: list[str], resources: list[str], condition: dict[str, object] | None = None
) -> dict[str, object]:
    statement: dict[str, object] = {"Sid": name, "Effect": "Allow", "Action": actions, "Resource": resources}
    return statement if condition is None else {**statement, "Condition": condition}


def _list(bucket: str, root: str) -> dict[str, object]:
    condition: dict[str, object] = {"StringLike": {"s3:prefix": f"{root}*"}}
    return _statement("ListNames", ["s3:ListBucket"], [bucket], condition if root else None)


def _look(bucket: str) -> dict[str, object]:
    return _statement("SeeWhatProtects", ["s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration"], [bucket])
