"""From a view to manifest pages in a session: what has not changed is taken over, what has is read."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trinity_snap.backup.exclusion import compile_exclusion
from trinity_snap.backup.files import EntryMaker
from trinity_snap.backup.treecache import CachedPage, Signature, TreeCache, TreeFooter, TreeWriter
from trinity_snap.errors import SnapshotError
from trinity_snap.progress import Progress
from trinity_snap.repository.manifest import (
    CHUNK_ID_BYTES,
    Entry,
    PageCutter,
    PageReference,
    decode_page,
    encode_page,
    encode_root,
    sort_key,
)
from trinity_snap.repository.session import Session
from trinity_snap.snapshot.listing import ShippedTree
from trinity_snap.snapshot.view import DirectoryView, SourceView, WalkItem

__all__ = ["Shipped", "Shipper"]

_PROGRESS_BYTES = 4 * 1024 * 1024


Octets = bytes  # the structure below has a field called `bytes`


@dataclass
class Shipped:
    """What became of one volume: its manifest root, its counts, and the draft of what to remember of it.

    `again` ships it once more from its view, for when something that it relies on was condemned meanwhile.
    """

    root: Octets
    root_length: int
    entries: int
    files: int
    bytes: int
    bytes_read: int
    draft: Path
    problems: list[tuple[Octets, str]] = field(default_factory=list)
    excluded: int = 0
    again: Callable[[], Shipped] | None = None

    def replace(self, other: Shipped) -> None:
        """Become what shipping it once more gave. What was a problem the first time stays one."""
        self.root, self.root_length, self.draft = other.root, other.root_length, other.draft
        self.entries, self.files, self.bytes = other.entries, other.files, other.bytes
        self.bytes_read += other.bytes_read
        self.problems += [problem for problem in other.problems if problem not in self.problems]


class _Parent:
    """The pages of the tree that was shipped last, read alongside the walk."""

    def __init__(self, pages: Iterator[CachedPage], ordinals: Sequence[int] | None) -> None:
        self._pages = pages
        self._ordinals = ordinals
        self.page: CachedPage | None = None
        self.usable = False
        self._last_key = b""
        self._entries: dict[bytes, tuple[Signature | None, Entry]] | None = None
        self._next()

    def _next(self) -> None:
        self.page = page = next(self._pages, None)
        self._entries = None
        if page is None:
            return
        self._last_key = sort_key(page.paths[-1])
        if self._ordinals is not None:
            ordinals = self._ordinals
            page.packs = [ordinals[pack] for pack in page.packs]
        self.usable = page.fresh or -1 not in page.packs

    def advance(self, path: bytes) -> None:
        """Go on to the page that would hold `path`."""
        key = sort_key(path)
        while self.page is not None and self._last_key < key:
            self._next()

    def step(self) -> None:
        """Go on to the next page."""
        self._next()

    def find(self, path: bytes, signature: Signature) -> Entry | None:
        """The entry at `path`, if it was shipped with just this signature and all its data exists."""
        page = self.page
        if page is None or not self.usable:
            return None
        if self._entries is None:
            self._entries = dict(
                zip(page.paths, zip(page.signatures, decode_page(page.page), strict=True), strict=True)
            )
        known, entry = self._entries.get(path, (None, None))
        return entry if known is not None and known == signature else None


class Shipper:
    """Ships volumes into a session. For one thread."""

    def __init__(self, session: Session, chunker_seed: int, page_seed: int, progress: Progress) -> None:
        self._session = session
        self._page_seed = page_seed
        self._progress = progress
        self._unreported = 0
        self._path = b""
        self._maker = EntryMaker(session, chunker_seed, self._on_read)

    def _on_read(self, amount: int) -> None:
        self._unreported += amount
        if self._unreported >= _PROGRESS_BYTES:
            self._progress.advance(self._unreported, os.fsdecode(self._path))
            self._unreported = 0

    @property
    def bytes_read(self) -> int:
        """How much has been read of files so far."""
        return self._maker.bytes_read

    def ship(
        self,
        view: SourceView,
        draft: Path,
        *,
        parent: TreeCache | None,
        parent_is_draft: bool = False,
        quiet_before_ns: int,
        exclude: Sequence[str] = (),
        live: DirectoryView | None = None,
        changed: Mapping[bytes, tuple[Signature, Entry]] | None = None,
    ) -> Shipped:
        """Ship `view`.

        `quiet_before_ns`: a file whose ctime is as late as this may have changed again unseen, and is read again by the
        next run. `live`: the tree itself, when it changes while it is read; a file that changed meanwhile gets no
        signature. `changed`: entries shipped since the parent, which go before its own.

        Raise SnapshotError if the view cannot be read at all, and whatever the session raises.
        """
        writer = TreeWriter(draft)
        try:
            one_pass = _Pass(self, view, writer, parent, parent_is_draft, quiet_before_ns, exclude, live, changed or {})
            return one_pass.run()
        except BaseException:
            writer.abandon()
            raise

    def ship_changed(
        self,
        view: SourceView,
        live: DirectoryView,
        quiet_before_ns: int,
        changed: dict[bytes, tuple[Signature, Entry]],
    ) -> Mapping[bytes, tuple[int, int, int, int]]:
        """Ship the regular files that `view` shows of the tree `live`, and put their entries into `changed`.

        Return the signatures of those that were read cleanly. Files with several names are left to the pause.
        """
        clean: dict[bytes, tuple[int, int, int, int]] = {}
        for path, status, _ in view.walk():
            if status is None or not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                continue
            self._path = path
            signature = (status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size, b"")
            try:
                entry = self._maker.make(view, path, status, b"")
            except OSError:
                continue
            if status.st_ctime_ns < quiet_before_ns and is_unchanged(live, path, signature):
                changed[path] = (signature, entry)
                clean[path] = signature[:4]
        return clean

    def signatures(self, draft: Path) -> Mapping[bytes, tuple[int, int, int, int]]:
        """The signatures in a finished draft, without those of hard links, by path."""
        tree = TreeCache.open(draft)
        found = ShippedTree()
        for page in tree.pages() if tree is not None else ():
            for path, signature in zip(page.paths, page.signatures, strict=True):
                if signature is not None:
                    found.add(path, signature[:4])
        return found

    def settle(self, shipped: Shipped, cache: Path) -> set[int]:
        """After the session's flush: find the packs of every page, and remember the tree beside `cache`.

        Return the packs. Raise ChunkGone if one is missing or condemned.
        """
        session = self._session
        needed = session.packs_of((shipped.root,))
        draft = TreeCache.open(shipped.draft)
        assert draft is not None
        numbers: dict[int, int] = {}
        writer = TreeWriter(cache.with_suffix(".new"))
        try:
            for page in draft.pages():
                if page.fresh:
                    packs = session.packs_of(_chunks_of(page))
                else:
                    packs = set(page.packs)
                    session.require(packs)
                needed |= packs
                page.fresh = False
                page.packs = [numbers.setdefault(pack, len(numbers)) for pack in packs]
                writer.add(page)
            writer.finish(TreeFooter([session.index.pack_reference(pack) for pack in numbers]))
        except BaseException:
            writer.abandon()
            raise
        return needed


def is_unchanged(live: DirectoryView | None, path: bytes, signature: Signature) -> bool:
    """Whether the entry at `path` of a tree in use still has that signature. A tree at rest (None) never changes."""
    if live is None:
        return True
    try:
        now = live.lstat(path)
    except OSError:
        return False
    return (now.st_ino, now.st_ctime_ns, now.st_mtime_ns, now.st_size) == signature[:4]


def _chunks_of(page: CachedPage) -> Iterator[bytes]:
    yield page.page_id
    for entry in decode_page(page.page):
        chunks = entry.chunks
        if len(chunks) == CHUNK_ID_BYTES:
            yield chunks
        elif chunks:
            yield from entry.chunk_ids()


class _Pass:
    """One walk over one view."""

    def __init__(
        self,
        shipper: Shipper,
        view: SourceView,
        writer: TreeWriter,
        parent: TreeCache | None,
        parent_is_draft: bool,
        quiet_before_ns: int,
        exclude: Sequence[str],
        live: DirectoryView | None,
        changed: Mapping[bytes, tuple[Signature, Entry]],
    ) -> None:
        self._shipper = shipper
        self._session = shipper._session
        self._maker = shipper._maker
        self._view = view
        self._writer = writer
        self._quiet_before_ns = quiet_before_ns
        self._live = live
        self._changed = changed
        # A view of copies knows best what earlier passes shipped in just the state that it shows.
        self._was_shipped: Callable[[bytes], bool] | None = getattr(view, "was_shipped", None)
        ordinals = None
        if parent is not None and not parent_is_draft:
            ordinals = [self._session.index.ordinal_of(digest) for digest, _ in parent.footer.packs]
        self._parent = _Parent(parent.pages() if parent is not None else iter(()), ordinals)
        self._exclude = compile_exclusion(exclude)
        self._cutter = PageCutter(shipper._page_seed)
        self._signatures: list[Signature | None] = []
        self._links: dict[tuple[int, int], bytes] = {}
        # First names that could not be read -> the name that took their place.
        self._lost_links: dict[bytes, bytes] = {}
        self._last: bytes | None = None
        self._references: list[PageReference] = []
        self._shipped = Shipped(b"", 0, 0, 0, 0, 0, writer.path)
        # Walked and not yet shipped: parallel lists, consumed from `_at`.
        self._items: list[WalkItem] = []
        self._paths: list[bytes] = []
        self._walked: list[Signature] = []
        self._at = 0

    def run(self) -> Shipped:
        """Ship everything. Return the outcome."""
        walk = self._wanted(self._view.walk())
        read_before = self._maker.bytes_read
        while self._fill(walk, 1):
            if self._cutter.empty and self._take_over_page(walk):
                continue
            self._ship_one()
        if (last := self._cutter.finish()) is not None:
            self._write_page(last, cut=False)
        root = encode_root(self._references)
        shipped = self._shipped
        shipped.root, shipped.root_length = self._session.store_manifest(root), len(root)
        shipped.bytes_read = self._maker.bytes_read - read_before
        self._writer.finish(TreeFooter([]))
        return shipped

    def _wanted(self, walk: Iterator[WalkItem]) -> Iterator[WalkItem]:
        if self._exclude is None:
            return walk
        return self._without_excluded(walk, self._exclude)

    def _without_excluded(self, walk: Iterable[WalkItem], pattern: re.Pattern[str]) -> Iterator[WalkItem]:
        left_out = b"\0"
        for item in walk:
            if item.path.startswith(left_out):
                self._shipped.excluded += 1
            elif item.path and pattern.match(os.fsdecode(item.path)):
                self._shipped.excluded += 1
                left_out = item.path + b"/"
            else:
                yield item

    def _fill(self, walk: Iterator[WalkItem], wanted: int) -> bool:
        """Have at least `wanted` walked entries at hand. Return whether there are that many."""
        if len(self._paths) - self._at >= wanted:
            return True
        if self._at:
            del self._items[: self._at], self._paths[: self._at], self._walked[: self._at]
            self._at = 0
        items, paths, walked, links = self._items, self._paths, self._walked, self._links
        want = max(wanted, 512)
        for item in walk:
            status = item.stat
            if status is None:
                self._problem(item.path, item.error)
                continue
            link = b""
            if status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
                link = links.setdefault((status.st_dev, status.st_ino), item.path)
                if link is item.path:
                    link = b""
            items.append(item)
            paths.append(item.path)
            walked.append((status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size, link))
            if len(paths) >= want:
                break
        return len(paths) >= wanted

    def _take_over_page(self, walk: Iterator[WalkItem]) -> bool:
        """Take the parent's next page over, if the walk finds just what it says. Return whether it did."""
        parent = self._parent
        parent.advance(self._paths[self._at])
        page = parent.page
        if page is None or not parent.usable or page.first_path != self._paths[self._at]:
            return False
        count = len(page.paths)
        if not self._fill(walk, count):
            return False
        at = self._at
        if self._walked[at : at + count] != page.signatures or self._paths[at : at + count] != page.paths:
            return False
        if not page.cut and self._fill(walk, count + 1):
            return False
        if self._was_shipped is not None and not all(map(self._was_shipped, page.paths)):
            return False
        if self._lost_links or not self._changed.keys().isdisjoint(page.paths):
            return False
        self._require_order(page.paths[0], page.paths[-1])
        self._at += count
        self._shipped.entries += count
        self._shipped.files += page.files
        self._shipped.bytes += page.bytes
        self._references.append(PageReference(page.first_path, page.page_id, len(page.page), count))
        self._writer.add(page)
        parent.step()
        return True

    def _ship_one(self) -> None:
        at = self._at
        self._at = at + 1
        item, signature = self._items[at], self._walked[at]
        path = self._shipper._path = item.path
        status = item.stat
        assert status is not None
        link = signature[4]
        if link and link in self._lost_links:
            link = self._lost_links[link]
        self._parent.advance(path)
        entry = self._known_entry(path, signature) if link == signature[4] else None
        known: Signature | None = signature
        bare = False
        if entry is None:
            try:
                entry = self._maker.make(self._view, path, status, link)
            except OSError as error:
                if status.st_nlink > 1:
                    self._lost_links.setdefault(signature[4] or path, b"")
                if not path:
                    raise
                if self._live is None or not isinstance(error, FileNotFoundError):
                    self._problem(path, error)
                if not stat.S_ISDIR(status.st_mode):
                    return
                # What is in the directory needs it.
                entry = self._maker.bare_directory(path, status)
                bare = True
        self._require_order(path, path)
        if bare:
            known = None
        elif link != signature[4]:
            self._lost_links[signature[4]] = link or path
            known = None
        if status.st_ctime_ns >= self._quiet_before_ns or not is_unchanged(self._live, path, signature):
            known = None
        shipped = self._shipped
        shipped.entries += 1
        if entry.type in "fh":
            shipped.files += 1
            shipped.bytes += entry.size
        self._signatures.append(known)
        page = self._cutter.add(entry)
        if page is not None:
            self._write_page(page, cut=True)

    def _require_order(self, first: bytes, last: bytes) -> None:
        """See that what comes next comes after what came before: no reader takes a manifest where it does not."""
        if self._last is not None and sort_key(first) <= sort_key(self._last):
            raise SnapshotError(
                f"The view of the volume shows {os.fsdecode(first)!r} after {os.fsdecode(self._last)!r}.",
                untouched="No recovery point was made of it.",
                next_step="Check the filesystem: a directory seems to hold a name twice.",
            )
        self._last = last

    def _known_entry(self, path: bytes, signature: Signature) -> Entry | None:
        if self._was_shipped is not None and not self._was_shipped(path):
            return None
        changed = self._changed.get(path)
        if changed is not None and changed[0] == signature:
            return changed[1]
        return self._parent.find(path, signature)

    def _write_page(self, entries: list[Entry], *, cut: bool) -> None:
        page = encode_page(entries)
        page_id = self._session.store_manifest(page)
        signatures, self._signatures = self._signatures, []
        self._references.append(PageReference(entries[0].path, page_id, len(page), len(entries)))
        self._writer.add(
            CachedPage(
                entries[0].path,
                page_id,
                page,
                sum(entry.type in "fh" for entry in entries),
                sum(entry.size for entry in entries),
                True,
                cut,
                [],
                [entry.path for entry in entries],
                signatures,
            )
        )

    def _problem(self, path: bytes, error: OSError | None) -> None:
        reason = (error.strerror or str(error)) if error is not None else "unknown"
        self._shipped.problems.append((path, reason))
        self._shipper._progress.note(f"{os.fsdecode(path)} could not be backed up: {reason}.")
