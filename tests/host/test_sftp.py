"""A policy whose repository is on an SFTP server, with Docker and agents that write."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.sshd import needs_sshd, sshd
from tests.host.test_main_job import check_databases, extract, said, start_writer, wait_until
from tests.lab.daemon import Daemon
from tests.lab.product import Product, leftovers

pytestmark = [pytest.mark.host, needs_sshd]


def test_agents_are_backed_up_to_a_server_and_not_held_for_one_that_is_away(
    btrfs_daemon: Daemon, tmp_path: Path
) -> None:
    with sshd(tmp_path / "sshd") as server:
        product = Product(tmp_path, btrfs_daemon, tmp_path / "unused")
        product.write_policy(
            target={
                "url": f"sftp://root@127.0.0.1:{server.port}{tmp_path}/there/host1",
                "ssh_key_file": str(server.key),
                "known_hosts_file": str(server.known_hosts),
            }
        )
        product.run("init")
        start_writer(btrfs_daemon, "one")
        wait_until(lambda: said(btrfs_daemon, "one") > 100)
        server.stop()
        failed = product.run("backup", code=1)
        assert "cannot be reached" in failed["message"]
        assert btrfs_daemon.paused() == [] and not leftovers(product)
        server.start()
        (agent,) = product.run("backup")["agents"]
        repository = product.repository()
        extract(repository, repository.read_point(agent["point"]), tmp_path / "back")
        assert check_databases(tmp_path / "back", "one") > 0
        assert product.run("verify", "--read-data")["good"] is True
        assert not leftovers(product)
