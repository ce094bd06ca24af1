"""A stand-in for the policy, with the defaults of the real one, for tests that need no policy file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Rule:
    name: str = "rule"
    container: str = "*"
    volumes: list[str] | None = None
    label: str | None = None
    agent: str = "{container}"


@dataclass
class Discover:
    trinity: bool = True
    instance: str | None = None


@dataclass
class Agents:
    discover: Discover = field(default_factory=Discover)
    rules: list[Rule] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)


@dataclass
class Platform:
    paths: list[Path] = field(default_factory=list)


@dataclass
class Precopy:
    max_passes: int = 3
    settle_bytes: int = 64 << 20
    staging: Path | None = None


@dataclass
class Lvm:
    percent: int = 20
    pool_limit_percent: int = 90

    def thick_bytes(self, origin_bytes: int) -> int:
        return origin_bytes * self.percent // 100


@dataclass
class Snapshot:
    provider: str = "auto"
    precopy: Precopy = field(default_factory=Precopy)
    lvm: Lvm = field(default_factory=Lvm)


@dataclass
class Policy:
    agents: Agents = field(default_factory=Agents)
    platform: Platform = field(default_factory=Platform)
    snapshot: Snapshot = field(default_factory=Snapshot)
