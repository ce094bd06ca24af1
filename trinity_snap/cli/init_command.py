"""`trinity-snap init`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.entitled import require_for_init
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import JsonOption, PassphraseFileOption, PolicyOption, QuietOption, TrinityKeyFileOption
from trinity_snap.cli.output import emit
from trinity_snap.errors import KeyFileError, UsageError

if TYPE_CHECKING:
    from trinity_snap.repository.keys import Identity
    from trinity_snap.setup import Initialised

app = new_app()


@app.command()
def init(
    target: Annotated[
        str | None,
        typer.Option(
            "--target", metavar="PATH|URL", help="Where the repository goes, or is. Default: as the policy says."
        ),
    ] = None,
    recipients: Annotated[
        list[Path] | None,
        typer.Option(
            "--recipient",
            metavar="FILE",
            help="A sealed host: no identity here, only these recipients can open what it backs up. Repeatable.",
        ),
    ] = None,
    single_recipient: Annotated[
        bool, typer.Option("--single-recipient", help="Only one recipient: whose identity must never be lost.")
    ] = False,
    wrap: Annotated[
        str | None,
        typer.Option(
            "--wrap", metavar="HOW", help="Protect the identity file by a passphrase, or Trinity's key (trinity)."
        ),
    ] = None,
    recovery_words_file: Annotated[
        Path | None,
        typer.Option(
            "--recovery-words-file", metavar="PATH", help="Write the words there (0600) and do not print them."
        ),
    ] = None,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take over the repository of a lost host with --identity or --from-words.")
    ] = False,
    identity: Annotated[
        Path | None, typer.Option("--identity", metavar="PATH", help="With --adopt: the identity file that opens it.")
    ] = None,
    from_words: Annotated[
        bool,
        typer.Option("--from-words", help="Adopt with the 24 recovery words, from the standard input or the terminal."),
    ] = False,
    repository_id: Annotated[
        str | None,
        typer.Option(
            "--repository-id",
            metavar="ID",
            help="With --adopt or --from-words: the id that was noted; no other will do.",
        ),
    ] = None,
    policy: PolicyOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make policy, keys and repository; or adopt a repository after the loss of its host.

    With --recipient the host is sealed: it makes backups, and cannot read them. Its identities are made elsewhere, with
    `trinity-snap key new`, and stay there.

    Run again, it changes nothing; interrupted, it can be run again. It never overwrites a key or a repository.
    """
    from trinity_snap.cli.secrets import open_identity, recovery_words, wrap_for
    from trinity_snap.policy.load import policy_path
    from trinity_snap.setup import adopt as adopt_repository
    from trinity_snap.setup import initialise

    def load(path: Path) -> Identity:
        return open_identity(path, passphrase_file, trinity_key_file)

    path = policy_path(policy)
    if recipients and (wrap is not None or recovery_words_file is not None or adopt or from_words):
        raise UsageError(
            "With --recipient there is no identity and there are no words here: --wrap, --recovery-words-file, --adopt and "
            "--from-words do not go with it."
        )
    if adopt or from_words:
        if (identity is None) == (not from_words):
            raise UsageError("To adopt a repository, give either --identity FILE or --from-words.")
        if from_words:
            from trinity_snap.repository.identity import identity_from_words

            given = identity_from_words(recovery_words(None))
        else:
            assert identity is not None
            given = load(identity)
        made = adopt_repository(
            path,
            target=target,
            identity=given,
            keep_identity=not from_words,
            repository_id=repository_id,
            wrap=lambda: wrap_for(wrap, passphrase_file, trinity_key_file),
            load=load,
        )
        emit(made.to_json(), lambda: _adopted(made), as_json)
        return
    if identity is not None or repository_id is not None:
        raise UsageError("--identity and --repository-id go with --adopt.")
    require_for_init(path, target)
    if recovery_words_file is not None and os.path.lexists(recovery_words_file):
        raise KeyFileError(f"There is a file at {recovery_words_file} already.", untouched="Nothing was changed.")

    def keep(words: Sequence[str]) -> None:
        if recovery_words_file is not None:
            write_words(recovery_words_file, words)
        elif not as_json:
            sys.stdout.write("\n".join(word_lines(words)) + "\n\n")
            sys.stdout.flush()

    made = initialise(
        path,
        target=target,
        recipients=recipients or (),
        single_recipient=single_recipient,
        wrap=lambda: wrap_for(wrap, passphrase_file, trinity_key_file),
        load=load,
        keep_words=keep,
    )
    answer = made.to_json()
    if recovery_words_file is not None and made.changed:
        answer |= {"recovery_words": None, "recovery_words_file": str(recovery_words_file)}
    emit(answer, lambda: _made(made), as_json)


def write_words(path: Path, words: Sequence[str]) -> None:
    """Write recovery words to a file that must not be there, 0600. Raise KeyFileError."""
    from trinity_snap.durable import write_file_durably

    try:
        write_file_durably(path, (" ".join(words) + "\n").encode("ascii"), replace=False)
    except OSError as error:
        raise KeyFileError(f"The recovery words cannot be written to {path}: {error.strerror}.") from error


def word_lines(words: Sequence[str]) -> Iterator[str]:
    """Recovery words, numbered, in the form in which they are written down."""
    yield "The recovery words. They open this repository when all else is lost. They are shown only now, and are"
    yield "stored nowhere: write them down, and keep the paper away from this host."
    yield ""
    for row in range(6):
        numbers = (row + 1, row + 7, row + 13, row + 19)
        yield "  " + "  ".join(f"{number:2d} {words[number - 1]:<10}" for number in numbers).rstrip()


def _made(made: Initialised) -> Iterator[str]:
    if not made.changed:
        yield f"Initialised already: policy {made.policy}, repository {made.repository} at {made.target}."
        return
    if made.adopted:
        yield "This host has taken over the repository of the host whose key it was given."
    yield f"Policy      {made.policy}"
    yield f"Repository  {made.repository} at {made.target}"
    beside = "words" if made.identity is not None else "identities"
    yield f"            (note this id with the {beside}: it tells the repository from one that somebody invents)"
    yield f"Host key    {made.host_key}"
    if made.identity is None:
        yield "Identity    none here: this host cannot read what it backs up"
        yield f"Pins        {made.pins}"
    else:
        wrapped = (
            f", wrapped by {made.wrapped_by}"
            if made.wrapped_by
            else ", not wrapped: root of this host can read backups"
        )
        yield f"Identity    {made.identity}{wrapped}"
    yield from _recipients(made)
    if made.same_disk:
        yield "Note: the repository is on the disk that holds Docker's volumes. It helps against mistakes,"
        yield "not against the loss of that disk; for that, name a place on another one with --target."
    yield from _protection(made)
    yield "Next: `trinity-snap agents` shows what is protected, `trinity-snap backup` backs it up."


def _adopted(made: Initialised) -> Iterator[str]:
    yield f"This host has taken over the repository at {made.target}. Its id is"
    yield f"  {made.repository}"
    yield "Compare it with the one that was noted: another id is another repository, whoever made it."
    yield f"Policy {made.policy}, host key {made.host_key}, identity {made.identity or 'none'}."
    yield from _recipients(made)
    yield from _protection(made)
    yield "Next: `trinity-snap list` shows what it holds, `trinity-snap restore AGENT --containers` gives it back."


def _recipients(made: Initialised) -> Iterator[str]:
    """With the ids where they matter, because labels prove nothing."""
    if made.pins is None:
        yield f"Opens for   {', '.join(label or recipient_id for recipient_id, label in made.recipients)}"
    else:
        yield "Opens for   " + ", ".join(f"{recipient_id} ({label})" for recipient_id, label in made.recipients)


def _protection(made: Initialised) -> Iterator[str]:
    """What guards a store's objects (of a directory, everybody knows that), and how the replicas are."""
    if made.protection is not None and not made.protection.local:
        for sentence in made.protection.consequences():
            yield f"Note: {sentence}"
    for replica in made.replicas:
        yield from (f"Note: {line}" for line in replica.lines())
