"""A container's definition: what the Docker API needs to create the same container again.

A definition is the body of `POST /containers/create` plus three keys of our own, `Name`, `ImageID` and `State` (`running`,
`paused`, `exited`, …), that `create_body` takes off again. Volumes that were mounted without being named in the container's own
configuration (anonymous volumes, and those taken over by `--volumes-from`) are named in its binds, so that
the new container gets the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from trinity_snap.agents.model import JsonObject

_CONFIG = (
    "Hostname", "Domainname", "User", "Env", "Cmd", "Image", "Labels", "WorkingDir", "Entrypoint", "ExposedPorts",
    "Volumes", "StopSignal", "StopTimeout", "Healthcheck", "Tty", "OpenStdin", "StdinOnce", "Shell", "OnBuild",
    "NetworkDisabled", "ArgsEscaped", "AttachStdin", "AttachStdout", "AttachStderr",
)  # fmt: skip
_ENDPOINT = ("Aliases", "IPAMConfig", "Links", "DriverOpts", "GwPriority")
# Here an empty or zero value differs from the default.
_EMPTY_MATTERS = frozenset({"MaskedPaths", "ReadonlyPaths", "MemorySwappiness", "Init", "OomKillDisable"})
_NOT_OURS = frozenset({"ContainerIDFile", "VolumesFrom", "Isolation", "ConsoleSize"})
_OWN = ("Name", "ImageID", "State")
_NO_ENDPOINTS = ("host", "none", "container:")


def definition_of(inspected: JsonObject) -> JsonObject:
    """Given what `docker inspect` says of a container, return its definition."""
    identity: str = inspected["Id"]
    config = {key: inspected["Config"][key] for key in _CONFIG if inspected["Config"].get(key)}
    if config.get("Hostname") == identity[:12]:
        del config["Hostname"]
    body: JsonObject = {
        "Name": inspected["Name"].removeprefix("/"),
        "ImageID": inspected["Image"],
        "State": str((inspected.get("State") or {}).get("Status") or ""),
        **config,
        "HostConfig": _host_config(inspected),
    }
    endpoints = _endpoints(inspected, identity)
    if endpoints:
        body["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    return body


def create_body(definition: Mapping[str, object]) -> JsonObject:
    """Given a definition, return the body for `POST /containers/create`; the name goes into the query."""
    return {key: value for key, value in definition.items() if key not in _OWN}


def _host_config(inspected: JsonObject) -> JsonObject:
    config = inspected["HostConfig"]
    kept = {
        key: value
        for key, value in config.items()
        if key not in _NOT_OURS and value is not None and (value or key in _EMPTY_MATTERS)
    }
    # A bind without a colon asks for a new anonymous volume; the one that it got is named below.
    binds = [bind for bind in config.get("Binds") or [] if ":" in bind]
    named = {bind.split(":")[1] for bind in binds}
    named |= {mount.get("Target") for mount in config.get("Mounts") or []}
    more = [
        f"{mount['Name']}:{mount['Destination']}{'' if mount.get('RW') else ':ro'}"
        for mount in inspected.get("Mounts") or []
        if mount.get("Type") == "volume" and mount.get("Name") and mount["Destination"] not in named
    ]
    if binds or more:
        kept["Binds"] = [*binds, *sorted(more)]
    return kept


def _endpoints(inspected: JsonObject, identity: str) -> JsonObject:
    if str(inspected["HostConfig"].get("NetworkMode") or "").startswith(_NO_ENDPOINTS):
        return {}
    endpoints = {}
    for network, endpoint in (inspected.get("NetworkSettings", {}).get("Networks") or {}).items():
        kept = {key: endpoint[key] for key in _ENDPOINT if endpoint.get(key)}
        # Docker adds the short id by itself.
        aliases = [alias for alias in kept.pop("Aliases", []) if alias != identity[:12]]
        if aliases:
            kept["Aliases"] = aliases
        endpoints[network] = kept
    return endpoints
