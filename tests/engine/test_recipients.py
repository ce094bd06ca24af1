"""Recipients: who can open what, before and after others join and leave, on a real target."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trinity_snap.errors import (
    ForeignRepository,
    IntegrityError,
    KeyFileError,
    RepositoryMissing,
    TrinitySnapError,
    UsageError,
    WrongKey,
)
from trinity_snap.repository import recipients as module
from trinity_snap.repository.documents import (
    created_now,
    sign_document,
    split_document,
    verify_document,
)
from trinity_snap.repository.keys import (
    HostSecret,
    Identity,
    Recipient,
    generate_host_secret,
    generate_identity,
    generate_session_key,
)
from trinity_snap.repository.recipients import (
    RecipientList,
    add_recipient,
    current_recipients,
    open_host_secret,
    open_session,
    recipient_entries,
    retire_recipient,
    seal_session,
    session_history,
)
from trinity_snap.targets import Target, open_target

OPERATOR = Identity(b"o" * 32, "operator")
RECOVERY = Identity(b"r" * 32, "recovery")
CAROL = Identity(b"c" * 32, "carol")
DAVE = Identity(b"d" * 32, "dave")
HOST = HostSecret(b"s" * 32, b"i" * 16)


def repository_document(host: HostSecret, identities: list[Identity]) -> bytes:
    payload = {
        "id": host.repository_id.hex(),
        "created": created_now(),
        "generation": 0,
        "recipients": recipient_entries(host, [identity.recipient for identity in identities]),
    }
    return sign_document("repository", payload, host.mac_key)


DOCUMENT = repository_document(HOST, [OPERATOR, RECOVERY])


@pytest.fixture
def target(tmp_path: Path) -> Target:
    target = open_target(str(tmp_path / "target"), create=True)
    target.put_if_absent("repository", DOCUMENT)
    return target


def begin_session(target: Target) -> tuple[bytes, bytes]:
    """What a run does at its start. Gives the session's id and key."""
    session_id, key = os.urandom(16), generate_session_key()
    listed = current_recipients(target, HOST).recipients
    document = seal_session(key, HOST.repository_id, session_id, listed, HOST.mac_key)
    assert target.put_if_absent(f"sessions/{session_id.hex()}", document)
    return session_id, key


def open_as(target: Target, identity: Identity, session_id: bytes) -> bytes:
    """What a reader does that has nothing but the target and an identity."""
    payload, _, _ = split_document(target.get("repository"))
    newest = max(
        (split_document(target.get(name))[0] for name in target.list_prefix("recipients/")),
        key=lambda one: int(str(one["generation"])),
        default=payload,
    )
    try:
        host = open_host_secret(payload, identity)
    except WrongKey:
        host = open_host_secret(newest, identity)
    verify_document("repository", target.get("repository"), host.mac_key)
    history = session_history(target, host, identity)
    data = target.get(f"sessions/{session_id.hex()}")
    return open_session(data, host.repository_id, session_id, identity, host.mac_key, history)


def labels(listed: RecipientList) -> list[str]:
    return [recipient.label for recipient in listed.recipients]


def test_a_document_is_two_lines_of_ascii_with_the_mac_of_the_format() -> None:
    import hashlib
    import hmac

    data = sign_document("session", {"name": "ü\n"}, b"k" * 32)
    first, second, rest = data.split(b"\n")
    assert rest == b""
    assert data.isascii()
    assert json.loads(first) == {"format": "trinity-snap session", "version": 1, "name": "ü\n"}
    expected = hmac.new(b"k" * 32, b"trinity-snap/1/session\n" + first, hashlib.sha256).hexdigest()
    assert second.decode() == expected
    assert verify_document("session", data, b"k" * 32)["name"] == "ü\n"
    with pytest.raises(IntegrityError):
        verify_document("session", data, b"l" * 32)
    with pytest.raises(IntegrityError):
        verify_document("repository", data, b"k" * 32)


def test_a_document_of_a_later_version_is_refused_as_such() -> None:
    data = sign_document("repository", {"version": 2}, HOST.mac_key)
    with pytest.raises(ForeignRepository, match="version 2"):
        verify_document("repository", data, HOST.mac_key)


@settings(max_examples=300)
@given(st.data())
def test_no_changed_document_is_accepted(data: st.DataObject) -> None:
    changed = bytearray(DOCUMENT)
    place = data.draw(st.integers(0, len(changed) - 1))
    changed[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    if bytes(changed) == DOCUMENT:
        return
    with pytest.raises((IntegrityError, ForeignRepository)):
        verify_document("repository", bytes(changed), HOST.mac_key)


@settings(max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["id", "recipients", "public", "label"]), inner, max_size=4)
            ),
        ).map(lambda value: json.dumps(value).encode() + b"\n" + b"0" * 64 + b"\n"),
    )
)
def test_hostile_documents_raise_nothing_but_our_errors(data: bytes) -> None:
    for read in (
        lambda: open_host_secret(split_document(data)[0], OPERATOR),
        lambda: open_session(data, HOST.repository_id, b"s" * 16, OPERATOR, HOST.mac_key, {}),
    ):
        with pytest.raises(TrinitySnapError):
            read()


@pytest.mark.parametrize("identity", [OPERATOR, RECOVERY])
def test_every_recipient_opens_the_host_secret(identity: Identity) -> None:
    host = open_host_secret(split_document(DOCUMENT)[0], identity)
    assert host == HOST
    assert verify_document("repository", DOCUMENT, host.mac_key)["generation"] == 0


def test_a_stranger_is_told_so() -> None:
    with pytest.raises(WrongKey, match="no recipient"):
        open_host_secret(split_document(DOCUMENT)[0], CAROL)


def test_entries_need_a_recipient_and_each_only_once() -> None:
    with pytest.raises(KeyFileError, match="at least one"):
        recipient_entries(HOST, [])
    with pytest.raises(KeyFileError, match="twice"):
        recipient_entries(HOST, [OPERATOR.recipient, Recipient(OPERATOR.recipient.public, "again")])
    with pytest.raises(KeyFileError, match="at least one"):
        seal_session(b"k" * 32, HOST.repository_id, b"s" * 16, [], HOST.mac_key)


def test_sessions_open_for_all_recipients_and_nobody_else(target: Target) -> None:
    session_id, key = begin_session(target)
    assert open_as(target, OPERATOR, session_id) == open_as(target, RECOVERY, session_id) == key
    data = target.get(f"sessions/{session_id.hex()}")
    with pytest.raises(WrongKey, match="not sealed to"):
        open_session(data, HOST.repository_id, session_id, CAROL, HOST.mac_key, {})
    assert open_session(data, HOST.repository_id, session_id, CAROL, HOST.mac_key, {session_id: key}) == key


def test_a_session_is_bound_to_its_id_and_repository(target: Target) -> None:
    session_id, _ = begin_session(target)
    data = target.get(f"sessions/{session_id.hex()}")
    with pytest.raises(IntegrityError):
        open_session(data, HOST.repository_id, os.urandom(16), OPERATOR, HOST.mac_key, {})
    with pytest.raises(IntegrityError):
        open_session(data, os.urandom(16), session_id, OPERATOR, HOST.mac_key, {})
    moved = json.loads(data.split(b"\n")[0]) | {"session": "0" * 32}
    with pytest.raises(IntegrityError, match="cannot be opened"):
        open_session(
            sign_document("session", moved, HOST.mac_key),
            HOST.repository_id,
            bytes(16),
            OPERATOR,
            HOST.mac_key,
            {},
        )


def test_one_who_joins_reads_what_was_there_before_and_what_comes_after(target: Target) -> None:
    before = [begin_session(target) for _ in range(3)]
    listed = add_recipient(target, HOST, OPERATOR, CAROL.recipient)
    assert labels(listed) == ["operator", "recovery", "carol"]
    assert (listed.generation, listed.unreadable_sessions) == (1, ())
    between = [begin_session(target)]
    add_recipient(target, HOST, CAROL, DAVE.recipient)
    after = [begin_session(target)]
    for session_id, key in before + between + after:
        for identity in (OPERATOR, RECOVERY, CAROL, DAVE):
            assert open_as(target, identity, session_id) == key


def test_one_who_leaves_reads_nothing_that_comes_after(target: Target) -> None:
    session_id, key = begin_session(target)
    listed = retire_recipient(target, HOST, RECOVERY.recipient.id)
    assert labels(listed) == ["operator"]
    later_id, later_key = begin_session(target)
    assert open_as(target, RECOVERY, session_id) == key
    with pytest.raises(WrongKey):
        open_as(target, RECOVERY, later_id)
    assert open_as(target, OPERATOR, later_id) == later_key
    with pytest.raises(UsageError, match="last recipient"):
        retire_recipient(target, HOST, OPERATOR.recipient.id)
    with pytest.raises(UsageError, match="not a recipient"):
        retire_recipient(target, HOST, RECOVERY.recipient.id)
    add_recipient(target, HOST, OPERATOR, RECOVERY.recipient)
    assert open_as(target, RECOVERY, later_id) == later_key


def test_only_a_recipient_can_add_another(target: Target) -> None:
    with pytest.raises(WrongKey, match="Nothing was changed"):
        add_recipient(target, HOST, CAROL, DAVE.recipient)
    assert list(target.list_prefix("recipients/")) == []


def test_adding_one_who_is_there_changes_nothing_for_the_first_and_completes_the_others(
    target: Target,
) -> None:
    begin_session(target)
    add_recipient(target, HOST, OPERATOR, RECOVERY.recipient)
    assert list(target.list_prefix("recipients/")) == []
    add_recipient(target, HOST, OPERATOR, CAROL.recipient)
    session_id, key = os.urandom(16), generate_session_key()
    late = seal_session(key, HOST.repository_id, session_id, [OPERATOR.recipient], HOST.mac_key)
    target.put_if_absent(f"sessions/{session_id.hex()}", late)
    with pytest.raises(WrongKey):
        open_as(target, CAROL, session_id)
    listed = add_recipient(target, HOST, OPERATOR, CAROL.recipient)
    assert labels(listed) == ["operator", "recovery", "carol"]
    assert open_as(target, CAROL, session_id) == key


def test_a_session_that_begins_while_somebody_joins_is_seen_to(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    late_id, late_key = os.urandom(16), generate_session_key()
    before = current_recipients(target, HOST).recipients
    real = module._put_list

    def put_and_begin(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]  # passed on as they are
        document = seal_session(late_key, HOST.repository_id, late_id, before, HOST.mac_key)
        target.put_if_absent(f"sessions/{late_id.hex()}", document)

    begin_session(target)
    monkeypatch.setattr(module, "_put_list", put_and_begin)
    add_recipient(target, HOST, OPERATOR, CAROL.recipient)
    assert open_as(target, CAROL, late_id) == late_key


def test_two_who_change_the_list_at_once_both_succeed(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., None] = module._put_list
    others = iter([DAVE.recipient])

    def put_second(target: Target, host: HostSecret, generation: int, entries: list[module.Entry]) -> None:
        other = next(others, None)
        if other is not None:
            current = current_recipients(target, host)
            for number in range(20):  # so that one of its names is surely the smaller one
                del number
                real(target, host, generation, [*current.entries, *recipient_entries(host, [other])])
        real(target, host, generation, entries)

    monkeypatch.setattr(module, "_put_list", put_second)
    listed = add_recipient(target, HOST, OPERATOR, CAROL.recipient)
    assert "carol" in labels(listed)
    assert labels(current_recipients(target, HOST)) == labels(listed)


def test_of_two_lists_of_one_generation_the_smaller_name_counts(target: Target) -> None:
    for name, identity in (("f" * 32, CAROL), ("0" * 32, DAVE), ("8" * 32, OPERATOR)):
        payload = {
            "id": HOST.repository_id.hex(),
            "created": created_now(),
            "generation": 7,
            "recipients": recipient_entries(HOST, [identity.recipient]),
        }
        target.put_if_absent(f"recipients/{name}", sign_document("recipients", payload, HOST.mac_key))
    assert labels(current_recipients(target, HOST)) == ["dave"]


def test_forged_and_damaged_lists_are_passed_over_and_named(target: Target) -> None:
    foreign = generate_host_secret()
    mallory = generate_identity("mallory")
    forged = json.loads(repository_document(foreign, [mallory]).split(b"\n")[0])
    forged |= {"format": "trinity-snap recipients", "generation": 99, "id": HOST.repository_id.hex()}
    names = [f"recipients/{letter * 32}" for letter in "abcde"]
    contents = [
        sign_document("recipients", forged, foreign.mac_key),
        DOCUMENT,
        b"",
        sign_document("recipients", forged | {"generation": -1}, HOST.mac_key),
        sign_document("recipients", forged | {"recipients": []}, HOST.mac_key),
    ]
    for name, content in zip(names, contents, strict=True):
        target.put_if_absent(name, content)
    listed = current_recipients(target, HOST)
    assert labels(listed) == ["operator", "recovery"]
    assert listed.damaged == tuple(names)


def test_a_damaged_session_does_not_keep_anybody_from_joining(target: Target) -> None:
    session_id, key = begin_session(target)
    bad = f"sessions/{'0' * 32}"
    target.put_if_absent(bad, b"damaged")
    listed = add_recipient(target, HOST, OPERATOR, CAROL.recipient)
    assert listed.unreadable_sessions == (bad,)
    assert open_as(target, CAROL, session_id) == key


def test_another_hosts_repository_and_none_are_told_apart(tmp_path: Path, target: Target) -> None:
    with pytest.raises(ForeignRepository, match="host key"):
        current_recipients(target, generate_host_secret())
    with pytest.raises(IntegrityError):
        current_recipients(target, HostSecret(b"x" * 32, HOST.repository_id))
    with pytest.raises(RepositoryMissing):
        current_recipients(open_target(str(tmp_path / "empty"), create=True), HOST)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(["session", "add carol", "add dave", "retire operator", "retire carol"]), max_size=8))
def test_whatever_happens_a_member_reads_all_that_it_should(tmp_path: Path, steps: list[str]) -> None:
    """Whoever is a recipient reads every session; whoever left reads at least what came while it was one."""
    target = open_target(str(tmp_path / os.urandom(8).hex()), create=True)
    target.put_if_absent("repository", DOCUMENT)
    everybody = {"operator": OPERATOR, "recovery": RECOVERY, "carol": CAROL, "dave": DAVE}
    members = {"operator", "recovery"}
    sessions: list[tuple[bytes, bytes]] = []
    for step in steps:
        verb, _, who = step.partition(" ")
        if verb == "session":
            sessions.append(begin_session(target))
        elif verb == "add":
            add_recipient(target, HOST, RECOVERY, everybody[who].recipient)
            members.add(who)
        elif who in members:
            retire_recipient(target, HOST, everybody[who].recipient.id)
            members.remove(who)
        assert set(labels(current_recipients(target, HOST))) == members
        for session_id, key in sessions:
            for member in members:
                assert open_as(target, everybody[member], session_id) == key
