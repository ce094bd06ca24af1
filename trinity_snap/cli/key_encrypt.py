"""`trinity-snap key encrypt`."""

from __future__ import annotations

from typing import Annotated

import typer

from trinity_snap.cli.context import load, require_root
from trinity_snap.cli.options import JsonOption, PolicyOption, QuietOption
from trinity_snap.cli.output import emit


def encrypt(
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Say which files would be encrypted.")] = False,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Let systemd encrypt the host key and the credentials of buckets where they are, so that only this host can open them."""
    from trinity_snap.setup.encrypt import encrypt_secret, secrets_of

    require_root("key encrypt")
    secrets = secrets_of(load(policy))
    plain = [secret for secret in secrets if not secret.encrypted]
    if not dry_run:
        for secret in plain:
            encrypt_secret(secret)
    rows = [{"file": str(one.path), "credential": one.name, "changed": not one.encrypted} for one in secrets]
    would = "would be" if dry_run else "was"
    lines = [f"{one.path} {'is encrypted already' if one.encrypted else f'{would} encrypted'}." for one in secrets]
    emit({"dry_run": dry_run, "changed": bool(plain), "files": rows}, lines, as_json)
