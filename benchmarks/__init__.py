"""Compares this server with others on one machine in one run; ``make bench``. See docs/performance.md."""
