"""What a store does that enforces a policy of AWS IAM: each request is looked up in it, and refused if nothing allows it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.faults.proxy import Answer, Request, Rule, refusal

_OBJECTS = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject", "DELETE": "DeleteObject"}
_BUCKETS = {
    "versioning": "GetBucketVersioning",
    "object-lock": "GetBucketObjectLockConfiguration",
    "versions": "ListBucketVersions",
    "list-type": "ListBucket",
}

Asked = tuple[str, str, dict[str, str]]
"""Action, resource, and the keys that conditions may ask for."""


def enforce(policy: dict[str, Any]) -> Rule:
    """The rule for a proxy in front of a store with path-style addresses."""

    def rule(request: Request) -> Answer | None:
        allowed = all(
            any(_allows(statement, *asked) for statement in policy["Statement"]) for asked in _meaning(request)
        )
        return None if allowed else refusal(403, "AccessDenied")

    return rule


def _meaning(request: Request) -> Iterator[Asked]:
    """All that a request asks to be allowed: a put with a retention needs the right to lock, too."""
    parts = urlsplit(request.path)
    query = parse_qs(parts.query, keep_blank_values=True)
    resource = f"arn:aws:s3:::{unquote(parts.path).strip('/')}"
    headers = {name.lower(): value for name, value in request.headers.items()}
    if "/" not in resource.removeprefix("arn:aws:s3:::"):
        action = next((action for name, action in _BUCKETS.items() if name in query), None)
        listed = {"s3:prefix": query.get("prefix", [""])[0]} if action in ("ListBucket", "ListBucketVersions") else {}
        known = action is not None and request.method == "GET"
        yield f"s3:{action}" if known else f"of the bucket: {request.method} {parts.query}", resource, listed
        return
    if headers.get("x-amz-bypass-governance-retention", "").lower() == "true":
        yield "s3:BypassGovernanceRetention", resource, {}
    if "retention" in query:
        if request.method != "PUT":
            yield "s3:GetObjectRetention", resource, {}
            return
        found = re.search(rb"<RetainUntilDate>([^<]+)<", request.body)
        assert found is not None
        yield "s3:PutObjectRetention", resource, _remaining(found[1].decode())
        return
    version = "Version" if "versionId" in query else ""
    keys = {"s3:if-none-match": headers["if-none-match"]} if "if-none-match" in headers else {}
    yield f"s3:{_OBJECTS[request.method]}{version}", resource, keys
    if (until := headers.get("x-amz-object-lock-retain-until-date")) is not None:
        yield "s3:PutObjectRetention", resource, _remaining(until)


def _remaining(until: str) -> dict[str, str]:
    left = datetime.fromisoformat(until.replace("Z", "+00:00")) - datetime.now(UTC)
    return {"s3:object-lock-remaining-retention-days": str(math.ceil(left.total_seconds() / 86400))}


def _allows(statement: dict[str, Any], action: str, resource: str, keys: dict[str, str]) -> bool:
    assert statement["Effect"] == "Allow"
    return (
        action in statement["Action"]
        and any(fnmatchcase(resource, pattern) for pattern in statement["Resource"])
        and all(_holds(statement.get("Condition", {}), keys))
    )


def _holds(conditions: dict[str, dict[str, str]], keys: dict[str, str]) -> Iterator[bool]:
    for operator, wanted in conditions.items():
        for key, value in wanted.items():
            if operator == "Null":
                yield (key not in keys) == (value == "true")
            elif operator == "NumericLessThanEquals":
                yield key in keys and int(keys[key]) <= int(value)
            else:
                assert operator == "StringLike"
                yield key in keys and fnmatchcase(keys[key], value)
