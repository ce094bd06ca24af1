"""`init` on a host without a repository: keys, repository, policy. Interrupted at any moment, it can be run again."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import (
    KeyFileError,
    RepositoryExists,
    RepositoryMissing,
    TargetError,
    UsageError,
)
from trinity_snap.setup.home import OPERATOR, RECOVERY, Home, find_home

if TYPE_CHECKING:
    from trinity_snap.replication.places import ReplicaCheck
    from trinity_snap.repository.identity import Wrap
    from trinity_snap.repository.keys import HostSecret, Identity, Recipient
    from trinity_snap.repository.repository import Repository
    from trinity_snap.targets import Target
    from trinity_snap.targets.probe import Protection

_DOCKER_VOLUMES = "/var/lib/docker/volumes"

WordsSink = Callable[[Sequence[str]], None]
"""Gets the recovery words, and returns only when they are where the operator will find them."""

MakeWrap = Callable[[], "Wrap | None"]
"""Says how to protect a new identity; called, and the operator asked, only if there is to be one."""


@dataclass(frozen=True)
class Initialised:
    """What there is now. `changed` is False if everything was there before; `recovery_words` then is empty.

    `same_disk` says that the target is on the filesystem that holds Docker's volumes, and will be lost with it;
    `protection` what keeps objects from being overwritten and deleted, None if that was not looked at; `replicas` which
    of the policy's replicas can be used: nothing is made there before the first replication.
    """

    policy: Path
    target: str
    repository: str
    host_key: Path
    identity: Path | None
    wrapped_by: str | None
    pins: Path | None
    recipients: tuple[tuple[str, str], ...]
    recovery_words: tuple[str, ...]
    changed: bool
    adopted: bool = False
    same_disk: bool = False
    protection: Protection | None = None
    replicas: tuple[ReplicaCheck, ...] = ()

    def to_json(self) -> dict[str, object]:
        """As `--json` shows it."""
        return {
            "changed": self.changed,
            "adopted": self.adopted,
            "policy": str(self.policy),
            "target": self.target,
            "same_disk": self.same_disk,
            "protection": None if self.protection is None else self.protection.to_json(),
            "repository": self.repository,
            "host_key": str(self.host_key),
            "identity": None if self.identity is None else str(self.identity),
            "identity_wrapped_by": self.wrapped_by,
            "pins": None if self.pins is None else str(self.pins),
            "recipients": [{"id": recipient_id, "label": label} for recipient_id, label in self.recipients],
            "recovery_words": list(self.recovery_words) or None,
            "replicas": [replica.to_json() for replica in self.replicas],
        }


def initialise(
    path: Path,
    *,
    target: str | None,
    recipients: Sequence[Path],
    single_recipient: bool,
    wrap: MakeWrap,
    load: Callable[[Path], Identity],
    keep_words: WordsSink,
) -> Initialised:
    """Make what is missing for the policy at `path`, and nothing that is there already.

    With `recipients`, files of theirs, or a policy without an identity, the host is a sealed one; see `setup.sealed`. Else
    `wrap` says how to protect a new identity, `load` opens an identity that an interrupted set-up left, `keep_words` is
    handed the recovery words before the set-up counts as done. Raise UsageError, PolicyError, RepositoryExists,
    RepositoryMissing, RecipientsMismatch or KeyFileError, with everything that was there as it was.
    """
    from trinity_snap.repository.identity import load_recipient
    from trinity_snap.targets.probe import probe

    home = find_home(path, target, sealed=bool(recipients))
    if home.unfinished == "adopt":
        raise UsageError(
            "Adopting a repository was interrupted here.",
            untouched="Nothing was changed.",
            next_step="Finish it: run `trinity-snap init --adopt` or `--from-words` again.",
        )
    given = [load_recipient(one) for one in recipients]
    beside = [load_recipient(one) for one in home.policy.recipient_files()]
    keys = home.policy.keys
    if keys.identity is None or recipients:
        from trinity_snap.setup.sealed import initialise_sealed

        return initialise_sealed(home, given, beside, single_recipient=single_recipient)
    if keys.host_key.exists() and not home.unfinished:
        return _is_there(home)
    place = empty_or_own(home)
    protection = probe(place)
    home.begin("init")
    host = host_key(keys.host_key)
    identity = _identity(keys.identity, wrap, load)
    recovery, words = _new_recovery()
    repository = _repository(place, home, host, identity, recovery, beside)
    keep_words(words)
    home.finish()
    return describe(home, repository, words, changed=True, protection=protection)


def describe_adopted(home: Home, repository: Repository) -> Initialised:
    """What there is now at `home`, after a repository was adopted."""
    from trinity_snap.targets.probe import probe

    return describe(home, repository, (), changed=True, adopted=True, protection=probe(repository.target))


def open_own(home: Home) -> Repository:
    """The repository that the host key here belongs to. Raise RepositoryMissing if it is not at the target."""
    from trinity_snap.repository.identity import load_host_key
    from trinity_snap.repository.repository import Repository
    from trinity_snap.targets import open_target

    host = load_host_key(home.policy.keys.host_key)
    try:
        return Repository.open(open_target(home.policy.target.settings()), host=host)
    except (RepositoryMissing, TargetError) as error:
        raise RepositoryMissing(
            f"There is a host key at {home.policy.keys.host_key}, but its repository is not at "
            f"{home.policy.target.url}: {str(error).rstrip('.')}.",
            untouched="Nothing was changed.",
            next_step="Mount or put right the target. For a new repository, move the host key away first.",
        ) from error


def _is_there(home: Home) -> Initialised:
    missing = "" if home.text is None else "the policy is missing"
    identity = home.policy.keys.identity
    if identity is not None and not identity.exists():
        missing = f"the identity {identity} is missing"
    repository = open_own(home)
    if missing:
        raise KeyFileError(
            f"There is a host key at {home.policy.keys.host_key}, but {missing}.",
            untouched="Nothing was changed.",
            next_step="Put it back from a copy; or move the host key away and use `trinity-snap init --adopt`.",
        )
    return describe(home, repository, (), changed=False)


def empty_or_own(home: Home) -> Target:
    """The target, made if need be. Raise RepositoryExists if it holds a repository that no host key here is for."""
    from trinity_snap.errors import ObjectMissing
    from trinity_snap.targets import open_target

    place = open_target(home.policy.target.settings(), create=True)
    if home.unfinished and home.policy.keys.host_key.exists():
        return place
    try:
        place.stat("repository")
    except ObjectMissing:
        return place
    raise RepositoryExists(
        f"There is a repository at {place.url} already, and no host key here that belongs to it.",
        untouched="Nothing was changed.",
        next_step="`trinity-snap init --adopt` takes it over with its identity or recovery words.",
    )


def host_key(path: Path) -> HostSecret:
    """The host key at `path`, made if need be."""
    from trinity_snap.repository.identity import load_host_key, save_host_key
    from trinity_snap.repository.keys import generate_host_secret

    if path.exists():
        return load_host_key(path)
    host = generate_host_secret()
    save_host_key(path, host)
    return host


def _identity(path: Path, wrap: MakeWrap, load: Callable[[Path], Identity]) -> Identity:
    from trinity_snap.repository.identity import save_identity
    from trinity_snap.repository.keys import generate_identity

    if path.exists():
        return load(path)
    identity = generate_identity(OPERATOR)
    save_identity(path, identity, OPERATOR, wrap=wrap())
    return identity


def _new_recovery() -> tuple[Recipient, tuple[str, ...]]:
    from trinity_snap.repository.identity import identity_to_words
    from trinity_snap.repository.keys import generate_identity

    identity = generate_identity(RECOVERY)
    return identity.recipient, tuple(identity_to_words(identity))


def _repository(
    place: Target,
    home: Home,
    host: HostSecret,
    identity: Identity,
    recovery: Recipient,
    extra: Sequence[Recipient],
) -> Repository:
    from trinity_snap.repository.recipients import add_recipient, current_recipients, retire_recipient
    from trinity_snap.repository.repository import Repository

    unique = {one.id: one for one in (identity.recipient, recovery, *extra)}
    try:
        return Repository.create(place, host, list(unique.values()))
    except RepositoryExists:
        repository = Repository.open(place, host=host)
    # Interrupted after the repository was made: its recovery words may never have been seen, so they go.
    before = current_recipients(place, host).recipients
    for recipient in unique.values():
        add_recipient(place, host, identity, recipient)
    for recipient in before:
        if recipient.label == RECOVERY and recipient.id not in unique:
            retire_recipient(place, host, recipient.id)
    return repository


def describe(
    home: Home,
    repository: Repository,
    words: Sequence[str],
    *,
    changed: bool,
    adopted: bool = False,
    protection: Protection | None = None,
) -> Initialised:
    """What there is now at `home`."""
    from trinity_snap.repository.identity import inspect_identity
    from trinity_snap.repository.recipients import current_recipients

    identity = home.policy.keys.identity
    current = current_recipients(repository.target, repository.host)
    replicas = _replicas(home, repository) if changed and home.policy.replicas else ()
    return Initialised(
        policy=home.path,
        target=repository.target.url,
        repository=repository.id.hex(),
        host_key=home.policy.keys.host_key,
        identity=identity,
        wrapped_by=None if identity is None else inspect_identity(identity).wrapped_by,
        pins=home.policy.keys.pins,
        recipients=tuple((recipient.id, recipient.label) for recipient in current.recipients),
        recovery_words=tuple(words),
        changed=changed,
        adopted=adopted,
        same_disk=_same_disk(home.policy.target.url),
        protection=protection,
        replicas=replicas,
    )


def _replicas(home: Home, repository: Repository) -> tuple[ReplicaCheck, ...]:
    from trinity_snap.replication import check_replicas

    return tuple(check_replicas(home.policy, repository.target.get("repository")))


def _same_disk(url: str) -> bool:
    from trinity_snap.targets import is_local, local_path

    if not is_local(url):
        return False
    try:
        return os.stat(local_path(url)).st_dev == os.stat(_DOCKER_VOLUMES).st_dev
    except OSError:
        return False
