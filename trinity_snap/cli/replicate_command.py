"""`trinity-snap replicate`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
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
from trinity_snap.cli.output import emit, plural, seconds, size
from trinity_snap.cli.progress import watched
from trinity_snap.cli.recorded import recorded
from trinity_snap.errors import (
    ForeignRepository,
    IntegrityError,
    KeyFileError,
    PointMissing,
    SomeFailed,
    UsageError,
)

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy
    from trinity_snap.replication import ReplicaResult
    from trinity_snap.replication.copying import Needs

app = new_app()

_DAMAGED_SHOWN = 20


@app.command()
def replicate(
    replicas: Annotated[
        list[str] | None, typer.Argument(metavar="[REPLICA]...", help="Only these replicas.", show_default=False)
    ] = None,
    despite_damage: Annotated[
        bool,
        typer.Option("--despite-damage", help="Copy points, too, of which packs are damaged or missing at the target."),
    ] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Begin a replica anew that is empty and was not before.")
    ] = False,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Bring the replicas of the repository up to date.

    Sealed objects are copied as they are; no key is needed, and nothing is ever deleted. Interrupted, it goes on where it
    was. The policy's time limits do not hold here.
    """
    from trinity_snap.replication import replicate as bring_up_to_date

    settings = load(policy)
    if not settings.replicas:
        raise UsageError(
            "The policy has no replicas.", next_step="Add `replicas:` to it; docs/policy.md says what they may have."
        )
    from trinity_snap.trinity.entitlements import require, uses_of_places

    chosen = [settings.replica(name) for name in replicas] if replicas else settings.replicas
    require(settings, uses_of_places([replica.url for replica in chosen]))
    needs = _needs(settings, Unlock(identity, passphrase_file, trinity_key_file))
    with recorded(settings, "replicate", quiet=quiet) as run:
        with watched(quiet=quiet) as progress:
            results = bring_up_to_date(
                settings, replicas or (), progress, needs=needs, despite_damage=despite_damage, anew=anew
            )
        run.replicated(results)
    emit({"replicas": [result.to_json() for result in results]}, lambda: _lines(results), as_json)
    if any(result.damaged for result in results):
        return IntegrityError.exit_code
    return 0 if all(result.good for result in results) else SomeFailed.exit_code


def _needs(policy: Policy, unlock: Unlock) -> Needs | None:
    """What says which packs a point needs; None where there is no identity that opens without a question."""
    from trinity_snap.cli.secrets import may_open_unasked

    path = unlock.identity or policy.keys.identity
    if path is None or (unlock.identity is None and not path.exists()):
        return None
    if unlock.identity is None and not may_open_unasked(path, unlock.passphrase_file, unlock.trinity_key_file):
        return None
    try:
        repository = open_repository(policy, unlock)
    except KeyFileError:
        if unlock.identity is not None:
            raise
        return None

    def needs(point_id: str) -> Collection[bytes] | None:
        try:
            return {bytes.fromhex(pack.name) for pack in repository.read_point(point_id).pack_references()}
        except (ForeignRepository, IntegrityError, KeyFileError, PointMissing):
            return None

    return needs


def _lines(results: list[ReplicaResult]) -> Iterator[str]:
    for result in results:
        yield result.sentence()
        if result.objects:
            yield (
                f"  {plural(result.points, 'recovery point')} and what they need, {plural(result.objects, 'object')} of "
                f"{size(result.bytes)} in {seconds(result.duration_seconds)}."
            )
        if result.outcome != "done" and result.points_behind:
            yield f"  It is {plural(result.points_behind, 'recovery point')}, {size(result.bytes_behind or 0)}, behind."
        yield from (f"  {one['name']}: {one['reason']}" for one in result.damaged[:_DAMAGED_SHOWN])
        if len(result.damaged) > _DAMAGED_SHOWN:
            yield f"  and {len(result.damaged) - _DAMAGED_SHOWN} more; --json has them all."
