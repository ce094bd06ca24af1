"""What there is to say about recovery points and runs: summaries, listings, status."""
