"""What servers do right now, in a terminal, from what they show at /metrics."""
