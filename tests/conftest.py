"""Markers: what a test needs from the machine."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# What a shell starts beside itself ignores SIGINT, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mode-rounds", type=int, default=2, help="how many backups of busy databases in every quiesce mode"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0 and shutil.which("dockerd"):
        return
    skip = pytest.mark.skip(reason="needs root and dockerd")
    for item in items:
        if item.get_closest_marker("host"):
            item.add_marker(skip)
