"""`trinity-snap policy set`, `edit`, `undo`, `history`, `diff` and `when`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from trinity_snap.cli.context import load
from trinity_snap.cli.options import JsonOption, PolicyOption, QuietOption
from trinity_snap.cli.output import emit, local_time, safe, table
from trinity_snap.cli.policy_consequences import points_going
from trinity_snap.errors import PolicyError, RemovalRefused, UsageError
from trinity_snap.report.times import timestamp

__all__ = ["add_to"]

DryRunOption = Annotated[bool, typer.Option("--dry-run", "-n", help="Show what would change; change nothing.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Also if recovery points would go.")]
ByOption = Annotated[
    str | None,
    typer.Option("--by", metavar="NAME", help="Who changes it. Default: whoever used sudo.", show_default=False),
]


def set_(
    settings: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE...", help="Settings, each with its value in YAML.")
    ],
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    by: ByOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Change settings, by the names that `policy show` has. Comments and all else in the file stay."""
    from trinity_snap.policy.editing import change_text, parse_change

    changes = [parse_change(one) for one in settings]
    how = f"set {' '.join(change.name for change in changes)}"
    _change(
        policy, lambda path, text: change_text(text, changes, path), how,
        dry_run=dry_run, yes=yes, by=by, as_json=as_json, quiet=quiet,
    )  # fmt: skip


def edit(
    yes: YesOption = False,
    by: ByOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Open the policy in $VISUAL or $EDITOR; it is exchanged only if it is good."""
    from trinity_snap.policy.load import policy_path

    _read(policy_path(policy))
    if not sys.stdin.isatty():
        raise UsageError("`policy edit` needs a terminal.", next_step="`trinity-snap policy set NAME=VALUE` does not.")
    _change(policy, _edited, "edit", dry_run=False, yes=yes, by=by, as_json=as_json, quiet=quiet)


def undo(
    to: Annotated[int, typer.Option("--to", metavar="N", help="To version N of `policy history`.")] = 1,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    by: ByOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Put an earlier version in force again. That is a change like any other, and can be undone."""
    from trinity_snap.policy.history import version

    _change(
        policy, lambda path, _: version(path, to).text(), f"undo --to {to}",
        dry_run=dry_run, yes=yes, by=by, as_json=as_json, quiet=quiet,
    )  # fmt: skip


def history(policy: PolicyOption = None, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """The versions that were replaced, the last one first: when, by whom and how."""
    from trinity_snap.policy.history import versions
    from trinity_snap.policy.load import policy_path

    path = policy_path(policy)
    _read(path)
    found = versions(path)
    answer = {
        "path": str(path),
        "versions": [
            {
                "number": one.number,
                "replaced": timestamp(one.replaced),
                "by": one.by or None,
                "how": one.how or None,
                "path": str(one.path),
            }
            for one in found
        ],
    }
    rows = [(str(one.number), local_time(one.replaced), one.by or "-", one.how or "-") for one in found]
    lines = table(("N", "REPLACED", "BY", "HOW"), rows, right=(0,)) if rows else ["Nothing was changed yet."]
    emit(answer, lines, as_json)


def diff(
    number: Annotated[int, typer.Argument(metavar="[N]", help="A version of `policy history`.")] = 1,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """What changed since a version was replaced."""
    from trinity_snap.policy.history import difference, version
    from trinity_snap.policy.load import policy_path

    path = policy_path(policy)
    present = _read(path)
    old = version(path, number)
    lines = difference(old.text(), present, f"version {number}", str(path))
    emit({"path": str(path), "number": number, "diff": lines}, lines or ["Nothing."], as_json)


def when(
    expressions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[EXPRESSION]...", help="Calendar expressions, instead of the policy's.", show_default=False
        ),
    ] = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """What schedules mean: systemd's own form of each, its next five times, and whether a timer on this host keeps it."""
    from trinity_snap.policy.calendar import next_times
    from trinity_snap.policy.schedules import schedules_of, timer_of

    chosen = [("", one) for one in expressions or ()]
    chosen = chosen or list(schedules_of(load(policy)).items())
    explained = [(name, text, *next_times(text), timer_of(name) if name else []) for name, text in chosen]
    answer = {
        "schedules": [
            {
                "setting": name or None,
                "expression": text,
                "normalized": form,
                "next": [timestamp(one) for one in times],
                "timer": timer,
            }
            for name, text, form, times, timer in explained
        ]
    }
    emit(answer, lambda: _when_lines(explained), as_json)


def _when_lines(explained: list[tuple[str, str, str, list[datetime], list[str]]]) -> Iterator[str]:
    for name, text, form, times, timer in explained:
        yield f"{name + ': ' if name else ''}{text} ({form})"
        yield from (f"  {local_time(one)}" for one in times)
        if not times:
            yield "  never again"
        if name and timer != [form]:
            kept = f"The timer of this host says {', '.join(timer)}" if timer else "This host has no timer of it"
            role = "install" if name == "drill.schedule" else "schedule"
            yield f"  {kept}; apply the role `{role}`."
    if not explained:
        yield "The policy has no schedule. Those of timers are in `systemctl list-timers`."


def add_to(app: typer.Typer) -> None:
    """Make these subcommands of `policy`."""
    for name, command in (
        ("set", set_),
        ("edit", edit),
        ("undo", undo),
        ("history", history),
        ("diff", diff),
        ("when", when),
    ):
        app.command(name)(command)


def _change(
    given: Path | None,
    make: Callable[[Path, str], str],
    how: str,
    *,
    dry_run: bool,
    yes: bool,
    by: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Change the text, have it checked, say what it means, and put it in force."""
    from trinity_snap.policy.history import changing, difference, put_in_force, who
    from trinity_snap.policy.load import load_policy, parse_policy, policy_path
    from trinity_snap.policy.schedules import check_schedules, schedules_of

    path = policy_path(given)
    old = _read(path)
    try:
        before = load_policy(path)
    except PolicyError:
        if not how.startswith(("edit", "undo")):
            raise
        before = None  # one with mistakes is what these two can mend
    new = make(path, old)
    after = parse_policy(new, path)
    check_schedules(after)
    lines = difference(old, new, str(path), "changed")
    going, announced = points_going(before, after) if new != old and before is not None else (0, "")
    answer: dict[str, object] = {
        "path": str(path), "changed": new != old and not dry_run, "diff": lines, "points_going": going,
        "by": who(by), "how": how,
    }  # fmt: skip
    if new == old or dry_run:
        emit(answer, [*(lines or ["Nothing would change."]), *([announced] if announced else [])], as_json)
        return
    _confirm(lines, announced, yes=yes, as_json=as_json, quiet=quiet)
    with changing(path):
        put_in_force(path, old, new, who(by), how)
    lines = [f"{path} is changed; `trinity-snap policy undo` undoes it."]
    if before is not None and schedules_of(before) != schedules_of(after):
        lines.append("Timers follow when the roles are applied: `trinity-snap policy when` says what they are now.")
    emit(answer, lines, as_json)


def _confirm(lines: list[str], announced: str, *, yes: bool, as_json: bool, quiet: bool) -> None:
    if not as_json and not quiet:
        sys.stderr.write("".join(f"{safe(line)}\n" for line in (*lines, *([announced] if announced else []))))
    if not announced or yes:
        return
    if as_json or not sys.stdin.isatty():
        raise RemovalRefused(
            announced, untouched="The policy is as it was.", next_step="Look at it with --dry-run, then give --yes."
        )
    if not typer.confirm("Change it?", err=True):
        raise RemovalRefused("Not confirmed.", untouched="The policy is as it was.")


def _edited(path: Path, text: str) -> str:
    """What the operator's editor made of it; asked again as long as it has mistakes and they want to."""
    import tempfile

    from trinity_snap.policy.load import parse_policy

    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory(prefix="trinity-snap-") as directory:
        draft = Path(directory) / path.name
        draft.write_text(text, "utf-8")
        while True:
            try:
                done = subprocess.run([*editor, str(draft)], check=False)
            except OSError as error:
                raise UsageError(
                    f"The editor {editor[0]} cannot be run: {error.strerror}.", next_step="Set $EDITOR."
                ) from error
            if done.returncode != 0:
                raise UsageError(f"{editor[0]} ended with {done.returncode}.", untouched="The policy is as it was.")
            changed = draft.read_text("utf-8")
            try:
                parse_policy(changed, path)
                return changed
            except PolicyError as error:
                sys.stderr.write(f"{error.message}\n")
                if not typer.confirm("Go on editing?", err=True, default=True):
                    raise


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise PolicyError(
            f"There is no policy at {path}.",
            next_step="`trinity-snap init` makes one, with keys and a repository.",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"The policy {path} cannot be read: {error}.", next_step="Run as root.") from error
