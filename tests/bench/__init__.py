"""The benchmark: trinity-snap beside restic and borg on the same data (docs/testing.md)."""
