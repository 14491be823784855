"""What a server does when far more is asked of it than it can do: ``python -m benchmarks.overload``."""
