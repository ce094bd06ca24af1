"""A plugin of the pytest that runs in the quick lab: each report becomes a line of `reports`, for the pytest outside."""

from __future__ import annotations

import json
import os

import pytest

from tests.lab.quick.boot import Guest


class _Writer:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._file = open(Guest.inside / "reports", "a", buffering=1)  # noqa: SIM115

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._file.write(json.dumps(data, default=str) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Writer(config))
