"""What `scripts/lab` does."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.lab.hosts import Lab, missing
from tests.lab.hosts.image import NoImage

DIRECTORY = Path(os.environ.get("TRINITY_SNAP_LAB") or "/var/lib/trinity-snap-lab")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def main() -> int:
    """Do what the command line says."""
    arguments = _arguments()
    if why := missing():
        return _complain(f"There can be no lab here: {why}.")
    there = (DIRECTORY / "lab.json").exists()
    if arguments.verb == "up":
        return _up(arguments) if not there else _complain(f"There is a lab in {DIRECTORY}: `scripts/lab down` ends it.")
    if not there:
        return _complain("There is no lab: `scripts/lab up` makes one.")
    lab = Lab.load(DIRECTORY)
    if arguments.verb == "down":
        lab.down()
        (DIRECTORY / "inventory.json").unlink(missing_ok=True)
        return 0
    if arguments.verb == "status":
        return _status(lab)
    if arguments.name not in [host.name for host in lab.hosts]:
        return _complain(f"There is no host {arguments.name}; there are {', '.join(host.name for host in lab.hosts)}.")
    host = lab.host(arguments.name)
    if arguments.verb == "ssh":
        return subprocess.run([*host.ssh(), *arguments.command], check=False).returncode
    if arguments.verb == "cut":
        host.power_cut()
    else:
        host.boot()
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/lab", description="A lab of whole hosts under User Mode Linux.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="make hosts and boot them")
    up.add_argument("number", type=int, nargs="?", default=1, metavar="N")
    up.add_argument("--memory", type=int, default=1024, metavar="MB", help="memory of each host")
    up.add_argument("--disk", action="append", type=_size, default=[], metavar="SIZE", help="an empty disk, such as 2G")
    verbs.add_parser("down", help="remove everything")
    verbs.add_parser("status", help="the hosts")
    for verb, what in (("ssh", "a shell or a command"), ("cut", "pull the plug"), ("boot", "switch on")):
        verbs.add_parser(verb, help=what).add_argument("name")
    verbs.choices["ssh"].add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args()


def _size(text: str) -> int:
    number, unit = text[:-1], text[-1:].upper()
    if unit not in _UNITS or not number.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is no size such as 512M or 2G")
    return int(number) * _UNITS[unit]


def _up(arguments: argparse.Namespace) -> int:
    names = [f"host{number}" for number in range(1, arguments.number + 1)]
    try:
        lab = Lab.up(DIRECTORY, names, memory_megabytes=arguments.memory, disks=arguments.disk)
    except NoImage as error:
        return _complain(str(error))
    inventory = DIRECTORY / "inventory.json"
    inventory.write_text(json.dumps(lab.inventory(), indent=2) + "\n")
    _status(lab)
    _say(f"\nansible-playbook -i {inventory} playbooks/install.yml")
    return 0


def _status(lab: Lab) -> int:
    for host in lab.hosts:
        _say(f"{host.name}  {host.address}  {'on' if host.is_on else 'off'}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _complain(sentence: str) -> int:
    sys.stderr.write(f"{sentence}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
