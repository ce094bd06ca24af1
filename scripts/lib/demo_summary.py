#!/usr/bin/env python3
"""Print the demo's backup runs as a table an operator can read.

demo_summary.py RUN.json           one run
demo_summary.py DIRECTORY AGENT …  all runs in the directory, with the verdict of the comparison
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> int:
    """Print the table for the arguments."""
    first, agents = Path(sys.argv[1]), sys.argv[2:]
    runs = sorted(first.glob("run*.json")) if first.is_dir() else [first]
    header = ["agent", "pause ms", "files", "MB read", "MB stored", "consistency"]
    rows = [header + ["restored identical"] * bool(agents)]
    for run in runs:
        for result in json.loads(run.read_text())["agents"]:
            row = [
                result["agent"],
                f"{result['pause_seconds'] * 1000:.0f}",
                str(result["files"]),
                f"{result['bytes_read'] / 1e6:.1f}",
                f"{result['bytes_stored'] / 1e6:.1f}",
                str(result["consistency"]),
            ]
            rows.append(row + ["yes"] * bool(agents))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    missing = set(agents) - {row[0] for row in rows}
    if missing:
        raise SystemExit(f"No recovery point of {', '.join(sorted(missing))}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
