"""The options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PolicyOption = Annotated[
    Path | None,
    typer.Option("--policy", metavar="PATH", help="The policy to use.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object (docs/json.md).")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
IdentityOption = Annotated[
    Path | None,
    typer.Option("--identity", metavar="PATH", help="An identity file, instead of the policy's.", show_default=False),
]
PassphraseFileOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="PATH",
        help="Where the identity's passphrase is; else it is asked for.",
        show_default=False,
    ),
]
TrinityKeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--trinity-key-file",
        metavar="PATH",
        help="Where Trinity's CREDENTIAL_ENCRYPTION_KEY is; else the environment variable is used.",
        show_default=False,
    ),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="Read from this replica of the policy, instead of the first target.",
        show_default=False,
    ),
]
RemovalTargetOption = Annotated[
    str | None,
    typer.Option("--target", metavar="NAME", help="At this replica of the policy only.", show_default=False),
]
AllTargetsOption = Annotated[
    bool, typer.Option("--all-targets", help="At the first target, and then at every replica of the policy.")
]
