"""Whom a sealed host seals to: nobody else, whoever can write to its storage; and how recipients are exchanged."""

from __future__ import annotations

import json
import os
import shutil
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.sealed import Pair, pair
from tests.unit.test_cli_repository import make_host, repository
from trinity_snap.errors import RecipientsMismatch
from trinity_snap.repository import session as session_module
from trinity_snap.repository.keys import RECIPIENT_BYTES, Recipient, generate_host_secret
from trinity_snap.repository.lease import running_ns
from trinity_snap.repository.pins import Pins, load_pins
from trinity_snap.repository.recipients import current_recipients
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.trust import Trust
from trinity_snap.setup.home import Home

__all__ = ["make_host", "pair", "repository"]  # fixtures

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a run needs root")

ANYBODY = [Recipient(bytes([number]) * RECIPIENT_BYTES, str(number)) for number in range(5)]
some = st.sets(st.sampled_from(range(5)))


@given(some.filter(bool), some, some)
def test_what_is_accepted_has_no_stranger_and_one_whole_side(now: set[int], later: set[int], listed: set[int]) -> None:
    pins = Pins(tuple(ANYBODY[one] for one in now), tuple(ANYBODY[one] for one in later))
    accepted = pins.accepts([ANYBODY[one] for one in listed])
    assert accepted == (listed <= now | later and (now <= listed or (later != set() and later <= listed)))
    if not later:
        assert accepted == (listed == now)


def test_keys_are_compared_and_not_their_short_ids() -> None:
    pinned, stranger = Recipient(b"a" * RECIPIENT_BYTES, "operator"), Recipient(b"b" * RECIPIENT_BYTES, "operator")
    stranger.__dict__["id"] = pinned.id  # what somebody gets who tries 2^64 keys
    with pytest.raises(RecipientsMismatch, match=r"SHA-256 [0-9a-f]{64}"):
        Pins((pinned,)).check([stranger])


# -- set-up ----


def test_a_sealed_host_has_no_identity_and_no_words(pair: Pair) -> None:
    answer = pair.initialise()
    assert (answer["changed"], answer["identity"], answer["recovery_words"]) == (False, None, None)
    assert {one["label"] for one in answer["recipients"]} == {"operator", "paper"}
    assert {path.name for path in pair.host.policy.parent.iterdir()} == {"host.key", "policy.yml", "recipients.pins"}
    assert set(load_pins(pair.pins).recipients) == {pair.recipient("operator"), pair.recipient("paper")}
    assert "cannot read what it backs up" not in pair.host.text("init")
    for options in (["--wrap", "passphrase"], ["--recovery-words-file", "x"], ["--from-words"], ["--adopt"]):
        assert pair.initialise(*options, code=2)["error"] == "UsageError"


def test_one_recipient_alone_has_to_be_wanted(make_host, repository, pair: Pair) -> None:
    other = make_host("other")
    given = ["init", "--target", f"{repository}2", "--recipient", pair.file("operator")]
    assert "--single-recipient" in other.json(*given, code=2)["next_step"]
    assert not other.policy.parent.exists() and not Path(f"{repository}2").exists()
    assert other.json(*given, "--recipient", pair.file("operator"), code=2)["error"] == "UsageError"
    assert len(other.json(*given, "--single-recipient")["recipients"]) == 1


def test_a_policy_written_beforehand_must_fit(make_host, repository, pair: Pair) -> None:
    other = make_host("other")
    other.policy.parent.mkdir()
    given = ["init", *(part for name in ("operator", "paper") for part in ("--recipient", pair.file(name)))]
    for keys in ({}, {"identity": None}, {"pins": "recipients.pins"}):
        other.policy.write_text(json.dumps({"target": f"{repository}2", "keys": keys}))
        answer = other.json(*given, code=2)
        assert "`identity: null` and `pins: recipients.pins`" in answer["next_step"]
    other.policy.write_text(
        json.dumps({"target": f"{repository}2", "keys": {"identity": None, "pins": "recipients.pins"}})
    )
    assert other.json("init", code=2)["next_step"].startswith("Make identities elsewhere")
    for name in ("operator", "paper"):
        shutil.copy(pair.file(name), other.policy.parent)
    assert other.json("init")["changed"], "recipient files beside the policy will do"
    assert not other.json("init")["changed"]
    answer = other.json("init", "--recipient", pair.file("stranger"), code=2)
    assert pair.recipient("stranger").id in answer["message"]


def test_the_words_of_an_identity_need_no_policy(make_host, pair: Pair) -> None:
    spelled = make_host("nobody").json("key", "words", "--identity", pair.key("paper"))
    assert (len(spelled["words"]), spelled["id"]) == (24, pair.recipient("paper").id)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["begin", "host_key", "_repository", "save_pins", "finish"])
def test_an_interrupted_set_up_can_be_run_again(step, when, make_host, repository, monkeypatch) -> None:
    pair = Pair(make_host("host"), make_host("control"), Path(repository))
    module = {"begin": Home, "finish": Home, "save_pins": import_module("trinity_snap.repository.pins")}.get(
        step, import_module("trinity_snap.setup.sealed")
    )
    original = getattr(module, step)

    def dies(*arguments: object, **more: object) -> object:
        if when == "after":
            original(*arguments, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, step, dies)
        pair.initialise(code=130)
    assert pair.initialise()["changed"] == ((step, when) != ("finish", "after"))
    assert pair.host.json("key", "list")["pins"]["matches"]
    assert pair.initialise()["changed"] is False


def test_a_lost_host_goes_on_with_the_host_key_from_the_control_node(make_host, repository, pair: Pair) -> None:
    (pair.data / "file").write_bytes(os.urandom(1_000_000))
    pair.point()
    packs = pair.objects("packs/")
    fresh = Pair(make_host("fresh"), pair.control, pair.repository)
    assert fresh.initialise(code=1)["error"] == "RepositoryExists"
    fresh.host.policy.parent.mkdir(mode=0o700)
    pair.control.json("key", "host-key", str(fresh.host.policy.parent / "host.key"))
    wrong = fresh.host.json(
        "init", "--target", repository, "--recipient", pair.file("operator"), "--recipient", pair.file("stranger"), code=1
    )  # fmt: skip
    assert wrong["error"] == "RecipientsMismatch" and pair.recipient("paper").id in wrong["message"]
    assert not fresh.pins.exists() and not fresh.host.policy.exists()
    answer = fresh.initialise()
    assert (answer["changed"], answer["adopted"]) == (True, True)
    shutil.copytree(pair.data, fresh.data)
    fresh.configure()
    fresh.point()
    grown = sum(fresh.target().stat(name).size for name in fresh.objects("packs/") - packs)
    assert grown < 20_000, "a new path has a new manifest, and the same data"
    assert fresh.restored() == {"file": (pair.data / "file").read_bytes()}


# -- somebody else in the list ----


def stops(pair: Pair, *named: str) -> None:
    """The next run writes nothing, and its error names these ids; `status` has said so before."""
    before = pair.objects("")
    assert any("The next run will stop" in warning for warning in pair.host.json("status")["warnings"])
    answer = pair.back_up(code=1)
    assert answer["error"]["error"] == "RecipientsMismatch"
    assert answer["agents"][0]["point"] is None
    for name in named:
        assert pair.recipient(name).id in answer["error"]["message"], name
    assert pair.objects("") == before
    assert not pair.host.json("key", "list")["pins"]["matches"] or "generation" in answer["error"]["message"]


def test_a_recipient_put_in_by_the_thief_of_the_host_key_gets_nothing(pair: Pair) -> None:
    pair.point()
    pair.put_list(1, ["operator", "paper", "stranger"])
    stops(pair, "stranger", "operator", "paper")
    assert not any(pair.recipient("stranger").id in ids for ids in pair.sealed_to())
    shutil.rmtree(pair.state)  # what the host remembers is not needed for that
    pair.put_list(2, ["stranger", "paper"])
    stops(pair, "stranger", "operator")


def test_a_run_that_renews_its_session_seals_to_no_stranger_either(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository.open(pair.target(), host=pair.secret, trust=Trust(pair.pins, pair.state))
    with repository.begin_session(pair.state / "cache") as session:
        later = running_ns() + 30 * 3600 * 10**9
        monkeypatch.setattr(session_module, "running_ns", lambda: later)
        repository.look_again(session)
        pair.put_list(1, ["operator", "paper", "stranger"])
        monkeypatch.setattr(session_module, "running_ns", lambda: 2 * later)
        with pytest.raises(RecipientsMismatch):
            repository.look_again(session)
    assert len(pair.sealed_to()) == 2
    assert not any(pair.recipient("stranger").id in ids for ids in pair.sealed_to())


def test_a_recipient_taken_out_by_the_thief_of_the_host_key_is_missed(pair: Pair) -> None:
    pair.point()
    pair.put_list(1, ["paper"])
    stops(pair, "operator")


def test_a_list_of_the_storage_alone_is_passed_over(pair: Pair) -> None:
    name = pair.put_list(1, ["operator", "paper", "stranger"], host=generate_host_secret())
    answer = pair.back_up()
    assert any(name in note for note in answer["notes"])
    assert pair.sealed_to() == [{pair.recipient("operator").id, pair.recipient("paper").id}]


def test_an_old_list_that_the_storage_puts_back_is_noticed(pair: Pair) -> None:
    pair.host.json("key", "pin", pair.file("new"), pair.file("paper"))
    pair.control.json("key", "add", pair.file("new"))
    pair.control.json("key", "retire", pair.recipient("operator").id)
    pair.point()
    newest = current_recipients(pair.target(), pair.secret).name
    hidden = (pair.repository / newest).rename(pair.host.home / "hidden")
    stops(pair)
    assert pair.host.json("key", "accept", code=1)["error"] == "RecipientsMismatch", "the pins still hold"
    shutil.rmtree(pair.state)
    stops(pair, "operator", "new")
    hidden.rename(pair.repository / newest)
    pair.point()


def test_a_host_without_pins_notices_an_older_list_too(make_host, repository, pair: Pair, monkeypatch) -> None:
    host = make_host("plain")
    host.json("init", "--target", f"{repository}2")
    plain = Pair(host, host, Path(f"{repository}2"))
    plain.data.mkdir()
    policy = {"target": f"{repository}2", "state": {"directory": str(plain.state)}}
    host.policy.write_text(
        json.dumps({**policy, "agents": {"discover": {"trinity": False}}, "platform": {"paths": [str(plain.data)]}})
    )
    plain.point()
    (recovery,) = [one["id"] for one in host.json("key", "list")["recipients"] if one["label"] == "recovery"]
    host.json("key", "add", pair.file("operator"))
    host.json("key", "retire", recovery)
    plain.point()
    for name in plain.objects("recipients/"):
        (plain.repository / name).unlink()
    before = plain.objects("")
    answer = plain.back_up(code=1)
    assert answer["error"]["error"] == "RecipientsMismatch" and "generation 2" in answer["error"]["message"]
    assert plain.objects("") == before
    assert "key accept" in answer["error"]["next_step"]
    assert host.json("key", "list")["generation_seen"] == 2
    host.json("key", "accept")
    plain.point()


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]"])
def test_pins_that_are_lost_or_damaged_stop_the_run(pair: Pair, content: bytes | None) -> None:
    kept = pair.pins.read_bytes()
    pair.pins.unlink()
    if content is not None:
        pair.pins.write_bytes(content)
    before = pair.objects("")
    assert pair.back_up(code=1)["error"]["error"] == "KeyFileError"
    assert pair.objects("") == before
    changed = json.loads(kept)
    changed["recipients"][0]["public"] = changed["recipients"][1]["public"]
    pair.pins.write_text(json.dumps(changed))
    assert "damaged" in pair.back_up(code=1)["error"]["message"]
    pair.host.json("key", "pin", pair.file("operator"), pair.file("paper"))
    pair.point()


# -- exchanging recipients ----


def test_recipients_are_exchanged_without_missing_a_run(pair: Pair) -> None:
    (pair.data / "file").write_text("before")
    first = pair.point()
    answer = pair.host.json("key", "pin", "--next", pair.file("new"), "--next", pair.file("paper"))
    assert answer["changed"] and len(answer["next"]) == 2
    assert not pair.host.json("key", "pin", "--next", pair.file("paper"), "--next", pair.file("new"))["changed"]
    pair.point()
    pair.control.json("key", "add", pair.file("new"))
    pair.point()
    pair.control.json("key", "retire", pair.recipient("operator").id)
    pair.point()
    assert "pin them" in pair.host.text("key", "list")
    pair.host.json("key", "pin", pair.file("new"), pair.file("paper"))
    (pair.data / "file").write_text("after")
    last = pair.point()
    assert pair.restored("new", first) == {"file": b"before"}
    assert pair.restored("new", last) == pair.restored("paper", last) == {"file": b"after"}
    listed = pair.control.json("list", "--identity", pair.key("operator"))
    assert {one["id"] for one in listed["points"]} >= {first} and last not in {one["id"] for one in listed["points"]}
    pair.put_list(9, ["operator", "paper"])
    stops(pair, "operator", "new")  # what was let go of does not come back


def test_the_repository_may_be_changed_first_and_the_host_waits_for_its_pins(pair: Pair) -> None:
    pair.control.json("key", "add", pair.file("new"))
    stops(pair, "new")
    pair.host.json("key", "pin", pair.file("operator"), pair.file("paper"), pair.file("new"))
    pair.point()
    pair.control.json("key", "retire", pair.recipient("operator").id)
    stops(pair, "operator")
    assert not pair.host.json("key", "pin", "--listed", "--dry-run")["next"]
    assert pair.host.json("key", "pin", "--listed")["changed"]
    pair.point()


def test_while_they_are_exchanged_nobody_else_comes_in_and_neither_side_is_half(pair: Pair) -> None:
    pair.host.json("key", "pin", "--next", pair.file("new"), "--next", pair.file("fresh"))
    for generation, names in enumerate(
        (["operator", "new"], ["paper", "fresh"], ["operator", "paper", "stranger"], ["new", "fresh", "stranger"]), 1
    ):
        pair.put_list(generation, names)
        stops(pair)
    pair.put_list(9, ["new", "fresh", "paper"])
    pair.point()


def test_pinning_needs_recipients_and_a_place(pair: Pair, make_host, repository) -> None:
    pin = ("key", "pin")
    assert pair.host.json(*pin, code=2)["error"] == "UsageError"
    assert pair.host.json(*pin, pair.file("operator"), code=2)["error"] == "UsageError"
    assert pair.host.json(*pin, "--listed", pair.file("operator"), code=2)["error"] == "UsageError"
    before = pair.pins.read_bytes()
    assert pair.host.json(*pin, pair.file("operator"), "--single-recipient", "--dry-run")["changed"]
    assert pair.pins.read_bytes() == before
    plain = make_host("plain")
    plain.json("init", "--target", f"{repository}2")
    assert "pins: recipients.pins" in plain.json(*pin, "--listed", code=1)["next_step"]


# -- pins where the identity is, too ----


@pytest.fixture
def pinned(make_host, repository) -> Pair:
    """A host with an identity of its own, and pins."""
    host = make_host("pinned")
    host.json("init", "--target", repository)
    made = Pair(host, host, Path(repository))
    made.data.mkdir()
    host.policy.write_text(
        json.dumps(
            {
                "target": repository,
                "keys": {"pins": "recipients.pins"},
                "state": {"directory": str(made.state)},
                "agents": {"discover": {"trinity": False}},
                "platform": {"paths": [str(made.data)]},
            }
        )
    )
    host.json("key", "pin", "--listed")
    return made


def test_changes_made_on_the_host_take_its_pins_along(pinned: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    host = pinned.host
    for command in (
        ["key", "add", pinned.file("new")],
        ["key", "rotate"],
        ["key", "rotate", "--recovery"],
        ["key", "retire", pinned.recipient("new").id],
    ):
        host.json(*command)
        listed = host.json("key", "list")
        pinned_ids = {one["id"] for one in listed["pins"]["recipients"]}
        assert listed["pins"]["matches"] and not listed["pins"]["next"], command
        assert pinned_ids == {one["id"] for one in listed["recipients"]}
    pinned.point()
    before = pinned.pins.read_bytes()
    assert host.json("key", "retire", "0" * 16, code=2)["error"] == "UsageError"
    assert set(load_pins(pinned.pins).recipients) == {*json_recipients(before)}


def json_recipients(data: bytes) -> list[Recipient]:
    import base64

    return [Recipient(base64.b64decode(one["public"])) for one in json.loads(data)["recipients"]]


@pytest.mark.parametrize("dies_at", ["_put_list", "settle"])
@pytest.mark.parametrize("command", ["add", "rotate"])
def test_a_change_that_is_interrupted_leaves_a_host_that_goes_on(
    pinned: Pair, monkeypatch: pytest.MonkeyPatch, dies_at: str, command: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    module = {
        "_put_list": import_module("trinity_snap.repository.recipients"),
        "settle": import_module("trinity_snap.repository.trust").Trust,
    }[dies_at]

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    arguments = ["key", "add", pinned.file("new")] if command == "add" else ["key", "rotate"]
    with monkeypatch.context() as patch:
        patch.setattr(module, dies_at, dies)
        pinned.host.json(*arguments, code=130)
    pinned.point()


def test_a_list_with_a_stranger_is_not_built_upon(pinned: Pair) -> None:
    pinned.put_list(1, ["stranger"])
    before = pinned.objects("")
    for command in (
        ["key", "retire", pinned.recipient("stranger").id],
        ["key", "rotate"],
        ["key", "rotate", "--recovery"],
    ):
        answer = pinned.host.json(*command, code=1)
        assert answer["error"] == "RecipientsMismatch" and "Nothing was" in answer["untouched"]
    assert pinned.objects("") == before
