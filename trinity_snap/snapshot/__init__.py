"""Point-in-time views on this host, and the providers that make them."""

from trinity_snap.snapshot.protocol import BudgetExceeded, Deadline, Prepare, Provider, ShipPass
from trinity_snap.snapshot.select import Choice, explain, select_providers

__all__ = [
    "BudgetExceeded",
    "Choice",
    "Deadline",
    "Prepare",
    "Provider",
    "ShipPass",
    "explain",
    "select_providers",
]
