"""What a store does that enforces a policy of AWS IAM: each request is looked up in it, and refused if nothing allows it."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.faults.proxy import Answer, Request, Rule, refusal

_ACTIONS = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}


def enforce(policy: dict[str, Any]) -> Rule:
    """The rule for a proxy in front of a store with path-style addresses."""

    def rule(request: Request) -> Answer | None:
        allowed = any(_allows(statement, *_meaning(request)) for statement in policy["Statement"])
        return None if allowed else refusal(403, "AccessDenied")

    return rule


def _meaning(request: Request) -> tuple[str, str, dict[str, str]]:
    """Action, resource, and the keys that conditions may ask for."""
    parts = urlsplit(request.path)
    query = parse_qs(parts.query, keep_blank_values=True)
    resource = f"arn:aws:s3:::{unquote(parts.path).strip('/')}"
    headers = {name.lower(): value for name, value in request.headers.items()}
    keys = {"s3:if-none-match": headers["if-none-match"]} if "if-none-match" in headers else {}
    if request.is_list:
        return "s3:ListBucket", resource, {"s3:prefix": query.get("prefix", [""])[0]}
    for name, action in (
        ("versioning", "s3:GetBucketVersioning"),
        ("object-lock", "s3:GetBucketObjectLockConfiguration"),
    ):
        if name in query:
            return action, resource, {}
    if "/" not in resource.removeprefix("arn:aws:s3:::"):
        return f"of the bucket: {request.method}", resource, {}
    return _ACTIONS[request.method], resource, keys


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
            else:
                assert operator == "StringLike"
                yield key in keys and fnmatchcase(keys[key], value)
