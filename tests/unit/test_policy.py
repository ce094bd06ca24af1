"""Loading a policy: what is accepted, what is refused and in which words."""

from __future__ import annotations

import os
import string
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trinity_snap.errors import PolicyError
from trinity_snap.policy import load_policy, policy_path
from trinity_snap.policy.fields import walk
from trinity_snap.policy.load import parse_policy
from trinity_snap.policy.schema import LvmSection, Policy
from trinity_snap.policy.settings import DEFAULT_AFTER, HookSettings, QuiesceSettings

HOME = Path("/etc/trinity-snap/policy.yml")


def mistakes(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, HOME)
    return [line.removeprefix(f"{HOME}:") for line in caught.value.message.splitlines()]


def test_an_empty_file_is_the_default_policy():
    assert parse_policy("", HOME).model_dump() == parse_policy("# nothing\n---\n", HOME).model_dump()
    policy = parse_policy("", HOME)
    assert policy.target.url == "/var/backups/trinity-snap"
    assert policy.keys.host_key == Path("/etc/trinity-snap/host.key")
    assert policy.exclude == ()
    assert policy.path == HOME


def test_sections_without_content_are_as_good_as_missing():
    assert parse_policy("keys:\nagents:\n  discover:\n", HOME).agents.discover.trinity


def test_the_target_may_be_a_plain_text():
    policy = parse_policy("target: /mnt/x\n", HOME)
    assert policy.target.url == "/mnt/x"
    assert policy.sources["target.url"] == 1


def test_key_paths_start_at_the_policy():
    policy = parse_policy("keys: {host_key: k/h, identity: /abs/i, recipients: ['r/*']}", Path("/a/b/p.yml"))
    assert policy.keys.host_key == Path("/a/b/k/h")
    assert policy.keys.identity == Path("/abs/i")
    assert policy.keys.recipients == ("/a/b/r/*",)
    assert parse_policy("keys: {identity: null}", HOME).keys.identity is None


def test_recipient_files_are_found_and_sorted(tmp_path):
    for name in ("b.recipient", "a.recipient", "c.other"):
        (tmp_path / name).touch()
    assert [path.name for path in parse_policy("", tmp_path / "p.yml").recipient_files()] == [
        "a.recipient",
        "b.recipient",
    ]


@pytest.mark.parametrize(
    ("written", "size"), [("0", 0), ("1000", 1000), ("64MiB", 64 << 20), ("'1.5 GiB'", 3 << 29), ("2MB", 2_000_000)]
)
def test_sizes_have_units(written, size):
    policy = parse_policy(f"snapshot: {{precopy: {{settle_bytes: {written}}}}}", HOME)
    assert policy.snapshot.precopy.settle_bytes == size


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("\nquiesc: {}\n", 2, ["quiesc: there is no such setting", "did you mean `quiesce`?"]),
        ("budget_seconds: 3\n", 1, ["did you mean `quiesce.budget_seconds`?"]),
        ("zzz: 3\n", 1, ["known here: version, host, target"]),
        ("quiesce:\n  budget_seconds: 99\n", 2, ["quiesce.budget_seconds: 99 is not allowed", "at most 15"]),
        ("quiesce:\n  budget_seconds: '5'\n", 2, ["'5' is not allowed"]),
        ("quiesce:\n  budget_seconds: .inf\n", 2, ["is not allowed"]),
        (
            "snapshot: {provider: btfs}\n",
            1,
            ["allowed: auto, btrfs, lvm-thin, lvm, zfs or precopy", "did you mean `btrfs`?"],
        ),
        (
            "quiesce:\n  mode: freeze\n",
            2,
            ["quiesce.mode: 'freeze' is not allowed; allowed: none, pause, hooks or stop"],
        ),
        ("quiesce:\n  drain: 60\n", 2, ["quiesce.drain: 60 is not allowed", "enabled, budget_seconds"]),
        ("quiesce:\n  drain: {budget_seconds: 0}\n", 2, ["quiesce.drain.budget_seconds"]),
        ("overrides:\n  a:\n    quiesce:\n      mod: stop\n", 4, ["did you mean `mode`?"]),
        ("snapshot:\n  precopy: {settle_bytes: 3 potatoes}\n", 2, ["it is not a size", "64MiB"]),
        ("target: relative\n", 1, ["target: 'relative'", "an absolute path"]),
        ("target: ftp://host/x\n", 1, ["it is not a target that this version knows", "s3://bucket/prefix"]),
        ("target: sftp://host\n", 1, ["it is not of the form sftp://[user@]host[:port]/path"]),
        ("target: sftp://-oProxyCommand=x/y\n", 1, ["it is not of the form"]),
        ("target: sftp://host/a/../b\n", 1, ["it has `.` or `..` in it"]),
        ("target: {url: sftp://host:70000/a}\n", 1, ["target.url", "there is no such port"]),
        ("target:\n  url: sftp://host/a\n  ssh_key_file: ../x\n", 3, ["target.ssh_key_file", "it has `..` in it"]),
        ("target: s3://bucket/../x\n", 1, ["target: 's3://bucket/../x': it has `.` or `..` in it"]),
        ("target: s3://Bucket?x\n", 1, ["it is not the URL of a bucket"]),
        ("target: {url: /x, endpoint: ftp://x}\n", 1, ["target.endpoint: 'ftp://x'", "https://host:port"]),
        ("target:\n  bandwidth_bytes: 100\n", 2, ["target.bandwidth_bytes: 100: it is too little"]),
        ("target: {url: /a/../b}\n", 1, ["target.url: '/a/../b': it has `..` in it"]),
        ("agents:\n  discover: {trinity: sure}\n", 2, ["agents.discover.trinity: 'sure'", "true or false"]),
        ("agents:\n  rules:\n    - container: x\n", 3, ["agents.rules[0].name: it is missing"]),
        ("agents:\n  rules:\n    - name: x\n", 3, ["agents.rules[0]: the rule fits every container"]),
        (
            "agents: {rules: [{name: x, container: y, agent: '{name}'}]}",
            1,
            ["a placeholder that is not known; the only one is `{container}`"],
        ),
        ("agents: {rules: [3]}", 1, ["allowed: a mapping with name, container, label, volumes, agent"]),
        ("agents: {exclude: web}", 1, ["agents.exclude: 'web' is not allowed; allowed: a list of patterns"]),
        ("platform:\n  paths:\n    - /ok\n    - data\n", 4, ["platform.paths[1]: 'data': it is not an absolute path"]),
        ("exclude: [/cache]\n", 1, ["no path from a volume's root begins or ends with `/`"]),
        (
            "overrides:\n  web:\n    exclud: []\n",
            3,
            ["overrides.web.exclud: there is no such", "did you mean `exclude`?"],
        ),
        ("keys:\n  host_key:\n", 2, ["keys.host_key: it is empty; allowed: a path"]),
        ("version: 2\n", 1, ["version: 2 is not allowed; allowed: 1"]),
        ("host: [a]\n", 1, ["host: a list is not allowed; allowed: a text, or null"]),
        ("- a\n- b\n", 1, ["a policy is a mapping of settings"]),
        ("just text", 1, ["a policy is a mapping of settings"]),
        ("host: a\nhost: b\n", 2, ["'host' occurs twice; it was there in line 1"]),
        ("host: [1, 2\nx: 3", 2, ["this is no YAML"]),
        ("a: &x 1\nb: *x\n", 2, ["an alias"]),
        ("host: !!python/object:os.system {}\n", 1, ["is not known"]),
        ("host: !!int abc\n", 1, ["cannot be read as int"]),
        ("? [a]\n: b\n", 1, ["a key must be a text"]),
        ("host: a\n---\nhost: b\n", 2, ["this is no YAML"]),
    ],
)
def test_a_mistake_is_named_with_its_line(text, line, words):
    (mistake,) = mistakes(text)
    assert mistake.startswith(f"{line}: ")
    for word in words:
        assert word in mistake


@pytest.mark.parametrize(
    "text",
    [
        "target: s3://KEY:SECRET@bucket/x",
        "target: {url: s3://bucket/x, endpoint: 'https://KEY:SECRET@host'}",
        "target: {url: s3://bucket/x, proxy: 'http://KEY:SECRET@host'}",
        "target: {url: s3://bucket/x, secret_key: SECRET}",
        "target: sftp://KEY:SECRET@host/x",
    ],
)
def test_a_password_in_a_policy_is_refused_and_not_repeated(text):
    (mistake,) = mistakes(text)
    assert "SECRET" not in mistake and "KEY" not in mistake


def test_all_mistakes_are_named_in_the_order_of_the_file():
    found = mistakes("quiesce: {budget_seconds: 0}\nexclud: []\nsnapshot:\n  provider: x\n")
    assert [line.partition(":")[0] for line in found] == ["1", "2", "4"]


def test_a_deep_or_endless_document_is_refused():
    for text in ("[" * 5000, "{a: " * 5000, "a: " + "[" * 40 + "]" * 40, "a: &a [*a]"):
        assert mistakes(text)


# -- fuzz ----

_NAMES = [setting.name.rpartition(".")[2] for setting in walk(Policy)]
_KEYS = st.sampled_from([*_NAMES, "zzz", "", "on", "1", "<<", "web"])
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["auto", "pause", "64MiB", "/x", "a/../b", "\ud800"]).map(
        lambda text: text.encode("utf-8", "replace").decode()
    ),
    st.dates(),
)
_TREES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4), max_leaves=20
)


def _loads_or_is_refused(text: str) -> None:
    refusal = f"{HOME}:"
    try:
        assert isinstance(parse_policy(text, HOME), Policy)
    except PolicyError as error:
        refusal = str(error)
    assert refusal.startswith(f"{HOME}:")


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(_KEYS, _TREES, max_size=5))
def test_any_tree_is_a_policy_or_a_policy_error(tree):
    _loads_or_is_refused(yaml.safe_dump(tree, allow_unicode=True))


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet=string.printable + "äß\u0085\u2028\ufeff\x07", max_size=120))
@example("!!timestamp x")
@example("a: 2020-99-99")
@example("a: !!binary ====")
@example("a: 0x")
@example("a: 190:20:30.15")
@example("a: " + "9" * 5000)
@example("=: 1")
@example("{a: {<<: {b: c}}}")
@example("%YAML 9.9\n---\na: b")
@example("a: ! b")
@example("!!set {a, b}")
@example("a: !!float '1e'")
@example("a: !!bool x")
@example("a: !!null x")
@example("a: -_")
def test_any_text_is_a_policy_or_a_policy_error(text):
    _loads_or_is_refused(text)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_any_file_is_a_policy_or_a_policy_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("policy") / "policy.yml"
    path.write_bytes(data)
    with suppress(PolicyError):
        load_policy(path)


# -- the file ----


def test_a_missing_policy_says_how_to_make_one(tmp_path):
    with pytest.raises(PolicyError, match="trinity-snap init"):
        load_policy(tmp_path / "none.yml")


def test_a_policy_that_anybody_may_write_is_refused(tmp_path):
    path = tmp_path / "policy.yml"
    path.write_text("version: 1\n")
    path.chmod(0o646)
    with pytest.raises(PolicyError, match="Anybody may change"):
        load_policy(path)
    path.chmod(0o644)
    assert load_policy(path).version == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_policy_of_another_user_is_refused(tmp_path):
    path = tmp_path / "policy.yml"
    path.write_text("version: 1\n")
    os.chown(path, 12345, 12345)
    with pytest.raises(PolicyError, match="belongs to user 12345"):
        load_policy(path)


def test_what_is_no_file_is_no_policy(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null"), tmp_path / "fifo" / "x"):
        with pytest.raises(PolicyError):
            load_policy(path)


def test_a_huge_file_is_refused(tmp_path):
    path = tmp_path / "policy.yml"
    path.write_text("#" * (2 << 20))
    with pytest.raises(PolicyError, match="too long"):
        load_policy(path)


def test_where_the_policy_is(monkeypatch):
    monkeypatch.delenv("TRINITY_SNAP_POLICY", raising=False)
    assert policy_path() == HOME
    monkeypatch.setenv("TRINITY_SNAP_POLICY", "/from/env.yml")
    assert policy_path() == Path("/from/env.yml")
    assert policy_path("/given.yml") == Path("/given.yml")


# -- overrides ----


def test_an_override_takes_the_place_of_what_holds_for_all():
    policy = parse_policy("exclude: [a]\noverrides: {web: {exclude: []}, db: {}}\n", HOME)
    assert policy.for_agent("web").exclude == ()
    assert policy.for_agent("db").exclude == ("a",)
    assert policy.for_agent("other").exclude == ("a",)


def test_how_an_agent_holds_still_is_what_holds_for_all_unless_its_override_says_otherwise():
    policy = parse_policy(
        "quiesce: {mode: hooks, hooks: {before: a, timeout_seconds: 5}, drain: {budget_seconds: 7}}\n"
        "overrides:\n  web: {quiesce: {mode: none, drain: false}}\n"
        "  db: {quiesce: {hooks: {after: b}, drain: {budget_seconds: 9}}}\n",
        HOME,
    )
    assert policy.for_agent("other").quiesce == QuiesceSettings(
        "hooks", HookSettings("a", DEFAULT_AFTER, 5.0), drain_seconds=7.0
    )
    assert policy.for_agent("web").quiesce.mode == "none"
    assert policy.for_agent("web").quiesce.drain_seconds is None
    assert policy.for_agent("db").quiesce == QuiesceSettings("hooks", HookSettings("a", "b", 5.0), drain_seconds=9.0)


@pytest.mark.parametrize(
    ("drain", "seconds"),
    [
        ("true", 60.0),
        ("false", None),
        ("{budget_seconds: 5}", 5.0),
        ("{enabled: false, budget_seconds: 5}", None),
        ("", None),
    ],
)
def test_drain_is_a_switch_or_a_section(drain, seconds):
    policy = parse_policy(f"quiesce:\n  drain: {drain}\n", HOME)
    assert policy.for_agent("any").quiesce.drain_seconds == seconds


def test_the_room_of_a_thick_snapshot_is_a_share_or_a_size():
    def section(size: object) -> LvmSection:
        return LvmSection.model_validate({"size": size})

    assert LvmSection().thick_bytes(1000) == 200
    assert section("5%").thick_bytes(1 << 30) == (1 << 30) // 20
    assert section("100%").thick_bytes(7) == 7
    assert section("8GiB").thick_bytes(1) == section(8 << 30).thick_bytes(5) == 8 << 30
    for wrong in ("0%", "101%", "%", "-5%", "1.5%", "x", "", 0, None, True, [1]):
        with pytest.raises(ValueError, match="size"):
            section(wrong)
