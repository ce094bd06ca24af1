"""The URL of a target on an SFTP server, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["SFTP_FORM", "SftpAddress", "split_sftp_url"]

SFTP_FORM = "sftp://[user@]host[:port]/path"
"""What such a URL looks like, in words for an operator."""

_URL = re.compile(
    r"sftp://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]{0,63})@)?"
    r"(?P<host>[A-Za-z0-9][A-Za-z0-9._-]{0,252}|\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,15})?\])"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>(?:/[A-Za-z0-9._=+,@~-]+)+)/?"
)


@dataclass(frozen=True)
class SftpAddress:
    """Where a directory is. `host` may be a name that only `~/.ssh/config` knows; `user` and `port` None: as it says.

    `path` is what the server is asked for: absolute, or relative to the directory in which the user arrives.
    """

    user: str | None
    host: str
    port: int | None
    path: str
    url: str


def split_sftp_url(url: str) -> SftpAddress:
    """The parts of `sftp://[user@]host[:port]/path`; `/~/path` begins where the user arrives. Raise ValueError."""
    if re.match(r"sftp://[^/@]*:[^/]*@", url):
        raise ValueError("a password must not be in it; sign in with an SSH key")
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError(f"it is not of the form {SFTP_FORM}, with a path of letters, digits and ._=+,@~-")
    path = found["path"]
    if not set(path.split("/")).isdisjoint({".", ".."}):
        raise ValueError("it has `.` or `..` in it")
    port = None if found["port"] is None else int(found["port"])
    if port is not None and not 0 < port < 1 << 16:
        raise ValueError("there is no such port")
    if path == "/~" or path.startswith("/~/"):
        path = path[3:] or "."
    return SftpAddress(found["user"], found["host"].strip("[]"), port, path, url.rstrip("/"))
