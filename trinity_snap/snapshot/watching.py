"""Knowing in the pause what changed since the survey, without a walk: where that is possible, and pays.

For each filesystem a `Watch` begins before the survey. What it reports, what may be written to without a report
(`writers`), and what the survey itself was not sure of, is looked at again in the pause; the rest is as it was. Whatever
casts doubt on that (lost events, hidden processes, a mount that came or went, another root) leads to a walk.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from trinity_snap.durable import write_file_durably
from trinity_snap.errors import SnapshotError
from trinity_snap.snapshot.changes import InodeIndex, Suspects
from trinity_snap.snapshot.fanotify import Unwatchable, Watch
from trinity_snap.snapshot.mounts import MountPoint, find_mount, nested_mounts, read_mounts
from trinity_snap.snapshot.protocol import SourceKey
from trinity_snap.snapshot.survey import HOT_NS, Survey
from trinity_snap.snapshot.writers import possible_writers

__all__ = ["Distrust", "Watcher"]

_MOST_SUSPECT = 0.25


class Distrust:
    """The filesystems of which this host has seen that events were missed, kept in a file. A new kernel gets a new chance."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def why(self, mount: MountPoint) -> str:
        """Why not to rely on events from that filesystem; empty if there is no reason."""
        return self._read().get(_title(mount), "")

    def add(self, mount: MountPoint, why: str) -> None:
        """Remember a reason. Raise OSError."""
        if self._path is not None:
            known = self._read() | {_title(mount): why}
            document = {"kernel": os.uname().release, "walk": known}
            write_file_durably(self._path, json.dumps(document, indent=1).encode())

    def _read(self) -> dict[str, str]:
        try:
            document = json.loads(self._path.read_bytes()) if self._path is not None else {}
            walk = document["walk"] if document["kernel"] == os.uname().release else {}
            return {str(title): str(why) for title, why in walk.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


class Watcher:
    """Watches the filesystems of some trees, given by key and root.

    It pays only if a walk would take longer than `worth_seconds` and than looking through the host's processes; 0: always.
    `walking` says why a tree has to be walked in the pause.
    """

    def __init__(self, roots: Mapping[SourceKey, Path], distrust: Distrust, worth_seconds: float) -> None:
        self._roots = dict(roots)
        self._distrust = distrust
        self._worth_seconds = worth_seconds
        self._watches: dict[int, Watch] = {}
        self._devices: dict[SourceKey, int] = {}
        self._mounts: dict[SourceKey, tuple[MountPoint, ...]] = {}
        self._surveys: dict[SourceKey, Survey] = {}
        self._suspects: dict[SourceKey, Suspects] = {}
        self.walking: dict[SourceKey, str] = {}
        self.scan_seconds = 0.0

    def start(self) -> None:
        """Begin, or begin anew. What happens from now on is known."""
        self.close()
        self.walking = {}
        mounts = read_mounts()
        for key, root in self._roots.items():
            try:
                self._start(key, root, mounts)
            except (Unwatchable, OSError) as error:
                self.walking[key] = str(error)

    def _start(self, key: SourceKey, root: Path, mounts: Sequence[MountPoint]) -> None:
        status = os.lstat(root)
        if not stat.S_ISDIR(status.st_mode):
            raise Unwatchable("it is a single file")
        if status.st_dev not in self._watches:
            mount = find_mount(root, mounts)
            if why := self._distrust.why(mount):
                raise Unwatchable(why)
            self._watches[status.st_dev] = Watch(root, mount.filesystem)
        self._devices[key] = status.st_dev
        self._mounts[key] = nested_mounts(root, mounts)

    def surveyed(self, surveys: Mapping[SourceKey, Survey]) -> None:
        """Get ready for the pause, knowing what the surveys found; give up where it does not pay."""
        self._surveys = {key: survey for key, survey in surveys.items() if key not in self.walking}
        try:
            began = time.monotonic()
            possible_writers()
            self.scan_seconds = time.monotonic() - began
        except Unwatchable as error:
            self._give_up(str(error))
        seconds = sum(survey.seconds for survey in self._surveys.values())
        if self._worth_seconds and seconds < max(self._worth_seconds, self.scan_seconds):
            self._give_up("a walk takes no longer")
        for key, survey in list(self._surveys.items()):
            suspects = Suspects(InodeIndex(survey.listing))
            most = len(survey.listing) * (_MOST_SUSPECT if self._worth_seconds else 2)
            suspects.paths.update(survey.hot)
            for path in survey.listing.younger(survey.started_ns - HOT_NS):
                suspects.paths.add(path)
                if len(suspects) > most:
                    break
            suspects.names.update(survey.doubtful, survey.listing.elsewhere())
            self._suspects[key] = suspects
            if len(suspects) > most:
                self._walk(key, "too much of it is new")
        self.collect()

    def collect(self) -> None:
        """Take in what has been reported till now, so that less is left for the pause."""
        for device, watch in self._watches.items():
            keys = [key for key in self._surveys if self._devices[key] == device]
            try:
                touched = watch.take()
                for key in keys:
                    self._suspects[key].add(touched)
            except Unwatchable as error:
                for key in keys:
                    self._walk(key, str(error))

    def suspects(self) -> dict[SourceKey, Suspects]:
        """In the pause: what to look at again, by tree. Those that are not in the answer are to be walked."""
        if not self._surveys:
            return {}
        try:
            writers = possible_writers()
        except Unwatchable as error:
            self._give_up(str(error))
            return {}
        mounts = read_mounts()
        self.collect()
        for key, survey in list(self._surveys.items()):
            try:
                if why := self._changed_outside(key, survey, mounts):
                    self._walk(key, why)
                else:
                    self._suspects[key].add_inodes(writers)
            except (SnapshotError, OSError) as error:
                self._walk(key, str(error))
        return {key: self._suspects[key] for key in self._surveys}

    def _changed_outside(self, key: SourceKey, survey: Survey, mounts: Sequence[MountPoint]) -> str:
        """What happened to a tree that its filesystem does not report; empty if nothing did. Raise SnapshotError, OSError."""
        root = self._roots[key]
        known, status = survey.listing.find(b""), os.lstat(root)
        identity = (survey.listing.device, survey.listing.identity(known)[0]) if known is not None else None
        if identity != (status.st_dev, status.st_ino):
            return "another directory has taken its place"
        if nested_mounts(root, mounts) != self._mounts[key]:
            return "something was mounted or unmounted in it"
        return ""

    def distrust(self, key: SourceKey, why: str) -> None:
        """From the next run on, walk trees on the filesystem of this one. Raise OSError."""
        self._distrust.add(find_mount(self._roots[key]), why)

    def close(self) -> None:
        """Stop watching."""
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
        self._surveys.clear()
        self._suspects.clear()

    def _walk(self, key: SourceKey, why: str) -> None:
        self.walking[key] = why
        self._surveys.pop(key, None)
        self._suspects.pop(key, None)

    def _give_up(self, why: str) -> None:
        for key in list(self._surveys):
            self._walk(key, why)
        self.close()


def _title(mount: MountPoint) -> str:
    return f"{mount.filesystem} {mount.device}"
