#!/usr/bin/env python3
"""Read a trinity-snap repository without trinity-snap.

One file, written from docs/format.md alone ("section" below means one of that page), for Python 3.11 with
`cryptography`, `zstandard` and `blake3`. It needs no index, host or network. A recovery point is named by its id, the
beginning of it (four digits at least), or `latest`. `restore` makes a new directory with one directory per volume; only
root gets owners, devices and capabilities back. A damaged chunk costs the files that contain it, which are named, unless
some other pack holds it as well.
Exit status: 0 all well; 1 not possible; 90 something is not what was written, or could not all be given back.
"""

from __future__ import annotations

import argparse
import base64
import getpass
import hashlib
import hmac
import io
import json
import os
import re
import stat
import struct
import sys
import unicodedata
import urllib.parse
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import blake3
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

LABEL = b"trinity-snap/1/"
LEASE_SECONDS = 24 * 3600
SEGMENT_LIMIT = 64 << 20
SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


class Refused(Exception):
    """Not possible: wrong usage, a key that does not fit, a point that is not there."""


class Damaged(Refused):
    """Something read is not what was written: damage, forgery, or a writer of another format."""


def _check(good: object, complaint: str) -> None:
    if not good:
        raise Damaged(complaint)


def _typed(value: Any, kind: type, what: str) -> Any:
    """Return `value` if it is a `kind` (a bool is no int); raise Damaged naming `what` otherwise."""
    good = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    _check(good, f"{what} is not of type {kind.__name__}")
    return value


@contextmanager
def genuine(what: str) -> Iterator[None]:
    """Raise Damaged naming `what` instead of that which libraries raise when bytes are not what they should be."""
    try:
        yield
    except (InvalidTag, ValueError, OSError, RecursionError, struct.error, zstandard.ZstdError) as error:
        raise Damaged(f"{what}: {str(error) or 'not authentic'}") from error


class Msgpack:
    """A decoder for msgpack, as much of it as the format uses: there are no extension types."""

    @classmethod
    def decode(cls, data: bytes) -> Any:
        """Return the one value that `data` is; raise Damaged if it is not exactly one."""
        with genuine("bad msgpack"):
            value = cls._value(stream := io.BytesIO(data), 0)
        _check(stream.tell() == len(data), "bad msgpack: bytes after the value")
        return value

    @classmethod
    def _value(cls, stream: io.BytesIO, depth: int) -> Any:
        _check(depth < 64, "bad msgpack: nested too deeply")
        (code,) = struct.unpack("B", stream.read(1))
        if code < 0x80 or code >= 0xE0:
            return code if code < 0x80 else code - 256
        if code in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[code]
        size = code & (31 if code >= 0xA0 else 15)
        if code >= 0xC0:
            form = "....BHI...fdBHIQbhiq.....BHIHIHI"[code - 0xC0]
            _check(form != ".", f"bad msgpack: type byte {code:#04x}")
            (size,) = struct.unpack(">" + form, stream.read(struct.calcsize(form)))
        if 0xCA <= code <= 0xD3:
            return size  # which is a number
        if code < 0x90 or code >= 0xDE:
            pairs = [(cls._value(stream, depth + 1), cls._value(stream, depth + 1)) for _ in range(size)]
            _check(all(isinstance(key, str | bytes) for key, _ in pairs), "bad msgpack: a key is neither str nor bin")
            _check(len(dict(pairs)) == size, "bad msgpack: a key is there twice")
            return dict(pairs)
        if code < 0xA0 or code >= 0xDC:
            return [cls._value(stream, depth + 1) for _ in range(size)]
        data = stream.read(size)
        _check(len(data) == size, "bad msgpack: it ends too early")
        return data if 0xC4 <= code <= 0xC6 else data.decode()


def parse_json(text: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object in which no name is there twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _check(len(dict(pairs)) == len(pairs), f"{what} has a name twice")
        return dict(pairs)

    with genuine(f"{what} is not JSON"):
        return {**_typed(json.loads(text, object_pairs_hook=unique), dict, what)}


def _printable(text: object) -> str:
    text = text.decode(errors="backslashreplace") or "." if isinstance(text, bytes) else str(text)
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _hkdf(key: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=LABEL + info).derive(key)


def unseal(key: bytes, nonce: bytes, sealed: bytes, aad: bytes, what: str, *, pad: bool = False) -> bytes:
    """AES-256-GCM decryption; with `pad`, what is in it is `length (4) || body || zero bytes`, and the body is meant."""
    with genuine(what):
        plain = AESGCM(key).decrypt(nonce, sealed, aad)
    end = 4 + int.from_bytes(plain[:4], "big") if pad else len(plain)
    _check(len(plain) >= end and not plain[end:].strip(b"\0"), f"the length or the padding inside {what} is wrong")
    return plain[4:end] if pad else plain


class Identity:
    """The private half of the key that opens recovery points, made from its 32-byte seed (section 3)."""

    def __init__(self, seed: bytes) -> None:
        kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(_hkdf(seed, b"", b"identity/ml-kem-768", 64))
        curve = x25519.X25519PrivateKey.from_private_bytes(_hkdf(seed, b"", b"identity/x25519"))
        self.private = hpke.MLKEM768X25519PrivateKey(kem, curve)
        public = kem.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
        self.id = hashlib.sha256(public).digest()[:8]

    def open(self, text: object, info: bytes, what: str) -> tuple[bytes, bytes]:
        """Open the key that base64 text begins with (RFC 9180, base mode, single shot); return it and the rest."""
        with genuine(f"{what} does not open with this identity"):
            data = base64.b64decode(_typed(text, str, what), validate=True)
            return SUITE.decrypt(data[:1168], self.private, LABEL + info + self.id), data[1168:]


def seed_from_words(text: str) -> bytes:
    """Return the 32 bytes that 24 words stand for (BIP-39, English; four letters of each word are enough)."""
    table, last = dict[str, int](), "____"
    for ending in re.findall("[A-Z][a-z_]*", WORDS.replace("\n", "")):
        last = last[: -len(ending)] + ending.lower()
        table[last.rstrip("_")] = len(table)
    numbers = [table.get(word[:4], -1) for word in text.lower().split()]
    if len(numbers) != 24 or -1 in numbers:
        raise Refused(f"24 words of the list are needed; {len(numbers)} were given, {numbers.count(-1)} are not in it")
    whole = sum(number << 11 * (23 - place) for place, number in enumerate(numbers))
    seed = (whole >> 8).to_bytes(32, "big")
    if hashlib.sha256(seed).digest()[0] != whole & 0xFF:
        raise Refused("the words do not fit together: one is wrong, or two are exchanged")
    return seed


def read_identity(path: Path) -> Identity:
    """Return the identity in a file, opened with a passphrase or Trinity's key if need be (section 11)."""
    try:
        document = inner = parse_json(path.read_bytes(), str(path))
        _check(document["format"] == "trinity-snap identity" and document["version"] == 1, "no identity of version 1")
        if wrapped := document.get("wrapped"):
            if wrapped["by"] == "trinity":
                key = bytes.fromhex(os.environ.get("CREDENTIAL_ENCRYPTION_KEY", "").strip())
            else:
                kdf, text = wrapped["kdf"], getpass.getpass("Passphrase of the identity: ")
                normal = unicodedata.normalize("NFC", text)
                numbers = {"iterations": kdf["passes"], "lanes": kdf["lanes"], "memory_cost": kdf["memory_kib"]}
                key = Argon2id(salt=base64.b64decode(kdf["salt"]), length=32, **numbers).derive(normal.encode())
            nonce, sealed = (base64.b64decode(wrapped["envelope"][name]) for name in ("nonce", "ciphertext"))
            inner = parse_json(unseal(key, nonce, sealed, b"", "what is wrapped"), "what is wrapped")
        identity = Identity(base64.b64decode(inner["seed"], validate=True))
        _check(identity.id.hex() == document["id"], "the seed does not belong to the id")
        return identity
    except (OSError, ValueError, TypeError, KeyError, AttributeError, Refused) as error:
        raise Refused(f"{path} cannot be used: {error!r}") from error


Signed = namedtuple("Signed", "name message mac members")  # a two-line object (section 4), its MAC not yet checked


class Repository:
    """A repository in a local directory, opened with an identity; `complete` is False once damage was reported."""

    def __init__(self, root: Path, identity: Identity, expected_id: str | None = None) -> None:
        self.root, self.identity, self.complete = root, identity, True
        self.session_keys: dict[bytes, bytes] = {}
        self.history: dict[bytes, list[bytes]] = {}
        if not (root / "repository").is_file():
            raise Refused(f"there is no trinity-snap repository in {root}")
        lists = [self._signed("repository", "repository")]
        found_id = _typed(lists[0].members.get("id"), str, "the repository id")
        _check(re.fullmatch("[0-9a-f]{32}", found_id), "the repository id is not 32 hexadecimal digits")
        if expected_id not in (None, found_id):
            raise Refused(f"this is repository {found_id}, not {expected_id}")
        self.id = bytes.fromhex(found_id)
        for name in self._names("recipients"):
            with self.survive("passed over"):
                lists.append(self._signed(name, "recipients"))
        failure = Refused("this identity is not among the recipients of this repository")
        for signed in lists:
            try:
                if mine := self._my_entry(signed):
                    self._take_host_secret(mine, signed)
                    break
            except Damaged as error:
                failure = error
        else:
            raise failure
        self._check_mac(*lists[0][:3])
        for signed in sorted(lists, key=lambda one: isinstance(g := one.members.get("generation"), int) and g):
            with self.survive("passed over"):
                self._check_mac(*signed[:3])
                if history := self._my_entry(signed).get("history"):  # keys of sessions from before it joined
                    key, sealed = identity.open(history, b"history" + self.id, f"the history in {signed.name}")
                    pairs = struct.iter_unpack("16s32s", unseal(key, bytes(12), sealed, b"", signed.name))
                    for session, session_key in pairs:
                        self.history.setdefault(session, []).append(session_key)

    def report(self, text: str, *, damage: bool = True) -> None:
        """Say what is wrong; `damage` is whether something was lost or forged."""
        self.complete = self.complete and not damage
        print(text, file=sys.stderr)

    @contextmanager
    def survive(self, what: str) -> Iterator[None]:
        """Report what goes wrong inside, and go on."""
        try:
            yield
        except (Refused, OSError, OverflowError, ValueError, struct.error) as error:
            self.report(f"{what}: {error}")

    def open(self, name: str) -> io.BufferedReader:
        """Open an object, which must be a regular file."""
        with genuine(f"{name} cannot be read"):
            fd = os.open(self.root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            file = os.fdopen(fd, "rb")
        _check(stat.S_ISREG(os.fstat(fd).st_mode), f"{name} is not a regular file")
        return file

    def _names(self, kind: str) -> list[str]:
        found = os.listdir(self.root / kind) if (self.root / kind).is_dir() else []
        return [f"{kind}/{name}" for name in sorted(found) if re.fullmatch("[0-9a-f]{32}", name)]

    def _signed(self, name: str, kind: str) -> Signed:
        with self.open(name) as file:
            found = re.fullmatch(rb"([\x20-\x7e]+)\n([0-9a-f]{64})\n", file.read()) or [b"", b"null", b""]
        members = parse_json(found[1], name)
        _check(members.get("format") == f"trinity-snap {kind}", f"{name} is not a 'trinity-snap {kind}'")
        if _typed(members.get("version"), int, name) != 1:
            raise Refused(f"{name} has version {members['version']} of the format; only 1 is known here")
        return Signed(name, f"{kind}\n".encode() + found[1], bytes.fromhex(found[2].decode()), members)

    def _check_mac(self, name: str, message: bytes, mac: bytes) -> None:
        good = hmac.compare_digest(hmac.digest(self.mac_key, LABEL + message, "sha256"), mac)
        _check(good, f"{name} was not written by the host of this repository")

    def _my_entry(self, signed: Signed) -> dict[str, Any]:
        for entry in _typed(signed.members.get("recipients"), list, signed.name):
            if _typed(entry, dict, signed.name).get("id") == self.identity.id.hex():
                return {**entry}
        return {}

    def _take_host_secret(self, entry: dict[str, Any], signed: Signed) -> None:
        """Open the host secret; the repository id must belong to it, and the list be signed with it (section 4)."""
        what = f"the host secret in {signed.name}"
        secret, _ = self.identity.open(entry.get("host_secret"), b"host-secret" + self.id, what)
        belongs = hashlib.sha256(LABEL + b"repository-id" + secret).digest()[:16] == self.id
        _check(belongs, f"{what} is not that of repository {self.id.hex()}: somebody else made this")
        self.mac_key, self.chunk_id_key = _hkdf(secret, self.id, b"mac"), _hkdf(secret, self.id, b"chunk-id")
        self._check_mac(*signed[:3])

    def object_key(self, head: bytes, magic: bytes, kind: bytes, name: str) -> bytes:
        """Check the 72 bytes before what is sealed in a pack or point; return the key (sections 5 to 7)."""
        _check(
            len(head) == 72 and head[:24] == magic + self.id, f"{name} does not begin as one of this repository must"
        )
        session = head[24:40]
        if session not in self.session_keys:
            signed = self._signed(f"sessions/{session.hex()}", "session")
            self._check_mac(*signed[:3])
            ids = [signed.members.get("repository"), signed.members.get("session")]
            _check(ids == [self.id.hex(), session.hex()], f"{signed.name} belongs to another repository or session")
            keys = _typed(signed.members.get("keys"), dict, signed.name)
            if self.identity.id.hex() in keys:
                sealed, info = keys[self.identity.id.hex()], b"session" + self.id + session
                self.session_keys[session], _ = self.identity.open(sealed, info, signed.name)
            elif session in self.history:
                self.session_keys[session] = self._fitting_key(session)
            else:
                raise Refused(f"{signed.name} is not sealed to this identity")
        return _hkdf(self.session_keys[session], head[40:], kind)

    def _fitting_key(self, session: bytes) -> bytes:
        """Return what the histories say of a session; where they differ, what opens a point of it (section 4)."""
        keys = list(dict.fromkeys(self.history[session]))
        for name in self._names("points") if len(keys) > 1 else ():
            with self.open(name) as file:
                data = file.read()
            for key in keys if data[24:40] == session else ():
                with suppress(Damaged):
                    unseal(_hkdf(key, data[40:72], b"point"), bytes(12), data[72:], data[:72] + name.encode(), name)
                    return key
        return keys[0]

    def _point(self, name: str) -> dict[str, Any]:
        """Return the document of a recovery point, with its `id`, after checking all of section 8."""
        with self.open(name) as file:
            data, point_id = file.read(), name[-32:]
        head = data[:72]
        key = self.object_key(head, b"TSNAPPT\x01", b"point", name)
        body = unseal(key, bytes(12), data[72:], head + name.encode(), name, pad=True)
        self._check_mac(name, b"point" + head[8:40] + bytes.fromhex(point_id) + body[32:], body[:32])
        point: dict[str, Any] = _typed(Msgpack.decode(body[32:]), dict, name) | {
            "id": point_id,
            "session": head[24:40].hex(),
        }
        if _typed(point.get("version"), int, name) != 1:
            raise Refused(f"{name} has version {point['version']}; only 1 is known here")
        for member, kind in {"created_ns": int, "packs": bytes, "volumes": list}.items():
            _typed(point.get(member), kind, f"{member} of {name}")
        _check(len(data) % 1024 == len(point["packs"]) % 40 == 0, f"{name} or its list of packs has a wrong length")
        return point | {"volumes": [_typed(volume, dict, f"a volume of {name}") for volume in point["volumes"]]}

    def points(self) -> list[dict[str, Any]]:
        """Return the points that can be read, newest first; the others are reported."""
        points = []
        for name in self._names("points"):
            with self.survive(f"recovery point {name[-32:]} cannot be read"):
                points.append(self._point(name))
        return sorted(points, key=lambda point: (-point["created_ns"], point["id"]))

    def _noted(self, point_id: str) -> Iterator[tuple[str, float]]:
        """What receipts and copy notes say of a point: the kind, and the storage's time of it (sections 14 and 15)."""
        for name in (*self._names("receipts"), *self._names("copies")):
            with suppress(Refused, OSError, TypeError, ValueError):
                if name.startswith("receipts"):
                    signed = self._signed(name, "receipt")
                    self._check_mac(*signed[:3])
                    members = signed.members if signed.members.get("subject") == "points" else {}
                else:
                    with self.open(name) as file:
                        members = parse_json(file.read(), name)
                ours = members.get("repository") == self.id.hex()
                if ours and any(point_id in (one, *one[:1]) for one in _typed(members.get("points"), list, name)):
                    yield name.partition("/")[0], os.stat(self.root / name).st_mtime

    def void(self, point: dict[str, Any]) -> str:
        """Return why a point does not count, or nothing (section 14)."""
        names = (point["packs"][at : at + 32].hex() for at in range(0, len(point["packs"]), 40))
        missing = sum(not (self.root / f"packs/{name[:2]}/{name}").is_file() for name in names)
        stored, begun = (
            os.stat(self.root / name).st_mtime for name in (f"points/{point['id']}", f"sessions/{point['session']}")
        )
        if not missing and stored - begun <= LEASE_SECONDS:
            return ""
        for kind, time in self._noted(point["id"]):
            if kind == "receipts" or (not missing and stored - time <= LEASE_SECONDS):
                return ""
        hours = f"it was stored {(stored - begun) / 3600:.1f} h after its run began"
        return f"{missing} of its packs are missing" if missing else hours

    def find(self, selector: str) -> dict[str, Any]:
        """Return the one point whose id is or begins like that, or for `latest` the newest that counts."""
        if selector == "latest" and (points := self.points()):
            for point in points:
                if not (why := self.void(point)):
                    return point
                self.report(f"recovery point {point['id']} is void, and passed over: {why}", damage=False)
            raise Refused("no recovery point counts; name one by its id to use it nevertheless")
        names = [name for name in self._names("points") if name[7:].startswith(selector) and len(selector) >= 4]
        if len(names) != 1:
            raise Refused(f"{len(names)} recovery points begin with '{selector}'; four digits are needed, or 'latest'")
        return self._point(names[0])


Segment = namedtuple("Segment", "pack number offset sealed_length length key head")


class Chunks:
    """Gives out the chunks of one recovery point, each compared with its id (section 6)."""

    def __init__(self, repository: Repository, point: dict[str, Any]) -> None:
        self.repository = repository
        self.places: dict[bytes, list[tuple[Segment, int, int]]] = {}  # from where to where in which segments
        packs = [*struct.iter_unpack(">32sQ", point["packs"])]
        self.others = self._other_packs({digest.hex() for digest, _ in packs})
        for digest, length in packs:
            with repository.survive("of this pack nothing is used"):
                self._read_table(f"packs/{digest.hex()[:2]}/{digest.hex()}", length)

    def _read_table(self, name: str, length: int | None = None) -> None:
        what = f"the table of {name}"
        with self.repository.open(name) as file:
            size = os.fstat(file.fileno()).st_size
            _check(length in (None, size), f"{name} has {size} bytes instead of {length}")
            if length is not None and hashlib.file_digest(file, "sha256").hexdigest() != name[-64:]:
                # What is undamaged in it is still good: each segment is authenticated by itself.
                self.repository.report(f"the bytes of {name} are not those it is named for")
            head, tail = os.pread(file.fileno(), 72, 0), os.pread(file.fileno(), 8, max(size - 8, 0))
            table_at = size - 8 - int.from_bytes(tail[:4], "big")
            _check(tail[4:] == b"TSPK" and table_at >= 72 and size % 4096 == 0, f"{name} does not end as a pack must")
            sealed = os.pread(file.fileno(), size - 8 - table_at, table_at)
        key = self.repository.object_key(head, b"TSNAPPK\x01", b"pack", name)
        table = unseal(key, b"\0\0\0\1" + bytes(8), sealed, head + b"\1" + bytes(8), what, pad=True)
        offset = 72
        for number, row in enumerate(_typed(Msgpack.decode(table), list, what)):
            _check(len(_typed(row, list, what)) >= 3, f"{what} has an incomplete row")
            sealed_length, ids = _typed(row[0], int, what), _typed(row[1], bytes, what)
            lengths = [_typed(length, int, what) for length in _typed(row[2], list, what)]
            sane = len(ids) == 32 * len(lengths) and min(lengths, default=-1) >= 0 and sum(lengths) <= SEGMENT_LIMIT
            _check(sane and 17 <= sealed_length <= table_at - offset, f"{what} is wrong about segment {number}")
            segment = Segment(name, number, offset, sealed_length, sum(lengths), key, head)
            offset, end = offset + sealed_length, 0
            for at, chunk_length in enumerate(lengths):
                start, end = end, end + chunk_length
                self.places.setdefault(ids[32 * at : 32 * at + 32], []).append((segment, start, end))
        _check(offset == table_at, f"the segments of {name} do not end where its table begins")

    @lru_cache(maxsize=16)  # noqa: B019 - there is one of these objects, and it lives as long as the program
    def _data(self, segment: Segment) -> bytes:
        what, number = f"segment {segment.number} of {segment.pack}", segment.number.to_bytes(8, "big")
        with self.repository.open(segment.pack) as file:
            sealed = os.pread(file.fileno(), segment.sealed_length, segment.offset)
        plain = unseal(segment.key, bytes(4) + number, sealed, segment.head + b"\0" + number, what)
        codec, data = plain[0], plain[1:]
        _check(codec in (0, 1), f"{what} has a codec that is not known here")
        if codec == 1:
            with genuine(f"{what} cannot be decompressed"):
                size = zstandard.get_frame_parameters(data).content_size
                _check(size == segment.length, f"{what} does not have the length that the table says")
                data = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
        _check(len(data) == segment.length, f"{what} does not have the length that the table says")
        return data

    def _other_packs(self, own: set[str]) -> Iterator[str]:
        for path in sorted((self.repository.root / "packs").glob("[0-9a-f][0-9a-f]/*")):
            if re.fullmatch("[0-9a-f]{64}", path.name) and path.name not in own:
                yield f"packs/{path.parent.name}/{path.name}"

    def _copies(self, chunk_id: bytes) -> Iterator[tuple[Segment, int, int]]:
        """Where the chunk is in the packs of the point and then, as many as it takes, in all others (section 16)."""
        tried = 0
        while True:
            found = self.places.get(chunk_id, [])[tried:]
            yield from found
            tried += len(found)
            name = next(self.others, None)
            if name is None:
                return
            with suppress(Refused, OSError, OverflowError, ValueError, struct.error):
                self._read_table(name)

    def get(self, chunk_id: bytes) -> bytes:
        """Return a chunk, from wherever an undamaged copy is; raise Damaged if there is none."""
        failure = Damaged(f"chunk {chunk_id.hex()} is in no pack of the recovery point")
        for segment, start, end in self._copies(chunk_id):
            try:
                data = self._data(segment)[start:end]
                good = blake3.blake3(data, key=self.repository.chunk_id_key).digest() == chunk_id
                _check(good, f"chunk {chunk_id.hex()} in {segment.pack} is not what it is named for")
                return data
            except Damaged as error:
                failure = error
        raise failure


Entry = namedtuple("Entry", "path type mode uid gid mtime_ns size chunks target device xattrs extents")
ELEMENTS = (bytes, str, int, int, int, int, int, bytes, bytes, list, dict, list)


def parse_entry(value: object) -> Entry:
    """Return the entry of a manifest that `value` describes after checking every element of it (section 9)."""
    cells = _typed(value, list, "an entry of the manifest")
    _check(len(cells) >= 6, "an entry of the manifest is incomplete")
    what = f"the entry of {_printable(_typed(cells[0], bytes, 'a path'))}"
    cells = [*cells[:12], *[0, b"", b"", [0, 0], {}, []][len(cells) - 6 :]]
    entry = Entry._make(_typed(cell, kind, what) for cell, kind in zip(cells, ELEMENTS, strict=True))
    pairs = [_typed(pair, list, what) for pair in [entry.device, *entry.extents]]
    _check(all(len(pair) == 2 and min(_typed(number, int, what) for number in pair) >= 0 for pair in pairs), what)
    ends = [0, *(start + length for start, length in entry.extents)]
    parts = entry.path.split(b"/") if entry.path else []
    sane = (
        entry.type in list("fdlhpcbs") and 0 <= entry.mode < 0o10000 and min(entry.uid, entry.gid, entry.size) >= 0,
        b"\0" not in entry.path and not {b"", b".", b".."} & {*parts},
        all(isinstance(part, bytes) for attribute in entry.xattrs.items() for part in attribute),
        all(start >= end for (start, _), end in zip(entry.extents, ends, strict=False)) and ends[-1] <= entry.size,
        entry.type == "f" or not (entry.size or entry.chunks or entry.extents),
        len(entry.chunks) % 32 == 0,
    )
    _check(all(sane), f"{what} says what cannot be, or would lead elsewhere")
    return entry


def manifest(chunks: Chunks, volume: dict[str, Any]) -> Iterator[Entry]:
    """Yield the entries of a volume in order, checking that they are one tree."""
    what = "the manifest root"
    root = chunks.get(_typed(volume.get("root"), bytes, what))
    _check(len(root) == volume.get("root_length"), f"{what} does not have the length that the recovery point says")
    last_key = b""
    directories: set[bytes] = set()
    total = 0
    for row in _typed(Msgpack.decode(root), list, what):
        _check(len(_typed(row, list, what)) >= 4, f"{what} has an incomplete row")
        page = chunks.get(_typed(row[1], bytes, what))
        values = _typed(Msgpack.decode(page), list, "a page of the manifest")
        _check([len(page), len(values)] == row[2:4] and values, f"a page of the manifest is not as long as {what} says")
        for position, value in enumerate(values):
            entry = parse_entry(value)
            key, parent = entry.path.replace(b"/", b"\0"), entry.path.rpartition(b"/")[0]
            _check(position or entry.path == row[0], f"a page of the manifest does not begin as {what} says")
            if total == 0:
                _check(not entry.path and entry.type in "df", "the manifest does not begin with the volume itself")
            else:
                _check(key > last_key, f"{_printable(entry.path)} is twice in the manifest, or out of order")
                _check(parent in directories, f"{_printable(entry.path)} is in the manifest without its directory")
            if entry.type == "d":
                directories.add(entry.path)
            last_key, total = key, total + 1
            yield entry
    _check(total and total == volume.get("entries"), "the manifest does not have as many entries as the point says")


class Restore:
    """Writes one volume as `name` below the open directory `top`, each step relative to one and following no link."""

    def __init__(self, chunks: Chunks, top: int, name: str) -> None:
        self.chunks, self.top, self.name = chunks, top, name
        self.survive = chunks.repository.survive

    def run(self, volume: dict[str, Any]) -> None:
        """Restore the volume; what cannot be given back is reported."""
        count, directories = 0, []
        with self.survive(f"{self.name}: the rest is lost"):
            for entry in manifest(self.chunks, volume):
                with self.survive(f"{self.name}: {_printable(entry.path)}"):
                    self._make(entry)
                    count += 1
                    if entry.type == "d":
                        directories.append(entry)
                    elif entry.type != "h":
                        self._set_attributes(entry)
        for entry in reversed(directories):  # now that all that is in them is there
            with self.survive(f"{self.name}: {_printable(entry.path)}"):
                self._set_attributes(entry)
        print(f"{self.name}: {count} entries restored")

    def _steps(self, path: bytes) -> list[bytes]:
        return [self.name.encode(), *(path.split(b"/") if path else [])]

    @contextmanager
    def _opened(self, steps: list[bytes]) -> Iterator[int]:
        """Open, only as a path, what lies below `top`, one step after the other."""
        fd = os.dup(self.top)
        try:
            for step in steps:
                outer, fd = fd, os.open(step, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                os.close(outer)
            yield fd
        finally:
            os.close(fd)

    def _make(self, entry: Entry) -> None:
        *parents, name = self._steps(entry.path)
        with self._opened(parents) as directory:
            if entry.type == "d":
                os.mkdir(name, 0o700, dir_fd=directory)
            elif entry.type == "l":
                os.symlink(entry.target, name, dir_fd=directory)
            elif entry.type == "h":  # of a file that was restored before
                *parents, first = self._steps(entry.target)
                _check(parents and not {b"", b".", b".."} & {*parents, first}, "a hard link to elsewhere")
                with self._opened(parents) as source:
                    _check(
                        stat.S_ISREG(os.lstat(first, dir_fd=source).st_mode), "a hard link to what is no regular file"
                    )
                    os.link(first, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
            elif entry.type != "f":
                kind = {"p": stat.S_IFIFO, "c": stat.S_IFCHR, "b": stat.S_IFBLK, "s": stat.S_IFSOCK}[entry.type]
                os.mknod(name, kind | 0o600, os.makedev(*entry.device), dir_fd=directory)
            else:
                fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory)
                try:
                    with os.fdopen(fd, "wb"):
                        self._write(fd, entry)
                except BaseException:
                    os.unlink(name, dir_fd=directory)
                    raise

    def _write(self, fd: int, entry: Entry) -> None:
        """Lay the chunks of a file, end to end, into its extents, end to end."""
        os.ftruncate(fd, entry.size)
        extents = iter(entry.extents or [[0, entry.size]])
        offset, room = 0, 0
        for at in range(0, len(entry.chunks), 32):
            data = memoryview(self.chunks.get(entry.chunks[at : at + 32]))
            while data:
                while room == 0:
                    offset, room = next(extents, (0, -1))
                _check(room > 0, "its chunks are longer than its extents")
                written = os.pwrite(fd, data[:room], offset)
                data, offset, room = data[written:], offset + written, room - written
        _check(room == 0 and not any(length for _, length in extents), "its chunks are shorter than its extents")

    def _set_attributes(self, entry: Entry) -> None:
        """Set owner, extended attributes, mode and time, in the order that keeps them all."""
        with self._opened(self._steps(entry.path)) as fd:
            where, mode = f"/proc/self/fd/{fd}", entry.mode  # even a link or a device, neither opened nor followed
            if os.geteuid() == 0:
                os.chown(where, entry.uid, entry.gid)
            elif entry.uid != os.geteuid():
                mode &= 0o1777  # set-uid bits under another owner than theirs would be a present to somebody
            for key, value in entry.xattrs.items():
                with self.survive(f"{self.name}: {_printable(entry.path)}: attribute {_printable(key)}"):
                    os.setxattr(where, key, value)
            if entry.type != "l":
                os.chmod(where, mode)
            os.utime(where, ns=(entry.mtime_ns, entry.mtime_ns))


def _restore(repository: Repository, point: dict[str, Any], destination: Path) -> None:
    chunks = Chunks(repository, point)
    destination.mkdir(mode=0o700)
    top = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    for number, volume in enumerate(point["volumes"]):
        name = urllib.parse.quote(
            _typed(volume.get("name"), str, "the name of a volume").strip("/").replace("/", "_"), safe=" @+=,"
        )[:240]
        if name in ("", ".", "..", *os.listdir(top)):
            name = f"{name.replace('.', '_')}#{number}"
        Restore(chunks, top, name).run(volume)
    for problem in _typed(point.get("problems", []), list, "problems"):
        parts = [_printable(part) for part in _typed(problem, list, "a problem")]
        repository.report(f"was not backed up: {': '.join(parts)}", damage=False)


def _show(repository: Repository, point: dict[str, Any]) -> None:
    for key, value in point.items():
        if key not in ("packs", "volumes"):
            print(f"{_printable(key)}: {json.dumps(value, default=_printable, skipkeys=True)}")
    chunks = Chunks(repository, point)
    for volume in point["volumes"]:
        print(f"volume {_printable(volume.get('name'))}")
        for entry in manifest(chunks, volume):
            target = f" -> {_printable(entry.target)}" if entry.target else ""
            numbers = f"{entry.mode:04o} {entry.uid}:{entry.gid} {entry.size:>12} {entry.mtime_ns / 1e9:.3f}"
            print(f"  {entry.type} {numbers} {_printable(entry.path)}{target}")


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description="Read a trinity-snap repository without trinity-snap.")
    parser.add_argument("repository", type=Path)
    key = parser.add_mutually_exclusive_group(required=True)
    key.add_argument("--identity", type=Path, metavar="FILE")
    key.add_argument("--words-stdin", action="store_true", help="read the 24 words from standard input")
    parser.add_argument("--repository-id", metavar="HEX", help="the id that was noted: refuse any other repository")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, operands in {"list": [], "show": ["point"], "restore": ["point", "destination"]}.items():
        subparser = commands.add_parser(command)
        for operand in operands:
            subparser.add_argument(operand)
    options = parser.parse_args(arguments)
    try:
        words = options.words_stdin
        identity = Identity(seed_from_words(sys.stdin.read())) if words else read_identity(options.identity)
        repository = Repository(options.repository, identity, options.repository_id)
        if options.command == "restore":
            _restore(repository, repository.find(options.point), Path(options.destination))
        elif options.command == "show":
            _show(repository, repository.find(options.point))
        else:
            for point in repository.points():
                when = datetime.fromtimestamp(min(max(point["created_ns"] // 10**9, 0), 1 << 37), UTC)
                who = f"{_printable(point['agent'])}  on {_printable(point['host'])}"
                void = f"  VOID: {why}" if (why := repository.void(point)) else ""
                print(f"{point['id']}  {when:%Y-%m-%d %H:%M:%SZ}  {who}{void}")
        return 0 if repository.complete else 90
    except (Refused, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 90 if isinstance(error, Damaged) else 1


# The English words of BIP-39 in their order, four letters of each (they tell them apart; _ fills up shorter words),
# written as what differs from the word before: "AbanIlLe" is aban, abil, able. A capital letter begins a word.
WORDS = """
AbanIlLeOuVSeOTUUsCceIOUHiIdOuQuRoT_IORUDapD_IRJuMiUlVaIEroFfaORaGaiE_NReHeaIm_R_PSlLarBuCoErIeL_EOMoOnPhReSoTeWaMatZOnUUsNalChIGe
LRImKlNoUOtSwTeIXiY_ParOlPeLRRiRchTEaNGuM_EOYOuRaEIOT_EIWSk_PeSaEIUThThlOmTaEIRUctDiGuNtThOUVerOcIWakRYEsFuKwXisBabyChODgG_LaCLMbN
aNR_EGRSeIKTtEacNUCaOEfFoGiHaILiOTNcEStTrTWYoIcyD_KeNdOlRdTTtLacDMNSEaSInOoSUUeRSOarTDyIlMbNeUOkSRdIRSsTtUnX_Y_RacINSVEaEIcDEGNSOc
KNOTWUsUbbDdGFfIlLbKLNdKRdGSS_IYTtYeZzCabbILCtGeKeLlMMePN_ACDNOVYPaITR_BDGPRTSeHITUT_ACETUgSTVeEilLeMeNsTReTHaiLMNOPRSTEaCEFRSIcEL
MOiORoUcNRIgaNnRcTiYViLaiPRWYEaRVIcEFMNPOcGSTUWUbMSTOacSCoDeFfIlNLlOUMbEFIMPNcDFGNSTVOkLPpYRaENRStTtUcNPRSVeYoRacDFMNSTWZEaDEWIcMS
TOpSUWUcEIMNSY_SUbeLtP_BRiRTVShTTeYclDad_MaPNcGRiShUgWnY_EalBaRCaEILORErFeIYGrLaIMaINiTYPaEOTURiScEIKPTTaEVeIOIagLMRCeEsTFfGiNLeNn
OReTSaCEHMOPTVeIOZzOctUG_LlPMaNaKOOrSeUbVeRafGMSWEaSIfLNPVOpUmY_UckMbNeRiStTcYWarYnaEageLRlNTSiTYChoOlNDgeItUcFfoGg_IghThLboDeEcGM
PVItSeMbaORErOtPlOTNabCD_LOEmRFoGaIHaJoLiOuRiOSuTeIRVePisQuaIRa_SOdSRoUpScaSaETaTerHiVidLOkLXacMCeHILUEcRHaIIlSTOtPaEILORTeRYe_BFa
brCeUDeInTLlSMeION_CTRmShT_AHIUlVoEatBrDeE_DLMaNcStTcVeW_IbeCtElGuLeMTNaDEGIReMSScHT_NX_LagMSTVEeIgPOaCOWUiSY_OamCuG_IlLdLOdTRcEGK
TUWSsTUnX_RagMEqSIeNOgNSWZUiUelN_NRnYTuGadgInLaLMeP_RaBDLMS_PTeHUgZeEneIRTUStHosIanFtGgNgRaLVeLadNRSIdMObORVWUeOatDdLdOdSRiSpSVeWn
RabCINPSVEaEIdETOcUWUnUarEsIdLTN_Ym_HabiIrLfMmSNdPpRbDSVT_VeWkZaEadLRVDgIgLlMPN_RoIddGhLlNtP_ReStObbCkLdEILMeNeOdPeRnRSSpTTeUrVeUb
_GeMaBONdGTRdRTSbYbrIce_OnDeaNLeGnoLl_ENMagItMeUPaORUNchLORDeIOUFaLOHaEItJeUMaNeOPuQuSaEIPTTaEOVeIORonSlaOlSuTemVorJackGuR_ZzEalNL
lWeOb_InKeUrY_UdgIcMpNgIKStKangEenPTcY_IckD_NNdGSsT_CETWiNeeIfOcWLab_EODdYKeMpNgPtRgTeIUgNVaW_NSYeZyEadFRVCtFtG_AEIsMoNdGSOpSsTtVe
IarBeRCeFeTGhKeMbINkOnQuStTtVeZaOadNBsCaKGiNeGOpTtUdNVeYaUckGgMbNaCXuYriMachD_GiNIdLNJoKeMmN_ADGSUPlRbCGIKRSkSTTcEHRTXiZeEadNSTChD
aILoTMbONtURcGIRShSTaHIddNLkLMiNdIOURaRSeSTX_ETObiDeIM_ENiKSTOnRaENSqThIOUnSVeIUchFfLeTScEHITTuYseTThNaivMePkRrStTiUEarCkEdGaLItPh
RvStT_WUtVeWsXtIceGhOblIsMiOdRmTSeTaEHIVeW_UclMbRsT_Oak_BeyJeLiScETaViCcuEaToDorFf_EITeIl_KayLd_IvYmMitNceE_IoLiYPenRInPoTiRanBiCh
DeIGaIeGPhStrTheUtdEPSValEnRWn_EXygYstZonPactDdGeIrLaMNdEITPeRaEKRTSsTcHIRTUsVeYmEacNRSLiN_ACOpPpRfMST_HonTRaYsIanCnTEcG_ELlONkOnP
eStTcZzLacNSTYEaDUcGNOemTInLaEINdYOlPuRtSiSTTaTVeWdERacIEdFPSTVIcDMNOSVZObCDFGJMOPSTUVUblDdLlPSMpNcPiPRcIPSShT_ZzYraQualNREsIcTZOt
RabbCcEKDaIIlNSLlMpNcDGPiReTeHVeW_ZoEadLSBeUCaEIOYDuFlOUGiRUJeLaEIYMaEIONdETOpPaELOQuScEIOPUTiRUUnVeIWaHytIb_BCeHDeGFlGhINgOtPpSkT
uVaEOadSBoUCkMaOfKMSeTaUgNTYaUbbDeG_LeN_WRaSad_DNFeIlLaMOTUMePNdTiOUcSVeY_CalNRTEnHeOIeSOrURaEIUEa_RSTCoRTUEdKGmLeLMiNiSTRiVSsTtUV
eHadFLREdLRIeFNPVOcEOPRUVRiUUfY_IblCkDeEgGhNLeKLVMiPNcGReStTuX_ZeKatEtI_LNRUlLabMEeNIcDGMOgTWUsMalRIlOkONacKPIfOwOapCcIKDaFtLaDIUV
MeNgOnRrTUlNPRTPacRTWEaCELNHeIcDKNRLiOiNORTRaEIY_QuaEITabDFGIMNRTYEaEMPRIcLNOcMNORVRaEIOUUdFMYlUbjMWCcHDdFfGaGItMmN_NSPePRReFGPRVS
pTWalMPREaEIfMNTOrYmbPRuStTablCkG_IlLeKNkPeRgSkTTtXiEacMLlN_ANTRmStXtHanTEmNORYInSOuReIOUmNIckDeGeLtMbENyP_ReSsTlOasBaDaDE_GeIlKeM
aONeGIOlTP_IPRcNTSsTaUrWaENY_RacDFGINPSVYEaENIaBCGMPOpUUcELMSTY_UbeItMbNaNRkNTWelNIcNSO_YpeIUglyMbrNabWClODeOFaOHaIfQTVKnLoTiUsVeP
daGrHoOnPeSeRbaGeSagE_DFLUaTilVacaUGuLiLVN_IPoRiStUlEhiLvNdTURbISYSsTeIabBrCiTDeEwLlNtOlRtUSaIUTaViOcaIcDLcUTeYaWageOItLkLNNtRfMRS
hPTTeVeY_EalPRSTB_DdEkIrLcStT_HalTEaENRIpSIdeTFeLdLN_DEGKNTReSdEHTnOlfMaNdOdLRdKLRTRapEcSIsTOnYardEarLlOu_NTZebrRoOneO_
"""

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
