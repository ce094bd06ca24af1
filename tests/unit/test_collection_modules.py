"""The modules turn the command's JSON and exit code into results, and are documented as they are."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("ansible")

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))

Run = Callable[..., dict[str, Any]]

POINTS = [{"agent": "web", "point": "4be1", "files": 3, "bytes_stored": 1536, "error": None}]
BACKUP = {"run_id": "11", "outcome": "done", "agents": POINTS}


@pytest.fixture
def collections(tmp_path: Path) -> Path:
    place = tmp_path / "collections/ansible_collections/trinity"
    place.mkdir(parents=True)
    (place / "snap").symlink_to(ROOT)
    return tmp_path / "collections"


@pytest.fixture
def run_module(tmp_path: Path, collections: Path) -> Run:
    """Run a module as Ansible does, against a command that records its arguments and answers as told."""
    (tmp_path / "answers").mkdir()

    def run(
        name: str, answers: dict[str, tuple[object, int]] | None = None, check: bool = False, **parameters: object
    ) -> dict[str, Any]:
        command = tmp_path / "trinity-snap"
        if answers is not None:
            for subcommand, (answer, code) in answers.items():
                text = answer if isinstance(answer, str) else json.dumps(answer)
                (tmp_path / f"answers/{subcommand}").write_text(text)
                (tmp_path / f"answers/{subcommand}.code").write_text(str(code))
            command.write_text(
                "#!/bin/sh\n"
                f'echo "$@" >>{tmp_path}/calls\n'
                f'cat "{tmp_path}/answers/$1"; exit $(cat "{tmp_path}/answers/$1.code")\n'
            )
            command.chmod(0o755)
        arguments = {"executable": str(command), "_ansible_check_mode": check, **parameters}
        file = tmp_path / "arguments.json"
        file.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
        done = subprocess.run(
            [sys.executable, str(ROOT / f"plugins/modules/{name}.py"), str(file)],
            capture_output=True, text=True, check=False, env={"PYTHONPATH": str(collections), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        result: dict[str, Any] = json.loads(done.stdout)
        calls = tmp_path / "calls"
        result["calls"] = calls.read_text().splitlines() if calls.exists() else []
        return result

    return run


def undescribed(documented: dict[str, Any]) -> dict[str, Any]:
    """Documented options as an argument specification; each must have a description."""
    options = {}
    for name, option in documented.items():
        assert option.pop("description"), name
        if "suboptions" in option:
            option["options"] = undescribed(option.pop("suboptions"))
        options[name] = option
    return options


@pytest.mark.parametrize("name", MODULES)
def test_documentation_matches_the_arguments(name: str, collections: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(collections))
    specification = importlib.util.spec_from_file_location(name, ROOT / f"plugins/modules/{name}.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    taken: dict[str, Any] = {}

    class Stop(Exception):
        pass

    def remember(**arguments: Any) -> None:
        taken.update(arguments)
        raise Stop

    monkeypatch.setattr(module, "AnsibleModule", remember)
    with pytest.raises(Stop):
        module.main()
    documented = yaml.safe_load(module.DOCUMENTATION)
    fragment = importlib.util.spec_from_file_location("fragment", ROOT / "plugins/doc_fragments/command.py")
    assert fragment and fragment.loader
    shared = importlib.util.module_from_spec(fragment)
    fragment.loader.exec_module(shared)
    options = yaml.safe_load(shared.ModuleDocFragment.DOCUMENTATION)["options"] | documented["options"]
    assert undescribed(options) == taken["argument_spec"]
    assert documented["module"] == name
    # What a recovery would find is known only by recovering.
    check_mode = "partial" if name == "trinity_snap_recover" else "full"
    assert documented["attributes"]["check_mode"]["support"] == check_mode
    assert taken["supports_check_mode"] is True
    for example in yaml.safe_load(module.EXAMPLES):
        (parameters,) = (value for key, value in example.items() if key.startswith("trinity.snap."))
        assert set(parameters or {}) <= set(options)
    assert yaml.safe_load(module.RETURN)


@pytest.mark.parametrize(
    ("code", "parameters", "failed"),
    [
        (0, {}, False),
        (1, {}, True),
        (3, {}, True),
        (10, {}, True),
        (10, {"accept_downgraded": True}, True),
        (11, {"accept_downgraded": True}, True),
        (12, {}, True),
        (12, {"accept_downgraded": True}, False),
        (90, {}, True),
    ],
)
def test_a_backup_fails_as_its_exit_code_says(
    run_module: Run, code: int, parameters: dict[str, object], failed: bool
) -> None:
    result = run_module("trinity_snap_backup", {"backup": (BACKUP, code)}, **parameters)
    assert result.get("failed", False) == failed
    assert result["rc"] == code
    assert result["agents"] == POINTS
    assert result["changed"] is True
    assert result["diff"]["after"] == "web: 4be1 (3 files, 1.5 KiB stored)\n"


def test_a_failed_agent_is_named_in_the_message(run_module: Run) -> None:
    answer = {**BACKUP, "agents": [*POINTS, {"agent": "db", "point": None, "error": "its volume is gone"}]}
    result = run_module("trinity_snap_backup", {"backup": (answer, 10)})
    assert result["failed"] and "db: its volume is gone" in result["msg"]


def test_a_refusal_is_passed_on_in_its_own_words(run_module: Run) -> None:
    answer = {"error": "HostBusy", "message": "Run 7 holds this host.", "next_step": "Wait."}
    result = run_module("trinity_snap_backup", {"backup": (answer, 3)})
    assert result["msg"] == "Run 7 holds this host. Wait."
    assert result["changed"] is False


def test_words_instead_of_json_are_a_failure_and_not_a_traceback(run_module: Run) -> None:
    result = run_module("trinity_snap_backup", {"backup": ("all is well", 0)})
    assert result["failed"] and "did not answer with JSON" in result["msg"]


def test_check_mode_says_what_would_be_backed_up_and_does_nothing(run_module: Run) -> None:
    agents = {"agents": [{"name": "web"}, {"name": "db"}]}
    result = run_module("trinity_snap_backup", {"agents": (agents, 0)}, check=True, agents=["db"])
    assert result["changed"] is True
    assert result["agents"] == [{"agent": "db"}]
    assert result["calls"] == ["agents --json"]


def test_check_mode_finds_an_agent_that_does_not_exist(run_module: Run) -> None:
    agents = {"agents": [{"name": "web"}]}
    result = run_module("trinity_snap_backup", {"agents": (agents, 0)}, check=True, agents=["wep"])
    assert result["failed"] and "wep" in result["msg"]


NEVER_CHANGES_A_VIRGIN_HOST = ("trinity_snap_recover", "trinity_snap_verify")


@pytest.mark.parametrize("name", [module for module in MODULES if module != "trinity_snap_info"])
def test_a_virgin_host_is_a_change_in_check_mode_and_a_clear_failure_otherwise(
    run_module: Run, name: str, tmp_path: Path
) -> None:
    parameters: dict[str, dict[str, object]] = {
        "trinity_snap_restore": {"agent": "web"},
        "trinity_snap_restore_fleet": {"onto": ["old=new"], "grant": {"policy": "old.yml"}},
        "trinity_snap_rollback": {"agent": "web"},
        "trinity_snap_init": {"policy": str(tmp_path / "none")},
        "trinity_snap_recipients": {"recipients": ["a", "b"]},
        "trinity_snap_policy": {"content": "version: 1", "policy": str(tmp_path / "none")},
    }
    given = parameters.get(name, {})
    assert run_module(name, check=True, **given)["changed"] is (name not in NEVER_CHANGES_A_VIRGIN_HOST)
    result = run_module(name, **given)
    assert result["failed"] and "trinity.snap.install" in result["msg"]


def test_info_on_a_virgin_host_says_so(run_module: Run) -> None:
    result = run_module("trinity_snap_info")
    assert (result["installed"], result["changed"]) == (False, False)


def test_info_gives_every_answer(run_module: Run) -> None:
    answers = {"agents": ({"agents": []}, 0), "list": ({"points": [{"id": "4be1"}]}, 0), "status": ({"agents": []}, 12)}
    result = run_module("trinity_snap_info", answers, agent="web", policy="/p")
    assert result["points"] == [{"id": "4be1"}]
    assert result["status"] == {"agents": []}
    assert result["calls"] == ["agents --json --policy /p", "list web --json --policy /p", "status --json --policy /p"]


def test_one_unreadable_point_does_not_hide_the_others(run_module: Run) -> None:
    answer = {"points": [{"id": "4be1"}], "unreadable": [{"id": "0bad", "reason": "it is damaged"}]}
    result = run_module("trinity_snap_info", {"list": (answer, 90)}, subset=["points"])
    assert result["points"] == [{"id": "4be1"}]
    assert any("0bad" in str(warning) for warning in result["warnings"])


def test_a_damaged_repository_is_a_failure(run_module: Run) -> None:
    answer = {"error": "IntegrityError", "message": "The repository is damaged."}
    result = run_module("trinity_snap_info", {"list": (answer, 90)}, subset=["points"])
    assert result["failed"] and result["msg"] == "The repository is damaged."


def test_a_restore_is_asked_for_as_the_parameters_say(run_module: Run) -> None:
    result = run_module(
        "trinity_snap_restore", {"restore": ({"outcome": "done"}, 0)},
        agent="web", point="latest", paths=["data/a b.db"], as_name="web2", containers=True,
    )  # fmt: skip
    assert result["changed"] is True
    assert result["calls"] == ["restore web --point latest --as web2 --path data/a b.db --containers --yes --json"]


def test_a_restore_to_a_directory_takes_the_other_parameters_at_their_defaults(run_module: Run) -> None:
    nothing: dict[str, object] = {"in_place": False, "containers": False, "paths": []}
    result = run_module("trinity_snap_restore", {"restore": ({}, 0)}, agent="web", to="/look", **nothing)
    assert result["calls"] == ["restore web --to /look --yes --json"]


def test_a_restore_in_check_mode_only_plans(run_module: Run) -> None:
    result = run_module("trinity_snap_restore", {"restore": ({"lines": ["stop web"]}, 0)}, check=True, agent="web")
    assert result["calls"] == ["restore web --dry-run --json"]
    assert result["diff"]["after"] == "stop web\n"


def test_a_rollback_is_asked_for_and_in_check_mode_only_planned(run_module: Run) -> None:
    answers = {"rollback": ({"before": "5b0f", "lines": ["Roll back web"]}, 0)}
    result = run_module("trinity_snap_rollback", answers, agent="web", local="db14")
    assert result["changed"] is True and result["rollback"]["before"] == "5b0f"
    result = run_module("trinity_snap_rollback", answers, check=True, agent="web")
    assert result["diff"]["after"] == "Roll back web\n"
    assert result["calls"] == ["rollback web --to db14 --yes --json", "rollback web --dry-run --json"]


def test_a_drill_says_what_was_proved_and_fails_with_what_was_not(run_module: Run) -> None:
    good = {"agent": "web", "point": "4be1", "outcome": "proved", "reason": None}
    bad = {"agent": "db", "point": "5cf2", "outcome": "failed", "reason": "its database is not sound"}
    result = run_module("trinity_snap_drill", {"drill": ({"drills": [good]}, 0)}, agents=["web"], command="exit 0")
    assert (result["changed"], result["diff"]["after"]) == (True, "web: 4be1 is proved\n")
    result = run_module("trinity_snap_drill", {"drill": ({"drills": [good, bad]}, 10)})
    assert result["failed"] and "db: 5cf2 was not proved: its database is not sound" in result["msg"]
    result = run_module("trinity_snap_drill", {"drill": ({"drills": [], "lines": ["Drill web"]}, 0)}, check=True)
    assert result["diff"]["after"] == "Drill web\n"
    assert result["calls"] == ["drill web --command exit 0 --json", "drill --json", "drill --dry-run --json"]


def shown(host_key: Path) -> tuple[object, int]:
    return {"settings": [{"setting": "keys.host_key", "value": str(host_key), "origin": "default"}]}, 0


def test_a_host_with_policy_and_key_is_left_alone(run_module: Run, tmp_path: Path) -> None:
    policy, key = tmp_path / "policy.yml", tmp_path / "host.key"
    policy.touch()
    key.touch()
    result = run_module("trinity_snap_init", {"init": ({}, 0), "policy": shown(key)}, policy=str(policy))
    assert (result["changed"], result["calls"]) == (False, [f"policy show --json --policy {policy}"])


def test_a_host_with_a_policy_and_no_keys_is_initialised(run_module: Run, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yml"
    policy.touch()
    answers = {"init": ({}, 0), "policy": shown(tmp_path / "host.key")}
    assert run_module("trinity_snap_init", answers, policy=str(policy))["changed"] is True
    failed = run_module("trinity_snap_init", {"policy": ({"message": "No."}, 2)}, policy=str(policy))
    assert failed["failed"] and failed["msg"] == "No."


def test_a_new_host_is_initialised_once(run_module: Run, tmp_path: Path) -> None:
    policy = str(tmp_path / "policy.yml")
    answers = {"init": ({"recovery_words": ["abandon"]}, 0)}
    result = run_module("trinity_snap_init", answers, policy=policy, target="/t")
    assert result["init"]["recovery_words"] == ["abandon"]
    assert result["calls"] == [f"init --target /t --json --policy {policy}"]


def test_a_sealed_host_is_given_recipients_as_files(run_module: Run, tmp_path: Path) -> None:
    policy = str(tmp_path / "policy.yml")
    result = run_module("trinity_snap_init", {"init": ({}, 0)}, policy=policy, recipients=["{}", "{}"])
    assert result["calls"][0].count("--recipient ") == 2 and "{" not in result["calls"][0]


def test_pinning_changes_what_the_command_says(run_module: Run, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yml"
    pins = {"changed": True, "recipients": [{"id": "ab", "label": "operator"}], "next": []}
    given = {"policy": str(policy), "recipients": ["a", "b"], "next": ["c"]}
    virgin = run_module("trinity_snap_recipients", {"key": (pins, 0)}, check=True, **given)
    assert (virgin["changed"], virgin["calls"]) == (False, [])
    policy.touch()
    result = run_module("trinity_snap_recipients", {"key": (pins, 0)}, check=True, **given)
    assert result["changed"] is True and "operator" in result["diff"]["after"]
    assert result["calls"][0].startswith("key pin /") and "--next /" in result["calls"][0]
    assert "--dry-run" in result["calls"][0]
    result = run_module("trinity_snap_recipients", {"key": ({**pins, "changed": False}, 0)}, **given)
    assert (result["changed"], "--dry-run" in result["calls"][1]) == (False, False)
    assert run_module("trinity_snap_recipients", {"key": ({"message": "No."}, 1)}, **given)["msg"] == "No."


def test_points_of_a_sealed_host_are_not_listed_and_that_is_no_failure(run_module: Run) -> None:
    error = {"error": "IdentityNeeded", "message": "There is none."}
    answers = {"agents": ({"agents": []}, 0), "list": (error, 1), "status": ({"agents": []}, 0)}
    result = run_module("trinity_snap_info", answers)
    assert "points" not in result and not result.get("failed")
    assert "There is none." in str(result["warnings"][0])


def test_a_run_that_hosts_share_has_the_id_that_was_given(run_module: Run) -> None:
    result = run_module("trinity_snap_backup", {"backup": (BACKUP, 0)}, run_id="ab" * 16, agents=["web"])
    assert result["calls"] == [f"backup --run-id {'ab' * 16} web --json"]


def test_info_says_who_is_stale_and_does_not_fail(run_module: Run) -> None:
    answer = {
        "agents": [],
        "stale": ["web"],
        "replicas": [{"name": "far", "stale": True}, {"name": "near", "stale": False}],
    }
    result = run_module("trinity_snap_info", {"status": (answer, 1)}, subset=["status"], max_age="26h")
    assert (result["stale"], result.get("failed", False)) == (["web", "replica far"], False)
    assert result["calls"] == ["status --max-age 26h --json"]


def test_a_recovery_changes_what_it_undid_and_nothing_otherwise(run_module: Run) -> None:
    nothing: dict[str, object] = {
        "runs": [],
        "resumed": [],
        "removed": [],
        "restores": [],
        "left_to": None,
        "problems": [],
    }
    result = run_module("trinity_snap_recover", {"recover": (nothing, 0)})
    assert (result["changed"], result["calls"]) == (False, ["recover --wait 5m --json"])
    undone = {**nothing, "runs": ["11"], "resumed": ["agent-web"], "removed": ["/s"]}
    result = run_module("trinity_snap_recover", {"recover": (undone, 0)}, strays=True)
    assert (result["changed"], result["diff"]["after"]) == (True, "resumed agent-web\nremoved /s\n")
    failed = run_module("trinity_snap_recover", {"recover": ({**undone, "problems": ["/s is busy."]}, 1)})
    assert failed["failed"] and "/s is busy." in failed["msg"]


def test_a_verification_names_what_is_damaged(run_module: Run) -> None:
    answer = {"good": False, "points": [{"id": "13edc035b0", "agent": "web", "good": False}]}
    result = run_module("trinity_snap_verify", {"verify": (answer, 90)}, read_data=True, points=["13ed"])
    assert result["failed"] and "13edc035 of web" in result["msg"] and result["rc"] == 90
    assert result["calls"] == ["verify --read-data=all 13ed --json"]


@pytest.mark.parametrize(
    ("given", "switches"),
    [
        ({"read_data": "5%"}, "--read-data=5% "), ({"read_data": "10GiB"}, "--read-data=10GiB "),
        ({"read_data": "yes"}, "--read-data=all "), ({"read_data": "all"}, "--read-data=all "),
        ({"read_data": False}, ""), ({"read_data": ""}, ""), ({"hashes": True}, "--hashes "),
        ({"read_data": "5%", "agents": ["web", "-x"]}, "--read-data=5% --agent=web --agent=-x "),
    ],
)  # fmt: skip
def test_a_verification_takes_a_share_of_the_data_and_agents(
    run_module: Run, given: dict[str, object], switches: str
) -> None:
    result = run_module("trinity_snap_verify", {"verify": ({"good": True}, 0)}, **given)
    assert (result["changed"], result["calls"]) == (False, [f"verify {switches}--json"])


REPAIRED = {
    "good": True, "brought_back": [{"name": "packs/aa", "from": "offsite"}], "indexed_packs": 2, "unrepaired": [],
    "stored_anew": [{"name": "packs/bb", "from": "the chunks"}],
    "recommitted": [{"id": "13edc035b0", "new_id": None}],
}  # fmt: skip


def test_a_repair_says_what_comes_back_and_in_check_mode_what_would(run_module: Run) -> None:
    result = run_module("trinity_snap_repair", {"repair": (REPAIRED, 0)}, from_replicas=["offsite", "attic"])
    assert (result["changed"], result["calls"]) == (True, ["repair --from=offsite --from=attic --json"])
    assert result["diff"]["after"].splitlines() == [
        "bring back packs/aa from offsite", "store anew what packs/bb held, from the chunks",
        "store recovery point 13edc035 anew", "take 2 packs into the index again",
    ]  # fmt: skip
    planned = run_module("trinity_snap_repair", check=True)
    assert planned["changed"] is True
    healthy = run_module("trinity_snap_repair", {"repair": ({"good": True, "brought_back": []}, 0)}, check=True)
    assert (healthy["changed"], healthy["calls"][-1]) == (False, "repair --dry-run --json")


def test_a_repair_that_cannot_bring_everything_back_fails_and_names_what(run_module: Run) -> None:
    answer = {**REPAIRED, "good": False, "unrepaired": [{"name": "packs/cc", "reason": "no replica has it"}]}
    result = run_module("trinity_snap_repair", {"repair": (answer, 90)})
    assert result["failed"] and result["rc"] == 90 and "packs/cc: no replica has it" in result["msg"]
    assert result["changed"] is True


def test_a_policy_replaces_the_present_one_only_if_the_host_finds_it_good(run_module: Run, tmp_path: Path) -> None:
    policy = tmp_path / "etc/policy.yml"
    policy.parent.mkdir()
    policy.write_text("old: 1\n")
    wrong = {"message": "It is wrong.", "good": False, "mistakes": ["line 1: no"]}
    refused = run_module("trinity_snap_policy", {"policy": (wrong, 2)}, policy=str(policy), content="new: 1")
    assert refused["failed"] and refused["mistakes"] == ["line 1: no"] and refused["changed"] is False
    assert policy.read_text() == "old: 1\n" and os.listdir(policy.parent) == ["policy.yml"]

    good = {"policy": ({"good": True, "mistakes": []}, 0)}
    planned = run_module("trinity_snap_policy", good, check=True, policy=str(policy), content="new: 1")
    assert planned["changed"] is True and planned["diff"] == {"before": "old: 1\n", "after": "new: 1\n"}
    assert policy.read_text() == "old: 1\n" and os.listdir(policy.parent) == ["policy.yml"]

    for number in range(4):
        before = policy.read_text()
        done = run_module("trinity_snap_policy", good, policy=str(policy), content=f"new: {number}", keep=2)
        assert done["changed"] is True and policy.read_text() == f"new: {number}\n"
        assert Path(done["previous"]).read_text() == before
    assert policy.stat().st_mode & 0o777 == 0o600
    kept = sorted((policy.parent / "previous").iterdir())
    assert [path.read_text() for path in kept] == ["new: 1\n", "new: 2\n"]
    assert run_module("trinity_snap_policy", good, policy=str(policy), content="new: 3\n")["changed"] is False
    assert all(call.startswith("policy check /") and "--policy" not in call for call in done["calls"])


def test_a_policy_that_costs_recovery_points_is_announced_and_has_to_be_accepted(
    run_module: Run, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yml"
    policy.write_text("old: 1\n")
    costly = {"policy": ({"good": True, "mistakes": [], "points_going": 3, "announced": "3 would go."}, 0)}
    planned = run_module("trinity_snap_policy", costly, check=True, policy=str(policy), content="new: 1")
    assert (planned["changed"], planned["points_going"]) == (True, 3)
    assert f"--instead-of {policy}" in planned["calls"][0]
    refused = run_module("trinity_snap_policy", costly, policy=str(policy), content="new: 1")
    assert refused["failed"] and not refused["changed"] and "3 would go." in refused["msg"]
    assert policy.read_text() == "old: 1\n" and not (tmp_path / "previous").exists()
    unknown = {"policy": ({"good": True, "mistakes": [], "points_going": None, "announced": "Who knows?"}, 0)}
    assert run_module("trinity_snap_policy", unknown, policy=str(policy), content="new: 1")["changed"] is True
    accepted = run_module("trinity_snap_policy", costly, policy=str(policy), content="new: 2", accept_removals=True)
    assert accepted["changed"] is True and policy.read_text() == "new: 2\n"


PRUNED = {"deleted_packs": 2, "deleted_bytes": 2048, "fenced_packs": 0, "fenced_bytes": 0}


def test_pruning_forgets_first_and_in_check_mode_does_neither(run_module: Run) -> None:
    answers = {"forget": ({"forgotten": ["4be1"]}, 0), "prune": (PRUNED, 0)}
    result = run_module("trinity_snap_prune", answers, accept_missing=True)
    assert result["calls"] == ["forget --json", "prune --accept-missing --json"]
    assert result["diff"]["after"] == "forget 4be1\ndelete 2 packs, 2 KiB\n"
    planned = run_module("trinity_snap_prune", answers, check=True, forget=False)
    assert planned["calls"][2:] == ["prune --dry-run --json"] and planned["changed"] is True


def test_pruning_stops_when_forgetting_is_refused(run_module: Run) -> None:
    refused = {"forgotten": [], "agents": [{"agent": "web", "refused": "its newest point is void", "points": []}]}
    result = run_module("trinity_snap_prune", {"forget": (refused, 10), "prune": (PRUNED, 0)})
    assert result["failed"] and "web: its newest point is void" in result["msg"]
    assert result["calls"] == ["forget --json"]
