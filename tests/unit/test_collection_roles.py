"""The roles keep what their argument specifications promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import trinity_snap

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def options_of(role: str) -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = load(ROOT / f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"][
        "options"
    ]
    return options


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_those_of_the_argument_specification(role: str) -> None:
    promised = {name: option["default"] for name, option in options_of(role).items() if "default" in option}
    assert load(ROOT / f"roles/{role}/defaults/main.yml") == promised


@pytest.mark.parametrize("role", ROLES)
def test_an_option_without_a_default_must_be_given(role: str) -> None:
    for name, option in options_of(role).items():
        assert option.get("required", False) == ("default" not in option), name


@pytest.mark.parametrize("role", ROLES)
def test_every_public_variable_used_is_specified_and_the_other_way_round(role: str) -> None:
    files = [*(ROOT / f"roles/{role}").rglob("tasks/*.yml"), *(ROOT / f"roles/{role}").rglob("vars/*.yml")]
    files += (ROOT / f"roles/{role}").rglob("templates/*")
    text = "\n".join(path.read_text() for path in files)
    expressions = " ".join(re.findall(r"\{\{.*?\}\}|\{%.*?%\}|when:.*", text, re.DOTALL))
    used = set(re.findall(r"(?<![\w.])trinity_snap_\w+", expressions))
    assert used == set(options_of(role))


@pytest.mark.parametrize("role", ROLES)
def test_an_option_that_roles_share_means_the_same_in_each(role: str) -> None:
    for other in ROLES:
        for name in set(options_of(role)) & set(options_of(other)):
            assert options_of(role)[name].get("default") == options_of(other)[name].get("default"), name


def test_role_pages_are_up_to_date() -> None:
    check = [sys.executable, str(ROOT / "scripts/role_readmes.py"), "--check"]
    assert subprocess.run(check, capture_output=True, text=True, check=False).stdout == ""


def test_collection_and_package_have_one_version() -> None:
    assert load(ROOT / "galaxy.yml")["version"] == trinity_snap.__version__


def test_every_role_has_a_playbook_that_applies_it() -> None:
    for role in ROLES:
        (play,) = load(ROOT / f"playbooks/{role}.yml")
        assert play["roles"] == [{"role": f"trinity.snap.{role}"}]
        assert play["gather_facts"] is False


def test_every_module_is_in_the_action_group() -> None:
    modules = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))
    assert load(ROOT / "meta/runtime.yml")["action_groups"]["trinity_snap"] == modules


def test_sanity_checks_leave_out_the_licence_of_modules_and_nothing_else() -> None:
    """They ask for GPL-3 in every module; everything here is under Apache-2.0."""
    modules = sorted(path.name for path in (ROOT / "plugins/modules").glob("*.py"))
    for page in (ROOT / "tests/sanity").glob("ignore-*.txt"):
        lines = [line.partition(" #")[0] for line in page.read_text().splitlines()]
        assert lines == [f"plugins/modules/{name} validate-modules:missing-gplv3-license" for name in modules], (
            page.name
        )


def test_every_variable_of_the_example_inventory_is_one_of_a_role() -> None:
    text = (ROOT / "inventory.example").read_text()
    known = set().union(*(options_of(role) for role in ROLES))
    named = set(re.findall(r"(?m)^ *(?:# )?(trinity_snap_\w+):", text))
    assert named <= known and len(named) > 10
    uncommented = re.sub(r"(?m)^    # (?=(trinity_snap|ansible_become_pass|  ))", "    ", text)
    assert set(yaml.safe_load(uncommented)["trinity"]["vars"]) >= named - {"trinity_snap_target"}
