"""The command `trinity-snap`: one file per subcommand, which parses and prints and decides nothing.

`command()` is the whole command line. A subcommand's module is imported when it is used, not before.
"""

from __future__ import annotations

from trinity_snap.cli.group import command

__all__ = ["command"]
