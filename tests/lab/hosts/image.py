"""The root disk that all hosts of a lab start from, made once and kept.

The recipe decides its name in the cache, so a changed recipe makes a new image, and nothing else does.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.lab import kernel

SUITE = "bookworm"
MIRROR_VARIABLE = "TRINITY_SNAP_LAB_MIRROR"

_COMMANDS = {
    "debootstrap": "debootstrap",
    "mkfs.ext4": "e2fsprogs",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "ip": "iproute2",
    "ssh": "openssh-client",
}
_PACKAGES = (
    "btrfs-progs",
    "busybox-static",
    "dbus",
    "docker.io",
    "iproute2",
    "kmod",
    "lvm2",
    "openssh-server",
    "python3",
    "systemd-sysv",
    "thin-provisioning-tools",
    "udev",
    "xfsprogs",
)
_SIZE = "4G"
_ENABLED = ("systemd-networkd.service", "lab-seed.service")
_MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "systemd-networkd-wait-online.service",
)

# What is in the host's own directory on this machine is copied over its root before anything else starts.
_SEED_UNIT = """[Unit]
Description=Take over this host's name, address and keys from the machine
DefaultDependencies=no
After=local-fs.target
Before=sysinit.target network-pre.target systemd-networkd.service ssh.service docker.service

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/lab-seed

[Install]
WantedBy=sysinit.target
"""
_SEED_SCRIPT = """#!/bin/sh
set -e
for word in $(cat /proc/cmdline); do
  case $word in lab.seed=*) seed=${word#lab.seed=} ;; esac
done
mkdir -p /run/lab-seed
mount -t hostfs none /run/lab-seed -o "$seed"
cp -R --preserve=mode /run/lab-seed/. /
umount /run/lab-seed
hostname -F /etc/hostname
"""
_FILES = {
    "etc/docker/daemon.json": json.dumps({"bridge": "none", "iptables": False, "ip6tables": False}) + "\n",
    "etc/fstab": "",
    "etc/apt/sources.list": "",
    "etc/ssh/sshd_config.d/lab.conf": "UseDNS no\nPrintMotd no\nMaxStartups 50\n",
    "etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=volatile\n",
    "etc/systemd/system/lab-seed.service": _SEED_UNIT,
    "usr/local/sbin/lab-seed": _SEED_SCRIPT,
}


class NoImage(Exception):
    """The image cannot be made on this machine; the text says why."""


def missing() -> str:
    """Why this machine can run no lab of whole hosts; empty if it can."""
    if why := kernel.missing():
        return why
    packages = sorted({package for command, package in _COMMANDS.items() if not shutil.which(command)})
    if packages:
        return f"the lab of whole hosts needs {', '.join(packages)}"
    return "" if Path("/dev/net/tun").exists() else "the lab of whole hosts needs /dev/net/tun"


def cache_directory() -> Path:
    """Where images are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache") / "trinity-snap-lab"


def image() -> Path:
    """The image, which is made if it is not there yet (some minutes). Raise NoImage if that fails."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    wanted = cache / f"root-{_key()}.img"
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.exists():
            _make(cache, wanted)
    return wanted


def kernel_version() -> str:
    """The version of the kernel that hosts run."""
    return max(kernel.MODULES.glob("*/modules.order")).parent.name


def _key() -> str:
    recipe = [SUITE, _PACKAGES, _SIZE, _ENABLED, _MASKED, _FILES, kernel_version()]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]


def _make(cache: Path, wanted: Path) -> None:
    began = time.monotonic()
    sys.stderr.write(f"Making {wanted}, once; this takes some minutes.\n")
    tree, log, unfinished = cache / "tree", cache / "log", cache / "unfinished.img"
    shutil.rmtree(tree, ignore_errors=True)
    try:
        with open(log, "wb") as output:
            try:
                _bootstrap(tree, output.fileno())
                _adapt(tree, output.fileno())
                unfinished.unlink(missing_ok=True)
                pack = ["mkfs.ext4", "-q", "-d", str(tree), str(unfinished), _SIZE]
                subprocess.run(pack, check=True, stdout=output, stderr=output)
            except subprocess.CalledProcessError as error:
                end = log.read_text(errors="replace")[-2000:]
                raise NoImage(f"{error.cmd[0]} failed while the image was made:\n{end}") from error
        os.replace(unfinished, wanted)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        unfinished.unlink(missing_ok=True)
    sys.stderr.write(f"Made in {time.monotonic() - began:.0f} s.\n")


def _bootstrap(tree: Path, output: int) -> None:
    """Unpack and configure the packages; in a mount namespace of its own, so that no mount of it can stay behind."""
    mirror = _mirror()
    subprocess.run(
        ["unshare", "--mount", "debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", SUITE, str(tree),
         *([mirror] if mirror else [])],
        check=True, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
    )  # fmt: skip


def _mirror() -> str:
    """Where this machine itself gets the suite from; empty for debootstrap's own default."""
    if given := os.environ.get(MIRROR_VARIABLE):
        return given
    fields = "$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)"
    asked = subprocess.run(
        ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    for line in asked.stdout.splitlines():
        address, _, rest = line.partition(" ")
        if rest == f"{SUITE} main Debian":
            return address
    return ""


def _adapt(tree: Path, output: int) -> None:
    """Make the tree a host of the lab."""
    for name, content in _FILES.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o755 if content.startswith("#!") else 0o644)
    for verb, units in (("enable", _ENABLED), ("mask", _MASKED)):
        subprocess.run(["chroot", str(tree), "systemctl", verb, *units], check=True, stdout=output, stderr=output)
    for archive in (tree / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    for listing in (tree / "var/lib/apt/lists").glob("*_*"):
        listing.unlink()
    version = kernel_version()
    shutil.copytree(kernel.MODULES / version, tree / "usr/lib/modules" / version, symlinks=True)
    subprocess.run(["depmod", "-b", str(tree), version], check=True, stdout=output, stderr=output)
