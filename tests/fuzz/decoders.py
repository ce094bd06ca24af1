"""Every decoder that reads what others may have written, as a function of bytes, with good examples.

A function may return or raise TrinitySnapError; whatever else it raises is a defect. What a repository
seals is fuzzed at two depths: the object as it lies in the storage, and the content before it is sealed.
"""

from __future__ import annotations

import atexit
import hashlib
import hmac
import importlib
import json
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import msgspec
import zstandard

from trinity_snap.errors import IntegrityError, ObjectMissing, TrinitySnapError
from trinity_snap.policy import load_policy
from trinity_snap.repository.copies import copy_notes
from trinity_snap.repository.documents import split_document
from trinity_snap.repository.fences import read_fence
from trinity_snap.repository.grantform import decode_grant, encode_grant
from trinity_snap.repository.grants import Grant, GrantedPack, GrantedRepository
from trinity_snap.repository.identity import load_host_key, load_identity, load_recipient, save_identity
from trinity_snap.repository.keys import HostSecret, Identity, object_key
from trinity_snap.repository.manifest import (
    Entry,
    PageReference,
    decode_page,
    decode_root,
    encode_page,
    encode_root,
)
from trinity_snap.repository.packs import PackBuilder, PackOpener, decode_table
from trinity_snap.repository.pins import Pins, load_pins, save_pins
from trinity_snap.repository.points import PackReference, RecoveryPoint, Volume, open_point, seal_point
from trinity_snap.repository.reader import SessionKeys, open_pack
from trinity_snap.repository.receipts import read_receipts
from trinity_snap.repository.recipients import (
    current_recipients,
    open_host_secret,
    open_session,
    recipient_entries,
    seal_session,
    session_history,
)
from trinity_snap.repository.sealed import INDEX_MAGIC, POINT_MAGIC, Header, parse_header, seal_object
from trinity_snap.repository.segments import as_stored, decode_segment, encode_segment
from trinity_snap.repository.session import read_index
from trinity_snap.repository.words import identity_from_words, identity_to_words
from trinity_snap.targets import sftp_wire
from trinity_snap.targets.protocol import ObjectStat

REPOSITORY_ID, SESSION_ID, SESSION_KEY = bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 64))
POINT_ID, INDEX_NAME = "5a" * 16, f"index/{'a5' * 16}"
HOST = HostSecret(bytes(range(64, 96)), REPOSITORY_ID)
IDENTITY = Identity(bytes(range(96, 128)), "operator")
SALT = bytes(32)
_COPY_NOTE = json.dumps(
    {"format": "trinity-snap copies", "version": 1, "repository": REPOSITORY_ID.hex(), "points": [POINT_ID]}
).encode()


@dataclass(frozen=True)
class Decoder:
    """One function of bytes, and what it takes without complaint."""

    decode: Callable[[bytes], object]
    good: list[bytes]


class OneObject:
    """A target that holds what it is given and nothing else."""

    url = "memory:"
    parallel_puts = 1
    parallel_gets = 1
    read_ahead_bytes = 0

    def __init__(self, objects: Mapping[str, bytes]) -> None:
        self._objects = dict(objects)

    def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
        raise AssertionError("a decoder writes nothing")

    def get(self, name: str) -> bytes:
        if name not in self._objects:
            raise ObjectMissing(f"There is no {name}.")
        return self._objects[name]

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        data = self.get(name)[offset : offset + length]
        if len(data) != length:
            raise ObjectMissing(f"{name} ends early.")
        return data

    def list_prefix(self, prefix: str) -> Iterator[str]:
        return iter([name for name in self._objects if name.startswith(prefix)])

    def stat(self, name: str) -> ObjectStat:
        return ObjectStat(len(self.get(name)), 0)

    def delete(self, name: str) -> None:
        raise AssertionError("a decoder deletes nothing")


def signed(kind: str, line: bytes) -> bytes:
    """A two-line document with any first line and its true MAC."""
    mac = hmac.new(HOST.mac_key, b"trinity-snap/1/" + kind.encode() + b"\n" + line, hashlib.sha256)
    return line + b"\n" + mac.hexdigest().encode() + b"\n"


def _pack() -> bytes:
    builder = PackBuilder(REPOSITORY_ID, SESSION_ID, SESSION_KEY)
    builder.add(encode_segment(as_stored(b"data" * 100)), bytes(64), [200, 200])
    builder.add(encode_segment(as_stored(b"x")), bytes(32), [1])
    pack = builder.finish()
    assert pack is not None
    return bytes(pack.data)


def _open_pack(data: bytes) -> None:
    digest = hashlib.sha256(data).hexdigest()
    target = OneObject({f"packs/{digest[:2]}/{digest}": data})
    pack = open_pack(target, SessionKeys(HOST, lambda session: SESSION_KEY), digest, len(data))
    opener, offset = pack.opener, 72
    for number, segment in enumerate(pack.table):
        sealed = target.get_range(pack.name, offset, segment.sealed_length)
        opener.open_segment(sealed, number, segment.length)
        offset += segment.sealed_length


def _open_segment(plaintext: bytes) -> None:
    header = Header(b"TSNAPPK\x01", REPOSITORY_ID, SESSION_ID, SALT)
    length = int.from_bytes(plaintext[:3], "big")
    decode_segment(plaintext[3:], length)
    PackOpener(header, SESSION_KEY, "pack").open_segment(plaintext, 0, length)


def _point(packs: bytes = bytes(40)) -> RecoveryPoint:
    volume = Volume(name="v", kind="volume", root=bytes(32), root_length=1, entries=1, files=1, bytes=1)
    return RecoveryPoint(
        id=POINT_ID,
        session_id=SESSION_ID,
        agent="a",
        host="h",
        run_id="0" * 32,
        created_ns=1,
        mode="pause",
        provider="btrfs",
        consistency="crash-consistent",
        pause_ns=1,
        files=1,
        bytes=1,
        volumes=[volume],
        container={"Image": "i", "Env": ["A=B"]},
        packs=packs,
        problems=[("v", b"p", "why")],
    )


def _point_header() -> Header:
    return Header(POINT_MAGIC, REPOSITORY_ID, SESSION_ID, SALT)


def _open_point_object(data: bytes) -> None:
    header = parse_header(data, POINT_MAGIC, REPOSITORY_ID, f"points/{POINT_ID}")
    open_point(data, header, SESSION_KEY, HOST.mac_key, POINT_ID)


def _open_point_document(document: bytes) -> None:
    message = b"trinity-snap/1/point" + REPOSITORY_ID + SESSION_ID + bytes.fromhex(POINT_ID) + document
    body = hmac.digest(HOST.mac_key, message, "sha256") + document
    point_object = seal_object(_point_header(), SESSION_KEY, f"points/{POINT_ID}", body)
    point = open_point(point_object, _point_header(), SESSION_KEY, HOST.mac_key, POINT_ID)
    point.pack_references()


def _point_document() -> bytes:
    point = _point()
    fields = {name: getattr(point, name) for name in point.__struct_fields__ if name not in ("id", "session_id")}
    return msgspec.msgpack.encode(fields)


def _index_header() -> Header:
    return Header(INDEX_MAGIC, REPOSITORY_ID, SESSION_ID, SALT)


def _open_index_body(body: bytes) -> None:
    read_index(seal_object(_index_header(), HOST.index_key, INDEX_NAME, body), HOST, INDEX_NAME)


def _repository_line() -> bytes:
    head = {"format": "trinity-snap repository", "version": 1, "id": REPOSITORY_ID.hex(), "created": "x"}
    recipients = recipient_entries(HOST, [IDENTITY.recipient])
    return json.dumps(head | {"generation": 0, "recipients": recipients}).encode()


def _open_repository(line: bytes) -> None:
    target = OneObject({"repository": signed("repository", line)})
    current_recipients(target, HOST)
    session_history(target, HOST, IDENTITY)
    payload, _, _ = split_document(target.get("repository"))
    open_host_secret(payload, IDENTITY)


def _open_session(line: bytes) -> None:
    open_session(signed("session", line), REPOSITORY_ID, SESSION_ID, IDENTITY, HOST.mac_key, {})


def _session() -> bytes:
    return seal_session(SESSION_KEY, REPOSITORY_ID, SESSION_ID, [IDENTITY.recipient], HOST.mac_key)


def _deletion(members: Mapping[str, object]) -> bytes:
    head = {"format": "trinity-snap receipt", "version": 1, "repository": REPOSITORY_ID.hex()}
    if "packs" in members:
        head["format"] = "trinity-snap fence"
    return json.dumps(head | dict(members)).encode()


def _open_fence(line: bytes) -> None:
    read_fence(OneObject({"fences/x": signed("fence", line)}), HOST, "fences/x")


def _open_receipt(line: bytes) -> None:
    if read_receipts(OneObject({"receipts/x": signed("receipt", line)}), HOST).damaged:
        raise IntegrityError("damaged")


@cache
def _read_copy_note(data: bytes) -> None:
    if not any(copy_notes(OneObject({f"copies/{'c' * 32}": data}), REPOSITORY_ID).values()):
        raise IntegrityError("the note was passed over")


def _scratch() -> Path:
    shared = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shared if shared.is_dir() else None))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _of_file(load: Callable[[Path], object]) -> Callable[[bytes], None]:
    def decode(data: bytes) -> None:
        path = _scratch() / "file"
        path.write_bytes(data)
        path.chmod(0o600)
        load(path)

    return decode


def _wrapped_with_trinity(path: Path) -> object:
    return load_identity(path, passphrase=lambda: "secret", trinity_key="0" * 64)


def _identity_file() -> bytes:
    path = _scratch() / "identity"
    save_identity(path, IDENTITY, "operator", overwrite=True)
    return path.read_bytes()


def _pins_file() -> bytes:
    path = _scratch() / "pins"
    save_pins(path, Pins((IDENTITY.recipient,), (IDENTITY.recipient,)))
    return path.read_bytes()


def _entries() -> list[Entry]:
    chunk = bytes(32)
    return [
        Entry(b"", "d", 0o755, 0, 0, 1),
        Entry(b"a", "f", 0o644, 1000, 1000, -5, 100, chunk * 2, xattrs={b"user.a": b"b"}, extents=[(0, 50)]),
        Entry(b"b", "l", 0o777, 0, 0, 1, target=b"a"),
        Entry(b"c", "c", 0o600, 0, 0, 1, device=(1, 3)),
    ]


@cache
def independent_reader() -> ModuleType:
    """The module scripts/read_repository.py."""
    sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
    try:
        return importlib.import_module("read_repository")
    finally:
        sys.path.pop()


def _grant() -> bytes:
    pack = _pack()
    digest = hashlib.sha256(pack).hexdigest()
    packs = {digest: GrantedPack(len(pack), object_key(SESSION_KEY, pack[40:72], "pack"), SESSION_ID, pack[40:72])}
    name = f"packs/{digest[:2]}/{digest}"
    point = _point(bytes.fromhex(digest) + len(pack).to_bytes(8, "big"))
    reference, lost = point.pack_references()[0], PackReference("ab" * 32, 4096)
    return encode_grant(
        Grant(
            REPOSITORY_ID, "s3://bucket/x", 1, 2, ("data",), point, HOST.chunk_id_key, packs,
            {name: f"https://store.example/bucket/x/{name}?X-Amz-Signature={'5a' * 32}"}, None,
            {lost.name: lost}, {lost.name: f"{reference.name} is missing."},
        )
    )  # fmt: skip


def _open_grant(data: bytes) -> None:
    grant = decode_grant(data)
    pack = _pack()
    name = hashlib.sha256(pack).hexdigest()
    reader = GrantedRepository(grant, OneObject({f"packs/{name[:2]}/{name}": pack})).reader(grant.point)
    _ = reader.damaged_packs, grant.point.created, grant.addresses and list(grant.addresses.values())
    repr(grant)


def _reader_page(data: bytes) -> None:
    reader = independent_reader()
    try:
        page = reader.Msgpack.decode(data)
        for value in page if isinstance(page, list) else []:
            reader.parse_entry(value)
    except (reader.Damaged, reader.Refused) as error:
        raise TrinitySnapError(str(error)) from error


def _text(decode: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: decode(data.decode("utf-8", "surrogateescape"))


def _sftp_packet(data: bytes) -> None:
    """All that an SFTP server may answer; the first byte says what is expected."""
    parsers: list[Callable[[bytes], object]] = [
        *(sftp_wire.parse_status, sftp_wire.parse_string, sftp_wire.parse_attributes, sftp_wire.parse_names),
        *(sftp_wire.parse_extensions, sftp_wire.parse_limits, sftp_wire.parse_filesystem),
    ]
    try:
        parsers[data[0] % len(parsers) if data else 0](data[1:])
    except sftp_wire.Garbled as error:
        raise TrinitySnapError(str(error)) from error


def _sftp_answers() -> list[bytes]:
    attributes = struct.pack(">IQIIIII", 0xD, 100, 0o100400, 1, 2, 0, 0)
    name = sftp_wire.string("a" * 32)
    return [
        b"\0" + struct.pack(">I", 4) + sftp_wire.string("Failure") + sftp_wire.string(""),
        b"\1" + sftp_wire.string(b"\0\0\0\1"),
        b"\2" + attributes,
        b"\3" + struct.pack(">I", 2) + (name + name + attributes) * 2,
        b"\4" + sftp_wire.string(sftp_wire.FSYNC) + sftp_wire.string("1"),
        b"\5" + struct.pack(">QQQQ", 262144, 261120, 261120, 100),
        b"\6" + struct.pack(">11Q", *range(1, 12)),
    ]


_POLICY = b"""\
version: 1
target: {url: /var/backups/trinity-snap}
agents:
  rules: [{name: web, container: "web-*", agent: "{container}"}]
  exclude: ["tmp-*"]
quiesce: {mode: pause, budget_seconds: 5, on_budget_exceeded: fallback}
snapshot: {provider: auto, precopy: {max_passes: 3, settle_bytes: 64MiB}}
exclude: ["*.tmp"]
overrides: {web: {exclude: ["*.log"]}}
"""


@cache
def decoders() -> dict[str, Decoder]:
    """All decoders by name."""
    pack = _pack()
    segment = encode_segment(as_stored(b"compressible " * 50))
    table = msgspec.msgpack.encode([[100, bytes(64), [3, 4]], [17, bytes(32), [0]]])
    index = msgspec.msgpack.encode([[bytes(32), 4096, [[100, bytes(64), [3, 4]]]]])
    page = encode_page(_entries())
    root = encode_root([PageReference(b"", bytes(32), 100, 2), PageReference(b"x", bytes(32), 5, 1)])
    session = _session()
    line = _repository_line()
    words = " ".join(identity_to_words(IDENTITY)).encode()
    key_files = _identity_file()
    return {
        "pack": Decoder(_open_pack, [pack]),
        "segment": Decoder(
            lambda data: decode_segment(data[3:], int.from_bytes(data[:3], "big")),
            [b"\0\x02\x8a" + segment, b"\0\0\3\0abc", b"\0\0\4\1" + zstandard.compress(b"abcd")],
        ),
        "table": Decoder(lambda data: decode_table(data, "a pack"), [table]),
        "point": Decoder(_open_point_object, [seal_point(_point(), _point_header(), SESSION_KEY, HOST.mac_key)]),
        "point document": Decoder(_open_point_document, [_point_document()]),
        "index": Decoder(
            lambda data: read_index(data, HOST, INDEX_NAME),
            [seal_object(_index_header(), HOST.index_key, INDEX_NAME, index)],
        ),
        "index body": Decoder(_open_index_body, [index]),
        "manifest page": Decoder(decode_page, [page]),
        "manifest root": Decoder(decode_root, [root]),
        "two lines": Decoder(split_document, [session, signed("repository", line)]),
        "repository": Decoder(_open_repository, [line]),
        "session": Decoder(_open_session, [session.split(b"\n")[0]]),
        "copy note": Decoder(_read_copy_note, [_COPY_NOTE]),
        "fence": Decoder(_open_fence, [_deletion({"packs": ["ab" * 32]})]),
        "receipt": Decoder(
            _open_receipt,
            [
                _deletion({"subject": "points", "points": [["ab" * 16, 1]]}),
                _deletion({"subject": "hold", "point": "ab" * 16}),
            ],
        ),
        "identity file": Decoder(_of_file(_wrapped_with_trinity), [key_files]),
        "host key file": Decoder(_of_file(load_host_key), [key_files]),
        "recipient file": Decoder(_of_file(load_recipient), [key_files]),
        "grant": Decoder(_open_grant, [_grant()]),
        "pins file": Decoder(_of_file(load_pins), [_pins_file()]),
        "words": Decoder(_text(identity_from_words), [words]),
        "policy": Decoder(_of_file(load_policy), [_POLICY]),
        "independent reader": Decoder(_reader_page, [page]),
        "sftp packets": Decoder(_sftp_packet, _sftp_answers()),
    }
