"""Markers: what a test needs from the machine."""

from __future__ import annotations

import os
import shutil

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0 and shutil.which("dockerd"):
        return
    skip = pytest.mark.skip(reason="needs root and dockerd")
    for item in items:
        if item.get_closest_marker("host"):
            item.add_marker(skip)
