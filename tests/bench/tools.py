"""The tools, each as the commands that an operator would run, all with authenticated encryption."""

from __future__ import annotations

import os
import shutil
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

PASSWORD = "benchmark"


@dataclass(frozen=True)
class Command:
    """A command line, with its working directory and what its environment has besides the caller's."""

    arguments: list[str]
    environment: dict[str, str]
    directory: Path


class Tool(ABC):
    """A backup program. Everything that it writes is below `home`, and what it stores below `repository`."""

    name: str

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def repository(self) -> Path:
        """Where the stored bytes are."""
        return self.home / "repository"

    @abstractmethod
    def version(self) -> list[str]:
        """The command that prints the version."""

    @abstractmethod
    def init(self) -> Command:
        """Make an empty repository. Not measured."""

    @abstractmethod
    def backup(self, tree: Path) -> Command:
        """Back up `tree` once."""

    @abstractmethod
    def restore(self, tree: Path, destination: Path) -> Command:
        """Restore the newest backup of `tree` into the empty directory `destination`."""

    def restored_root(self, tree: Path, destination: Path) -> Path:
        """Where below `destination` the tree comes back."""
        return destination

    @property
    def available(self) -> bool:
        """Whether the program is installed."""
        return shutil.which(self.version()[0]) is not None


class Restic(Tool):
    """restic with its newer repository format, which compresses."""

    name = "restic"

    def version(self) -> list[str]:
        return ["restic", "version"]

    def _command(self, directory: Path, *arguments: str) -> Command:
        environment = {
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_CACHE_DIR": str(self.home / "cache"),
        }
        return Command(["restic", "--quiet", *arguments], environment, directory)

    def init(self) -> Command:
        return self._command(self.home, "init", "--repository-version", "2")

    def backup(self, tree: Path) -> Command:
        return self._command(tree, "backup", "--compression", "auto", ".")

    def restore(self, tree: Path, destination: Path) -> Command:
        return self._command(destination, "restore", "latest", "--target", ".")

    def restored_root(self, tree: Path, destination: Path) -> Path:
        # Some versions keep the absolute path of what was backed up.
        below = destination / str(tree).lstrip("/")
        return below if below.is_dir() else destination


class Borg(Tool):
    """borg with keyed BLAKE2b and zstd at the level that restic and trinity-snap use too."""

    name = "borg"

    def _program(self) -> str:
        beside = Path(sys.executable).parent / "borg"
        return str(beside) if beside.exists() else "borg"

    def version(self) -> list[str]:
        return [self._program(), "--version"]

    def _command(self, directory: Path, *arguments: str) -> Command:
        environment = {
            "BORG_BASE_DIR": str(self.home / "base"),
            "BORG_PASSPHRASE": PASSWORD,
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }
        return Command([self._program(), *arguments], environment, directory)

    def init(self) -> Command:
        return self._command(self.home, "init", "-e", "repokey-blake2", str(self.repository))

    def backup(self, tree: Path) -> Command:
        return self._command(tree, "create", "-C", "zstd,3", f"{self.repository}::{{now:%s.%f}}", ".")

    def restore(self, tree: Path, destination: Path) -> Command:
        # The name of the newest archive is looked up inside the measured time, as restic's `latest` is.
        script = 'exec "$1" extract "$2::$("$1" list --last 1 --short "$2")"'
        command = self._command(destination)
        return Command(
            ["sh", "-c", script, "sh", command.arguments[0], str(self.repository)],
            command.environment,
            destination,
        )


class TrinitySnap(Tool):
    """The product's engine on a plain directory, in a process of its own each time."""

    name = "trinity-snap"

    def version(self) -> list[str]:
        return [sys.executable, "-m", "tests.bench.product", "version"]

    def _command(self, *arguments: str) -> Command:
        root = Path(__file__).resolve().parents[2]
        program = [sys.executable, "-m", "tests.bench.product", *arguments, "--home", str(self.home)]
        return Command(program, {"PYTHONPATH": str(root)}, self.home)

    def init(self) -> Command:
        return self._command("init")

    def backup(self, tree: Path) -> Command:
        return self._command("backup", "--tree", str(tree))

    def restore(self, tree: Path, destination: Path) -> Command:
        return self._command("restore", "--tree", str(destination))

    def restored_root(self, tree: Path, destination: Path) -> Path:
        return destination / "bench"


TOOLS: tuple[type[Tool], ...] = (TrinitySnap, Restic, Borg)


def stored_bytes(tool: Tool) -> int:
    """The bytes of all files of the tool's repository."""
    total = 0
    for directory, _, names in os.walk(tool.repository):
        total += sum(os.lstat(os.path.join(directory, name)).st_size for name in names)
    return total
