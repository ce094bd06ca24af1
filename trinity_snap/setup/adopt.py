"""`init --adopt`: a fresh host takes over the repository of one that is lost, with an identity that opens it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import ForeignRepository, KeyFileError, UsageError
from trinity_snap.setup.home import OPERATOR, RECOVERY, find_home
from trinity_snap.setup.initialise import Initialised, MakeWrap, describe_adopted

if TYPE_CHECKING:
    from trinity_snap.repository.keys import HostSecret, Identity


def adopt(
    path: Path,
    *,
    target: str | None,
    identity: Identity,
    keep_identity: bool,
    wrap: MakeWrap,
    load: Callable[[Path], Identity],
    repository_id: str | None = None,
) -> Initialised:
    """Recover the host secret with `identity`, and write host key, identity and policy, as far as they are missing.

    With `keep_identity` the host keeps `identity` itself. Without (it is the one on paper), the host gets a new
    identity, which becomes a recipient of all that the old one opens. `repository_id` (32 hex digits), if given, is
    the only one that will do: anybody can make a repository for a public key. Raise WrongKey if the identity does not
    open the repository, ForeignRepository if it has another id, KeyFileError if there are other keys here; nothing is
    changed then.
    """
    from trinity_snap.repository.identity import load_host_key, save_host_key
    from trinity_snap.repository.pins import Pins, save_pins
    from trinity_snap.repository.recipients import add_recipient, current_recipients
    from trinity_snap.repository.repository import Repository
    from trinity_snap.targets import open_target

    home = find_home(path, target)
    keys = home.policy.keys
    repository = Repository.open(open_target(home.policy.target.settings()), identity=identity)
    if repository_id is not None and repository.id.hex() != repository_id.strip().lower():
        raise ForeignRepository(
            f"The repository at {home.policy.target.url} has the id {repository.id.hex()}, not {repository_id}.",
            untouched="Nothing was changed.",
            next_step="See that the target is the right one. If it is, somebody has put another repository there.",
        )
    if keys.identity is None and keep_identity:
        raise UsageError(
            f"The policy {path} has `keys: identity: null`, so there is no place to keep the identity.",
            untouched="Nothing was changed.",
        )
    if keys.host_key.exists() and not _same(load_host_key(keys.host_key), repository.host):
        raise KeyFileError(
            f"The host key {keys.host_key} belongs to another repository.",
            untouched="Nothing was changed.",
            next_step="Move it away if it is not needed any more, or name another policy with --policy.",
        )
    mine: Identity | None = None
    if keys.identity is not None and keys.identity.exists():
        mine = load(keys.identity)
        if keep_identity and mine.recipient.id != identity.recipient.id:
            raise KeyFileError(
                f"The identity {keys.identity} is another one than the one given.",
                untouched="Nothing was changed.",
                next_step="Move it away if it is not needed any more.",
            )
    home.begin("adopt")
    if not keys.host_key.exists():
        save_host_key(keys.host_key, repository.host)
    if keys.identity is not None:
        if mine is None:
            mine = _saved(keys.identity, identity if keep_identity else None, wrap)
        add_recipient(repository.target, repository.host, identity, mine.recipient)
    if keys.pins is not None and not keys.pins.exists():
        save_pins(keys.pins, Pins(current_recipients(repository.target, repository.host).recipients))
    home.finish()
    return describe_adopted(home, repository)


def _same(one: HostSecret, other: HostSecret) -> bool:
    return one.secret == other.secret and one.repository_id == other.repository_id


def _saved(path: Path, given: Identity | None, wrap: MakeWrap) -> Identity:
    from trinity_snap.repository.identity import save_identity
    from trinity_snap.repository.keys import generate_identity

    identity = given or generate_identity(OPERATOR)
    label = OPERATOR if identity.label in ("", RECOVERY) else identity.label
    save_identity(path, identity, label, wrap=wrap())
    return identity
