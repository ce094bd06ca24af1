"""`trinity-snap repair`."""

from __future__ import annotations

from collections.abc import Iterator
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
from trinity_snap.cli.progress import watched
from trinity_snap.cli.recorded import recorded
from trinity_snap.errors import IntegrityError, TrinitySnapError

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy
    from trinity_snap.repository.repair import RepairReport, Source
    from trinity_snap.repository.repository import Repository

app = new_app()


@app.command()
def repair(
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show what would be done; change nothing.")] = False,
    replicas: Annotated[
        list[str] | None,
        typer.Option(
            "--from", metavar="NAME", help="Take from this replica only. Repeatable; else from all.", show_default=False
        ),
    ] = None,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Repair what is missing or was found damaged, from replicas and from what is there. Only adds; nothing is deleted.

    Run `trinity-snap verify --read-data` first: it finds what does not show otherwise, and the next backup heals most.
    """
    from trinity_snap.repository.repair import repair as repair_repository

    settings = load(policy)
    repository = open_repository(settings, Unlock(identity, passphrase_file, trinity_key_file))
    notes: list[str] = []
    sources = list(_sources(settings, repository, replicas, notes))
    with recorded(settings, "repair", quiet=quiet, dry_run=dry_run) as run, watched(quiet=quiet) as progress:
        report = repair_repository(repository, sources, dry_run=dry_run, progress=progress)
        run.ended(good=report.good, stored=report.bytes_stored)
    report.notes[:0] = notes
    emit(_answer(report), lambda: _lines(report), as_json)
    return 0 if report.good else IntegrityError.exit_code


def _sources(policy: Policy, repository: Repository, names: list[str] | None, notes: list[str]) -> Iterator[Source]:
    from trinity_snap.replication.places import open_replica
    from trinity_snap.repository.repair import Source
    from trinity_snap.repository.repository import Repository as Opened

    chosen = [policy.replica(name) for name in names] if names else policy.replicas
    for replica in chosen:
        try:
            target = open_replica(policy, replica)
            opened = Opened.open(target, host=repository.host, identity=repository.identity)
        except TrinitySnapError as error:
            notes.append(f"Nothing was taken from replica {replica.name}: {error.message}")
            continue
        yield Source(replica.name, opened)


def _answer(report: RepairReport) -> dict[str, object]:
    return {
        "dry_run": report.dry_run,
        "good": report.good,
        "brought_back": [{"name": name, "from": source} for name, source in report.brought_back.items()],
        "stored_anew": [{"name": name, "from": source} for name, source in report.stored_anew.items()],
        "recommitted": [{"id": old, "new_id": new or None} for old, new in report.recommitted.items()],
        "indexed_packs": report.indexed_packs,
        "bytes_stored": report.bytes_stored,
        "unrepaired": [{"name": name, "reason": reason} for name, reason in report.unrepaired.items()],
        "notes": report.notes,
    }


def _lines(report: RepairReport) -> Iterator[str]:
    would = "would be" if report.dry_run else "was"
    for name, source in report.brought_back.items():
        yield f"{name} {would} brought back from {source}."
    for name, source in report.stored_anew.items():
        yield f"{name} is damaged: what it held {would} stored anew, from {source}."
    for old, new in report.recommitted.items():
        yield f"Recovery point {old[:8]} is damaged: it {would} stored anew{f' as {new[:8]}' if new else ''}."
        if new:
            yield f"  `trinity-snap forget {old}` removes the damaged one."
    if report.indexed_packs:
        yield f"{plural(report.indexed_packs, 'pack')} {would} taken into the index again."
    for name, reason in report.unrepaired.items():
        yield f"NOT REPAIRED: {name}: {reason}"
    yield from report.notes
    done = len(report.brought_back) + len(report.stored_anew) + len(report.recommitted) + report.indexed_packs
    if not done and not report.unrepaired:
        yield "Nothing needs repair, as far as checks have found."
    elif report.bytes_stored:
        yield f"{size(report.bytes_stored)} stored."
