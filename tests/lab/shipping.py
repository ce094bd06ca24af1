"""The least that a shipper does in the passes of the precopy provider: read everything, and say what was read."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from trinity_snap.agents import Source
from trinity_snap.snapshot.listing import ShippedTree, pack, same
from trinity_snap.snapshot.protocol import Signature
from trinity_snap.snapshot.view import SourceView


class Shipper:
    """Keeps the content of regular files by source and path, as the passes and the final view give it."""

    def __init__(self) -> None:
        self.content: dict[tuple[str, bytes], bytes] = {}
        self.passes: list[tuple[str, int, int]] = []

    def ship_pass(self, source: Source, view: SourceView, number: int) -> Mapping[bytes, Signature]:
        """Read each file between two equal stats."""
        shipped = ShippedTree()
        for item in view.walk():
            if item.stat is None or not stat.S_ISREG(item.stat.st_mode):
                continue
            try:
                descriptor = view.open(item.path)
            except OSError:
                continue
            with open(descriptor, "rb") as file:
                content = file.read()
                after = os.fstat(file.fileno())
            if same(pack(item.stat), pack(after)):
                self.content[source.name, item.path] = content
                shipped.record(item.path, item.stat)
        self.passes.append((source.name, number, len(shipped)))
        return shipped

    def finish(self, source: Source, view: SourceView, destination: Path) -> None:
        """Write out the files of the final view, from what was shipped where the view says that it holds."""
        destination.mkdir(parents=True, exist_ok=True)
        was_shipped = getattr(view, "was_shipped", lambda path: False)
        for item in view.walk():
            assert item.stat is not None, item
            target = destination / os.fsdecode(item.path)
            if stat.S_ISDIR(item.stat.st_mode):
                target.mkdir(exist_ok=True)
            elif stat.S_ISLNK(item.stat.st_mode):
                os.symlink(view.readlink(item.path), target)
            elif stat.S_ISREG(item.stat.st_mode):
                if was_shipped(item.path):
                    content = self.content[source.name, item.path]
                else:
                    with open(view.open(item.path), "rb") as file:
                        content = file.read()
                assert len(content) == item.stat.st_size, item
                target.write_bytes(content)
