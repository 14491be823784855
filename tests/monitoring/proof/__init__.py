"""Whether the alerts that are deployed are heard, and only then: ``python -m tests.monitoring.proof``."""
