"""The lab's own network: a bridge on this machine, and a tap device on it for each host. Nothing leads out of it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

_LABS = 200


@dataclass(frozen=True)
class Network:
    """A bridge. The machine has the address that ends in 1; hosts have the others."""

    number: int

    @property
    def bridge(self) -> str:
        """The bridge's name."""
        return f"snaplab{self.number}"

    @property
    def gateway(self) -> str:
        """The machine's own address."""
        return self.address(1)

    def address(self, index: int) -> str:
        """The address of a host (2 to 254)."""
        return f"10.213.{self.number}.{index}"

    def tap(self, index: int) -> str:
        """The name of a host's tap device."""
        return f"snaplab{self.number}-{index}"

    def add_tap(self, index: int) -> None:
        """Make a host's tap device."""
        tap = self.tap(index)
        _ip("tuntap", "add", "dev", tap, "mode", "tap")
        _ip("link", "set", "dev", tap, "master", self.bridge, "up")

    def remove(self, taps: list[str]) -> None:
        """Remove the tap devices and the bridge, as far as they are there."""
        for device in (*taps, self.bridge):
            subprocess.run(["ip", "link", "del", "dev", device], check=False, capture_output=True)


def make_network() -> Network:
    """Make the first bridge whose number is free."""
    for number in range(_LABS):
        network = Network(number)
        made = subprocess.run(
            ["ip", "link", "add", "name", network.bridge, "type", "bridge"], check=False, capture_output=True, text=True
        )
        if made.returncode == 0:
            _ip("address", "add", f"{network.gateway}/24", "dev", network.bridge)
            _ip("link", "set", "dev", network.bridge, "up")
            return network
        if "File exists" not in made.stderr:
            raise RuntimeError(f"The lab's bridge could not be made: {made.stderr.strip()}")
    raise RuntimeError(f"There are {_LABS} labs already; `ip link` shows them.")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
