"""Where the copies of which source go: on its own filesystem if that can share blocks, else into one directory for all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from trinity_snap.errors import SnapshotError
from trinity_snap.quiesce.journal import Leftover
from trinity_snap.snapshot.mounts import find_mount
from trinity_snap.snapshot.protocol import STORE, Prepare, SourceKey, remove_tree
from trinity_snap.snapshot.staging import Staging

__all__ = ["Stagings"]

_SHARES_BLOCKS = frozenset({"xfs", "btrfs"})


class Stagings:
    """The staging directories of a run. Each is in the journal before it is made."""

    def __init__(
        self, default: Path, setting: Prepare, provider: str, roots: Mapping[SourceKey, Path], *, is_chosen: bool
    ) -> None:
        self._roots = dict(roots)
        self._setting = setting
        self._provider = provider
        self._is_chosen = is_chosen
        self._default = default / setting.run_id
        self._made: dict[Path, Staging] = {}
        self._of: dict[SourceKey, Staging] = {}
        self._unfit: set[Path] = set()

    def add(self, key: SourceKey) -> None:
        """Choose, and if need be make, the directory for one of the sources. Raise SnapshotError, OSError."""
        near = None if self._is_chosen else self._place_near(self._roots[key])
        staging = self._make(near) if near is not None and near not in self._unfit else None
        if near is not None and staging is not None and not staging.can_clone():
            self._remove(staging)
            self._unfit.add(near)
            staging = None
        self._of[key] = staging or self._make(self._default)

    def of(self, key: SourceKey) -> Staging:
        """The directory for a source."""
        return self._of[key]

    def path_of(self, key: SourceKey) -> Path:
        """The path of the directory for a source, or of the one for all."""
        return self._of[key].path if key in self._of else self._default

    def clear(self) -> None:
        """Forget all copies."""
        for staging in self._made.values():
            staging.clear()

    def without_room(self, hot: Mapping[SourceKey, tuple[int, Iterable[Path]]]) -> dict[SourceKey, SnapshotError]:
        """The sources whose copies would not fit besides those of the others, the smallest of which come first.

        `hot`: for each source, how many bytes have to be copied, and of which files.
        """
        failures: dict[SourceKey, SnapshotError] = {}
        reserved: dict[Path, int] = {}
        for key, (needed, files) in sorted(hot.items(), key=lambda item: item[1][0]):
            staging = self._of[key]
            try:
                staging.require_room(key[1], needed, reserved.get(staging.path, 0), files)
            except SnapshotError as error:
                failures[key] = error
                continue
            if not staging.clones:
                reserved[staging.path] = reserved.get(staging.path, 0) + needed
        return failures

    def seconds(self, hot_bytes: Mapping[SourceKey, int]) -> float:
        """About how long copying that much of each source takes."""
        return sum(self._of[key].seconds(needed) for key, needed in hot_bytes.items())

    def remove(self) -> None:
        """Remove all directories; the journal hears of each. Raise SnapshotError if one stays."""
        for staging in list(self._made.values()):
            self._remove(staging)

    def _make(self, path: Path) -> Staging:
        if path not in self._made:
            self._setting.journal.making([Leftover("staging", path, self._provider)])
            staging = Staging(path)
            self._made[path] = staging
            staging.create()
        return self._made[path]

    def _remove(self, staging: Staging) -> None:
        try:
            if staging.path.exists():
                remove_tree(staging.path, self._setting.run_id)
        except OSError as error:
            raise SnapshotError(
                f"The staging directory {staging.path} could not be removed: {error.strerror}.",
                next_step="`trinity-snap recover` tries again.",
            ) from error
        self._setting.journal.removed(staging.path)
        self._made.pop(staging.path, None)

    def _place_near(self, root: Path) -> Path | None:
        """A directory at the top of the source's filesystem, in no source; None if the default does as well, or there is none."""
        mount = find_mount(root)
        top = mount.path
        inside = any(top == other or other in top.parents for other in self._roots.values())
        if mount.filesystem not in _SHARES_BLOCKS or inside or not top.is_dir():
            return None
        above = self._default
        while not above.exists():
            above = above.parent
        if os.stat(above).st_dev == os.stat(root).st_dev:
            return None
        return top / STORE / self._setting.run_id
