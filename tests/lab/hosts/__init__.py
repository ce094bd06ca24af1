"""Whole hosts under User Mode Linux: systemd, udev, sshd, LVM, and Docker on cgroup v2. See docs/testing.md."""

from tests.lab.hosts.image import missing
from tests.lab.hosts.lab import Lab
from tests.lab.hosts.machine import Finished, Host

__all__ = ["Finished", "Host", "Lab", "missing"]
