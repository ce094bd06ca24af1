"""A sealed host and its control node: two directories, one repository, and the command line of each."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_cli_repository import Host
from trinity_snap.repository.documents import created_now, sign_document, split_document
from trinity_snap.repository.identity import load_host_key, load_identity
from trinity_snap.repository.keys import HostSecret, Identity, Recipient
from trinity_snap.repository.recipients import recipient_entries
from trinity_snap.targets import Target, open_target


@dataclass
class Pair:
    """The `host` has no identity, `control` has `operator.key` and `paper.key` in its home; both know the repository."""

    host: Host
    control: Host
    repository: Path

    @property
    def data(self) -> Path:
        """What the host backs up."""
        return self.host.home / "data"

    @property
    def state(self) -> Path:
        return self.host.home / "state"

    @property
    def pins(self) -> Path:
        return self.host.policy.parent / "recipients.pins"

    @property
    def secret(self) -> HostSecret:
        return load_host_key(self.host.policy.parent / "host.key")

    def key(self, name: str) -> str:
        """The path of an identity on the control node, made if need be."""
        path = self.control.home / f"{name}.key"
        if not path.exists():
            self.control.json("key", "new", str(path), "--label", name)
        return str(path)

    def file(self, name: str) -> str:
        """The path of its recipient file."""
        return f"{self.key(name)}.recipient"

    def identity(self, name: str) -> Identity:
        return load_identity(self.key(name))

    def recipient(self, name: str) -> Recipient:
        return self.identity(name).recipient

    def initialise(self, *more: str, code: int = 0) -> dict[str, Any]:
        given = [part for name in ("operator", "paper") for part in ("--recipient", self.file(name))]
        return self.host.json("init", "--target", str(self.repository), *given, *more, code=code)

    def configure(self, *paths: Path) -> None:
        """Have the host back up these paths of its own, without any Docker."""
        policy = json.dumps(
            {
                "target": str(self.repository),
                "keys": {"identity": None, "pins": "recipients.pins"},
                "state": {"directory": str(self.state)},
                "agents": {"discover": {"trinity": False}},
                "platform": {"paths": [str(path) for path in paths or (self.data,)]},
            }
        )
        self.host.policy.write_text(policy)

    def back_up(self, code: int = 0) -> dict[str, Any]:
        return self.host.json("backup", code=code)

    def point(self) -> str:
        """Back up and give the point's id."""
        (agent,) = self.back_up()["agents"]
        return str(agent["point"])

    def restored(self, name: str = "operator", point: str = "latest") -> dict[str, bytes]:
        """The files of a point, as the control node gets them with one of its identities."""
        out = self.control.home / "out"
        shutil.rmtree(out, ignore_errors=True)
        self.control.json(
            "restore", "platform", "--to", str(out), "--point", point, "--identity", self.key(name), "--quiet"
        )
        return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def target(self) -> Target:
        return open_target(str(self.repository))

    def objects(self, prefix: str) -> set[str]:
        return set(self.target().list_prefix(prefix))

    def put_list(self, generation: int, names: list[str], host: HostSecret | None = None) -> str:
        """What somebody does who can write to the target and has a host secret: another list of recipients."""
        secret = host or self.secret
        payload = {
            "id": self.secret.repository_id.hex(),
            "created": created_now(),
            "generation": generation,
            "recipients": recipient_entries(secret, [self.recipient(name) for name in names]),
        }
        name = f"recipients/{generation:032x}"
        self.target().put_if_absent(name, sign_document("recipients", payload, secret.mac_key))
        return name

    def sealed_to(self) -> list[set[str]]:
        """Of each session, the ids of whom it is sealed to."""
        documents = [split_document(self.target().get(name))[0] for name in self.objects("sessions/")]
        return [set(document["keys"]) for document in documents if isinstance(document["keys"], dict)]

    def host_files(self) -> dict[Path, bytes]:
        """Everything that is on the host of trinity-snap."""
        places = (self.host.policy.parent, self.state)
        return {path: path.read_bytes() for place in places for path in place.rglob("*") if path.is_file()}


@pytest.fixture
def pair(make_host, repository, monkeypatch) -> Pair:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    # Tests of local snapshots may have made some on this machine.
    monkeypatch.setattr("trinity_snap.snapshot.local.unregistered", lambda state_dir: [])
    made = Pair(make_host("host"), make_host("control"), Path(repository))
    made.initialise()
    made.configure()
    made.data.mkdir()
    made.control.policy.parent.mkdir()
    control = {"target": repository, "keys": {"identity": made.key("operator")}}
    made.control.policy.write_text(json.dumps({**control, "state": {"directory": str(made.control.home / "state")}}))
    return made
