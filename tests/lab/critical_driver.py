"""One run without repository: lock, recover, discover, prepare, critical section, read the views, release.

    python -m tests.lab.critical_driver STATE_DIRECTORY [--provider P] [--budget S] [--fail] [--out DIRECTORY]
        [--mode MODE] [--mode-of AGENT=MODE …] [--before COMMAND] [--after COMMAND] [--hook-timeout S] [--stop-seconds S]

Writes one JSON object to stdout. The environment variables of `trinity_snap.quiesce.steps` make it crash or hang.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.lab.policies import Policy
from tests.lab.shipping import Shipper
from trinity_snap.agents import Agent, connect, discover
from trinity_snap.errors import TrinitySnapError
from trinity_snap.policy.settings import DEFAULT_AFTER, DEFAULT_BEFORE, HookSettings, QuiesceSettings
from trinity_snap.progress import NullProgress
from trinity_snap.quiesce import HostLock, Journal, critical_section, recover
from trinity_snap.quiesce.steps import step
from trinity_snap.snapshot import Prepare, Provider, select_providers


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("state", type=Path)
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--budget", type=float, default=5.0)
    parser.add_argument("--fail", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--run-id", default="")
    parser.add_argument("--mode", default="pause")
    parser.add_argument("--mode-of", action="append", default=[])
    parser.add_argument("--before", default=DEFAULT_BEFORE)
    parser.add_argument("--after", default=DEFAULT_AFTER)
    parser.add_argument("--hook-timeout", type=float, default=30.0)
    parser.add_argument("--stop-seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    try:
        answer, code = run(arguments), 0
    except TrinitySnapError as error:
        answer, code = error.to_json(), error.exit_code
    sys.stdout.write(json.dumps(answer))
    return code


def run(arguments: argparse.Namespace) -> dict[str, object]:
    run_id = arguments.run_id or secrets.token_hex(8)
    policy = Policy()
    policy.snapshot.provider = arguments.provider
    with HostLock(arguments.state, run_id):
        client = connect()
        recovered = recover(arguments.state, client)
        discovery = discover(client, policy)
        sources = [source for agent in discovery.agents for source in agent.sources]
        providers = select_providers(sources, policy, arguments.state)
        shipper = Shipper()
        modes = dict(pair.split("=") for pair in arguments.mode_of)
        hooks = HookSettings(arguments.before, arguments.after, arguments.hook_timeout)
        settings = {
            agent.name: QuiesceSettings(modes.get(agent.name, arguments.mode), hooks) for agent in discovery.agents
        }
        journal = Journal.start(arguments.state, run_id)
        step("journal-started")
        try:
            for provider in providers:
                provider.prepare(Prepare(run_id, journal, NullProgress(), shipper.ship_pass))
            step("prepared")
            result = critical_section(
                client, discovery.agents, providers, journal, settings=settings, budget_seconds=arguments.budget,
                on_budget_exceeded="fail" if arguments.fail else "fallback", stop_seconds=arguments.stop_seconds,
                on_hook_failure="fail" if arguments.fail else "fallback",
            )  # fmt: skip
            if arguments.out:
                for provider in providers:
                    for source in provider.sources:
                        shipper.finish(source, provider.view(source), arguments.out / source.name)
        finally:
            for provider in providers:
                provider.release()
            step("released")
            ended = journal.end()
    return {
        "run_id": run_id,
        "recovered": recovered.to_json(),
        "providers": [provider.name for provider in providers],
        "labels": {
            agent.name: result.consistency(agent.name, _made_by(providers, agent)) for agent in discovery.agents
        },
        "shortfalls": {name: hold.shortfall for name, hold in result.agents.items() if hold.shortfall},
        "refused": dict(result.refused),
        "stopped": dict(result.stopped),
        "notes": list(result.notes),
        "why": result.why,
        "pauses": {pause.container.name: pause.seconds for pause in result.pauses},
        "copied_bytes": sum(getattr(provider, "copied_bytes", 0) for provider in providers),
        "passes": shipper.passes,
        "ended": ended,
    }


def _made_by(providers: Sequence[Provider], agent: Agent) -> list[Provider]:
    names = {source.name for source in agent.sources}
    return [provider for provider in providers if names & {source.name for source in provider.sources}]


if __name__ == "__main__":
    sys.exit(main())
