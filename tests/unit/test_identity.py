"""Key files and words: what is saved is loaded, and whatever is wrong is said in a sentence."""

from __future__ import annotations

import base64
import json
import os
import stat
import time
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mnemonic import Mnemonic

from trinity_snap.errors import KeyFileError, TrinitySnapError, WrongKey
from trinity_snap.repository import wrapping
from trinity_snap.repository.identity import (
    PassphraseWrap,
    TrinityWrap,
    identity_from_words,
    identity_to_words,
    inspect_identity,
    load_host_key,
    load_identity,
    load_recipient,
    save_host_key,
    save_identity,
    save_recipient,
)
from trinity_snap.repository.keys import (
    HostSecret,
    Identity,
    Recipient,
    generate_host_secret,
    generate_identity,
)

TRINITY_KEY = "0123456789abcdef" * 4
IDENTITY = Identity(bytes(range(32)), "operator")


@pytest.fixture(autouse=True)
def cheap_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrapping, "_MEMORY_KIB", 64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "identity.key"


def change(path: Path, edit: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def never() -> str:
    raise AssertionError("asked for a passphrase that is not needed")


def test_an_identity_is_loaded_as_it_was_saved(path: Path) -> None:
    save_identity(path, IDENTITY, "operator")
    loaded = load_identity(path, passphrase=never)
    assert (loaded.seed, loaded.label) == (IDENTITY.seed, "operator")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [path.name]
    facts = inspect_identity(path)
    assert (facts.id, facts.label, facts.wrapped_by) == (IDENTITY.recipient.id, "operator", None)
    assert facts.created.endswith("Z")


def test_a_passphrase_opens_in_any_unicode_form_and_another_does_not(path: Path) -> None:
    save_identity(path, IDENTITY, "x", wrap=PassphraseWrap("pässwort"))
    assert base64.b64encode(IDENTITY.seed).decode() not in path.read_text()
    for form in ("NFC", "NFD"):
        assert load_identity(path, passphrase=partial(unicodedata.normalize, form, "pässwort")) == IDENTITY
    assert inspect_identity(path).wrapped_by == "passphrase"
    with pytest.raises(WrongKey, match="passphrase"):
        load_identity(path, passphrase=lambda: "other")
    with pytest.raises(KeyFileError, match="none was given"):
        load_identity(path)
    with pytest.raises(KeyFileError, match="UTF-8"):
        load_identity(path, passphrase=lambda: "\udcff")
    with pytest.raises(KeyFileError, match="empty"):
        save_identity(path, IDENTITY, "x", wrap=PassphraseWrap(""), overwrite=True)
    assert load_identity(path, passphrase=lambda: "pässwort") == IDENTITY


def test_argon2id_asks_for_64_mib_and_3_passes_by_default(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.undo()
    save_identity(path, IDENTITY, "x", wrap=PassphraseWrap("p"))
    kdf = json.loads(path.read_text())["wrapped"]["kdf"]
    assert (kdf["algorithm"], kdf["memory_kib"], kdf["passes"], kdf["lanes"]) == ("argon2id", 65536, 3, 4)
    assert len(base64.b64decode(kdf["salt"])) == 16
    assert load_identity(path, passphrase=lambda: "p") == IDENTITY


def test_trinitys_key_wraps_and_another_does_not_open(path: Path) -> None:
    save_identity(path, IDENTITY, "x", wrap=TrinityWrap(TRINITY_KEY))
    assert load_identity(path, trinity_key=TRINITY_KEY, passphrase=never) == IDENTITY
    with pytest.raises(WrongKey, match="CREDENTIAL_ENCRYPTION_KEY"):
        load_identity(path, trinity_key="f" * 64)
    with pytest.raises(KeyFileError, match="CREDENTIAL_ENCRYPTION_KEY"):
        load_identity(path, passphrase=never)
    with pytest.raises(KeyFileError, match="64 hexadecimal"):
        load_identity(path, trinity_key="short")


def test_an_envelope_from_another_identity_is_not_taken(path: Path, tmp_path: Path) -> None:
    save_identity(path, IDENTITY, "x", wrap=TrinityWrap(TRINITY_KEY))
    save_identity(tmp_path / "other", generate_identity(), "x", wrap=TrinityWrap(TRINITY_KEY))
    other = json.loads((tmp_path / "other").read_text())
    change(path, lambda content: content.update(wrapped=other["wrapped"]))
    with pytest.raises(KeyFileError, match="another identity"):
        load_identity(path, trinity_key=TRINITY_KEY)


@pytest.mark.parametrize(
    "parameters",
    [
        {"memory_kib": 100 << 20},
        {"memory_kib": (1 << 20) + 1},
        {"memory_kib": 1},
        {"memory_kib": "64"},
        {"memory_kib": True},
        {"memory_kib": 1e9},
        {"passes": 10**9},
        {"passes": 0},
        {"lanes": 10**6},
        {"lanes": 0},
        {"memory_kib": 1 << 20, "passes": 16},
        {"salt": ""},
        {"salt": "A" * 4000},
        {"algorithm": "scrypt"},
    ],
)
def test_a_hostile_file_cannot_ask_for_endless_work(path: Path, parameters: dict[str, object]) -> None:
    save_identity(path, IDENTITY, "x", wrap=PassphraseWrap("p"))
    change(path, lambda content: content["wrapped"]["kdf"].update(parameters))
    start = time.monotonic()
    with pytest.raises(KeyFileError, match="damaged"):
        load_identity(path, passphrase=never)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o660, 0o777])
def test_private_files_that_others_can_use_are_refused_with_the_command_to_run(path: Path, mode: int) -> None:
    save_identity(path, IDENTITY, "x")
    host_path = path.with_name("host.key")
    save_host_key(host_path, generate_host_secret())
    for file, load in ((path, load_identity), (path, inspect_identity), (host_path, load_host_key)):
        file.chmod(mode)
        with pytest.raises(KeyFileError, match=f"chmod 600 {file}"):
            load(file)
        file.chmod(0o400)
        load(file)


def test_nothing_is_overwritten_unless_told_so(path: Path) -> None:
    host = generate_host_secret()
    writers: list[Callable[..., None]] = [
        lambda **options: save_identity(path, IDENTITY, "x", **options),
        lambda **options: save_recipient(path, IDENTITY.recipient, **options),
        lambda **options: save_host_key(path, host, **options),
    ]
    for write in writers:
        path.write_text("precious")
        with pytest.raises(KeyFileError, match="already"):
            write()
        assert path.read_text() == "precious"
        write(overwrite=True)
        assert path.read_text() != "precious"
    path.unlink()
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(KeyFileError, match="already"):
        save_identity(path, IDENTITY, "x")
    assert not path.with_name("elsewhere").exists()


def test_recipients_and_host_keys_are_loaded_as_they_were_saved(tmp_path: Path) -> None:
    recipient = Recipient(IDENTITY.recipient.public, "büro")
    save_recipient(tmp_path / "r", recipient)
    loaded = load_recipient(tmp_path / "r")
    assert (loaded.public, loaded.label) == (recipient.public, "büro")
    assert stat.S_IMODE((tmp_path / "r").stat().st_mode) == 0o644
    host = generate_host_secret()
    save_host_key(tmp_path / "h", host)
    assert load_host_key(tmp_path / "h") == HostSecret(host.secret, host.repository_id)
    assert stat.S_IMODE((tmp_path / "h").stat().st_mode) == 0o600


def test_a_file_that_contradicts_itself_is_refused(path: Path, tmp_path: Path) -> None:
    save_identity(path, IDENTITY, "x")
    change(path, lambda content: content.update(id="0" * 16))
    with pytest.raises(KeyFileError, match="0000"):
        load_identity(path)
    save_recipient(tmp_path / "r", IDENTITY.recipient)
    change(tmp_path / "r", lambda content: content.update(id="0" * 16))
    with pytest.raises(KeyFileError, match="0000"):
        load_recipient(tmp_path / "r")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{",
        b"null",
        b"{}",
        b"[" * 60_000,
        b'{"a":1,"a":2}',
        b" " * 100_000,
        b'{"a":NaN}',
    ],
)
def test_what_is_no_key_file_is_refused_in_one_sentence(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    for load in (load_identity, inspect_identity, load_recipient, load_host_key):
        with pytest.raises(KeyFileError, match=str(path)):
            load(path)


def test_missing_files_wrong_kinds_and_directories_are_told_apart(path: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="There is no identity file"):
        load_identity(path)
    with pytest.raises(KeyFileError, match="not a regular file"):
        load_identity(tmp_path)
    os.mkfifo(path, 0o600)
    with pytest.raises(KeyFileError, match="not a regular file"):
        load_identity(path)
    save_host_key(tmp_path / "h", generate_host_secret())
    with pytest.raises(KeyFileError, match="no identity file; its format is 'trinity-snap host key'"):
        load_identity(tmp_path / "h")
    with pytest.raises(KeyFileError):
        load_identity("nul\0byte")
    with pytest.raises(KeyFileError, match="cannot be written"):
        save_identity(tmp_path / "missing" / "file", IDENTITY, "x")
    with pytest.raises(KeyFileError, match="label"):
        save_identity(path, IDENTITY, "two\nlines", overwrite=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_damaged_files_never_raise_anything_but_our_errors(path: Path, data: st.DataObject) -> None:
    wrap = data.draw(st.sampled_from([None, TrinityWrap(TRINITY_KEY)]))
    save_identity(path, IDENTITY, "label", wrap=wrap, overwrite=True)
    text = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path.write_bytes(text)
    try:
        loaded = load_identity(path, trinity_key=TRINITY_KEY, passphrase=lambda: "p")
    except TrinitySnapError:
        return
    assert loaded.seed == IDENTITY.seed


@given(st.binary(min_size=32, max_size=32))
def test_words_give_the_identity_back(seed: bytes) -> None:
    words = identity_to_words(Identity(seed))
    assert len(words) == 24
    assert identity_from_words(words).seed == seed
    assert identity_from_words("  " + "\n ".join(word.upper() for word in words)).seed == seed
    assert identity_from_words([word[:4] for word in words]).seed == seed


def test_words_are_those_of_the_standard() -> None:
    """From the vectors of BIP-39."""
    assert identity_to_words(Identity(bytes(32))) == ["abandon"] * 23 + ["art"]
    assert identity_to_words(Identity(b"\xff" * 32)) == ["zoo"] * 23 + ["vote"]
    eight = ["legal", "winner", "thank", "year", "wave", "sausage", "worth", "useful"]
    assert identity_to_words(Identity(b"\x7f" * 32)) == [*eight, *eight, *eight[:-1], "title"]


def test_wrong_words_are_named(path: Path) -> None:
    words = identity_to_words(IDENTITY)
    with pytest.raises(KeyFileError, match=r"word 3 \('abandn'; did you mean abandon"):
        identity_from_words([*words[:2], "abandn", *words[3:]])
    with pytest.raises(KeyFileError, match=r"word 1 .*word 24 "):
        identity_from_words(["xxxxx", *words[1:23], "日本"])
    with pytest.raises(KeyFileError, match="23 were given"):
        identity_from_words(words[:23])
    with pytest.raises(KeyFileError, match="0 were given"):
        identity_from_words("")
    wrong = next(word for word in Mnemonic("english").wordlist if word != words[5])
    with pytest.raises(KeyFileError, match="checksum"):
        identity_from_words([*words[:5], wrong, *words[6:]])


@given(st.lists(st.one_of(st.text(max_size=12), st.sampled_from(["abandon", "zoo", "art"])), max_size=30))
def test_any_text_as_words_raises_nothing_else(words: list[str]) -> None:
    try:
        identity_from_words(words)
    except KeyFileError:
        pass
