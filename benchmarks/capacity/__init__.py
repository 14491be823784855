"""How many requests a second one server can do, and what follows for the autoscaler: ``python -m benchmarks.capacity``."""
