"""What the module and the action plugin `trinity_snap_restore` share: the parameters, and the command line for them."""

from __future__ import annotations

from typing import Any

from ansible_collections.trinity.snap.plugins.module_utils.command import COMMON_ARGUMENTS

ARGUMENTS: dict[str, dict[str, Any]] = dict(
    COMMON_ARGUMENTS,
    agent={"type": "str", "required": True},
    state={"type": "str", "choices": ["restored", "released"], "default": "restored"},
    point={"type": "str"},
    at={"type": "str"},
    paths={"type": "list", "elements": "str", "default": []},
    to={"type": "path"},
    as_name={"type": "str"},
    in_place={"type": "bool", "default": False},
    containers={"type": "bool", "default": False},
    grant={
        "type": "dict",
        "options": {
            "command": {"type": "str", "default": "trinity-snap"},
            "policy": {"type": "path"},
            "identity": {"type": "path"},
            "passphrase_file": {"type": "path"},
            "repository_id": {"type": "str"},
            "valid": {"type": "str", "default": "1h"},
            "target": {"type": "str"},
        },
    },
)

MUTUALLY_EXCLUSIVE = [("point", "at"), ("to", "as_name")]  # that `in_place: false` goes with all, the command knows


def restore_arguments(parameters: dict[str, Any], dry_run: bool) -> list[str]:
    """The command line that the parameters ask for, on the host. With a grant the point is chosen where that is made."""
    arguments = ["restore", parameters["agent"]]
    grant = parameters.get("grant")
    chosen = () if grant else (("--point", "point"), ("--at", "at"))
    for option, name in (*chosen, ("--to", "to"), ("--as", "as_name")):
        if parameters[name] is not None:
            arguments += [option, parameters[name]]
    for path in parameters["paths"]:
        arguments += ["--path", path]
    if grant:
        arguments += ["--grant", "-"]
        if grant["target"]:
            arguments += ["--target", grant["target"]]
    switches = (
        ("--in-place", parameters["in_place"]),
        ("--containers", parameters["containers"]),
        ("--later", bool(parameters.get("later"))),
        ("--release", parameters["state"] == "released"),
        ("--dry-run", dry_run),
        ("--yes", not dry_run),
    )
    return arguments + [switch for switch, wanted in switches if wanted]


def grant_arguments(parameters: dict[str, Any]) -> list[str]:
    """The command line that makes the grant for it, on the control node."""
    grant = parameters["grant"]
    arguments = ["grant", parameters["agent"], "--valid", grant["valid"]]
    if parameters["point"] is None and parameters["at"] is None:
        arguments += ["--point", "latest"]  # an agent's, and never an id
    for option, value in (
        ("--point", parameters["point"]),
        ("--at", parameters["at"]),
        ("--policy", grant["policy"]),
        ("--identity", grant["identity"]),
        ("--passphrase-file", grant["passphrase_file"]),
        ("--repository-id", grant["repository_id"]),
    ):
        if value:
            arguments += [option, value]
    # A grant for paths has no definition of the container.
    for path in [] if parameters["containers"] else parameters["paths"]:
        arguments += ["--path", path]
    return arguments
