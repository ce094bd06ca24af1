"""The keys of a repository, derived and used as `docs/format.md` section 3 says.

An `Identity` opens, its `Recipient` seals, and a `HostSecret` names chunks and authenticates what a host
writes. The primitives come from the `cryptography` package, which is imported when it is first needed and not
before.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from trinity_snap.errors import IntegrityError, KeyFileError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives import hpke
    from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

INFO_PREFIX = b"trinity-snap/1/"

SEED_BYTES = 32
SECRET_BYTES = 32
REPOSITORY_ID_BYTES = 16
SESSION_ID_BYTES = 16
SESSION_KEY_BYTES = 32
MLKEM_PUBLIC_BYTES = 1184
RECIPIENT_BYTES = MLKEM_PUBLIC_BYTES + 32
RECIPIENT_ID_BYTES = 8
SEAL_OVERHEAD_BYTES = 1120 + 16
"""What sealing adds: the encapsulated key of the hybrid KEM, and the tag of the AEAD."""


def hkdf(key: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    """Derive `length` bytes from `key` by HKDF-SHA256 (RFC 5869)."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(key)


def object_key(parent: bytes, salt: bytes, kind: str) -> bytes:
    """The key (32 bytes) of an object of a kind (`pack`, `index`, `point`): from its parent key and salt."""
    return hkdf(parent, salt=salt, info=INFO_PREFIX + kind.encode("ascii"), length=32)


@lru_cache(maxsize=1)
def _suite() -> hpke.Suite:
    """HPKE (RFC 9180) in base mode: ML-KEM-768 with X25519 (X-Wing, 0x647a), HKDF-SHA256, AES-256-GCM."""
    from cryptography.hazmat.primitives import hpke

    return hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


@dataclass(frozen=True)
class Recipient:
    """The public half of a key: 1216 bytes to which anybody can seal.

    `label` is a name for people, and proves nothing. Raise KeyFileError if `public` has the wrong length.
    """

    public: bytes = field(repr=False)
    label: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if len(self.public) != RECIPIENT_BYTES:
            raise KeyFileError(f"A recipient has {RECIPIENT_BYTES} bytes, and this one has {len(self.public)}.")

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits: the first 8 bytes of the SHA-256 of the public key."""
        return hashlib.sha256(self.public).digest()[:RECIPIENT_ID_BYTES].hex()

    @cached_property
    def id_bytes(self) -> bytes:
        """The recipient id as 8 bytes, the way it occurs in `info` strings."""
        return bytes.fromhex(self.id)

    @cached_property
    def _public_key(self) -> hpke.MLKEM768X25519PublicKey:
        from cryptography.hazmat.primitives import hpke
        from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

        try:
            return hpke.MLKEM768X25519PublicKey(
                mlkem.MLKEM768PublicKey.from_public_bytes(self.public[:MLKEM_PUBLIC_BYTES]),
                x25519.X25519PublicKey.from_public_bytes(self.public[MLKEM_PUBLIC_BYTES:]),
            )
        except ValueError as error:
            raise KeyFileError(f"Recipient {self.id} is not a valid public key.") from error

    def seal(self, plaintext: bytes, info: bytes) -> bytes:
        """Seal `plaintext` to this recipient: 1136 bytes longer.

        Raise KeyFileError if the public key is no such key.
        """
        public_key = self._public_key
        try:
            return _suite().encrypt(plaintext, public_key, info=info)
        except Exception as error:  # the library has no one error for a degenerate public key
            raise KeyFileError(
                f"Nothing can be sealed to recipient {self.id}: its public key is not usable."
            ) from error


@dataclass(frozen=True)
class Identity:
    """The private half: a seed of 32 bytes from which both private keys come.

    Raise KeyFileError for another length.
    """

    seed: bytes = field(repr=False)
    label: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise KeyFileError(f"The seed of an identity has {SEED_BYTES} bytes, and this one has {len(self.seed)}.")

    @cached_property
    def _halves(self) -> tuple[mlkem.MLKEM768PrivateKey, x25519.X25519PrivateKey]:
        from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

        mlkem_seed = hkdf(self.seed, salt=b"", info=INFO_PREFIX + b"identity/ml-kem-768", length=64)
        x25519_key = hkdf(self.seed, salt=b"", info=INFO_PREFIX + b"identity/x25519", length=32)
        return (
            mlkem.MLKEM768PrivateKey.from_seed_bytes(mlkem_seed),
            x25519.X25519PrivateKey.from_private_bytes(x25519_key),
        )

    @cached_property
    def _private_key(self) -> hpke.MLKEM768X25519PrivateKey:
        from cryptography.hazmat.primitives import hpke

        return hpke.MLKEM768X25519PrivateKey(*self._halves)

    @cached_property
    def recipient(self) -> Recipient:
        """The public half of this identity, under the same label."""
        public = b"".join(half.public_key().public_bytes_raw() for half in self._halves)
        return Recipient(public, self.label)

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """Open what was sealed to this identity's recipient with the same `info`.

        Raise IntegrityError if it is damaged, was sealed to another recipient, or for another use.
        """
        if len(sealed) >= SEAL_OVERHEAD_BYTES:
            private_key = self._private_key
            try:
                return _suite().decrypt(sealed, private_key, info=info)
            except Exception as error:  # InvalidTag, and ValueError for a degenerate encapsulated key
                raise self._not_openable() from error
        raise self._not_openable()

    def _not_openable(self) -> IntegrityError:
        return IntegrityError(
            f"Something sealed to recipient {self.recipient.id} cannot be opened: "
            "it is damaged, or was made for another use."
        )


@dataclass(frozen=True)
class HostSecret:
    """A host's secret (32 bytes) for one repository (its id, 16 bytes), and the keys that come from it.

    Raise KeyFileError if either has the wrong length.
    """

    secret: bytes = field(repr=False)
    repository_id: bytes

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES or len(self.repository_id) != REPOSITORY_ID_BYTES:
            raise KeyFileError(
                f"A host key is a secret of {SECRET_BYTES} bytes, a repository id {REPOSITORY_ID_BYTES}; "
                f"these have {len(self.secret)} and {len(self.repository_id)}."
            )

    def _derive(self, name: bytes, length: int) -> bytes:
        return hkdf(self.secret, salt=self.repository_id, info=INFO_PREFIX + name, length=length)

    @cached_property
    def chunk_id_key(self) -> bytes:
        """Key of the keyed BLAKE3 that names chunks."""
        return self._derive(b"chunk-id", 32)

    @cached_property
    def index_key(self) -> bytes:
        """Parent key of index objects."""
        return self._derive(b"index", 32)

    @cached_property
    def mac_key(self) -> bytes:
        """Key of the MACs that make documents and recovery points authentic."""
        return self._derive(b"mac", 32)

    @cached_property
    def chunker_seed(self) -> int:
        """Seed of the content-defined chunker, 64 bits."""
        return int.from_bytes(self._derive(b"chunker", 8), "big")

    @cached_property
    def page_seed(self) -> int:
        """Seed of the boundaries between manifest pages, 32 bits."""
        return int.from_bytes(self._derive(b"page", 4), "big")


def generate_identity(label: str = "") -> Identity:
    """A new identity, from the system's random numbers."""
    return Identity(os.urandom(SEED_BYTES), label)


def generate_host_secret() -> HostSecret:
    """A new host secret for a new repository, whose id is drawn at the same time."""
    secret = os.urandom(SECRET_BYTES)
    return HostSecret(secret, repository_id_of(secret))


def repository_id_of(secret: bytes) -> bytes:
    """The id (16 bytes) of the repository that belongs to a host secret.

    Who has noted the id can thus tell the repository from one that somebody invented for the same recipients.
    """
    return hashlib.sha256(INFO_PREFIX + b"repository-id" + secret).digest()[:REPOSITORY_ID_BYTES]


def generate_session_key() -> bytes:
    """A new session key, 32 bytes."""
    return os.urandom(SESSION_KEY_BYTES)
