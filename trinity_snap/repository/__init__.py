"""The repository: format, keys, packs, index, manifest and recovery points. Knows no Docker and no snapshots."""
