"""What trinity-snap writes, the reader that shares no code with it gives back, and it takes nothing else."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import random
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3
from mnemonic import Mnemonic
from msgspec.structs import replace

from trinity_snap.backup.engine import backup_tree
from trinity_snap.errors import WrongKey
from trinity_snap.repository.documents import sign_document
from trinity_snap.repository.identity import PassphraseWrap, TrinityWrap, save_identity
from trinity_snap.repository.keys import HostSecret, Identity, generate_host_secret, generate_identity
from trinity_snap.repository.manifest import Entry, PageReference, encode_page, encode_root
from trinity_snap.repository.points import RecoveryPoint, Volume, encode_pack_references
from trinity_snap.repository.recipients import add_recipient, recipient_entries
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.words import identity_to_words
from trinity_snap.targets import open_target

READER = Path(__file__).resolve().parents[2] / "scripts" / "read_repository.py"
ROOT = os.geteuid() == 0


class Made:
    """A repository with one recovery point of a tree, and its identity file."""

    def __init__(self, directory: Path, tree: Path) -> None:
        self.directory = directory / "repository"
        self.tree = tree
        self.identity: Identity = generate_identity("operator")
        self.identity_file = directory / "identity.key"
        save_identity(self.identity_file, self.identity, "operator")
        self.target = open_target(str(self.directory), create=True)
        self.host = generate_host_secret()
        self.repository = Repository.create(self.target, self.host, [self.identity.recipient])
        self.cache = directory / "cache"
        self.point = self.backup()

    def backup(self) -> str:
        return backup_tree(self.repository, self.cache, self.tree, agent="tree").id

    def read(self, *arguments: str, stdin: str = "", environment: dict[str, str] | None = None, key: str = ""):
        keys = [key] if key else ["--identity", str(self.identity_file)]
        return subprocess.run(
            [sys.executable, "-I", str(READER), str(self.directory), *keys, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | (environment or {}),
        )

    def objects(self, kind: str) -> list[Path]:
        return sorted(path for path in (self.directory / kind).rglob("*") if path.is_file())


def rich_tree(root: Path) -> None:
    """A tree with everything that the manifest can say."""
    rng = random.Random(7)
    root.mkdir()
    (root / "text").mkdir()
    for number in range(300):
        (root / "text" / f"note {number}.txt").write_text(f"line {number}\n" * rng.randint(0, 400))
    (root / "media.bin").write_bytes(rng.randbytes(5_000_000))
    (root / "again.bin").write_bytes((root / "media.bin").read_bytes()[:3_000_000])
    (root / "empty").write_bytes(b"")
    (root / "empty directory").mkdir()
    deep = root
    for level in range(60):
        deep = deep / f"d{level}"
        deep.mkdir()
    (deep / "bottom").write_text("deep")
    (root / "b").mkdir()
    os.link(root / "media.bin", root / "b" / "other name")
    (root / "z" / "inside").mkdir(parents=True)
    os.link(root / "b" / "other name", root / "z" / "inside" / "third name")
    for name, target in (("link", "media.bin"), ("absolute", "/etc/passwd"), ("broken", "../../nowhere")):
        os.symlink(target, root / name)
    with open(root / "sparse", "wb") as file:
        file.truncate(3 << 30)
        file.seek(1 << 30)
        file.write(b"island" * 10_000)
        file.seek((2 << 30) + 12_345)
        file.write(b"another")
    with open(root / "holes only", "wb") as file:
        file.truncate(10 << 20)
    (Path(os.fsdecode(os.fsencode(root) + b"/latin \xe9\xff"))).write_text("not UTF-8")
    (root / "a!b").write_text("sorts between a and a/b if done wrong")
    (root / "a").mkdir()
    (root / "a" / "b").write_text("in a")
    (root / "-rf *\n\x1b[31m").write_text("odd name")
    os.mkfifo(root / "fifo")
    (root / "script").write_text("#!/bin/sh\n")
    os.chmod(root / "script", 0o4755)
    os.chmod(root / "empty", 0o000)
    os.chmod(root / "empty directory", 0o1777)
    os.setxattr(root / "script", "user.note", b"\0value\xff")
    os.setxattr(root / "a", "user.directory", b"x")
    if ROOT:
        os.mknod(root / "device", stat.S_IFCHR | 0o640, os.makedev(7, 300))
        os.chown(root / "text" / "note 1.txt", 1000, 1001)
        os.chown(root / "broken", 1234, 5678, follow_symlinks=False)
        os.setxattr(root / "script", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.utime(root / "text" / "note 2.txt", ns=(5, 1_234_567_890_123_456_789))
    os.utime(root / "text" / "note 3.txt", ns=(5, -1_500_000_000))
    os.utime(root / "link", ns=(5, 987_654_321_000_000_123), follow_symlinks=False)
    os.utime(root / "a", ns=(5, 1_111_111_111_111_111_111))


def describe(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything about a tree that a backup has to bring back, by path."""
    found: dict[bytes, tuple[object, ...]] = {}
    inodes: dict[int, bytes] = {}
    top = os.fsencode(root)
    paths = [top]
    for directory, directories, names in os.walk(top):
        paths += [os.path.join(directory, name) for name in directories + names]
    for path in sorted(paths):
        status = os.lstat(path)
        relative = path[len(top) + 1 :]
        content: object = ""
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in _xattrs(path)}
        first = inodes.setdefault(status.st_ino, relative)
        owner = (status.st_uid, status.st_gid)
        size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        found[relative] = (
            status.st_mode,
            owner,
            status.st_mtime_ns,
            size,
            status.st_rdev,
            first,
            content,
            xattrs,
        )
    return found


def _xattrs(path: bytes) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


@pytest.fixture
def small(tmp_path: Path) -> Made:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "one").write_text("first file\n" * 100)
    (tree / "two").write_bytes(random.Random(1).randbytes(700_000))
    (tree / "three").write_bytes(random.Random(2).randbytes(700_000))
    return Made(tmp_path, tree)


def test_it_imports_nothing_of_trinity_snap() -> None:
    names = set()
    for node in ast.walk(ast.parse(READER.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"blake3", "cryptography", "zstandard"}


def test_it_gives_back_exactly_what_was_backed_up(tmp_path: Path) -> None:
    rich_tree(tmp_path / "tree")
    made = Made(tmp_path, tmp_path / "tree")
    before = describe(made.tree)

    done = made.read("restore", made.point, str(tmp_path / "back"))

    assert done.returncode == 0, done.stderr
    assert describe(tmp_path / "back" / "tree") == before
    sparse = (tmp_path / "back" / "tree" / "sparse").stat()
    assert sparse.st_blocks * 512 < 1 << 20


def test_it_reads_a_second_point_that_shares_data_with_the_first(small: Made, tmp_path: Path) -> None:
    (small.tree / "one").write_text("changed")
    os.unlink(small.tree / "two")
    second = small.backup()

    assert small.read("restore", "latest", str(tmp_path / "new")).returncode == 0
    assert small.read("restore", small.point[:8], str(tmp_path / "old")).returncode == 0

    assert second != small.point
    assert sorted(os.listdir(tmp_path / "new" / "tree")) == ["one", "three"]
    assert sorted(os.listdir(tmp_path / "old" / "tree")) == ["one", "three", "two"]


def test_it_needs_no_index(small: Made, tmp_path: Path) -> None:
    for path in small.objects("index"):
        path.unlink()
    assert small.read("restore", "latest", str(tmp_path / "back")).returncode == 0
    assert describe(tmp_path / "back" / "tree") == describe(small.tree)


def test_list_and_show_say_what_there_is(small: Made) -> None:
    listed = small.read("list")
    assert listed.returncode == 0, listed.stderr
    assert small.point in listed.stdout
    assert "tree" in listed.stdout
    shown = small.read("show", small.point)
    assert shown.returncode == 0, shown.stderr
    assert [line.split()[-1] for line in shown.stdout.splitlines()[-3:]] == ["one", "three", "two"]


def test_the_words_open_it(small: Made) -> None:
    words = " ".join(identity_to_words(small.identity))
    assert small.point in small.read("list", key="--words-stdin", stdin=words).stdout
    exchanged = " ".join(reversed(words.split()))
    refused = small.read("list", key="--words-stdin", stdin=exchanged)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr


def test_every_word_of_the_list_means_what_it_should() -> None:
    mnemonic = Mnemonic("english")
    seeds = [
        (sum((start + place) % 2048 << 11 * (23 - place) for place in range(23)) >> 8).to_bytes(32, "big")
        for start in range(0, 2048, 23)
    ]
    phrases = [mnemonic.to_mnemonic(seed) for seed in seeds]
    assert set(" ".join(phrases).split()) == set(mnemonic.wordlist)
    program = "import sys; sys.path.insert(0, sys.argv[1]); import read_repository as reader\n"
    program += "for line in sys.stdin: print(reader.seed_from_words(line).hex())"
    done = subprocess.run(
        [sys.executable, "-c", program, str(READER.parent)],
        input="\n".join(phrases),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [seed.hex() for seed in seeds]


def test_an_identity_wrapped_with_the_key_of_trinity_opens_it(small: Made) -> None:
    key = "0123456789abcdef" * 4
    small.identity_file.unlink()
    save_identity(small.identity_file, small.identity, "operator", wrap=TrinityWrap(key))
    opened = small.read("list", environment={"CREDENTIAL_ENCRYPTION_KEY": key})
    assert small.point in opened.stdout
    assert small.read("list", environment={"CREDENTIAL_ENCRYPTION_KEY": key[::-1]}).returncode == 1
    assert small.read("list", environment={"CREDENTIAL_ENCRYPTION_KEY": "short"}).returncode == 1


def test_an_identity_wrapped_with_a_passphrase_opens_it(small: Made) -> None:
    small.identity_file.unlink()
    save_identity(small.identity_file, small.identity, "operator", wrap=PassphraseWrap("open sesame"))
    assert small.point in small.read("list", stdin="open sesame\n").stdout
    assert small.read("list", stdin="something else\n").returncode == 1


def test_a_recipient_that_joined_later_reads_old_and_new_points(small: Made, tmp_path: Path) -> None:
    late = generate_identity("late")
    add_recipient(small.target, small.host, small.identity, late.recipient)
    newer = small.backup()
    small.identity_file.unlink()
    save_identity(small.identity_file, late, "late")
    listed = small.read("list")
    assert listed.returncode == 0, listed.stderr
    assert small.point in listed.stdout
    assert newer in listed.stdout
    assert small.read("restore", small.point, str(tmp_path / "back")).returncode == 0


def test_a_foreign_identity_opens_nothing(small: Made) -> None:
    small.identity_file.unlink()
    save_identity(small.identity_file, generate_identity("stranger"), "stranger")
    refused = small.read("list")
    assert refused.returncode == 1
    assert "recipients" in refused.stderr


@pytest.mark.parametrize("kind", ["repository", "sessions", "points", "packs"])
def test_a_flipped_bit_anywhere_is_noticed(small: Made, tmp_path: Path, kind: str) -> None:
    rng = random.Random(kind)
    paths = [small.directory / "repository"] if kind == "repository" else small.objects(kind)
    for number in range(6):
        path = rng.choice(paths)
        good = path.read_bytes()
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        _overwrite(path, bytes(bad))
        done = small.read("restore", small.point, str(tmp_path / f"back {number}"))
        assert done.returncode in (1, 90), (path, done.stdout)
        assert "Traceback" not in done.stderr
        _overwrite(path, good)


@pytest.mark.parametrize("kind", ["sessions", "points", "packs"])
def test_a_truncated_object_is_noticed(small: Made, tmp_path: Path, kind: str) -> None:
    for number, keep in enumerate((0, 1, 71, 72, 0.5, -1)):
        path = small.objects(kind)[0]
        good = path.read_bytes()
        _overwrite(path, good[: int(len(good) * keep)] if keep == 0.5 else good[: int(keep)])
        done = small.read("restore", small.point, str(tmp_path / f"back {number}"))
        assert done.returncode == 90
        assert "Traceback" not in done.stderr
        _overwrite(path, good)


def test_damage_to_one_chunk_costs_one_file(small: Made, tmp_path: Path) -> None:
    # Long enough that some chunk has a segment of its own, wherever the host's seed cuts; small ones share theirs.
    (small.tree / "two").write_bytes(random.Random(3).randbytes(8_000_000))
    point = small.backup()
    repository = Repository.open(small.target, identity=small.identity)
    reader = repository.reader(repository.read_point(point))
    entry = reader.entry(reader.point.volumes[0], b"two")
    assert entry is not None
    segment = max(reader.plan_reads(entry.chunk_ids()), key=lambda read: read.length)
    path = small.directory / segment.pack
    bad = bytearray(path.read_bytes())
    bad[segment.offset + 100] ^= 1
    _overwrite(path, bytes(bad))

    done = small.read("restore", point, str(tmp_path / "back"))

    assert done.returncode == 90
    assert sorted(os.listdir(tmp_path / "back" / "tree")) == ["one", "three"]
    assert "tree: two" in done.stderr


@pytest.mark.parametrize("how", ["a bit", "missing"])
def test_what_other_packs_hold_as_well_is_read_from_there(small: Made, tmp_path: Path, how: str) -> None:
    packs = set(small.objects("packs"))
    small.cache = tmp_path / "another-cache"
    for path in small.objects("index"):  # without it, the next run stores everything anew
        path.unlink()
    second = small.backup()
    for path in packs:  # of the first point
        data = path.read_bytes()
        _overwrite(path, data[:200] + bytes([data[200] ^ 1]) + data[201:])
        if how == "missing":
            path.unlink()
    assert small.point != second

    done = small.read("restore", small.point, str(tmp_path / "back"))

    assert done.returncode == 90, "there is damage, and it is reported"
    assert describe(tmp_path / "back" / "tree") == describe(small.tree)


def test_points_of_another_host_secret_are_refused(small: Made, tmp_path: Path) -> None:
    """Another writer with the same recipients and repository id cannot slip a point or session in."""
    other_directory = tmp_path / "other"
    other_directory.mkdir()
    other = Made(other_directory, small.tree)
    for kind in ("sessions", "points"):
        for path in other.objects(kind):
            data = path.read_bytes().replace(other.repository.id, small.repository.id)
            data = data.replace(other.repository.id.hex().encode(), small.repository.id.hex().encode())
            (small.directory / kind / path.name).write_bytes(data)
    listed = small.read("list")
    assert listed.returncode == 90
    assert small.point in listed.stdout
    assert other.point not in listed.stdout


def invent(small: Made, directory: Path, host: HostSecret) -> Repository:
    """A whole repository, sealed to the public keys of another one's recipients by somebody who has no identity."""
    invented = Repository.create(open_target(str(directory), create=True), host, [small.identity.recipient])
    (tree := directory.parent / "invented tree").mkdir()
    (tree / "one").write_text("never was there")
    small.directory, small.point = directory, backup_tree(invented, directory.parent / "c", tree, agent="tree").id
    return invented


def test_an_invented_repository_cannot_have_the_id_of_the_real_one(small: Made, tmp_path: Path) -> None:
    real = small.repository.id
    invented = invent(small, tmp_path / "invented", HostSecret(os.urandom(32), real))

    with pytest.raises(WrongKey):
        Repository.open(invented.target, identity=small.identity)
    for arguments in (["list"], ["--repository-id", real.hex(), "restore", "latest", str(tmp_path / "back")]):
        refused = small.read(*arguments)
        assert refused.returncode == 90
        assert "somebody else" in refused.stderr
        assert small.point not in refused.stdout
    assert not (tmp_path / "back").exists()


def test_an_invented_repository_is_told_by_its_id(small: Made, tmp_path: Path) -> None:
    real = small.repository.id
    listed = small.read("--repository-id", real.hex(), "list")
    assert listed.returncode == 0
    assert small.point in listed.stdout

    invented = invent(small, tmp_path / "invented", generate_host_secret())

    opened = Repository.open(invented.target, identity=small.identity)
    assert opened.id == invented.id != real
    assert small.point in small.read("list").stdout
    refused = small.read("--repository-id", real.hex(), "list")
    assert refused.returncode == 1
    assert invented.id.hex() in refused.stderr
    assert refused.stdout == ""


def test_forged_lists_of_recipients_are_passed_over_and_reported(small: Made) -> None:
    """Whatever somebody without the host secret puts there, one who joined later still gets in."""
    late = generate_identity("late")
    add_recipient(small.target, small.host, small.identity, late.recipient)
    small.identity_file.unlink()
    save_identity(small.identity_file, late, "late")
    forger = HostSecret(os.urandom(32), small.repository.id)
    payload = {"id": forger.repository_id.hex(), "created": "x", "generation": 9}
    payload |= {"recipients": recipient_entries(forger, [late.recipient])}
    forged = sign_document("recipients", payload, forger.mac_key)
    for number, data in enumerate([forged, forged.replace(b'"version": 1', b'"version": 2'), b"nothing\n"]):
        (small.directory / "recipients" / f"{number:032x}").write_bytes(data)

    listed = small.read("list")

    assert listed.returncode == 90
    assert small.point in listed.stdout
    assert [f"recipients/{number:032x}" in listed.stderr for number in range(3)] == [True] * 3


def test_a_name_that_is_twice_in_a_document_is_refused(small: Made) -> None:
    path = small.directory / "repository"
    _overwrite(path, path.read_bytes().replace(b'{"format"', b'{"id": "00", "format"'))
    refused = small.read("list")
    assert refused.returncode == 90
    assert "twice" in refused.stderr


def test_a_version_that_it_does_not_know_is_refused(small: Made) -> None:
    path = small.directory / "repository"
    line, mac = path.read_bytes().splitlines()
    document = json.loads(line) | {"version": 2}
    _overwrite(path, json.dumps(document).encode() + b"\n" + mac + b"\n")
    refused = small.read("list")
    assert refused.returncode == 1
    assert "version 2" in refused.stderr


def test_names_of_another_shape_are_ignored(small: Made) -> None:
    for name in ("points/README", "points/.tmp-1234", f"points/{'A' * 32}", "sessions/x"):
        (small.directory / name).write_text("nothing")
    listed = small.read("list")
    assert listed.returncode == 0
    assert listed.stderr == ""


def test_the_destination_must_be_new(small: Made, tmp_path: Path) -> None:
    (tmp_path / "back").mkdir()
    refused = small.read("restore", "latest", str(tmp_path / "back"))
    assert refused.returncode == 1
    assert os.listdir(tmp_path / "back") == []


def _overwrite(path: Path, data: bytes) -> None:
    os.chmod(path, 0o600)
    path.write_bytes(data)


def forge(made: Made, entries: list[Entry], volume: str = "tree") -> str:
    """A recovery point that the true host wrote, with entries that no honest walk could have found."""
    with made.repository.begin_session(made.cache) as session:
        page = encode_page(entries)
        reference = PageReference(entries[0].path, session.store(page), len(page), len(entries))
        root = encode_root([reference])
        root_id = session.store(root)
        chunks = [root_id, reference.page_id, *(chunk for entry in entries for chunk in entry.chunk_ids())]
        session.store(b"data")
        session.flush()
        packs = session.packs_of(chunks)
        fields = Volume(
            name=volume,
            kind="volume",
            root=root_id,
            root_length=len(root),
            entries=len(entries),
            files=1,
            bytes=4,
        )
        return session.commit(
            RecoveryPoint(
                agent="tree",
                host="local",
                run_id="0" * 32,
                created_ns=1,
                mode="none",
                provider="none",
                consistency="file-consistent",
                pause_ns=0,
                files=1,
                bytes=4,
                volumes=[fields],
                packs=encode_pack_references([session.index.pack_reference(pack) for pack in packs]),
            )
        )


def _d(path: bytes) -> Entry:
    return Entry(path, "d", 0o755, 0, 0, 1)


def _f(made: Made, path: bytes) -> Entry:
    chunk = blake3(b"data", key=made.host.chunk_id_key).digest()
    return Entry(path, "f", 0o644, 0, 0, 1, 4, chunk)


def _l(path: bytes, target: bytes) -> Entry:
    return Entry(path, "l", 0o777, 0, 0, 1, target=target)


def _h(path: bytes, target: bytes) -> Entry:
    return Entry(path, "h", 0o644, 0, 0, 1, target=target)


HOSTILE: dict[str, Callable[[Made, bytes], list[Entry]]] = {
    "dot-dot": lambda made, out: [_d(b""), _f(made, b"../escaped")],
    "dot-dot inside": lambda made, out: [_d(b""), _d(b"a"), _f(made, b"a/../../escaped")],
    "absolute": lambda made, out: [_d(b""), _f(made, out + b"/escaped")],
    "through a link": lambda made, out: [_d(b""), _l(b"a", out), _f(made, b"a/escaped")],
    "link in place of a directory": lambda made, out: [
        _d(b""),
        _d(b"a"),
        _l(b"a", out),
        _f(made, b"a/escaped"),
    ],
    "root is a link": lambda made, out: [_l(b"", out), _f(made, b"escaped")],
    "hard link through a link": lambda made, out: [_d(b""), _l(b"a", out), _h(b"b", b"a/precious")],
    "hard link to dot-dot": lambda made, out: [_d(b""), _h(b"b", b"../../../outside/precious")],
    "hard link to a link": lambda made, out: [_d(b""), _l(b"a", out + b"/precious"), _h(b"b", b"a")],
    "hard link, absolute": lambda made, out: [_d(b""), _h(b"b", out + b"/precious")],
    "without its directory": lambda made, out: [_d(b""), _f(made, b"a/b")],
    "twice": lambda made, out: [_d(b""), _f(made, b"a"), _f(made, b"a")],
    "empty name": lambda made, out: [_d(b""), _d(b"a"), _f(made, b"a//b")],
    "zero byte": lambda made, out: [_d(b""), _f(made, b"a\0b")],
    "name too long": lambda made, out: [_d(b""), _f(made, b"a" * 300)],
    "huge numbers": lambda made, out: [_d(b""), Entry(b"a", "f", 0o644, 1 << 40, 1 << 40, 1 << 62, 1 << 62)],
    "extents outside": lambda made, out: [_d(b""), replace(_f(made, b"a"), extents=[(1 << 50, 4)])],
    "extents overlap": lambda made, out: [_d(b""), replace(_f(made, b"a"), extents=[(0, 3), (2, 1)])],
    "unknown chunk": lambda made, out: [_d(b""), replace(_f(made, b"a"), chunks=b"")],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_manifest_does_not_get_out(small: Made, tmp_path: Path, case: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("untouched")
    point = forge(small, HOSTILE[case](small, os.fsencode(outside)))

    done = small.read("restore", point, str(tmp_path / "back"))

    assert done.returncode == 90, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert os.listdir(outside) == ["precious"]
    assert (outside / "precious").read_text() == "untouched"
    assert (outside / "precious").stat().st_nlink == 1
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("name", ["../../outside", "/outside", "..", ".", "", "a\0b", "x" * 5000])
def test_the_name_of_a_volume_stays_inside(small: Made, tmp_path: Path, name: str) -> None:
    point = forge(small, [_d(b""), _f(small, b"a")], name)
    done = small.read("restore", point, str(tmp_path / "back"))
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "back").iterdir()
    assert (made / "a").read_text() == "data"
