"""Making recovery points: from what a snapshot shows to what a repository holds."""
