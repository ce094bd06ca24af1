"""`trinity-snap key`: list, add, retire, rotate, wrap, unwrap, words, new; and what `key_pins` has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.context import Unlock, identity_needed, load, open_repository, open_somehow, trust_of
from trinity_snap.cli.group import new_app
from trinity_snap.cli.init_command import word_lines, write_words
from trinity_snap.cli.key_encrypt import encrypt
from trinity_snap.cli.key_pins import accept, host_key, pin, pin_lines, pins_to_json
from trinity_snap.cli.options import (
    IdentityOption,
    JsonOption,
    PassphraseFileOption,
    PolicyOption,
    QuietOption,
    TrinityKeyFileOption,
)
from trinity_snap.cli.output import emit, plural, table
from trinity_snap.errors import UsageError

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy
    from trinity_snap.repository.keys import Identity
    from trinity_snap.repository.repository import Repository

app = new_app(help="Who can open the repository; identities, wrapping, recovery words.", no_args_is_help=True)

WrapOption = Annotated[
    str | None,
    typer.Option("--wrap", metavar="HOW", help="passphrase, or trinity (Trinity's key).", show_default=False),
]
NewPassphraseFileOption = Annotated[
    Path | None,
    typer.Option("--new-passphrase-file", metavar="PATH", help="Where the new passphrase is.", show_default=False),
]


@app.command("list")
def list_keys(
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """To whom new recovery points are sealed, which key is here, and to whom this host is pinned."""
    from trinity_snap.repository.identity import inspect_identity
    from trinity_snap.repository.recipients import current_recipients

    settings = load(policy)
    repository = open_somehow(settings, Unlock(identity, passphrase_file, trinity_key_file))
    current = current_recipients(repository.target, repository.host)
    path = identity or settings.keys.identity
    here = inspect_identity(path) if path is not None and path.exists() else None
    trust = trust_of(settings)
    pins = trust.load()
    seen = trust.seen(repository.id)
    answer = {
        "repository": repository.id.hex(),
        "generation": current.generation,
        "recipients": [
            {"id": one.id, "label": one.label, "here": here is not None and here.id == one.id}
            for one in current.recipients
        ],
        "identity": None
        if here is None
        else {"path": str(path), "id": here.id, "label": here.label, "wrapped_by": here.wrapped_by},
        "pins": None if pins is None else pins_to_json(pins, pins.accepts(current.recipients)),
        "generation_seen": None if seen < 0 else seen,
        "damaged": list(current.damaged),
    }
    rows = [
        (
            one.id,
            one.label,
            str(path) if here is not None and here.id == one.id else "-",
            "-" if pins is None else "yes" if one in pins.recipients else "next" if one in pins.next else "NO",
        )
        for one in current.recipients
    ]
    lines = table(("RECIPIENT", "LABEL", "IDENTITY HERE", "PINNED"), rows)
    if here is not None and here.wrapped_by:
        lines.append(f"The identity here is wrapped by {here.wrapped_by}.")
    if pins is not None:
        lines += pin_lines(pins, current.recipients)
    if current.generation < seen:
        lines.append(f"This list is of generation {current.generation}; this host has seen generation {seen}.")
    lines += [f"{name} is damaged or forged and was passed over." for name in current.damaged]
    emit(answer, lines, as_json)


@app.command()
def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recipient file, as `key new` writes it.")],
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Let somebody open all recovery points, those that exist and those to come."""
    from trinity_snap.repository.identity import load_recipient
    from trinity_snap.setup import add as add_to

    recipient = load_recipient(file)
    repository, mine = _open(load(policy), Unlock(identity, passphrase_file, trinity_key_file))
    current = add_to(repository, mine, recipient)
    answer = {
        "added": recipient.id,
        "label": recipient.label,
        "generation": current.generation,
        "unreadable_sessions": list(current.unreadable_sessions),
    }
    lines = [f"{recipient.label or recipient.id} can open every recovery point now."]
    if current.unreadable_sessions:
        lines = [f"{recipient.label or recipient.id} was added."]
        lines.append(
            f"{plural(len(current.unreadable_sessions), 'earlier run')} stay closed: they could not be opened."
        )
    emit(answer, lines, as_json)


@app.command()
def retire(
    recipient: Annotated[str, typer.Argument(metavar="ID", help="A recipient's id, from `key list`.")],
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Seal nothing more to a recipient. What there is already stays readable for whoever has the identity."""
    from trinity_snap.setup import retire as retire_all

    repository = open_somehow(load(policy), Unlock(identity, passphrase_file, trinity_key_file))
    current = retire_all(repository, [recipient])
    answer = {"retired": recipient, "generation": current.generation}
    emit(answer, [f"{recipient} is retired; what was sealed to it before stays readable for its holder."], as_json)


@app.command()
def rotate(
    recovery: Annotated[bool, typer.Option("--recovery", help="The recovery words, instead of the identity.")] = False,
    recovery_words_file: Annotated[
        Path | None, typer.Option("--recovery-words-file", metavar="PATH", help="Write the words there (0600).")
    ] = None,
    wrap: WrapOption = None,
    new_passphrase_file: NewPassphraseFileOption = None,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Put a new identity in the place of this host's, or new recovery words in the place of the old."""
    from trinity_snap.cli.secrets import wrap_for
    from trinity_snap.repository.identity import inspect_identity
    from trinity_snap.setup import retire as retire_all
    from trinity_snap.setup import rotate_identity, rotate_recovery

    settings = load(policy)
    repository, mine = _open(settings, Unlock(identity, passphrase_file, trinity_key_file))
    if recovery:
        rotated, old = rotate_recovery(repository, mine)
        if recovery_words_file is not None:
            write_words(recovery_words_file, rotated.recovery_words)
        elif not as_json:
            sys.stdout.write("\n".join(word_lines(rotated.recovery_words)) + "\n\n")
            sys.stdout.flush()
        retire_all(repository, old)
        answer = rotated.to_json()
        if recovery_words_file is not None:
            answer |= {"recovery_words": None, "recovery_words_file": str(recovery_words_file)}
        emit(answer, ["The earlier recovery words open nothing that is made from now on."], as_json)
        return
    path = identity or settings.keys.identity
    assert path is not None
    if wrap is None and inspect_identity(path).wrapped_by is not None:
        raise UsageError(
            f"The identity {path} is wrapped; say with --wrap how the new one is to be.",
            untouched="Nothing was changed.",
        )
    rotated = rotate_identity(
        repository, mine, path, wrap=wrap_for(wrap, new_passphrase_file or passphrase_file, trinity_key_file)
    )
    lines = [f"{path} is a new identity, {rotated.added}. The earlier one opens nothing that is made from now on."]
    emit(rotated.to_json(), lines, as_json)


@app.command()
def wrap(
    how: Annotated[str, typer.Argument(metavar="HOW", help="passphrase, or trinity (Trinity's key).")],
    new_passphrase_file: NewPassphraseFileOption = None,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Protect this host's identity file by a passphrase, or by Trinity's CREDENTIAL_ENCRYPTION_KEY."""
    from trinity_snap.cli.secrets import wrap_for
    from trinity_snap.repository.identity import save_identity

    path, mine = _load(policy, Unlock(identity, passphrase_file, trinity_key_file))
    way = wrap_for(how, new_passphrase_file or passphrase_file, trinity_key_file)
    save_identity(path, mine, mine.label, wrap=way, overwrite=True)
    emit({"identity": str(path), "id": mine.recipient.id, "wrapped_by": how}, [f"{path} is wrapped by {how}."], as_json)


@app.command()
def unwrap(
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take the protection from this host's identity file."""
    from trinity_snap.repository.identity import save_identity

    path, mine = _load(policy, Unlock(identity, passphrase_file, trinity_key_file))
    save_identity(path, mine, mine.label, overwrite=True)
    answer = {"identity": str(path), "id": mine.recipient.id, "wrapped_by": None}
    emit(answer, [f"{path} is not wrapped any more: root of this host can read backups."], as_json)


@app.command()
def words(
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show this host's identity as 24 words, to write down. Whoever has them can open the repository."""
    from trinity_snap.repository.identity import identity_to_words

    _, mine = _load(policy, Unlock(identity, passphrase_file, trinity_key_file))
    spelled = identity_to_words(mine)
    lines = [" ".join(spelled[start : start + 6]) for start in range(0, 24, 6)]
    emit({"id": mine.recipient.id, "label": mine.label, "words": spelled}, lines, as_json)


@app.command()
def new(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where the identity goes; FILE.recipient goes beside it.")
    ],
    label: Annotated[str, typer.Option("--label", metavar="NAME", help="A name for people.")] = "operator",
    from_words: Annotated[
        bool, typer.Option("--from-words", help="Not a new one: the one of 24 words, from the standard input.")
    ] = False,
    wrap: WrapOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make an identity and its recipient file, for `init --recipient` and `key add`. Needs no policy."""
    from trinity_snap.cli.secrets import recovery_words, wrap_for
    from trinity_snap.repository.identity import identity_from_words, save_identity, save_recipient
    from trinity_snap.repository.keys import Recipient, generate_identity

    made = identity_from_words(recovery_words(None), label) if from_words else generate_identity(label)
    beside = file.with_name(f"{file.name}.recipient")
    save_identity(file, made, label, wrap=wrap_for(wrap, passphrase_file, trinity_key_file))
    save_recipient(beside, Recipient(made.recipient.public, label))
    answer = {
        "identity": str(file),
        "recipient": str(beside),
        "id": made.recipient.id,
        "label": label,
        "wrapped_by": wrap,
    }
    emit(answer, [f"Identity   {file} (keep it secret)", f"Recipient  {beside} (give it to hosts)"], as_json)


app.command("pin")(pin)
app.command("accept")(accept)
app.command("host-key")(host_key)
app.command("encrypt")(encrypt)


def _load(policy: Path | None, unlock: Unlock) -> tuple[Path, Identity]:
    """The identity that is named, or else the policy's: only then is a policy needed."""
    from trinity_snap.cli.secrets import open_identity

    path = unlock.identity
    if path is None:
        settings = load(policy)
        path = settings.keys.identity
        if path is None:
            raise identity_needed(settings)
    return path, open_identity(path, unlock.passphrase_file, unlock.trinity_key_file)


def _open(policy: Policy, unlock: Unlock) -> tuple[Repository, Identity]:
    repository = open_repository(policy, unlock)
    assert repository.identity is not None  # or it would have raised
    return repository, repository.identity
