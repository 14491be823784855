"""Stands before the real package on a CPU worker's path; see ``argv.worker_env``."""

raise ImportError("cutlass has no use for an encoder on a CPU")
