"""`trinity-snap version`."""

from __future__ import annotations

import platform

from trinity_snap import __version__
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import JsonOption, PolicyOption, QuietOption
from trinity_snap.cli.output import emit

app = new_app()


@app.command()
def version(policy: PolicyOption = None, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """The version of trinity-snap, of the repository format, and of Python."""
    answer = {"version": __version__, "format": 1, "policy": 1, "python": platform.python_version()}
    emit(answer, [f"trinity-snap {__version__} (repository format 1, Python {answer['python']})"], as_json)
