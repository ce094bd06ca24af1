"""Whose a volume is that several agents mount."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trinity_snap.agents.inventory import Mount
from trinity_snap.agents.rules import Claim
from trinity_snap.trinity import naming


def owners(claims: Sequence[Claim]) -> dict[str, str]:
    """Give each volume that agents mount to exactly one of them: volume name → agent name.

    The first of these that tells the candidates apart decides; every one is a property of containers and
    mounts, so that the answer is the same in every run:

    1. its rule takes the volume,
    2. it is mounted at the agent's own `shared-out` (a Trinity `-shared` volume),
    3. not below a `shared-in` directory,
    4. another volume of the agent's, mounted in its own place, has the same base name (so renamed agents
    keep theirs),
    5. the agent's name is the base name,
    6. it is mounted read-write,
    7. the container is older, 8. the agent's name comes first.
    """
    candidates: dict[str, list[tuple[Claim, Mount]]] = {}
    for claim in claims:
        for mount in claim.container.mounts:
            if mount.kind == "volume" and mount.name:
                candidates.setdefault(mount.name, []).append((claim, mount))
    bases = {claim.agent: _bases(claim) for claim in claims}
    return {
        volume: min(mounted, key=lambda pair: _rank(pair[0], pair[1], bases))[0].agent
        for volume, mounted in candidates.items()
    }


def _rank(
    claim: Claim, mount: Mount, bases: Mapping[str, frozenset[str]]
) -> tuple[bool, bool, bool, bool, bool, bool, int, str]:
    parsed = naming.parse_volume(mount.name)
    base = parsed.base if parsed else None
    shared = parsed is not None and parsed.role == "shared"
    return (
        not claim.takes(mount.name, mount.destination),
        not (shared and mount.destination == naming.SHARED_OUT),
        "/shared-in/" in mount.destination + "/",
        base not in bases[claim.agent],
        base != claim.agent,
        not mount.writable,
        claim.container.created,
        claim.agent,
    )


def _bases(claim: Claim) -> frozenset[str]:
    names = (
        naming.parse_volume(mount.name)
        for mount in claim.container.mounts
        if mount.destination in (naming.DESTINATIONS["workspace"], naming.DESTINATIONS["public"])
    )
    return frozenset(parsed.base for parsed in names if parsed)
