"""What the units may not do on a host that systemd runs, and that runs, recoveries, drills and checks go on all the same."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab.hosts.agents import DONE, SLOW, AgentHost, takes_minutes

pytestmark = [pytest.mark.lab, pytest.mark.fleet]

MOST = {"backup": 6.2, "recover": 6.2, "drill": 6.2, "verify": 2.7, "prune": 2.7}
"""The exposure that `systemd-analyze security` may find, of 10. A run has to mount, and sees every file of every agent."""


def overall(agents: AgentHost, unit: str) -> float:
    said = agents.host.run(f"systemd-analyze security --no-pager trinity-snap-{unit}.service", check=False).output
    line = next(line for line in said.splitlines() if "Overall exposure level" in line)
    return float(line.split(":")[1].split()[0])


_KEEP = """python3 - <<'END'
import json, pathlib
path = pathlib.Path("/etc/trinity-snap/policy.yml")
path.write_text(json.dumps({**json.loads(path.read_text()), "retention": {"last": 50}}))
END
"""


@pytest.fixture
def scheduled(agents: AgentHost) -> Iterator[AgentHost]:
    played = agents.play("schedule", trinity_snap_schedule_prune="weekly")
    assert played.code == 0, played.output
    agents.host.run(_KEEP)
    yield agents
    agents.choose(*SLOW)
    nothing = {f"trinity_snap_schedule_{job}": "" for job in ("backup", "verify", "prune")}
    assert agents.play("schedule", **nothing).code == 0


def test_units_are_confined_and_do_their_work(scheduled: AgentHost) -> None:
    host = scheduled.host
    found = {unit: overall(scheduled, unit) for unit in MOST}
    assert {unit: value for unit, value in found.items() if value > MOST[unit]} == {}, found
    assert "verify --read-data=5%" in host.run("systemctl cat trinity-snap-verify.service").output.replace("%%", "%")
    assert scheduled.back_up() in DONE, scheduled.journal()
    for unit in ("recover", "verify", "prune", "drill"):
        done = host.run(f"systemctl start trinity-snap-{unit}.service", check=False)
        assert done.code == 0, scheduled.journal(f"trinity-snap-{unit}")
    assert all(one["drill"]["proved"] for one in scheduled.snap("status")["agents"] if one["agent"] in ("one", "two"))


def test_a_run_shares_the_mounts_of_its_host(agents: AgentHost) -> None:
    agents.ask("hang", "shipping")
    try:
        main = "$(systemctl show --property MainPID --value trinity-snap-backup)"
        of_the_run, of_the_host = agents.host.run(f"readlink /proc/{main}/ns/mnt /proc/1/ns/mnt").output.split()
        assert of_the_run == of_the_host
        capabilities = agents.host.run(f"sed -n 's/^CapBnd:\\s*//p' /proc/{main}/status").output
        assert not int(capabilities, 16) & (1 << 12 | 1 << 25)  # CAP_NET_ADMIN, CAP_SYS_TIME
    finally:
        agents.host.run("systemctl kill --signal KILL trinity-snap-backup; trinity-snap recover --wait 2m")
        agents.host.run("systemctl reset-failed", check=False)


@takes_minutes
def test_secrets_are_encrypted_by_systemd_and_every_unit_goes_on(scheduled: AgentHost) -> None:
    host = scheduled.host
    kept = host.run("cat /etc/trinity-snap/host.key").output
    secret = json.loads(kept)["secret"]
    try:
        planned = scheduled.play("install", "--check", trinity_snap_encrypt_secrets=True)
        assert (planned.code, planned.changed) == (0, 1), planned.output
        assert host.run("cat /etc/trinity-snap/host.key").output == kept
        for changed in (1, 0):
            played = scheduled.play("install", trinity_snap_encrypt_secrets=True)
            assert (played.code, played.changed) == (0, changed), played.output
        assert (
            scheduled.play("schedule", trinity_snap_schedule_prune="weekly", trinity_snap_encrypt_secrets=True).code
            == 0
        )
        assert host.run(f"grep -rlF '{secret}' /etc/trinity-snap /etc/systemd", check=False).output == ""
        assert scheduled.back_up() in DONE, scheduled.journal()
        for unit in ("verify", "prune"):
            done = host.run(f"systemctl start trinity-snap-{unit}.service", check=False)
            assert done.code == 0, scheduled.journal(f"trinity-snap-{unit}")
        assert scheduled.snap("verify")["good"] is True
        assert scheduled.play("backup", trinity_snap_accept_downgraded=True).code == 0
    finally:
        host.run("umask 077; cat >/etc/trinity-snap/host.key", given=kept.encode())
