"""The precopy provider: a view of one instant on any filesystem, without any help from it.

Before the pause, *passes* over the live tree ship most of the data, until little changes between them or no
less than before. During the pause, what may have changed since is looked at with `lstat`; what no pass has
shipped in its present state is copied aside. Afterwards the view is the listing of that instant, with each
file's content either shipped already (`PrecopyView.was_shipped`) or in the staging directory.

Why an unchanged signature (inode, ctime, mtime, size) means unchanged content:

- Every `write`, `truncate`, rename over, chmod, or xattr change sets ctime, and nobody can set it back.
- A store through a shared mapping sets ctime only when it makes a *clean* page dirty. So each pass starts
  with `syncfs`, which cleans all pages: the first store after that is seen.
- ctime has the grain of the kernel's tick, and is set when a `write` starts, not when it ends. A file whose
  ctime is not at least `HOT_NS` older than the start of the pass that read it is therefore never taken as
  shipped by that pass (Git calls such entries “racily clean”). `HOT_NS` is two seconds, much longer than a
  tick, so that one long `write` fits in.
- Filesystems where this does not hold (memory, network, FUSE) are not trusted: everything is copied in the
  pause.

Why not everything is looked at in the pause (`watching`): on ext4 and xfs the kernel reports what is touched
from before the survey on, and the few files that can change without a report are known. Elsewhere, and
whenever there is a doubt, the whole tree is walked in the pause. After the pause the live tree is walked in any case:
what is older than the instant and yet not as the view says was missed. Then the view is not of one
instant (`PrecopyProvider.doubt`), the entries are named, and this host walks in the pause from then on.

The instant is that of the pause. Without one (mode `none`, or after the budget was exceeded), each file is
consistent in itself, and no two files are of the same moment.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import SnapshotError
from trinity_snap.quiesce.steps import step
from trinity_snap.snapshot.instant import Instant, find_missed, take_difference, take_instant
from trinity_snap.snapshot.mounts import find_mount, nested_mounts, real_path
from trinity_snap.snapshot.precopied import PrecopyView
from trinity_snap.snapshot.protocol import TORN, Deadline, Kept, Prepare, SourceKey, source_key
from trinity_snap.snapshot.staging import STAGING_FAILED
from trinity_snap.snapshot.stagings import Stagings
from trinity_snap.snapshot.survey import HOT_NS, ChangedView, Layer, Survey, survey
from trinity_snap.snapshot.syncfs import syncfs
from trinity_snap.snapshot.view import DirectoryView, SourceView
from trinity_snap.snapshot.watching import Distrust, Watcher

if TYPE_CHECKING:
    from trinity_snap.agents.model import Source

NAME = "precopy"
_UNTRUSTED = ("tmpfs", "ramfs", "nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse", "virtiofs")
_SETTLED = 0.9
_MOST_SHOWN = 3
_WALK_SHARE = 0.5  # of the time of a survey, which reads extended attributes, too
_LONG_WALK_SECONDS = 1.0


@dataclass(frozen=True)
class Settings:
    """How the provider works: where copies go, and when to stop making passes.

    With `is_chosen` the copies go to `staging` and nowhere else; without, to the source's own filesystem where that can share
    blocks. `distrust` is the file that remembers where events were missed. `watch_from_seconds`: a tree that is walked
    in less is walked in the pause, too; 0: none is.
    """

    staging: Path
    max_passes: int = 3
    settle_bytes: int = 64 << 20
    is_chosen: bool = False
    distrust: Path | None = None
    watch_from_seconds: float = 0.1


class PrecopyProvider:
    """Makes views of sources on any filesystem. See `trinity_snap.snapshot.protocol.Provider`."""

    name = NAME
    atomic = False

    def __init__(self, sources: Sequence[Source], settings: Settings) -> None:
        self.sources = tuple(sources)
        self._settings = settings
        self._failures: dict[SourceKey, SnapshotError] = {}
        self._roots: dict[SourceKey, Path] = {}
        self._trusted: dict[SourceKey, bool] = {}
        for source in sources:
            try:
                root = real_path(source.path)
                self._trusted[source_key(source)] = not _is_untrusted(root)
                self._roots[source_key(source)] = root
            except SnapshotError as error:
                self._failures[source_key(source)] = error
        self._layers: dict[SourceKey, list[Layer]] = {key: [] for key in self._roots}
        self._surveys: dict[SourceKey, Survey] = {}
        self._instants: dict[SourceKey, Instant] = {}
        self._watcher = Watcher(self._roots, Distrust(settings.distrust), settings.watch_from_seconds)
        self._stagings: Stagings | None = None
        self._setting: Prepare | None = None
        self._instant_ns = 0
        self._missed: dict[SourceKey, list[bytes]] | None = None
        self._problems: dict[SourceKey, list[tuple[bytes, str]]] = {}
        self.passes = 0
        self.copied_bytes = 0

    @property
    def walking(self) -> Mapping[SourceKey, str]:
        """The sources that were, or will be, walked in the pause, and why."""
        return self._watcher.walking

    @property
    def doubt(self) -> str:
        """Why the views may not be of one instant, as was found out after the snapshot; empty if nothing says so."""
        shown = [os.fsdecode(path) for paths in (self._missed or {}).values() for path in paths]
        if not shown:
            return ""
        return f"a change before the instant was not noticed ({', '.join(shown[:_MOST_SHOWN])})"

    def failures(self) -> Mapping[SourceKey, SnapshotError]:
        """The sources that there is no view of."""
        return self._failures

    def prepare(self, setting: Prepare) -> None:
        """Make passes until little changes between them, then see that the rest fits into the staging directory."""
        self._setting = setting
        self._stagings = Stagings(
            self._settings.staging, setting, NAME, self._roots, is_chosen=self._settings.is_chosen
        )
        for key, _ in self._working():
            try:
                self._stagings.add(key)
            except (SnapshotError, OSError) as error:
                self._fail(key, error)
        hot_before: int | None = None
        while setting.ship_pass is not None:
            started = self._pass(setting)
            hot = self._survey_all()
            settled = hot_before is not None and hot > hot_before * _SETTLED
            if hot <= self._settings.settle_bytes or self.passes >= self._settings.max_passes or settled:
                break
            hot_before = hot
            # What is only fresh, and not changing, is known for sure by a pass that starts later.
            time.sleep(max(0.0, HOT_NS / 1e9 - (time.monotonic() - started)))
        if setting.ship_pass is None:
            self._survey_all()
        self._failures |= self._stagings.without_room(self._hot())
        self._watcher.surveyed({key: self._surveys[key] for key, _ in self._working()})
        self._warn_of_long_pause(setting)
        for layers in self._layers.values():
            layers.clear()  # the surveys know all that is needed from here on

    def flush(self) -> None:
        """Write the sources' dirty pages, so that the copies do not wait for the disk behind others' data."""
        for key, root in _one_of_each_filesystem(self._working()):
            try:
                syncfs([root])
            except SnapshotError as error:
                self._fail(key, error)
        self._watcher.collect()

    def snapshot(self, deadline: Deadline) -> None:
        """Record every tree and copy what is hot."""
        stagings = self._require_stagings()
        stagings.clear()
        self._instants.clear()
        self._instant_ns = time.time_ns()
        suspects = self._watcher.suspects()
        for key, root in self._working():
            staging, before = stagings.of(key), self._surveys[key]
            try:
                if key in suspects:
                    self._instants[key] = take_difference(root, before, suspects[key], staging, deadline)
                else:
                    self._instants[key] = take_instant(root, before, staging, deadline)
            except (SnapshotError, OSError) as error:
                self._fail(key, error)
            step("first-snapshot")
        self.copied_bytes = sum(instant.copied_bytes for instant in self._instants.values())
        deadline.check()

    def view(self, source: Source) -> PrecopyView:
        """The tree of a source as of the snapshot. `snapshot` cannot be called any more after this."""
        key = source_key(source)
        if key in self._failures:
            raise self._failures[key]
        if self._missed is None:
            self._check()
        return PrecopyView(self._roots[key], self._instants[key], self._require_stagings().of(key))

    def problems(self, source: Source) -> Sequence[tuple[bytes, str]]:
        """What is on other filesystems or in subvolumes, was written to while it was copied, or changed unnoticed.

        The provider then forgets the tree, which may be large; a view that was got before goes on showing it.
        """
        key = source_key(source)
        if key not in self._problems:
            self._problems[key] = self._find_problems(key) if key in self._roots else []
            self._instants.pop(key, None)
        return self._problems[key]

    def release(self) -> None:
        """Remove the staging directories; the journal hears of it."""
        self._watcher.close()
        self._instants.clear()
        step("before-release")
        if self._stagings is not None:
            self._stagings.remove()
            self._stagings = None
            step("half-released")

    def _find_problems(self, key: SourceKey) -> list[tuple[bytes, str]]:
        root = self._roots[key]
        found = [
            (
                os.fsencode(mount.path.relative_to(root)),
                f"another filesystem ({mount.filesystem}) is mounted here",
            )
            for mount in nested_mounts(root)
        ]
        instant = self._instants.get(key)
        unsteady = instant.unsteady if instant else []
        mounted = {path for path, _ in found}
        for path in instant.listing.elsewhere() if instant else ():
            if path not in mounted:
                found.append((path, "a subvolume of its own is here, which only the provider btrfs can back up"))
        missed = (self._missed or {}).get(key, ())
        found += [(path, "it changed unnoticed before the snapshot, which shows an older state") for path in missed]
        return found + [(path, TORN) for path in unsteady]

    def keepable(self) -> Sequence[Kept]:
        """Nothing: what it copied is only what changed meanwhile, and no tree."""
        return ()

    def keep(self) -> None:
        """Keep nothing."""

    def check(self, source: Source) -> None:
        """A view consists of copies, and of what is shipped already: nothing can take it away."""

    def _working(self) -> list[tuple[SourceKey, Path]]:
        return [(key, root) for key, root in self._roots.items() if key not in self._failures]

    def _fail(self, key: SourceKey, error: SnapshotError | OSError) -> None:
        """Go on without a source."""
        if isinstance(error, OSError):
            place = self._require_stagings().path_of(key)
            failure = SnapshotError(
                f"Copying changed files of “{key[1]}” to {place} failed: {error.strerror}.",
                next_step="Set `snapshot: precopy: staging:` in the policy to a directory with more room."
                if error.errno in STAGING_FAILED
                else "The kernel log (`dmesg`) may show why.",
            )
            failure.__cause__ = error
        else:
            failure = error
        self._failures[key] = failure

    def _pass(self, setting: Prepare) -> float:
        assert setting.ship_pass is not None
        self.passes += 1
        setting.progress.stage(f"pass {self.passes} over the live data")
        started, started_ns = time.monotonic(), time.time_ns()
        self._watcher.close()  # what happens in a pass is seen by the survey after it
        self.flush()
        for source in self.sources:
            key = source_key(source)
            known = self._surveys.get(key)
            if key in self._failures or (known is not None and not known.hot):
                continue
            root = self._roots[key]
            view = DirectoryView(root, live=True) if known is None else ChangedView(root, known)
            try:
                shipped = setting.ship_pass(source, view, self.passes)
            except SnapshotError as error:
                self._fail(key, error)
                continue
            if self._trusted[key]:
                self._layers[key].append(Layer(shipped, started_ns))
        return started

    def _survey_all(self) -> int:
        self._watcher.start()
        for key, root in self._working():
            try:
                self._surveys[key] = survey(root, self._layers[key])
            except SnapshotError as error:
                self._fail(key, error)
        return sum(self._surveys[key].hot_bytes for key, _ in self._working())

    def _hot(self) -> dict[SourceKey, tuple[int, Iterable[Path]]]:
        """How much has to be copied of each source as things are, and which files that is."""
        return {
            key: (
                self._surveys[key].hot_bytes,
                [root / os.fsdecode(path) if path else root for path in self._surveys[key].hot],
            )
            for key, root in self._working()
        }

    def _warn_of_long_pause(self, setting: Prepare) -> None:
        """Tell why the pause may get long, if it may."""
        hot = {key: self._surveys[key].hot_bytes for key, _ in self._working()}
        walks = {key: self._surveys[key].seconds * _WALK_SHARE for key in hot if key in self._watcher.walking}
        for key, walk_seconds in walks.items():
            if walk_seconds > _LONG_WALK_SECONDS:
                why = self._watcher.walking[key]
                setting.progress.note(f"All of “{key[1]}” is looked at during the pause: {why}.")
        seconds = self._require_stagings().seconds(hot) + sum(walks.values()) + self._watcher.scan_seconds
        if setting.budget_seconds is not None and seconds > setting.budget_seconds:
            setting.tell(
                f"The budget of {setting.budget_seconds:g} s of pause will hardly suffice: copying the {sum(hot.values()) >> 20} "
                f"MiB that keep changing, and looking for what else changed, takes about {seconds:.0f} s."
            )

    def _check(self) -> None:
        """Walk the live trees that were not walked in the pause, and find what escaped."""
        self._watcher.close()
        self._missed = {}
        for key, root in self._working():
            instant, before = self._instants[key], self._surveys.pop(key)
            if key in self._watcher.walking:
                continue
            instant.complete(before)
            try:
                missed = list(find_missed(root, instant, self._instant_ns))
                if missed:
                    self._missed[key] = missed
                    self._distrust(key, missed)
            except (SnapshotError, OSError):
                continue  # it is gone by now: the view shows what it was

    def _distrust(self, key: SourceKey, missed: Sequence[bytes]) -> None:
        why = f"a change of {os.fsdecode(missed[0])} in {self._roots[key]} was missed"
        try:
            self._watcher.distrust(key, why)
        except OSError as error:
            why += f" (and that could not be kept in mind: {error.strerror})"
        if self._setting is not None:
            self._setting.tell(
                f"The kernel did not report every change of “{key[1]}”: {why}. From the next run on, everything is "
                "looked at during the pause there."
            )

    def _require_stagings(self) -> Stagings:
        if self._stagings is None:
            raise SnapshotError("The provider “precopy” was not prepared, or was released already.")
        return self._stagings


def _one_of_each_filesystem(roots: Sequence[tuple[SourceKey, Path]]) -> Iterator[tuple[SourceKey, Path]]:
    devices: set[int] = set()
    for key, root in roots:
        device = os.stat(root).st_dev if root.exists() else 0
        if device not in devices:
            yield key, root
        if device:
            devices.add(device)


def _is_untrusted(root: Path) -> bool:
    filesystem = find_mount(root).filesystem
    return filesystem in _UNTRUSTED or filesystem.startswith("fuse.")


__all__ = ["NAME", "PrecopyProvider", "PrecopyView", "Settings", "SourceView"]
