"""The entry point of `trinity-snap`: it turns every way to end into an exit code and a sentence."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from trinity_snap.errors import TrinitySnapError, UsageError

DEBUG_VARIABLE = "TRINITY_SNAP_DEBUG"


def main() -> None:
    """Run the command line of this process and exit."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # what `nohup` started goes on
            signal.signal(number, _terminate)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run `trinity-snap` with these arguments. Return the exit code; nothing but SystemExit is raised."""
    from trinity_snap.cli.group import Interrupted, command

    words = list(arguments) or ["--help"]
    as_json = "--json" in words[: words.index("--")] if "--" in words else "--json" in words
    try:
        outcome = command().main(args=words, prog_name="trinity-snap", standalone_mode=False)
        sys.stdout.flush()
    except TrinitySnapError as error:
        return _report(error, as_json)
    except (Interrupted, KeyboardInterrupt) as error:
        failure = TrinitySnapError(
            "Interrupted.", next_step="What it was doing is undone, or will be by `trinity-snap recover`."
        )
        _report(failure, as_json)
        return error.exit_code if isinstance(error, Interrupted) else 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        # The library's own errors about the command line have different homes from version to version.
        describe = getattr(error, "format_message", None)
        if callable(describe):
            sentence = str(describe())
            sentence += "" if sentence.endswith((".", "?", "!")) else "."
            return _report(UsageError(sentence, next_step=_help_of(error)), as_json)
        if type(error).__name__ == "Abort":
            return _report(TrinitySnapError("Aborted."), as_json)
        return _unexpected(error, as_json)
    return outcome if isinstance(outcome, int) else 0


def _report(error: TrinitySnapError, as_json: bool) -> int:
    from trinity_snap.cli.output import safe

    if as_json:
        sys.stdout.write(json.dumps(error.to_json(), indent=2) + "\n")
        sys.stdout.flush()
    else:
        sys.stderr.write(f"trinity-snap: {safe(str(error), lines=True)}\n")
    if os.environ.get(DEBUG_VARIABLE) == "1":
        _traceback(error)
    return error.exit_code


def _unexpected(error: Exception, as_json: bool) -> int:
    if isinstance(error, PermissionError):
        return _report(
            TrinitySnapError(f"Permission denied: {error.filename or error.strerror}.", next_step="Run as root."),
            as_json,
        )
    if isinstance(error, OSError):
        place = f" ({error.filename})" if error.filename else ""
        return _report(TrinitySnapError(f"The system refused: {error.strerror or error}{place}."), as_json)
    failure = TrinitySnapError(
        f"An unexpected error, which is a mistake in trinity-snap: {type(error).__name__}: {error}.",
        next_step=f"Please report it, with what {DEBUG_VARIABLE}=1 in the environment shows.",
    )
    if os.environ.get(DEBUG_VARIABLE) == "1":
        _traceback(error)
    return _report(failure, as_json)


def _traceback(error: BaseException) -> None:
    import traceback

    traceback.print_exception(error)


def _help_of(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "trinity-snap")
    return f"`{path} --help` explains the command."


def _terminate(number: int, frame: FrameType | None) -> None:
    from trinity_snap.cli.group import Terminated

    raise Terminated


if __name__ == "__main__":
    main()
