"""The ping after a backup, for a service that tells you when it hears nothing (healthchecks.io and the like)."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from trinity_snap.monitor.sinks import SinkFailed

__all__ = ["ping"]

_SECONDS = 10.0
_BODY = 10_000


def ping(url: str, *, good: bool, text: str) -> None:
    """Ask for `url`, or for `url/fail`, with a text as the body. Two attempts of ten seconds. Raise SinkFailed."""
    import urllib3

    parts = urlsplit(url)
    address = url if good else urlunsplit(parts._replace(path=parts.path.rstrip("/") + "/fail"))
    pool = urllib3.PoolManager(timeout=_SECONDS, retries=urllib3.Retry(1, redirect=2))
    try:
        answer = pool.request("POST", address, body=text.encode()[:_BODY])
    except urllib3.exceptions.HTTPError as error:
        raise SinkFailed(f"{parts.hostname} could not be pinged: {error.__class__.__name__}.") from error
    if answer.status >= 400:
        raise SinkFailed(f"{parts.hostname} answered the ping with {answer.status}.")
