"""What counting, timing and logging cost a server: ``python -m benchmarks.instrumentation``."""
