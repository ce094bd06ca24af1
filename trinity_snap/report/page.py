"""The report as one page of HTML that needs nothing else: no script, no image, no font from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trinity_snap import __version__
from trinity_snap.monitor.conditions import moment
from trinity_snap.report.drawing import curve
from trinity_snap.wording import plural, seconds, size

if TYPE_CHECKING:
    from trinity_snap.report.picture import HostPicture

__all__ = ["render_page"]

_STATES = {"good": "Good", "warning": "Warning", "critical": "Critical", "gone": "Gone"}
_ORDER = ("critical", "warning", "good", "gone")
_TODO_SHOWN = 40
_YEAR_SECONDS = 365 * 86400


@dataclass(frozen=True)
class _Tile:
    value: str
    what: str
    state: str = ""


def render_page(hosts: Sequence[HostPicture], now: datetime) -> bytes:
    """The page, in UTF-8. Curves go back a year at most."""
    import jinja2
    from markupsafe import Markup

    until = int(now.timestamp())
    starts = [agent.sizes[0][0] for host in hosts for agent in host.agents if agent.sizes]
    since = max(min(starts, default=until), until - _YEAR_SECONDS)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trinity_snap.report"),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "age": _age,
        "curve": lambda agent: Markup(
            curve(agent.sizes, agent.missed, since, until)
        ),  # its words are numbers and dates
        "day": lambda text: text[:10],
        "seconds": seconds,
        "short": lambda text: f"{moment(text).astimezone(UTC):%Y-%m-%d %H:%M}",
        "size": size,
    }
    todo = [(host.host, one) for host in hosts for one in host.wrong]
    todo.sort(key=lambda each: each[1].severity != "critical")
    text = environment.get_template("report.html.j2").render(
        headline=_headline(hosts),
        made=now.astimezone(UTC).isoformat(timespec="seconds"),
        version=__version__,
        tiles=_tiles(hosts),
        todo=todo[:_TODO_SHOWN],
        todo_more=max(len(todo) - _TODO_SHOWN, 0),
        several=len(hosts) > 1,
        states=_STATES,
        hosts=[_prepared(host) for host in sorted(hosts, key=_badness)],
    )
    return text.encode("utf-8", "replace")  # names that are not UTF-8


def _prepared(host: HostPicture) -> HostPicture:
    return replace(host, agents=sorted(host.agents, key=lambda one: (_ORDER.index(one.state), one.agent)))


def _badness(host: HostPicture) -> tuple[bool, str]:
    return (not any(one.severity == "critical" for one in host.wrong), host.host)


def _headline(hosts: Sequence[HostPicture]) -> str:
    wrong = sum(len(host.wrong) for host in hosts)
    where = hosts[0].host if len(hosts) == 1 else plural(len(hosts), "host")
    return f"{where}, {plural(wrong, 'alarm') if wrong else 'all well'}"


def _tiles(hosts: Sequence[HostPicture]) -> list[_Tile]:
    agents = [agent for host in hosts for agent in host.agents if agent.state != "gone"]
    good = sum(agent.state == "good" for agent in agents)
    critical = sum(agent.state == "critical" for agent in agents)
    proved = sum(agent.proved is not None for agent in agents)
    ages = [agent.age_seconds for agent in agents if agent.age_seconds is not None]
    tiles = [_Tile(str(len(hosts)), "hosts")] if len(hosts) > 1 else []
    tiles += [
        _Tile(f"{good} of {len(agents)}", "agents are well", "good" if good == len(agents) else "warning"),
        _Tile(str(critical), "are critical", "critical" if critical else "good"),
        _Tile(_age(max(ages)) if ages else "-", "oldest last point"),
        _Tile(f"{proved} of {len(agents)}", "ever proved by a restore", "good" if proved == len(agents) else "warning"),
        _Tile(size(sum(agent.bytes for agent in agents)), "in last points"),
    ]
    return tiles


def _age(length: float) -> str:
    """A length of time, short: `3 h`."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if length >= unit * (2 if name == "d" else 1):
            return f"{length / unit:.0f} {name}"
    return "1 min"
