"""The schema of a policy: every setting, its default, what it may be, and what it is for.

Validation, the reference (docs/policy.md), the commented file that `init` writes, and the JSON Schema all
come from here.
"""

from __future__ import annotations

import glob
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from trinity_snap.policy.values import (
    AbsolutePath,
    Allowed,
    Count,
    ExcludeGlob,
    Flag,
    Glob,
    KeyPath,
    Seconds,
    Size,
    TargetUrl,
    Text,
)

__all__ = [
    "AgentSettings",
    "AgentsSection",
    "DiscoverSection",
    "KeysSection",
    "Override",
    "PlatformSection",
    "Policy",
    "PrecopySection",
    "QuiesceSection",
    "Rule",
    "Section",
    "SnapshotSection",
    "StateSection",
    "TargetSection",
]

Excludes = Annotated[tuple[ExcludeGlob, ...], Allowed("a list of patterns")]
Globs = Annotated[tuple[Glob, ...], Allowed("a list of patterns")]


class Section(BaseModel):
    """A part of a policy: it never changes, and knows every key that it may have."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _without_empty_sections(cls, data: Any) -> Any:  # whatever the file holds
        """A section whose settings are all commented out is as good as one that is not there."""
        if not isinstance(data, dict):
            return data
        sections = {
            key
            for key, field in cls.model_fields.items()
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        }
        return {key: value for key, value in data.items() if value is not None or key not in sections}


class TargetSection(Section):
    """Where the repository of this host lives. `target: /path` is short for `target: {url: /path}`."""

    url: TargetUrl = Field(
        default="/var/backups/trinity-snap",
        description="A directory of this host. On another disk than Docker's it outlives that one.",
    )


class KeysSection(Section):
    """The key files of this host. A relative path starts at the policy's directory."""

    host_key: KeyPath = Field(
        default=Path("host.key"), description="The host secret: it writes recovery points, and opens none."
    )
    identity: KeyPath | None = Field(
        default=Path("identity.key"),
        description=(
            "The identity that opens recovery points, for list, show, verify and restore on this host. "
            "null: there is none here, and backups go on without it."
        ),
    )
    recipients: Globs = Field(
        default=("*.recipient",),
        description="Recipients that `init` gives to a new repository besides its own two: file patterns.",
    )


class StateSection(Section):
    """What trinity-snap keeps on this host between runs; losing it costs time, never data."""

    directory: AbsolutePath = Field(
        default=Path("/var/lib/trinity-snap"), description="Caches, the journal and the results of runs."
    )


class DiscoverSection(Section):
    """Discovery by known naming."""

    trinity: Flag = Field(
        default=True,
        description="Every container that Trinity named or labelled as an agent is one.",
    )
    instance: Text | None = Field(
        default=None,
        description=(
            "Only agents of this Trinity installation (label `trinity.instance`), if several share Docker. "
            "null: agents of all."
        ),
    )


class Rule(Section):
    """Makes agents of containers. The first rule that fits a container counts."""

    name: Text = Field(description="What the rule is called in the output of `trinity-snap agents`.")
    container: Glob = Field(default="*", description="Which containers, by name.")
    label: Text | None = Field(
        default=None, description="Only containers with this label, as `key` or `key=value`. null: any."
    )
    volumes: Globs | None = Field(
        default=None,
        description="Which of their volumes, by volume name or by place in the container. null: all.",
    )
    agent: Text = Field(
        default="{container}",
        description="What the agent is called; `{container}` stands for the container's name.",
    )

    @model_validator(mode="after")
    def _check(self) -> Rule:
        if self.container == "*" and self.label is None:
            raise ValueError("the rule fits every container; give it `container` or `label`")
        if set("{}") & set(self.agent.replace("{container}", "")):
            raise ValueError("`agent` has a placeholder that is not known; the only one is `{container}`")
        return self


class AgentsSection(Section):
    """What is protected."""

    discover: DiscoverSection = Field(default=DiscoverSection(), description="Discovery by known naming.")
    rules: Annotated[tuple[Rule, ...], Allowed("a list of rules")] = Field(
        default=(), description="Rules that make agents of any other containers; they go before Trinity's."
    )
    exclude: Globs = Field(default=(), description="Agents that are left out, by name.")


class PlatformSection(Section):
    """The pseudo-agent `platform`: data of the host itself, such as Trinity's own."""

    paths: Annotated[tuple[AbsolutePath, ...], Allowed("a list of absolute paths")] = Field(
        default=(),
        description="Directories and files of this host, such as Trinity's data directory and its `.env`.",
    )


class QuiesceSection(Section):
    """How agents hold still for the snapshot."""

    mode: Annotated[Literal["pause"], Allowed("pause")] = Field(
        default="pause",
        description="pause: freeze the processes, all agents of the host at the same instant.",
    )
    budget_seconds: Seconds = Field(
        default=5.0,
        description="For how long agents may be held at most. They are resumed then, whatever happens.",
    )
    on_budget_exceeded: Annotated[Literal["fallback", "fail"], Allowed("fallback or fail")] = Field(
        default="fallback",
        description=(
            "fallback: go on with agents running; the recovery points say that their consistency is weaker "
            "(exit code 12). fail: make no recovery point."
        ),
    )


class PrecopySection(Section):
    """The provider `precopy`: data is shipped while agents run; only the last changes wait for the pause."""

    max_passes: Count = Field(default=3, description="How often to ship what changed before the pause, at most.")
    settle_bytes: Size = Field(default=64 << 20, description="Pause when less than this changed in a pass.")
    staging: AbsolutePath | None = Field(
        default=None, description="Where copies made during the pause are kept. null: in the state directory."
    )


class SnapshotSection(Section):
    """How the point-in-time view is made."""

    provider: Annotated[Literal["auto", "btrfs", "precopy"], Allowed("auto, btrfs or precopy")] = Field(
        default="auto",
        description="auto: the best that works where a volume lies. Anything else: that one, or fail.",
    )
    precopy: PrecopySection = Field(default=PrecopySection(), description="Settings of the provider `precopy`.")


class Override(Section):
    """Settings for one agent that differ from those for all."""

    exclude: Excludes | None = Field(default=None, description="Takes the place of `exclude`. null: as for all.")


@dataclass(frozen=True)
class AgentSettings:
    """What holds for one agent, its overrides applied."""

    exclude: tuple[str, ...]


class Policy(Section):
    """What to protect on this host, how, and where to."""

    version: Annotated[Literal[1], Allowed("1")] = Field(default=1, description="The version of this schema.")
    host: Text | None = Field(
        default=None, description="The name of this host in recovery points. null: the machine's host name."
    )
    target: TargetSection = Field(default=TargetSection(), description="Where the repository lives.")
    keys: KeysSection = Field(default=KeysSection(), description="The key files of this host.")
    state: StateSection = Field(default=StateSection(), description="What is kept on this host between runs.")
    agents: AgentsSection = Field(default=AgentsSection(), description="What is protected.")
    platform: PlatformSection = Field(default=PlatformSection(), description="The pseudo-agent `platform`.")
    quiesce: QuiesceSection = Field(default=QuiesceSection(), description="How agents hold still.")
    snapshot: SnapshotSection = Field(default=SnapshotSection(), description="How the point-in-time view is made.")
    exclude: Excludes = Field(
        default=(),
        description=(
            "What is left out of every volume, as patterns of whole paths from the volume's root; `*` may "
            "stand for `/`, too. What is in a directory goes with it. Nothing is left out unless it stands here."
        ),
    )
    overrides: Annotated[dict[Text, Override], Allowed("settings by agent name")] = Field(
        default={}, description="Settings for single agents, by name."
    )

    _path: Path | None = PrivateAttr(None)
    _lines: Mapping[str, int] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:  # whatever the file holds
        if isinstance(data, dict) and isinstance(data.get("target"), str):
            return {**data, "target": {"url": data["target"]}}
        return data

    @property
    def path(self) -> Path | None:
        """The file that this was read from."""
        return self._path

    @property
    def sources(self) -> Mapping[str, int]:
        """For each setting that the file has, by dotted name, the line where it stands."""
        return self._lines

    @property
    def host_name(self) -> str:
        """The name of this host in recovery points."""
        return self.host or socket.gethostname()

    def recipient_files(self) -> list[Path]:
        """The files that `keys.recipients` stands for, sorted by path."""
        return sorted({Path(found) for pattern in self.keys.recipients for found in glob.glob(pattern)})

    def for_agent(self, agent: str) -> AgentSettings:
        """What holds for the agent of that name."""
        override = self.overrides.get(agent)
        if override is None or override.exclude is None:
            return AgentSettings(self.exclude)
        return AgentSettings(override.exclude)
