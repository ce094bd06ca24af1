"""btrfs mounted at Docker's own directory of volumes: snapshots lie beside the volumes, and Docker sees their directory."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.errors import APIError

from tests.lab.daemon import docker_daemon
from tests.lab.disks import filesystem
from tests.lab.product import install, volume
from trinity_snap.snapshot.local import local_snapshots

pytestmark = pytest.mark.host


@pytest.fixture
def data_root(tmp_path: Path) -> Iterator[Path]:
    """A data root whose `volumes` is the top of a btrfs filesystem, and all the rest on ext4."""
    with filesystem("ext4", tmp_path / "disk", 1 << 30) as place:
        # As systemd has it; else dockerd binds its data root to itself, and what is mounted in it is hidden.
        subprocess.run(["mount", "--make-shared", place], check=True)
        volumes = place / "docker" / "volumes"
        volumes.mkdir(parents=True)
        image = tmp_path / "disk" / "volumes.img"
        with open(image, "wb") as file:
            file.truncate(1 << 30)
        subprocess.run(["mkfs.btrfs", "-q", image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, volumes], check=True)
        yield place / "docker"


def test_a_docker_that_starts_while_snapshots_are_kept_lists_their_directory_and_cannot_harm_them(
    data_root: Path, tmp_path: Path
) -> None:
    store = data_root / "volumes" / ".trinity-snap"
    with docker_daemon(data_root) as first:
        product = install(tmp_path / "home", first, snapshot={"keep": 1})
        first.run("agent-web", volumes=["agent-web-workspace:/home/developer"])
        data = volume(first, "agent-web-workspace") / "file"
        data.write_text("one")
        product.run("backup")
        first.clean = lambda: None  # type: ignore[method-assign]  # the next one finds everything as it was
    ((kept,),) = [one.kept for one in local_snapshots(product.home / "state")]
    assert Path(kept.where).parent == store
    with docker_daemon(data_root) as second:
        product.daemon = second
        second.client.containers.get("agent-web").start()
        # Every directory there is a volume to Docker's driver `local` when it starts. If this ever fails, docs/operations.md
        # has a paragraph to lose.
        assert store.name in [each.name for each in second.client.volumes.list()]
        assert second.client.volumes.prune()["VolumesDeleted"] in (None, [])
        with pytest.raises(APIError, match="read-only"):
            second.client.api.remove_volume(store.name, force=True)
        assert (Path(kept.where) / "agent-web-workspace/_data/file").read_text() == "one"
        (agent,) = product.run("agents")["agents"]
        assert (agent["agent"], store.name in json.dumps(agent)) == ("web", False)
        data.write_text("two")
        product.run("rollback", "web", "--yes")
        assert data.read_text() == "one"
        product.run("backup")
        assert product.run("recover")["strays"] == []
        for each in local_snapshots(product.home / "state"):
            product.run("rollback", "--remove", each.id)
        assert not store.exists()
        second.client.api.remove_volume(store.name)  # what Docker still lists goes like any volume
        assert store.name not in [each.name for each in second.client.volumes.list()]
