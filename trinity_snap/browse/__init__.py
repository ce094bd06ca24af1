"""Looking through recovery points without restoring them: what differs between two, and where a name is."""

from __future__ import annotations

from trinity_snap.browse.difference import Change, differences
from trinity_snap.browse.search import Found, Version, search

__all__ = ["Change", "Found", "Version", "differences", "search"]
