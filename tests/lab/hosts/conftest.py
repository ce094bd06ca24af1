"""One host with agents for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.hosts.agents import DISKS, SLOW, AgentHost
from tests.lab.hosts.image import NoImage, image, missing
from tests.lab.hosts.lab import Lab
from tests.lab.hosts.machine import Host


@pytest.fixture(scope="session")
def the_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if why := missing():
        pytest.skip(why)
    try:
        image()
    except NoImage as error:
        pytest.skip(f"without its packages there is no host: {error}")
    lab = Lab.up(tmp_path_factory.mktemp("lab") / "lab", ["one"], disks=DISKS, dies_with_parent=True)
    yield lab
    lab.down()


@pytest.fixture
def host(the_lab: Lab) -> Host:
    """A host that is up: `run()`, `put()`, `power_cut()`, `boot()`."""
    (host,) = the_lab.hosts
    host.boot()
    return host


@pytest.fixture(scope="session")
def furnished(the_lab: Lab) -> AgentHost:
    (host,) = the_lab.hosts
    agents = AgentHost(the_lab, host)
    agents.furnish()
    played = agents.play("install")
    assert played.code == 0, played.output
    return agents


@pytest.fixture(scope="module")
def quick_agents(furnished: AgentHost) -> AgentHost:
    """The agents that are not on LVM, for the tests of a module."""
    furnished.host.boot()
    furnished.choose(*SLOW)
    return furnished


@pytest.fixture
def agents(quick_agents: AgentHost, host: Host) -> AgentHost:
    """The host with its agents, and with trinity-snap as the role installs it; runs leave those on LVM out."""
    return quick_agents


@pytest.fixture
def all_agents(agents: AgentHost) -> Iterator[AgentHost]:
    """The same, and runs take all agents."""
    agents.choose()
    yield agents
    agents.host.boot()
    agents.choose(*SLOW)
