"""The command line as a whole: the names of all subcommands, and where to find each."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from trinity_snap.errors import UsageError

COMMANDS: dict[str, str] = {
    "init": "Make policy, keys and repository; or adopt a repository after the loss of its host.",
    "agents": "What is protected on this host, from which volumes and how, and what is not and why.",
    "backup": "Back up all agents of this host, or those named, in one run.",
    "list": "The recovery points, newest first.",
    "show": "What a recovery point holds.",
    "diff": "What differs between two recovery points.",
    "find": "Where a name is, over all recovery points.",
    "mount": "Show a recovery point as a read-only directory.",
    "restore": "Give back an agent, or parts of it, from a recovery point.",
    "export": "Write an agent's `data/` from a recovery point as Trinity's portable tar.",
    "import": "Read Trinity's portable tar into an agent of this host.",
    "restored": "Which agents were restored here as a whole, and is that still there; bring their containers up.",
    "grant": "Let a host without an identity restore one recovery point: its keys, for a while.",
    "rollback": "Bring an agent's volumes back from a local snapshot, in seconds.",
    "forget": "Remove recovery points that the policy does not keep, or those named.",
    "hold": "Keep recovery points whatever the policy says.",
    "prune": "Delete from the storage what no recovery point needs.",
    "verify": "Check that recovery points can be restored.",
    "repair": "Repair what is missing or damaged, from replicas and from what is there; only adds.",
    "drill": "Restore recovery points into a scratch place, prove that they are good, and remove it again.",
    "status": "The last recovery point of every agent: age, size, duration, pause, consistency.",
    "monitor": "What is wrong with the backups of this host, told once to whoever should know.",
    "report": "One page, for people, that says how the backups of a host or of many stand.",
    "replicate": "Bring the further places of the repository up to date, without keys.",
    "recover": "Undo whatever a dead run left behind.",
    "fleet": "Do it on many hosts, through Ansible: backup, status, verify, repair, drill, recover, restore, prune.",
    "policy": "Show, check, change or describe the policy.",
    "key": "Who can open the repository; identities, wrapping, recovery words.",
    "target": "Check the place where the repository lives, and what protects it there.",
    "version": "The version of trinity-snap.",
}

_HELP = """Back up the volumes of Docker agents while they run, encrypted, and give them back.

The policy is taken from --policy, $TRINITY_SNAP_POLICY or /etc/trinity-snap/policy.yml. $DOCKER_HOST is
respected. Every command has --json. Exit codes: 0 done, 1 failed, 2 wrong usage or policy, 3 another run
holds the host, 10 some agents or replicas failed, 11 something was left quiesced, 12 a guarantee was not met,
20 not licensed by Trinity, 90 integrity."""


class Interrupted(Exception):
    """The operator, or the system, asked the command to end. `exit_code` is as shells have it."""

    def __init__(self, exit_code: int = 130) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived."""


class _Group(typer.core.TyperGroup):
    # The library's contexts and commands are typed differently from version to version, so they are Any here.

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            near = difflib.get_close_matches(cmd_name, COMMANDS, n=1)
            raise UsageError(
                f"There is no command {cmd_name!r:.60}{f'; did you mean `{near[0]}`?' if near else '.'}",
                next_step="`trinity-snap --help` lists the commands.",
            )
        return typer.main.get_command(import_module(f"trinity_snap.cli.{cmd_name}_command").app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Terminated as error:
            raise Interrupted(143) from error
        except KeyboardInterrupt as error:
            raise Interrupted from error


def new_app(**settings: Any) -> typer.Typer:  # the settings are typer's
    """An application of the library, with what makes it slow and colourful switched off."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        **settings,
    )


def command() -> Any:  # the library's command
    """The whole command line, ready to be called with arguments."""
    app = new_app(cls=_Group, help=_HELP)

    @app.callback()
    def root(
        version: Annotated[
            bool,
            typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True),
        ] = False,
    ) -> None:
        pass

    return typer.main.get_command(app)


def _version(wanted: bool) -> None:
    if wanted:
        from trinity_snap import __version__

        typer.echo(f"trinity-snap {__version__}")
        raise typer.Exit
