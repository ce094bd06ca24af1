"""`init --recipient` on a sealed host: keys to write with and recipients to seal to, and nothing that opens anything.

Interrupted at any moment it can be run again. With the host key of a lost host put in its place beforehand, it takes
over that host's repository, if that has the same recipients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trinity_snap.errors import RecipientsMismatch, RepositoryExists, UsageError
from trinity_snap.setup.home import PINS
from trinity_snap.setup.initialise import Initialised, describe, empty_or_own, host_key, open_own

if TYPE_CHECKING:
    from pathlib import Path

    from trinity_snap.repository.keys import HostSecret, Recipient
    from trinity_snap.repository.repository import Repository
    from trinity_snap.setup.home import Home
    from trinity_snap.targets import Target


def initialise_sealed(
    home: Home, given: Sequence[Recipient], beside: Sequence[Recipient], *, single_recipient: bool
) -> Initialised:
    """Make what is missing of a host that has no identity, and nothing that is there already.

    The recipients are those `given` and those that lie `beside` the policy. At least two are wanted, unless
    `single_recipient`. Raise UsageError, RecipientsMismatch, RepositoryExists, RepositoryMissing or KeyFileError, with
    everything that was there as it was.
    """
    from trinity_snap.repository.pins import Pins, save_pins
    from trinity_snap.targets.probe import probe

    pins = _place_of_pins(home)
    wanted = tuple(dict.fromkeys((*given, *beside)))
    if home.policy.keys.host_key.exists() and not home.unfinished:
        repository = open_own(home)
        if home.text is None and pins.exists():
            _same_as_pinned(pins, given)
            return describe(home, repository, (), changed=False)
        check_enough(wanted, single_recipient)
        _same_as_listed(repository, wanted)
        home.begin("init")
        protection, adopted = None, True
    else:
        check_enough(wanted, single_recipient)
        place = empty_or_own(home)
        protection, adopted = probe(place), False
        home.begin("init")
        repository = _repository(place, host_key(home.policy.keys.host_key), wanted)
    save_pins(pins, Pins(wanted))
    home.finish()
    return describe(home, repository, (), changed=True, adopted=adopted, protection=protection)


def check_enough(recipients: Sequence[Recipient], single: bool) -> None:
    """Raise UsageError if it would take the loss of one key, or of none, to lose everything."""
    if not recipients:
        raise UsageError(
            "A host without an identity needs recipients, who can open what it backs up.",
            untouched="Nothing was changed.",
            next_step="Make identities elsewhere with `trinity-snap key new FILE`, and give --recipient FILE.recipient here.",
        )
    if len(recipients) == 1 and not single:
        raise UsageError(
            "There is only one recipient: whoever loses that identity loses everything.",
            untouched="Nothing was changed.",
            next_step="Name a second one, meant for paper (`trinity-snap key words` spells it), or give --single-recipient.",
        )


def _place_of_pins(home: Home) -> Path:
    keys = home.policy.keys
    if keys.identity is not None or keys.pins is None:
        raise UsageError(
            f"With --recipient a host has no identity and is pinned to its recipients, and the policy {home.path} says "
            "otherwise.",
            untouched="Nothing was changed.",
            next_step=f"Write `identity: null` and `pins: {PINS}` under `keys:` in it, then run this again.",
        )
    return keys.pins


def _same_as_pinned(pins: Path, given: Sequence[Recipient]) -> None:
    from trinity_snap.repository.pins import load_pins, named

    pinned = load_pins(pins)
    if not set(given) <= set(pinned.recipients):
        raise UsageError(
            f"This host is initialised already, with the recipients {named(pinned.recipients)}; you named {named(given)}.",
            untouched="Nothing was changed.",
            next_step="To exchange recipients see `trinity-snap key pin --help`.",
        )


def _same_as_listed(repository: Repository, wanted: Sequence[Recipient]) -> None:
    from trinity_snap.repository.pins import named
    from trinity_snap.repository.recipients import current_recipients

    listed = current_recipients(repository.target, repository.host)
    if set(listed.recipients) != set(wanted):
        raise RecipientsMismatch(
            f"There is a repository at {repository.target.url} already, whose recipients are {named(listed.recipients)}; "
            f"you named {named(wanted)}.",
            untouched="It was left as it is.",
            next_step="Name the same ones; they can be exchanged afterwards. Or choose another target for a new repository.",
        )


def _repository(place: Target, host: HostSecret, wanted: Sequence[Recipient]) -> Repository:
    from trinity_snap.repository.repository import Repository

    try:
        return Repository.create(place, host, list(wanted))
    except RepositoryExists:  # an interrupted set-up made it
        repository = Repository.open(place, host=host)
    _same_as_listed(repository, wanted)
    return repository
