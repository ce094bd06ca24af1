"""A grant with signed addresses, from one command to the other, for data that is live on the host."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy, Request, proxy_before, refusal
from tests.faults.stores import rclone_server, write_credentials
from tests.unit.test_cli_grant import Pair, platform_grant
from tests.unit.test_cli_repository import Host, make_host

__all__ = ["make_host"]  # a fixture


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("rclone")
    (directory / "bucket").mkdir()
    with rclone_server(directory) as endpoint, proxy_before(endpoint) as proxy:
        yield proxy


@pytest.fixture
def pair(make_host: Callable[..., Host], store: Proxy, tmp_path: Path) -> Pair:
    store.rule = lambda request: None
    control = make_host("control")
    control.policy.parent.mkdir()
    write_credentials(control.policy.parent)
    url = f"s3://bucket/{tmp_path.name}"
    target = {"url": url, "endpoint": store.address, "region": "us-east-1", "credentials_file": "s3-credentials"}
    control.policy.write_text(json.dumps({"target": target, "state": {"directory": str(control.home / "state")}}))
    control.policy.chmod(0o600)
    control.json("init")
    home = tmp_path / "host"
    home.mkdir()
    (home / "live").mkdir()
    policy = home / "policy.yml"
    document = {"platform": {"paths": [str(home / "live")]}, "state": {"directory": str(home / "state")}}
    policy.write_text(json.dumps(document))
    return Pair(control, policy, url, home, "")


def test_a_store_that_refuses_in_the_middle_costs_nothing_and_a_new_grant_restores(pair: Pair, store: Proxy) -> None:
    live = pair.home / "live"
    for number in range(30):
        (live / f"file-{number}").write_bytes(os.urandom(400_000))
    then = {path.name: path.read_bytes() for path in live.iterdir()}
    granted, keys = platform_grant(pair, live)
    (live / "file-0").write_bytes(b"now")
    now = {path.name: path.read_bytes() for path in live.iterdir()}
    store.forget()
    assert pair.restore(granted, "--dry-run").code == 0
    planning = len(store.requests)
    store.forget()

    def expired(request: Request) -> object:
        return refusal(403, "AccessDenied") if request.number > planning else None

    store.rule = expired  # type: ignore[assignment]  # it gives answers
    refused = pair.restore(granted, "--yes", "--json").json()
    assert refused["error"] == "GrantError"
    assert "does not accept the grant's address any more (403 AccessDenied)" in refused["message"]
    assert "as it was" in refused["untouched"] and "new grant" in refused["next_step"]
    assert {path.name: path.read_bytes() for path in live.iterdir()} == now
    assert not [name for name in os.listdir(pair.home) if name.startswith(".trinity-snap")]
    store.rule = lambda request: None
    again = pair.grant("platform").out
    done = pair.restore(again, "--yes", "--json")
    assert done.code == 0, done
    assert {path.name: path.read_bytes() for path in live.iterdir()} == then
    everything = [path for path in pair.home.rglob("*") if path.is_file()]
    assert not any(key in path.read_bytes() for key in keys for path in everything)
    text = json.dumps(refused) + done.out.decode() + done.errors
    assert "X-Amz" not in text and not any(key.hex() in text for key in keys)


def test_a_host_needs_no_boto3_and_keeps_to_no_proxy(pair: Pair, store: Proxy) -> None:
    (pair.home / "live/file").write_text("then")
    granted, _ = platform_grant(pair, pair.home / "live")
    through = {"http_proxy": "http://127.0.0.1:9", "PYTHONPROFILEIMPORTTIME": "1"}
    refused = pair.restore(
        granted, "--to", str(pair.home / "no"), "--dry-run", env={**through, "no_proxy": "127.0.0.1"}
    )
    assert refused.code == 0, refused
    assert "urllib3" in refused.errors and "boto3" not in refused.errors
