"""How a Trinity installation is reached: what a policy says of it, without the policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["TrinitySettings"]


@dataclass(frozen=True)
class TrinitySettings:
    """Where Trinity's backend answers (without `/` at the end), the file with an API key, and certificates to believe.

    `key_file` None means: the systemd credential of that name, if there is one. `key_setting` is how errors name the file.
    """

    url: str
    key_file: Path | None = None
    ca_file: Path | None = None
    credential: str = "trinity-snap-trinity"
    key_setting: str = "trinity: key_file"
