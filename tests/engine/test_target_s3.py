"""Buckets as targets: the common behaviour on two real servers, and what a store and the way to it can do wrong."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.target_conformance import TargetConformance, flat_name
from tests.faults.stores import moto_server, rclone_server, settings_for, write_credentials
from trinity_snap.targets import Target
from trinity_snap.targets.protocol import time_of, time_of_put
from trinity_snap.targets.s3 import S3Target


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_credentials(tmp_path_factory.mktemp("credentials"))


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory, credentials: Path) -> Iterator[S3Target]:
    directory = tmp_path_factory.mktemp("rclone")
    (directory / "bucket").mkdir()
    with rclone_server(directory) as endpoint:
        yield S3Target(settings_for(endpoint, credentials))


@pytest.fixture(scope="module")
def moto(credentials: Path) -> Iterator[S3Target]:
    with moto_server() as endpoint:
        target = S3Target(settings_for(endpoint, credentials))
        target.client.create_bucket(Bucket="bucket")
        yield target


def beside(target: S3Target) -> S3Target:
    """The same target with another prefix; making a client takes longer than most tests."""
    other = copy.copy(target)
    other._root = f"{os.urandom(8).hex()}/x/"
    return other


class TestMoto(TargetConformance):
    @pytest.fixture
    def target(self, moto: S3Target) -> Target:
        return beside(moto)


class TestRclone(TargetConformance):
    """It accepts If-None-Match and overwrites all the same, so two of the common tests say the opposite here."""

    @pytest.fixture
    def target(self, rclone: S3Target) -> Target:
        return beside(rclone)

    def test_an_object_is_never_overwritten(self, target: Target) -> None:
        name = flat_name()
        assert target.put_if_absent(name, b"first") is True
        assert target.put_if_absent(name, b"second, and longer") is True
        assert target.get(name) == b"second, and longer"
        assert target.put_if_absent("repository", b"first") is True
        assert target.put_if_absent("repository", b"second, and longer") is False
        assert target.get("repository") == b"first"

    def test_of_many_that_put_the_same_name_exactly_one_succeeds(self, target: Target) -> None:
        pytest.skip("every put succeeds")


@pytest.mark.parametrize("kind", ["points", "sessions", "packs"])
def test_a_put_tells_when_the_store_got_the_object(rclone: S3Target, kind: str) -> None:
    target, name = beside(rclone), f"{kind}/{'7' * (64 if kind == 'packs' else 32)}"
    name = name.replace("packs/", "packs/77/")
    assert time_of_put(target, name) is None
    assert target.put_if_absent(name, b"content")
    told = time_of_put(target, name)
    assert told is not None
    assert abs(told - target.stat(name).time_ns) <= 2_000_000_000
    assert time_of(target, name) == told
