"""What is written from the schema: the commented policy, the reference, the JSON Schema; and the effective policy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trinity_snap.policy.explain import explain
from trinity_snap.policy.fields import walk
from trinity_snap.policy.load import parse_policy
from trinity_snap.policy.render import EXAMPLE_VALUES, json_schema, render_policy, render_reference
from trinity_snap.policy.schema import Policy

ROOT = Path(__file__).parents[2]
HOME = Path("/etc/trinity-snap/policy.yml")
DEFAULT = parse_policy("", HOME).model_dump()


def test_every_setting_has_words():
    for setting in walk(Policy):
        assert setting.description.endswith("."), setting.name
        assert setting.section is not None or setting.allowed, setting.name


def test_the_commented_policy_is_the_default_policy():
    assert parse_policy(render_policy({"version": 1}), HOME).model_dump() == DEFAULT


def test_the_commented_policy_with_every_setting_uncommented_is_the_default_policy():
    text = re.sub(r"(?m)^( *)#(?=[a-z_]+:)", r"\1", render_policy({}))
    policy = parse_policy(text, HOME)
    assert policy.model_dump() == DEFAULT
    names = {setting.name for setting in walk(Policy) if setting.section is None and not set("<[") & set(setting.name)}
    assert names <= set(policy.sources)


@pytest.mark.parametrize("target", ["/x", "/with space/x", "/a: b", "/#x", "/ä", '/quo"te', "/'", "/null"])
def test_a_target_survives_being_written(target):
    assert parse_policy(render_policy({"target.url": target}), HOME).target.url == target


def test_examples_in_the_commented_policy_are_valid():
    text = render_policy({})
    for indent, key, example in re.findall(r"(?m)^( *)# Example: (\w+): (.*)$", text):
        replaced = re.sub(rf"(?m)^{indent}#{key}: .*$", f"{indent}{key}: {example}", text)
        assert replaced != text
        parse_policy(replaced, HOME)


def test_the_reference_is_up_to_date():
    assert (ROOT / "docs/policy.md").read_text() == render_reference(), (
        "run `python -m trinity_snap.policy.render > docs/policy.md`"
    )


def test_the_example_file_is_up_to_date():
    assert (ROOT / "docs" / "policy.example.yml").read_text() == render_policy(EXAMPLE_VALUES), (
        "run `python -m trinity_snap.policy.render example > docs/policy.example.yml`"
    )


def test_the_example_in_the_reference_is_valid():
    (example,) = re.findall(r"```yaml\n(.*?)```", render_reference(), re.DOTALL)
    assert parse_policy(example, HOME).agents.rules[0].name == "databases"


def test_the_json_schema_agrees_with_the_loader():
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    for good in ({}, {"target": "/x"}, {"target": {"url": "/x"}}, {"snapshot": {"precopy": {"settle_bytes": "64MiB"}}}):
        assert validator.is_valid(good), good
    for bad in ({"targt": "/x"}, {"target": 3}, {"quiesce": {"budget_seconds": 16}}, {"exclude": "x"}, {"version": 2}):
        assert not validator.is_valid(bad), bad


def test_every_value_is_explained():
    policy = parse_policy("quiesce:\n  budget_seconds: 2\nexclude: [a]\noverrides:\n  web:\n    exclude: [b]\n", HOME)
    rows = {row.setting: (row.value, row.origin) for row in explain(policy)}
    assert rows["quiesce.budget_seconds"] == (2, f"{HOME}:2")
    assert rows["quiesce.mode"] == ("pause", "default")
    assert rows["overrides.web.exclude"] == (["b"], f"{HOME}:6")
    assert len(rows) == len(explain(policy))
    for_web = {row.setting: (row.value, row.origin) for row in explain(policy, "web")}
    assert for_web["exclude"] == (["b"], f"override for web, {HOME}:6")
    assert explain(policy, "other") == [row for row in explain(policy) if not row.setting.startswith("overrides")]
