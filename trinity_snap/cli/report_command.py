"""`trinity-snap report`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.context import Unlock, load, open_repository
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import (
    IdentityOption,
    JsonOption,
    PassphraseFileOption,
    PolicyOption,
    QuietOption,
    TrinityKeyFileOption,
)
from trinity_snap.cli.output import emit, plural, size
from trinity_snap.errors import TrinitySnapError, UsageError

if TYPE_CHECKING:
    from trinity_snap.report.picture import HostPicture

app = new_app()


@app.command()
def report(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Other hosts: their policies (.yml), or what report, status or fleet status answered (.json).",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="Where to write the page.", show_default=False),
    ] = None,
    points: Annotated[
        bool, typer.Option("--points", help="This host from its repository (with an identity), not from its journal.")
    ] = False,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """One page that says how the backups of a host, or of many, stand: HTML that needs nothing else.

    Without FILE it is about this host, from its journal of events. With policies, as on a control node, it is made from the
    hosts' repositories.
    """
    if output is None and not as_json:
        raise UsageError("Where to? Give -o report.html, or --json.")
    now = datetime.now(UTC)
    unlock = Unlock(identity, passphrase_file, trinity_key_file)
    hosts: list[HostPicture] = []
    if not sources:
        hosts.append(_from_policy(policy, unlock, now) if points else _own(policy, now))
    for path in sources or ():
        if path.suffix in (".yml", ".yaml"):
            hosts.append(_from_policy(path, unlock, now))
        else:
            from trinity_snap.report.sources import pictures_in

            hosts += pictures_in(path, now)
    written = None
    if output is not None:
        from trinity_snap.report.page import render_page

        written = render_page(hosts, now)
        _write(output, written)
    answer = {"output": None if output is None else str(output), "hosts": [host.to_json() for host in hosts]}
    wrong = sum(len(host.wrong) for host in hosts)
    agents = sum(len(host.agents) for host in hosts)
    what = f"{plural(len(hosts), 'host')}, {plural(agents, 'agent')}, {plural(wrong, 'alarm')}"
    emit(answer, lambda: [f"{output}: {what}; {size(len(written or b''))}."], as_json)
    return 0


def _own(policy: Path | None, now: datetime) -> HostPicture:
    from trinity_snap.report.sources import picture_of_host

    return picture_of_host(load(policy), now)


def _from_policy(path: Path | None, unlock: Unlock, now: datetime) -> HostPicture:
    from trinity_snap.report.sources import picture_of_repository

    settings = load(path)
    return picture_of_repository(settings, open_repository(settings, unlock), now)


def _write(path: Path, page: bytes) -> None:
    from trinity_snap.durable import write_file_durably

    try:
        write_file_durably(path, page, mode=0o644)
    except OSError as error:
        raise TrinitySnapError(f"The report could not be written to {path}: {error.strerror or error}.") from error
