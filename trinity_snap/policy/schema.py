"""The schema of a policy: every setting, its default, what it may be, and what it is for.

Validation, the reference (docs/policy.md), the commented file that `init` writes, and the JSON Schema all
come from here.
"""

from __future__ import annotations

import dataclasses
import glob
import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from trinity_snap.errors import UsageError
from trinity_snap.policy.settings import (
    DEFAULT_AFTER,
    DEFAULT_BEFORE,
    AgentSettings,
    HookSettings,
    Mode,
    Paths,
    QuiesceSettings,
)
from trinity_snap.policy.values import (
    AbsolutePath,
    Address,
    Allowed,
    Calendar,
    Count,
    CountOrNone,
    ExcludeGlob,
    Flag,
    Glob,
    Kept,
    KeyPath,
    LockDays,
    LongPatience,
    Patience,
    Percent,
    PingUrl,
    Rate,
    ReplicaName,
    Requests,
    Seconds,
    Share,
    Size,
    Span,
    TargetUrl,
    Text,
    share_of,
    span_of,
)
from trinity_snap.repository.retention import RetentionRules
from trinity_snap.targets.settings import TargetSettings
from trinity_snap.trinity.settings import TrinitySettings

__all__ = [
    "AgentSettings",
    "AgentsSection",
    "DiscoverSection",
    "DrainOverride",
    "DrainSection",
    "DrillSection",
    "HooksOverride",
    "HooksSection",
    "KeysSection",
    "LockSection",
    "LvmSection",
    "MonitorSection",
    "Override",
    "PlatformSection",
    "Policy",
    "PrecopySection",
    "QuiesceOverride",
    "QuiesceSection",
    "ReplicaSection",
    "RetentionOverride",
    "RetentionSection",
    "Rule",
    "Section",
    "SnapshotSection",
    "StateSection",
    "TargetSection",
    "TrinitySection",
]

Excludes = Annotated[tuple[ExcludeGlob, ...], Allowed("a list of patterns")]
Words = Annotated[tuple[Text, ...], Field(min_length=1), Allowed("a list of words, the first of which is a program")]
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


class LockSection(Section):
    """Object lock: what is stored in a bucket cannot be deleted or replaced for a time, with whatever credentials."""

    mode: Annotated[Literal["governance", "compliance"], Allowed("governance or compliance")] | None = Field(
        default=None,
        description=(
            "governance: only who has s3:BypassGovernanceRetention can lift it; compliance: nobody can, not even the account's "
            "owner. The bucket must have been made with object lock. null: only as the bucket does by default."
        ),
    )
    days: LockDays = Field(
        default=30,
        description=(
            "For so many days from when it is stored. `trinity-snap target extend`, on the control node, extends it for what "
            "is still needed: run it more often than that."
        ),
    )


class TargetSection(Section):
    """Where the repository of this host lives. `target: /path` is short for `target: {url: /path}`. The rest is for s3 or sftp.

    For sftp: `ssh_key_file`, `known_hosts_file`, `bandwidth_bytes`, `requests`; for s3 all but the first two of these.
    """

    url: TargetUrl = Field(
        default="/var/backups/trinity-snap",
        description=(
            "A directory of this host (on another disk than Docker's it outlives that one); a bucket of an "
            "S3-compatible store and what the names in it begin with (the bucket must be there); or a directory of an SFTP "
            "server, `/~/path` from where the user arrives."
        ),
    )
    endpoint: Address | None = Field(
        default=None, description="Where the store is. null: AWS, or as its environment variables say."
    )
    region: Text | None = Field(
        default=None, description="The region of the bucket. null: as for the AWS tools, else us-east-1."
    )
    path_style: Flag | None = Field(
        default=None,
        description=(
            "true: the bucket's name is in the path of addresses; false: in the host name. null: true with an `endpoint`."
        ),
    )
    ca_file: AbsolutePath | None = Field(
        default=None,
        description="Certificates (PEM) of the authorities that the store's certificate may come from. null: the usual.",
    )
    proxy: Address | None = Field(
        default=None, description="A proxy on the way to the store. null: as HTTPS_PROXY in the environment says."
    )
    credentials_file: KeyPath | None = Field(
        default=None,
        description=(
            "A file of mode 0600 like ~/.aws/credentials, of which [default] is used. null: the systemd credential "
            "`trinity-snap-s3` if there is one, else as the AWS tools find theirs."
        ),
    )
    storage_class: Text | None = Field(
        default=None,
        description="The storage class of packs, such as STANDARD_IA; all else is small and read often. null: the bucket's.",
    )
    bandwidth_bytes: Rate | None = Field(
        default=None, description="Send at most so many bytes per second. null: as fast as it goes."
    )
    requests: Requests = Field(
        default=8,
        description=(
            "How many requests may go on at once, for sftp: how many connections; half of them send. Each takes up to "
            "40 MiB of memory."
        ),
    )
    ssh_key_file: KeyPath | None = Field(
        default=None,
        description=(
            "For sftp: the private SSH key, without a passphrase. null: as ~/.ssh/config says, the usual keys, and the agent."
        ),
    )
    known_hosts_file: KeyPath | None = Field(
        default=None,
        description=(
            "For sftp: the file with the server's host key, which must be known. null: ~/.ssh/known_hosts and the system's."
        ),
    )
    lock: LockSection = Field(default=LockSection(), description="Object lock, set with everything that is stored.")

    @model_validator(mode="after")
    def _check_lock(self) -> TargetSection:
        if self.lock.mode is not None and not self.url.startswith("s3:"):
            raise ValueError("`lock` is for buckets; nothing locks what is in a directory")
        return self

    def settings(self) -> TargetSettings:
        """The same for `targets.open_target`."""
        names = {field.name for field in dataclasses.fields(TargetSettings)} - {"lock_mode", "lock_days"}
        values = {name: getattr(self, name) for name in names}
        return TargetSettings(**values, lock_mode=self.lock.mode, lock_days=self.lock.days)


class RetentionOverride(Section):
    """What stays of one agent."""

    last: Kept | None = Field(default=None, description="Takes the place of `retention.last`. null: as for all.")
    hourly: Kept | None = Field(default=None, description="Hours. null: as for all.")
    daily: Kept | None = Field(default=None, description="Days. null: as for all.")
    weekly: Kept | None = Field(default=None, description="Weeks. null: as for all.")
    monthly: Kept | None = Field(default=None, description="Months. null: as for all.")
    yearly: Kept | None = Field(default=None, description="Years. null: as for all.")
    within: Span | None = Field(default=None, description="All that are younger than this. null: as for all.")
    minimum: Count | None = Field(default=None, description="So many stay in any case. null: as for all.")
    removed_agents: Span | None = Field(
        default=None, description="For how long they stay after the agent was removed. null: as for all."
    )


class _Named(Section):
    name: ReplicaName = Field(
        description="What the replica is called in `--target NAME`, `replicate NAME` and `status`."
    )


class ReplicaSection(TargetSection, _Named):
    """A further place for the repository. All settings of `target` can be used, and these more."""

    url: TargetUrl = Field(
        description="A directory of this host, which must be there, or a bucket and what the names in it begin with."
    )
    after_backup: Flag = Field(
        default=True,
        description=(
            "Bring it up to date after every backup. false: only when `trinity-snap replicate` says so, on this host or where "
            "the objects at `target` may be read."
        ),
    )
    time_limit: Span = Field(
        default="6h", description="For how long after a backup. What is left then is done after the next one."
    )
    max_age: Span = Field(
        default="2d", description="`status` warns if it has not been up to date for longer than this."
    )
    retention: RetentionOverride = Field(
        default=RetentionOverride(),
        description="What `trinity-snap forget --target NAME` leaves there of points that are no longer at `target`.",
    )

    @property
    def time_limit_seconds(self) -> float:
        """`time_limit` in seconds."""
        return span_of(self.time_limit).total_seconds()

    @property
    def longest_age(self) -> timedelta:
        """`max_age` as a length of time."""
        return span_of(self.max_age)


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
    identity_command: Words | None = Field(
        default=None,
        description=(
            "A command that writes the identity, as an identity file has it, to its standard output, in the place of `identity`: "
            "out of Ansible Vault or a password store, for a control node. It runs in the policy's directory, without a shell. "
            "null: there is none."
        ),
    )
    recipients: Globs = Field(
        default=("*.recipient",),
        description=(
            "Recipients that `init` gives to a new repository besides its own two, or, without an identity here, the only "
            "ones: file patterns."
        ),
    )
    pins: KeyPath | None = Field(
        default=None,
        description=(
            "The recipients that this host seals to, as `init --recipient` and `key pin` write them. A run stops if those "
            "of the repository are others. null: whoever the repository names."
        ),
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


class TrinitySection(Section):
    """The Trinity installation whose agents are here: docs/trinity.md. Without `url` it is not asked anything."""

    url: Address | None = Field(
        default=None, description="Where its backend answers, such as http://127.0.0.1:8000. null: it is not asked."
    )
    key_file: KeyPath | None = Field(
        default=None,
        description=(
            "A file of mode 0600 with an API key of an administrator. null: the systemd credential `trinity-snap-trinity` if "
            "there is one, else no key: only the edition is asked then."
        ),
    )
    ca_file: AbsolutePath | None = Field(
        default=None,
        description="Certificates (PEM) of the authorities that its certificate may come from. null: the usual.",
    )
    hold_schedules: Flag = Field(
        default=False,
        description=(
            "While a run waits for idle agents (`drain`) and until its snapshots are made, their autonomy is switched off, so "
            "that no scheduled task begins; then it is as it was. Needs a key."
        ),
    )
    start_agents: Flag = Field(
        default=True,
        description="After the restore of a whole agent, have Trinity start it, which makes a missing container. Needs a key.",
    )

    def settings(self) -> TrinitySettings | None:
        """The same for `trinity_snap.trinity`. None: no Trinity is configured."""
        return None if self.url is None else TrinitySettings(self.url.rstrip("/"), self.key_file, self.ca_file)


class HooksSection(Section):
    """Commands that a shell in the agent's container runs, as the container's user, for mode `hooks`."""

    before: Text = Field(
        default=DEFAULT_BEFORE,
        description=(
            "Brings the agent's data to rest. An agent without the default file is paused only; one that cannot be run, and "
            "any other command that fails, is a failure."
        ),
    )
    after: Text = Field(
        default=DEFAULT_AFTER,
        description=(
            "Runs in any case once `before` was started, and finds `TRINITY_SNAP_OUTCOME` (`done`, `failed` or "
            "`aborted`) and `TRINITY_SNAP_RUN_ID` in its environment. It may run twice."
        ),
    )
    timeout_seconds: Patience = Field(default=30.0, description="For how long each may run. It is killed then.")


class DrainSection(Section):
    """Waiting until an agent is idle, before anything is held. `drain: true` is short for `drain: {enabled: true}`."""

    enabled: Flag = Field(
        default=False,
        description="Ask the agent's own health endpoint (port 8000, `/health`: `active_tasks`) and wait for idleness.",
    )
    budget_seconds: LongPatience = Field(
        default=60.0, description="For how long. The run goes on then, and says that the agent was busy."
    )


Selections = Annotated[Paths, Allowed("all or declared")]
Modes = Annotated[Mode, Allowed("none, pause, hooks or stop")]


class QuiesceSection(Section):
    """How agents hold still for the snapshot."""

    mode: Modes = Field(
        default="pause",
        description=(
            "pause: freeze the processes, all agents of the host at the same instant. hooks: run a command in the agent "
            "before, pause, and run one after. stop: shut the agent down and start it again. none: hold nothing."
        ),
    )
    budget_seconds: Seconds = Field(
        default=5.0,
        description="For how long agents may be paused at most. They are resumed then, whatever happens.",
    )
    on_budget_exceeded: Annotated[Literal["fallback", "fail"], Allowed("fallback or fail")] = Field(
        default="fallback",
        description=(
            "fallback: go on with agents running; the recovery points say that their consistency is weaker "
            "(exit code 12). fail: make no recovery point."
        ),
    )
    stop_seconds: Patience = Field(
        default=30.0,
        description="Mode `stop`: for how long an agent may take to shut down. It is killed then, and its point is weaker.",
    )
    hooks: HooksSection = Field(default=HooksSection(), description="The commands of mode `hooks`.")
    on_hook_failure: Annotated[Literal["fallback", "fail"], Allowed("fallback or fail")] = Field(
        default="fallback",
        description=(
            "When `hooks.before` fails or takes too long. fallback: pause only; the recovery point says that its "
            "consistency is weaker (exit code 12). fail: make no recovery point of this agent."
        ),
    )
    drain: DrainSection = Field(
        default=DrainSection(), description="In front of any mode: wait until agents are idle. `true`, or settings."
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:  # whatever the file holds
        return _drain_written_out(data)


class HooksOverride(Section):
    """Hooks of one agent."""

    before: Text | None = Field(
        default=None, description="Takes the place of `quiesce.hooks.before`. null: as for all."
    )
    after: Text | None = Field(default=None, description="Takes the place of `quiesce.hooks.after`. null: as for all.")
    timeout_seconds: Patience | None = Field(default=None, description="The time limit. null: as for all.")


class DrainOverride(Section):
    """Draining of one agent. `drain: true` and `drain: false` are short for `drain: {enabled: …}`."""

    enabled: Flag | None = Field(
        default=None, description="Whether to wait until this agent is idle. null: as for all."
    )
    budget_seconds: LongPatience | None = Field(default=None, description="For how long. null: as for all.")


class QuiesceOverride(Section):
    """How one agent holds still."""

    mode: Modes | None = Field(default=None, description="Takes the place of `quiesce.mode`. null: as for all.")
    hooks: HooksOverride = Field(default=HooksOverride(), description="Hooks of this agent.")
    drain: DrainOverride = Field(default=DrainOverride(), description="Draining of this agent.")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:  # whatever the file holds
        return _drain_written_out(data)


def _drain_written_out(data: Any) -> Any:  # whatever the file holds
    """`drain: true` as a section, and a section with a budget as one that is enabled."""
    if isinstance(data, dict):
        drain = data.get("drain")
        if isinstance(drain, bool):
            return {**data, "drain": {"enabled": drain}}
        if isinstance(drain, dict) and drain and "enabled" not in drain:
            return {**data, "drain": {"enabled": True, **drain}}
    return data


class PrecopySection(Section):
    """The provider `precopy`: data is shipped while agents run; only the last changes wait for the pause."""

    max_passes: Count = Field(default=3, description="How often to ship what changed before the pause, at most.")
    settle_bytes: Size = Field(default=64 << 20, description="Pause when less than this changed in a pass.")
    staging: AbsolutePath | None = Field(
        default=None,
        description=(
            "Where copies made during the pause are kept. null: on the volume's own filesystem if it is xfs or btrfs and can "
            "share blocks (then a copy takes no time), else in the state directory."
        ),
    )


class LvmSection(Section):
    """The providers `lvm` and `lvm-thin`: snapshots of logical volumes."""

    size: Share = Field(
        default="20%",
        description=(
            "The room for what changes on a volume while its thick snapshot is read: of the volume's size, or an absolute "
            "size. The volume group must have it free. Thin pools need none."
        ),
    )
    pool_limit_percent: Percent = Field(
        default=90, description="No snapshot in a thin pool whose data or metadata is fuller than this."
    )

    def thick_bytes(self, origin_bytes: int) -> int:
        """The room for a thick snapshot of a volume of that size."""
        return share_of(self.size, origin_bytes)


class SnapshotSection(Section):
    """How the point-in-time view is made."""

    provider: Annotated[
        Literal["auto", "btrfs", "lvm-thin", "lvm", "zfs", "precopy"],
        Allowed("auto, btrfs, lvm-thin, lvm, zfs or precopy"),
    ] = Field(
        default="auto",
        description="auto: the best that works where a volume lies. Anything else: that one, or fail.",
    )
    keep: CountOrNone = Field(
        default=0,
        description=(
            "How many local snapshots of every agent stay on this host, for `trinity-snap rollback`. They hold on to the disk "
            "space of what changes after them. Only `btrfs` and `lvm-thin` can keep any."
        ),
    )
    precopy: PrecopySection = Field(default=PrecopySection(), description="Settings of the provider `precopy`.")
    lvm: LvmSection = Field(default=LvmSection(), description="Settings of the providers `lvm` and `lvm-thin`.")


class RetentionSection(Section):
    """What `trinity-snap forget` leaves: whatever any of these keeps. Without any it removes nothing, and says so."""

    last: Kept = Field(default=0, description="The newest so many of every agent.")
    hourly: Kept = Field(default=0, description="The newest of each of the last so many hours that have one. UTC.")
    daily: Kept = Field(default=0, description="The same for days.")
    weekly: Kept = Field(default=0, description="The same for weeks, which begin on Monday.")
    monthly: Kept = Field(default=0, description="The same for months.")
    yearly: Kept = Field(default=0, description="The same for years.")
    within: Span | None = Field(
        default=None,
        description="All that are younger than this, counted back from the agent's newest. null: no such rule.",
    )
    minimum: Count = Field(default=3, description="So many of every agent stay in any case, if there are as many.")
    removed_agents: Span | None = Field(
        default=None,
        description=(
            "All points of an agent go when nothing was backed up of it for so long, while something was of others. "
            "null: they stay as the rules say."
        ),
    )


class ScheduleSection(Section):
    """When this host works by itself: the role `schedule` makes timers of it. null: as that role's own variable says."""

    backup: Calendar | None = Field(default=None, description="When all agents are backed up.")
    verify: Calendar | None = Field(default=None, description="When it is checked what is stored.")
    prune: Calendar | None = Field(
        default=None, description="When old points go, on a host that has its identity: `forget`, then `prune`."
    )


class RepackSection(Section):
    """Moving what is needed out of packs that are mostly dead or many and small: `trinity-snap prune --repack`."""

    with_prune: Flag = Field(
        default=False,
        description=(
            "Every `prune` repacks first, at the first target. It reads and stores data there, and the recovery points of which "
            "data moves get another id: leave it out where requests cost money, or packs are locked."
        ),
    )
    budget: Size = Field(default=2 << 30, description="At most about so much is stored anew in one call.")
    unused_percent: Percent = Field(
        default=10, description="It stops when no more than this part of the data in packs is dead."
    )
    share_percent: Percent = Field(
        default=25,
        description=(
            "No more than this part of the data is in packs that are repacked in one call, be it one pack: for a day or two the "
            "old ones are there as well."
        ),
    )
    small_packs: Kept = Field(
        default=200,
        description="When there are more packs than this with less than 4 MiB, they are merged. 0: they never are.",
    )


class DrillSection(Section):
    """`trinity-snap drill`: restoring recovery points into a scratch place, to prove that they are good."""

    agents: Globs = Field(
        default=("*",), description="Which agents are drilled when none is named: patterns of their names."
    )
    directory: AbsolutePath | None = Field(
        default=None,
        description=(
            "Where recovery points are restored to, one agent at a time, and removed again. It needs room for the largest. "
            "null: `drills` in the state directory."
        ),
    )
    databases: Flag = Field(default=True, description="Ask SQLite of every database of its kind whether it is sound.")
    ignore: Excludes = Field(
        default=(),
        description=(
            "Databases that are not checked, as patterns of whole paths from the volume's root; `*` may stand for `/`, too."
        ),
    )
    command: Text | None = Field(
        default=None,
        description=(
            "A shell command that runs, as root, where an agent was restored to (a directory for each volume), and decides by "
            "its exit code. It finds `TRINITY_SNAP_DRILL_DIRECTORY`, `…_AGENT`, `…_POINT` and `…_CREATED` in its environment."
        ),
    )
    time_limit: Span = Field(
        default="1h",
        description="For how long the command may run for each agent, and for how long its databases are checked.",
    )
    schedule: Calendar | None = Field(
        default=None,
        description="When all of them are drilled: the role `install` makes a timer of it. null: no timer.",
    )
    max_age: Span | None = Field(
        default=None, description="`status` warns of an agent whose last proof is older than this. null: it does not."
    )

    @property
    def longest_age(self) -> timedelta | None:
        """`max_age` as a length of time."""
        return None if self.max_age is None else span_of(self.max_age)

    @property
    def time_limit_seconds(self) -> float:
        """`time_limit` in seconds."""
        return span_of(self.time_limit).total_seconds()


class MonitorSection(Section):
    """What counts as wrong, and who is told: at the end of every run, and by `trinity-snap monitor`."""

    rpo: Span = Field(
        default="26h",
        description=(
            "How old the last recovery point of an agent may be (its recovery point objective). An agent that is older, or that "
            "has had none for so long, is an alarm."
        ),
    )
    shrunk_percent: Percent = Field(
        default=50,
        description=(
            "A recovery point that has lost more than this of the bytes or of the files that the agent's last seven usually had "
            "is an alarm."
        ),
    )
    free_percent: Percent = Field(
        default=10, description="A target in a directory of this host with less room than this is an alarm."
    )
    verify_max_age: Span | None = Field(
        default="35d",
        description=(
            "A repository that nobody has verified for longer than this, here or on a control node, is an alarm. null: it is not."
        ),
    )
    repeat: Span = Field(default="1d", description="What is still wrong is told again after so long.")
    textfile: AbsolutePath | None = Field(
        default=None,
        description=(
            "Metrics for Prometheus, in a file that its node exporter collects "
            "(`--collector.textfile.directory`); the name ends in `.prom`. null: none are written."
        ),
    )
    ping: PingUrl | None = Field(
        default=None,
        description=(
            "Asked for after every backup, with `/fail` behind it if that failed: the check of a service like healthchecks.io, "
            "which tells you when it hears nothing. null: none."
        ),
    )
    notify_file: KeyPath | None = Field(
        default=None,
        description=(
            "A file of mode 0600 with an address of apprise in each line (ntfy, mail, Slack and a hundred others), to which "
            "alarms are sent. It needs the extra `notify`. null: none."
        ),
    )

    trinity: Flag = Field(
        default=False,
        description=(
            "Alarms become notifications in the Trinity at `trinity: url`: one for each, closed when it is over. Needs a key "
            "of an agent there, in whose name they are."
        ),
    )
    trinity_key_file: KeyPath | None = Field(
        default=None,
        description=(
            "A file of mode 0600 with that agent's API key. null: the systemd credential `trinity-snap-notifications`."
        ),
    )

    @field_validator("textfile")
    @classmethod
    def _prom(cls, path: Path | None) -> Path | None:
        if path is not None and path.suffix != ".prom":
            raise ValueError("its name does not end in `.prom`, so the node exporter passes it over")
        return path


class Override(Section):
    """Settings for one agent that differ from those for all."""

    exclude: Excludes | None = Field(default=None, description="Takes the place of `exclude`. null: as for all.")
    paths: Selections | None = Field(default=None, description="Takes the place of `paths`. null: as for all.")
    quiesce: QuiesceOverride = Field(default=QuiesceOverride(), description="How this agent holds still.")
    retention: RetentionOverride = Field(default=RetentionOverride(), description="What stays of this agent.")
    rpo: Span | None = Field(default=None, description="Takes the place of `monitor.rpo`. null: as for all.")


class Policy(Section):
    """What to protect on this host, how, and where to."""

    version: Annotated[Literal[1], Allowed("1")] = Field(default=1, description="The version of this schema.")
    host: Text | None = Field(
        default=None, description="The name of this host in recovery points. null: the machine's host name."
    )
    target: TargetSection = Field(default=TargetSection(), description="Where the repository lives.")
    replicas: Annotated[tuple[ReplicaSection, ...], Allowed("a list of replicas")] = Field(
        default=(),
        description="Further places, to which everything is copied, sealed as it is, after it is at `target`.",
    )
    keys: KeysSection = Field(default=KeysSection(), description="The key files of this host.")
    state: StateSection = Field(default=StateSection(), description="What is kept on this host between runs.")
    agents: AgentsSection = Field(default=AgentsSection(), description="What is protected.")
    platform: PlatformSection = Field(default=PlatformSection(), description="The pseudo-agent `platform`.")
    trinity: TrinitySection = Field(
        default=TrinitySection(),
        description="The Trinity installation whose agents are here, if its API is to be used.",
    )
    quiesce: QuiesceSection = Field(default=QuiesceSection(), description="How agents hold still.")
    snapshot: SnapshotSection = Field(default=SnapshotSection(), description="How the point-in-time view is made.")
    schedule: ScheduleSection = Field(
        default=ScheduleSection(),
        description="When this host works by itself, as systemd's `OnCalendar` has it; `policy when` explains it.",
    )
    retention: RetentionSection = Field(default=RetentionSection(), description="What `trinity-snap forget` leaves.")
    repack: RepackSection = Field(
        default=RepackSection(), description="Repacking: whether `trinity-snap prune` does it, and how much."
    )
    drill: DrillSection = Field(
        default=DrillSection(), description="Proving by restoring: `trinity-snap drill`, by hand or on a schedule."
    )
    monitor: MonitorSection = Field(
        default=MonitorSection(), description="Alarms, metrics and messages: what counts as wrong, and who is told."
    )
    paths: Selections = Field(
        default="all",
        description=(
            "declared: of an agent's home only what it declares in `~/.trinity/data-paths.yaml` and `persistent-state.yaml`; its "
            "other volumes as a whole, and all of an agent that declares nothing. docs/trinity.md."
        ),
    )
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

    @field_validator("replicas")
    @classmethod
    def _apart(cls, replicas: tuple[ReplicaSection, ...], info: ValidationInfo) -> tuple[ReplicaSection, ...]:
        names: set[str] = set()
        target = info.data.get("target")
        places = {} if target is None else {target.settings().place: "`target`"}
        for replica in replicas:
            if replica.name in names:
                raise ValueError(f"two replicas have the name {replica.name!r}")
            if other := places.get(replica.settings().place):
                raise ValueError(f"the replica {replica.name!r} is in the same place as {other}")
            names.add(replica.name)
            places[replica.settings().place] = f"the replica {replica.name!r}"
        return replicas

    @field_validator("monitor")
    @classmethod
    def _somewhere(cls, monitor: MonitorSection, info: ValidationInfo) -> MonitorSection:
        trinity = info.data.get("trinity")
        if monitor.trinity and trinity is not None and trinity.url is None:
            raise ValueError("with `trinity: true` there must be a `url` in the section `trinity`")
        return monitor

    def notifications(self) -> TrinitySettings | None:
        """The Trinity where alarms become notifications, with the key for that. None: they do not."""
        settings = self.trinity.settings()
        if settings is None or not self.monitor.trinity:
            return None
        return TrinitySettings(
            settings.url,
            self.monitor.trinity_key_file,
            settings.ca_file,
            credential="trinity-snap-notifications",
            key_setting="monitor: trinity_key_file",
        )

    def replica(self, name: str) -> ReplicaSection:
        """The replica of that name. Raise UsageError if there is none."""
        for replica in self.replicas:
            if replica.name == name:
                return replica
        names = ", ".join(replica.name for replica in self.replicas)
        raise UsageError(
            f"The policy has no replica {name!r:.60}.",
            next_step=f"It has {names}." if names else "It has no `replicas` at all.",
        )

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
        override = self.overrides.get(agent) or Override()
        own, general = override.quiesce, self.quiesce
        hooks, drain = general.hooks, general.drain
        drains = drain.enabled if own.drain.enabled is None else own.drain.enabled
        return AgentSettings(
            exclude=self.exclude if override.exclude is None else override.exclude,
            paths=override.paths or self.paths,
            quiesce=QuiesceSettings(
                mode=own.mode or general.mode,
                hooks=HookSettings(
                    own.hooks.before or hooks.before,
                    own.hooks.after or hooks.after,
                    own.hooks.timeout_seconds or hooks.timeout_seconds,
                ),
                drain_seconds=(own.drain.budget_seconds or drain.budget_seconds) if drains else None,
            ),
        )

    def rpo_of(self, agent: str) -> timedelta:
        """How old the last recovery point of the agent of that name may be."""
        override = self.overrides.get(agent)
        return span_of(self.monitor.rpo if override is None or override.rpo is None else override.rpo)

    def retention_for(self, agent: str, replica: ReplicaSection | None = None) -> RetentionRules:
        """What stays of the points of the agent of that name; at a replica, whose own settings go before all others."""
        own = {key: value for key, value in (self.overrides.get(agent) or Override()).retention if value is not None}
        own |= {} if replica is None else {key: value for key, value in replica.retention if value is not None}
        rules = {**dict(self.retention), **own}
        spans = {key: None if rules[key] is None else span_of(rules[key]) for key in ("within", "removed_agents")}
        return RetentionRules(**{**rules, **spans})
