#!/usr/bin/env python3
"""Write the README of every role from its argument specification, or with --check say which are out of date."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parents[1] / "roles"


def main() -> int:
    """Write or check all READMEs."""
    stale = [role for role in sorted(ROLES.iterdir()) if _present(role) != readme(role)]
    for role in stale:
        if sys.argv[1:] == ["--check"]:
            print(f"{role.name}: README.md is out of date; run scripts/role_readmes.py")
        else:
            (role / "README.md").write_text(readme(role))
    return 1 if stale and sys.argv[1:] == ["--check"] else 0


def _present(role: Path) -> str:
    page = role / "README.md"
    return page.read_text() if page.exists() else ""


def readme(role: Path) -> str:
    """The README of one role, as Markdown."""
    specification = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]
    lines = [
        f"# trinity.snap.{role.name}",
        "",
        f"{specification['short_description']}.",
        "",
        *_sentences(specification["description"]),
        "",
        "| variable | type | default | what it is for |",
        "|---|---|---|---|",
        *(_row(name, option) for name, option in specification["options"].items()),
        "",
        "```yaml",
        "- hosts: trinity",
        "  gather_facts: false",
        "  become: true",
        "  roles:",
        f"    - role: trinity.snap.{role.name}",
        "```",
        "",
        f"The playbook `trinity.snap.{role.name}` does just that.",
        "",
        "This page is written from `meta/argument_specs.yml` by `scripts/role_readmes.py`.",
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, option: dict[str, Any]) -> str:
    default = option.get("default", "")
    shown = "(must be given)" if option.get("required") else f"`{_literal(default)}`"
    kind = f"list of {option['elements']}" if option["type"] == "list" else option["type"]
    return f"| `{name}` | {kind} | {shown} | {' '.join(_sentences(option['description']))} |"


def _literal(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return str(default) or '""'


def _sentences(description: str | list[str]) -> list[str]:
    sentences = [description] if isinstance(description, str) else description
    return [re.sub(r"\b[CVEO]\(([^)]*)\)", r"`\1`", sentence) for sentence in sentences]


if __name__ == "__main__":
    sys.exit(main())
