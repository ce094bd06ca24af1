"""What the commands of `trinity-snap fleet` share: their options, a run with them, and what is printed of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.fleet_progress import watching
from trinity_snap.cli.options import JsonOption, QuietOption
from trinity_snap.cli.output import emit, plural, seconds, table
from trinity_snap.errors import UsageError

if TYPE_CHECKING:
    from trinity_snap.fleet import FleetResult

InventoryOption = Annotated[
    list[str] | None,
    typer.Option("--inventory", "-i", metavar="INVENTORY", help="As Ansible's; may be repeated.", show_default=False),
]
LimitOption = Annotated[
    str | None,
    typer.Option("--limit", "-l", metavar="PATTERN", help="Only these hosts, as Ansible's.", show_default=False),
]
ForksOption = Annotated[int, typer.Option("--forks", "-f", min=1, max=500, help="So many hosts at once.")]
BatchOption = Annotated[
    str | None,
    typer.Option(
        "--batch", metavar="SIZE",
        help="Begin with so many hosts and wait for them: 5, 25%, or 1,5,25%. With --max-failures as many as --forks.",
        show_default=False,
    ),
]  # fmt: skip
MaxFailuresOption = Annotated[
    str | None,
    typer.Option(
        "--max-failures", metavar="AMOUNT",
        help="Begin no further batch once more hosts than that are not done: 0, 3 or 10%.", show_default=False,
    ),
]  # fmt: skip
HostPolicyOption = Annotated[
    str | None, typer.Option("--policy", metavar="PATH", help="The policy's path on the hosts.", show_default=False)
]
ExtraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--extra-vars", "-e", metavar="NAME=VALUE",
        help="A variable of the roles, over the inventory's; or JSON, or @FILE with JSON. Nothing secret.",
        show_default=False,
    ),
]  # fmt: skip
VaultOption = Annotated[
    list[Path] | None,
    typer.Option("--vault-password-file", metavar="PATH", help="As Ansible's; may be repeated.", show_default=False),
]
BecomeOption = Annotated[
    Path | None, typer.Option("--become-password-file", metavar="PATH", help="As Ansible's.", show_default=False)
]
EnvironmentOption = Annotated[
    list[str] | None,
    typer.Option(
        "--pass-environment", metavar="NAME", help="Let Ansible have this variable of the environment, too.",
        show_default=False,
    ),
]  # fmt: skip
DryRunOption = Annotated[bool, typer.Option("--dry-run", "-n", help="Ansible's check mode: say what would be done.")]
OnControlOption = Annotated[
    bool,
    typer.Option("--on-control", help="Here, with /etc/trinity-snap/hosts/HOST.yml; no host needs to be reachable."),
]


@dataclass(frozen=True)
class Common:
    """The options of all commands of the fleet, as they were given; some commands have not all of them."""

    inventory: InventoryOption = None
    limit: LimitOption = None
    forks: ForksOption = 20
    batch: BatchOption = None
    max_failures: MaxFailuresOption = None
    extra: ExtraOption = None
    vault: VaultOption = None
    become: BecomeOption = None
    environment: EnvironmentOption = None
    dry_run: DryRunOption = False
    policy: HostPolicyOption = None
    as_json: JsonOption = False
    quiet: QuietOption = False

    def run(self, action: str, own: Mapping[str, object]) -> int:
        """Run it, show how it goes on, print what became of it, and give the exit code.

        Of `own`, the variables of the command's own options, those that were not given leave the inventory's alone.
        """
        from trinity_snap.fleet import ACTIONS, FleetRequest, parse_batches, parse_threshold, run_fleet
        from trinity_snap.fleet.request import parse_variables

        if not self.inventory:
            raise UsageError(
                "Which hosts? Give an inventory.",
                untouched="Nothing was done.",
                next_step="-i INVENTORY, as Ansible's.",
            )
        variables = parse_variables(self.extra or []) | {name: value for name, value in own.items() if value}
        if self.policy is not None:
            variables["trinity_snap_policy"] = self.policy
        request = FleetRequest(
            ACTIONS[action],
            tuple(self.inventory),
            self.limit,
            variables,
            self.forks,
            () if self.batch is None else parse_batches(self.batch),
            None if self.max_failures is None else parse_threshold(self.max_failures),
            self.dry_run,
            tuple(self.vault or ()),
            self.become,
            tuple(self.environment or ()),
        )
        with watching(quiet=self.quiet) as watcher:
            result = run_fleet(request, watcher)
        emit(result.to_json(), lambda: _lines(result), self.as_json)
        return result.exit_code()


def _lines(result: FleetResult) -> Iterator[str]:
    from trinity_snap.fleet.model import OUTCOMES

    rows = [
        (
            host.host,
            host.outcome,
            "-" if host.duration_seconds is None else seconds(host.duration_seconds),
            str(len(host.agents)) if host.agents else "-",
            "yes" if host.changed else "no",
        )
        for host in result.hosts
    ]
    yield from table(("HOST", "OUTCOME", "TOOK", "AGENTS", "CHANGED"), rows, right=(3,))
    yield ""
    if result.action == "status":
        for host in result.hosts:
            for agent in host.agents:
                words = (str(agent.get("created") or "never"), str(agent.get("consistency") or ""))
                yield f"{host.host}: {agent.get('agent')}: {' '.join(filter(None, words))}"
    for host in result.hosts:
        if host.message:
            yield f"{host.host}: {host.message}"
        if host.recovery:
            yield f"{host.host}: {host.recovery}"
    if result.stopped:
        yield result.stopped
    if result.signal is not None:
        yield "Interrupted. Hosts that were at work were recovered as far as they could be reached; see above."
    counts = ", ".join(f"{result.count(outcome)} {outcome}" for outcome in OUTCOMES if result.count(outcome))
    yield f"{plural(len(result.hosts), 'host')} in {seconds(result.duration_seconds)}: {counts}."
