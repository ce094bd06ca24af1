"""trinity-snap: host-level backup for fleets of Docker agents."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
