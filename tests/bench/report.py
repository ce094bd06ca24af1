"""Medians, ratios to the better peer, and the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

OURS = "trinity-snap"
MIB = 1 << 20


@dataclass(frozen=True)
class Target:
    """One promise: a case, a measure, and the greatest ratio to the better peer, or the greatest value."""

    case: str
    measure: str
    most: float
    absolute: bool = False


TARGETS = (
    Target("full", "wall", 0.8),
    Target("full", "cpu", 0.7),
    Target("full", "stored", 1.0),
    Target("full", "peak", 200 * MIB, absolute=True),
    Target("nothing changed", "wall", 0.5),
    Target("nothing changed", "peak", 200 * MIB, absolute=True),
    Target("few changes", "peak", 200 * MIB, absolute=True),
    Target("restore", "wall", 0.8),
)
MEASURES = ("wall", "cpu", "peak", "stored")

Samples = Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]
"""case -> tool -> one mapping of measure to value per round."""


@dataclass(frozen=True)
class Row:
    """One measure of one case: each tool's median, our ratio to the better peer, the target, the verdict."""

    case: str
    measure: str
    medians: dict[str, float]
    ratio: float | None
    target: Target | None
    met: bool | None


def rows(samples: Samples) -> list[Row]:
    """Summarise the samples of one data set."""
    result = []
    for case, tools in samples.items():
        for measure in MEASURES:
            medians = {
                tool: median(values)
                for tool, rounds in tools.items()
                if (values := [sample[measure] for sample in rounds if measure in sample])
            }
            if not medians:
                continue
            ours = medians.get(OURS)
            peers = [value for tool, value in medians.items() if tool != OURS]
            ratio = ours / min(peers) if ours is not None and peers and min(peers) else None
            target = next((t for t in TARGETS if (t.case, t.measure) == (case, measure)), None)
            met = None
            if target is not None and ours is not None and (target.absolute or ratio is not None):
                met = (ours if target.absolute else ratio or 0.0) <= target.most
            result.append(Row(case, measure, medians, ratio, target, met))
    return result


def table(title: str, summary: Sequence[Row], tools: Sequence[str]) -> str:
    """The rows as text for a terminal."""
    lines = [title, f"  {'':24}" + "".join(f"{tool:>14}" for tool in tools) + f"{'ratio':>8}  target"]
    for row in summary:
        cells = "".join(f"{_show(row.measure, row.medians.get(tool)):>14}" for tool in tools)
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        verdict = ""
        if row.target is not None:
            most = _show(row.measure, row.target.most) if row.target.absolute else f"{row.target.most:.1f}"
            verdict = f"<= {most}  {'' if row.met is None else 'met' if row.met else 'MISSED'}"
        lines.append(f"  {row.case:17}{row.measure:7}{cells}{ratio:>8}  {verdict}".rstrip())
    return "\n".join(lines)


def _show(measure: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f} s" if measure in ("wall", "cpu") else f"{value / MIB:.1f} MiB"
