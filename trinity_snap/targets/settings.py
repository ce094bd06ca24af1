"""How a target is reached: what a policy says of it, without the policy."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["BUCKET_URL", "TargetSettings", "check_address", "split_bucket_url", "without_password"]

BUCKET_URL = r"s3://[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9](/[A-Za-z0-9._=+-]+)*/?"
"""What the URL of a bucket looks like: `s3://bucket/prefix`. There is no room for a password in it."""


@dataclass(frozen=True)
class TargetSettings:
    """Where a repository lives, and how to get there. All but `url` is for S3 only, except what the policy says is not.

    `path_style` None means: with an endpoint. `credentials_file` None means: the systemd credential
    `trinity-snap-s3`, else what the AWS tools would use. `bandwidth_bytes` is per second, for what is sent. With a
    `lock_mode`, `governance` or `compliance`, nobody can delete an object for `lock_days` days after it was stored.
    """

    url: str
    endpoint: str | None = None
    region: str | None = None
    path_style: bool | None = None
    ca_file: Path | None = None
    proxy: str | None = None
    credentials_file: Path | None = None
    storage_class: str | None = None
    bandwidth_bytes: int | None = None
    requests: int = 8
    lock_mode: str | None = None
    lock_days: int = 30
    ssh_key_file: Path | None = None
    known_hosts_file: Path | None = None

    @property
    def place(self) -> tuple[str, ...]:
        """The same for settings that lead to the same place, as far as they tell."""
        if self.url.startswith(("/", "file:")):
            return (os.path.normpath(unquote(urlsplit(self.url).path) if self.url.startswith("file:") else self.url),)
        return (self.endpoint or "", self.url.rstrip("/"))


def without_password(text: str) -> str:
    """A URL, or a text with URLs in it, without users and passwords."""
    return re.sub(r"//[^/@\s]*@", "//…@", text)


def split_bucket_url(url: str) -> tuple[str, str]:
    """The bucket and the prefix, without slashes at its ends, of `s3://bucket/prefix`. Raise ValueError."""
    if re.fullmatch(BUCKET_URL, url) is None:
        raise ValueError("it is not the URL of a bucket, such as s3://bucket/prefix")
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not set(prefix.split("/")).isdisjoint({".", ".."}):
        raise ValueError("it has `.` or `..` in it")
    return bucket, prefix.strip("/")


def check_address(url: str) -> str:
    """Give back `http(s)://host[:port]`. Raise ValueError for anything else, above all for one with a password."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("a user or password must not be in it; use `credentials_file`")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("it is not an address such as https://host:port")
    if parts.path not in ("", "/"):
        raise ValueError("it has a path")
    _ = parts.port  # raises ValueError if it is no number
    return url
