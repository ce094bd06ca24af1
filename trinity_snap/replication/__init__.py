"""Further places for a repository: its sealed objects are copied there, without keys and without deleting anything."""

from __future__ import annotations

from trinity_snap.replication.places import check_replicas
from trinity_snap.replication.result import ReplicaResult
from trinity_snap.replication.run import replicate

__all__ = ["ReplicaResult", "check_replicas", "replicate"]
