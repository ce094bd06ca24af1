"""`trinity-snap key pin`, `key accept` and `key host-key`: what sealed hosts and those who look after them need."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.context import Unlock, load, open_keyless, open_repository, trust_of
from trinity_snap.cli.options import (
    IdentityOption,
    JsonOption,
    PassphraseFileOption,
    PolicyOption,
    QuietOption,
    TrinityKeyFileOption,
)
from trinity_snap.cli.output import emit
from trinity_snap.errors import KeyFileError, UsageError

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy
    from trinity_snap.repository.keys import Recipient
    from trinity_snap.repository.pins import Pins
    from trinity_snap.repository.trust import Trust


def pin(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Recipient files: these and no others.")
    ] = None,
    upcoming: Annotated[
        list[Path] | None,
        typer.Option(
            "--next",
            metavar="FILE",
            help="Those that take their place: until the next `key pin`, either will do. Repeatable.",
        ),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--listed", help="Those that the repository has now. Look at `key list` first.")
    ] = False,
    single_recipient: Annotated[bool, typer.Option("--single-recipient", help="Only one recipient is enough.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Say whether anything would change.")] = False,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say to whom this host may seal. It stops if the repository has other recipients.

    To exchange recipients without missing a run: pin the new ones with --next on the host, change the repository where
    the identity is (`key add`, `key retire`), then pin only the new ones. Needs no identity.
    """
    from trinity_snap.repository.identity import load_recipient
    from trinity_snap.repository.pins import Pins
    from trinity_snap.setup.sealed import check_enough

    settings = load(policy)
    trust = trust_of(settings)
    present = _present(trust, needed=not files and not listed)
    if listed and (files or upcoming):
        raise UsageError("--listed excludes recipient files.")
    if listed:
        current = _listed(settings)
    elif files:
        current = tuple(map(load_recipient, files))
    elif upcoming and present is not None:
        current = present.recipients
    else:
        raise UsageError(
            "Whom to? Name recipient files, or --listed.", next_step="`trinity-snap key list` shows what is pinned."
        )
    coming = tuple(map(load_recipient, upcoming or ()))
    check_enough(current, single_recipient)
    if coming:
        check_enough(coming, single_recipient)
    wanted = Pins(current, () if set(coming) == set(current) else coming)
    changed = present is None or _sets(present) != _sets(wanted)
    if changed and not dry_run:
        trust.pin(wanted)
    answer = {"changed": changed, "path": None if trust.pins is None else str(trust.pins), **pins_to_json(wanted, None)}
    del answer["matches"]
    emit(answer, lambda: _pinned_lines(wanted, changed, dry_run), as_json)


def accept(policy: PolicyOption = None, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Believe the repository's list of recipients, although this host has seen a later one.

    For after an older copy of the repository was put in its place. What is pinned still holds.
    """
    from trinity_snap.repository.recipients import current_recipients

    repository = open_keyless(load(policy))
    current = current_recipients(repository.target, repository.host)
    assert repository.trust is not None
    repository.trust.accept(current, repository.id)
    answer = {"repository": repository.id.hex(), "generation": current.generation}
    emit(answer, [f"The list of generation {current.generation} holds."], as_json)


def host_key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the host key goes (0600).")],
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write the host key of the repository, for a host that has lost it. It writes recovery points, and opens none."""
    from trinity_snap.repository.identity import save_host_key

    repository = open_repository(load(policy), Unlock(identity, passphrase_file, trinity_key_file))
    save_host_key(file, repository.host)
    answer = {"host_key": str(file), "repository": repository.id.hex()}
    emit(answer, [f"{file} is the host key of the repository {repository.id.hex()}."], as_json)


def pins_to_json(pins: Pins, matches: bool | None) -> dict[str, object]:
    """Pins as `--json` shows them."""

    def group(recipients: Collection[Recipient]) -> list[dict[str, str]]:
        return [{"id": one.id, "label": one.label} for one in recipients]

    return {"recipients": group(pins.recipients), "next": group(pins.next), "matches": matches}


def pin_lines(pins: Pins, listed: Collection[Recipient]) -> Iterator[str]:
    """What there is to say of pins beside the recipients of the repository."""
    from trinity_snap.repository.pins import named

    missing = [one for one in pins.recipients if one not in listed]
    if missing:
        yield f"Pinned, and not in the repository: {named(missing)}."
    if pins.next:
        yield f"Next: {named(pins.next)}."
        if set(listed) == set(pins.next):
            yield "The repository has only those; pin them with `trinity-snap key pin FILE …`, so that the others count no more."
    if not pins.accepts(listed):
        yield "The next run stops: this host may not seal to the recipients of the repository."


def _pinned_lines(pins: Pins, changed: bool, dry_run: bool) -> Iterator[str]:
    from trinity_snap.repository.pins import named

    verb = "Would pin" if changed and dry_run else "Pinned" if changed else "Pinned already"
    yield f"{verb}: {named(pins.recipients)}."
    if pins.next:
        yield f"Next: {named(pins.next)}."


def _present(trust: Trust, *, needed: bool) -> Pins | None:
    """The pins that there are. Damaged ones are as good as none, unless they are `needed`."""
    if trust.pins is None or not trust.pins.exists():
        return None
    try:
        return trust.load()
    except KeyFileError:
        if needed:
            raise
        return None


def _listed(policy: Policy) -> tuple[Recipient, ...]:
    from trinity_snap.repository.recipients import current_recipients

    repository = open_keyless(policy)
    return current_recipients(repository.target, repository.host).recipients


def _sets(pins: Pins) -> tuple[set[Recipient], set[Recipient]]:
    return set(pins.recipients), set(pins.next)
