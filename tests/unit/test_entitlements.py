"""What the edition of Trinity includes: asked where the answer is, denied before anything is done, and never for a restore."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.trinity import FakeTrinity, serve
from tests.unit.test_cli_repository import Host, host, make_host, repository
from trinity_snap.errors import NotEntitled
from trinity_snap.policy.load import parse_policy
from trinity_snap.policy.schema import Policy
from trinity_snap.trinity import entitlements
from trinity_snap.trinity.entitlements import FEATURE, FRESH_SECONDS, USABLE_SECONDS, Use, ask, require, uses_of_run

__all__ = ["host", "make_host", "repository"]  # fixtures

SENTENCE = "Enterprise feature 'agent_backup' is not licensed for this instance. Contact your administrator."


@pytest.fixture
def trinity() -> Iterator[FakeTrinity]:
    with serve(FakeTrinity()) as running:
        yield running


def policy_of(trinity: FakeTrinity | None, state: Path, more: str = "") -> Policy:
    url = "null" if trinity is None else trinity.url
    return parse_policy(f"trinity: {{url: {url}}}\nstate: {{directory: {state}}}\n{more}", state / "policy.yml")


def test_without_a_trinity_everything_is_open(tmp_path, monkeypatch):
    monkeypatch.setenv("TRINITY_OSS_ONLY", "1")
    require(policy_of(None, tmp_path), list(Use))


def test_an_instance_with_the_feature_includes_all_of_it_and_is_asked_once(trinity, tmp_path):
    for _ in range(3):
        require(policy_of(trinity, tmp_path), list(Use))
    assert trinity.asked == [("GET", "/api/version")]


@pytest.mark.parametrize("use", Use)
def test_an_instance_without_it_denies_with_its_own_sentence(trinity, tmp_path, use):
    trinity.features = ["sso"]
    with pytest.raises(NotEntitled) as denied:
        require(policy_of(trinity, tmp_path), [use])
    assert denied.value.exit_code == 20
    assert denied.value.message == SENTENCE
    assert use.value in denied.value.untouched


@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_an_operator_who_wants_open_source_only_gets_that(trinity, tmp_path, monkeypatch, value):
    monkeypatch.setenv("TRINITY_OSS_ONLY", value)
    with pytest.raises(NotEntitled):
        require(policy_of(trinity, tmp_path), [Use.SCHEDULES])
    assert trinity.asked == []


def test_a_backend_that_is_down_ends_backups_only_after_a_week(trinity, tmp_path):
    settings = policy_of(trinity, tmp_path).trinity.settings()
    assert settings is not None
    start = 1_800_000_000.0
    assert ask(settings, tmp_path, now=start) == entitlements.Answer(True, start)
    trinity.broken = True
    later = ask(settings, tmp_path, now=start + USABLE_SECONDS - 1)
    assert later == entitlements.Answer(True, start, reachable=False)
    assert ask(settings, tmp_path, now=start + USABLE_SECONDS) is None
    assert ask(settings, tmp_path, now=start - 2 * FRESH_SECONDS) is None, "an answer from the future is none"


def test_a_new_answer_takes_the_place_of_an_old_one_and_other_instances_have_their_own(trinity, tmp_path):
    settings = policy_of(trinity, tmp_path).trinity.settings()
    assert settings is not None
    ask(settings, tmp_path, now=0.0)
    trinity.features = []
    assert ask(settings, tmp_path, now=FRESH_SECONDS) == entitlements.Answer(False, FRESH_SECONDS)
    with serve(FakeTrinity()) as other:
        theirs = policy_of(other, tmp_path).trinity.settings()
        assert theirs is not None
        assert ask(theirs, tmp_path, now=FRESH_SECONDS) == entitlements.Answer(True, FRESH_SECONDS)


def test_an_instance_that_never_answered_includes_nothing_and_that_is_said(tmp_path):
    nobody = FakeTrinity(url="http://127.0.0.1:9")
    with pytest.raises(NotEntitled, match="cannot be reached"):
        require(policy_of(nobody, tmp_path), [Use.OFF_HOST])


def test_what_a_run_needs():
    local = parse_policy("target: /mnt/x", Path("/p.yml"))
    bucket = parse_policy("target: s3://bucket/x", Path("/p.yml"))
    copied = parse_policy("replicas: [{name: a, url: sftp://h/x}]", Path("/p.yml"))
    later = parse_policy("replicas: [{name: a, url: sftp://h/x, after_backup: false}]", Path("/p.yml"))
    timer = {"TRIGGER_UNIT": "trinity-snap-backup.timer"}
    assert uses_of_run(local, {}) == uses_of_run(later, {}) == []
    assert uses_of_run(local, {"TRIGGER_UNIT": "some.path"}) == []
    assert uses_of_run(local, timer) == [Use.SCHEDULES]
    assert uses_of_run(bucket, {}) == uses_of_run(copied, {}) == [Use.OFF_HOST]
    assert uses_of_run(bucket, timer) == [Use.SCHEDULES, Use.OFF_HOST]


class Service:
    """The shape of Trinity's own service."""

    def __init__(self) -> None:
        self.registered: set[str] = set()

    def register_module(self, feature_id: str) -> None:
        self.registered.add(feature_id)

    def is_entitled(self, feature_id: str) -> bool:
        return feature_id in self.registered


def test_inside_the_backend_its_own_service_decides(tmp_path, monkeypatch):
    assert not entitlements.register(), "this process is no backend"
    package, module = types.ModuleType("services"), types.ModuleType("services.entitlement_service")
    module.entitlement_service = Service()  # type: ignore[attr-defined]  # made here
    monkeypatch.setitem(sys.modules, "services", package)
    monkeypatch.setitem(sys.modules, "services.entitlement_service", module)
    with pytest.raises(NotEntitled):
        require(policy_of(None, tmp_path), [Use.SCHEDULES])
    assert entitlements.register()
    assert entitlements.register()
    assert module.entitlement_service.registered == {FEATURE}
    require(policy_of(None, tmp_path), list(Use))


# -- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def denied(host: Host, trinity: FakeTrinity) -> Host:
    """A host whose Trinity does not include the feature, with two recovery points."""
    host.back_up()
    host.back_up()
    trinity.features = []
    with host.policy.open("a") as file:
        file.write(f"\nretention: {{last: 1, minimum: 1}}\ntrinity: {{url: {trinity.url}}}\n")
    text = host.policy.read_text()
    for section in ("retention", "trinity"):
        head, _, rest = text.partition(f"\n{section}:\n")
        _, gap, tail = rest.partition("\n\n")
        text = head + gap + tail
    host.policy.write_text(text)
    return host


def test_retention_by_policy_is_denied_and_removing_one_point_by_name_is_not(denied: Host):
    points = [one["id"] for one in denied.json("list")["points"]]
    refused = denied.json("forget", code=20)
    assert (refused["error"], refused["message"]) == ("NotEntitled", SENTENCE)
    denied.json("forget", "web", code=20)
    assert [one["id"] for one in denied.json("list")["points"]] == points
    assert denied.json("forget", "--dry-run")["forgotten"] == points[1:]
    assert denied.json("forget", points[1])["forgotten"] == points[1:]
    denied.json("prune")
    denied.json("verify")


def test_restoring_is_never_denied_and_does_not_ask(denied: Host, trinity: FakeTrinity, tmp_path: Path):
    denied.json("restore", "web", "--to", str(tmp_path / "back"), "--yes")
    assert trinity.asked == []


def test_a_scheduled_run_and_one_off_the_host_are_denied_before_they_begin(denied: Host, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    assert denied.json("backup", code=1)["error"] == "DockerUnavailable", "by hand, to a local target, it gets further"
    monkeypatch.setenv("TRIGGER_UNIT", "trinity-snap-backup.timer")
    assert denied.json("backup", code=20)["message"] == SENTENCE
    monkeypatch.delenv("TRIGGER_UNIT")
    with denied.policy.open("a") as file:
        file.write('\nreplicas: [{name: away, url: "s3://bucket/x"}]\n')
    assert denied.json("backup", code=20)["message"] == SENTENCE
    assert denied.json("replicate", code=20)["message"] == SENTENCE


def test_restoring_a_fleet_is_denied_before_any_host_is_asked(denied: Host, monkeypatch):
    monkeypatch.setenv("TRINITY_SNAP_POLICY", str(denied.policy))
    hosts = ("--all", "-i", "nowhere.invalid,", "--yes")
    assert denied.json("fleet", "restore", *hosts, code=20)["message"] == SENTENCE
    assert denied.json("fleet", "restore", "--onto", "old=new", *hosts[1:], code=20)["message"] == SENTENCE


def test_a_new_repository_off_the_host_is_denied_and_nothing_is_made(make_host, trinity: FakeTrinity):
    trinity.features = []
    fresh = make_host("fresh")
    fresh.policy.parent.mkdir(mode=0o700)
    fresh.policy.write_text(json.dumps({"trinity": {"url": trinity.url}, "target": "s3://bucket/x"}))
    fresh.json("init", code=20)
    assert list(fresh.files()) == ["policy.yml"]
