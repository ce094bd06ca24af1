"""What happened on this host: one line for the end of every run, and what all of them add up to.

`Recording` is what a run says of itself, `EventJournal` keeps it, `load_facts` adds it up.
"""

from __future__ import annotations

from trinity_snap.events.facts import AgentFacts, Facts, KindFacts, load_facts
from trinity_snap.events.journal import Event, EventJournal
from trinity_snap.events.recording import Recording

__all__ = ["AgentFacts", "Event", "EventJournal", "Facts", "KindFacts", "Recording", "load_facts"]
