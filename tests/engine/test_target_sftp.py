"""A directory on an SFTP server as a target: the common behaviour, on OpenSSH's own server."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.target_conformance import TargetConformance
from tests.faults.sshd import Sshd, needs_sshd, sshd
from trinity_snap.targets import Target
from trinity_snap.targets.sftp import SftpTarget
from trinity_snap.targets.sftp_put import Putter

pytestmark = needs_sshd


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as made:
        yield made


@pytest.fixture(scope="module")
def connected(server: Sshd, tmp_path_factory: pytest.TempPathFactory) -> SftpTarget:
    return SftpTarget(server.settings(str(tmp_path_factory.mktemp("target"))))


def beside(target: SftpTarget) -> SftpTarget:
    """The same connections to another directory; making them takes longer than most tests."""
    other = copy.copy(target)
    path = Path(target.root, os.urandom(8).hex())
    path.mkdir()
    other._address = replace(target._address, path=str(path))
    other._putter = Putter(str(path), None)
    return other


class TestOpenSsh(TargetConformance):
    @pytest.fixture
    def target(self, connected: SftpTarget) -> Target:
        return beside(connected)


class TestFromWhereTheUserArrives(TargetConformance):
    """The path of the URL begins with `/~/`."""

    @pytest.fixture
    def target(self, connected: SftpTarget) -> Target:
        other = beside(connected)
        other._address = replace(other._address, path=os.path.relpath(other.root, os.path.expanduser("~root")))
        other._putter = Putter(other.root, None)
        return other


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpTarget]:
    with sshd(tmp_path_factory.mktemp("plain")) as server:
        server.let_in("root", 'command="internal-sftp -P hardlink,fsync,statvfs,limits,posix-rename"')
        yield SftpTarget(server.settings(str(tmp_path_factory.mktemp("target"))))


class TestWithoutExtensions(TargetConformance):
    """A server that knows nothing beyond version 3: names are given by RENAME, which it refuses for one that is taken."""

    @pytest.fixture
    def target(self, plain: SftpTarget) -> Target:
        return beside(plain)

    def test_it_has_none(self, plain: SftpTarget) -> None:
        with plain._connections.one() as client:
            assert not {
                name for name in client.extensions if name.startswith(("fsync", "hardlink", "limits", "statvfs"))
            }
        assert plain.put_if_absent("repository", b"x") is True
        assert [one.name for one in Path(plain.root).iterdir() if one.is_file()] == ["repository"]
        assert not list(Path(plain.root, ".tmp").iterdir())
