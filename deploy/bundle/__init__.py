"""``make bundle``: all that a machine without a network needs, in one folder (docs/operations/air-gapped.md)."""
