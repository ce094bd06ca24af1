"""Ports of this machine for servers of the tests."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from contextlib import suppress

__all__ = ["free_port", "wait_for_port"]

_FROM, _TO = 12_000, 32_000  # below those that the system gives to clients: one of these might connect to itself


def free_port(address: str = "127.0.0.1") -> int:
    """A port of an address of this machine that nobody listens on."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind((address, random.randrange(_FROM, _TO)))
            return int(probe.getsockname()[1])


def wait_for_port(
    port: int, is_alive: Callable[[], bool], why: Callable[[], str] = lambda: "", address: str = "127.0.0.1"
) -> None:
    """Wait until a server listens. Fail with `why` if it is not alive any more, or does not in a minute."""
    deadline = time.monotonic() + 60
    while True:
        with suppress(OSError), socket.create_connection((address, port), 1):
            return
        assert is_alive(), f"the server ended: {why()}"
        assert time.monotonic() < deadline, f"the server does not answer: {why()}"
        time.sleep(0.02)
