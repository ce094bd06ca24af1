"""What only the trusted side does, with the identity and with more rights than a host has: keep locks, undo harm."""
