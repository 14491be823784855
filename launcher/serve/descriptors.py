"""File descriptors: each connection takes one."""

from __future__ import annotations

import logging
import math
import resource

from launcher.config.schema import Server

log = logging.getLogger("launcher.serve")

# For everything else in a process: the engine, Redis, the log, pipes to workers.
RESERVED = 128


def connections_each(server: Server) -> int:
    """How many connections each gateway process may have open. Raises this process's limit of open files for it, which
    gateway processes inherit, and warns where that is not enough."""
    wanted = math.ceil(server.max_connections / server.processes)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = descriptor_limit(wanted, soft, hard)
    if limit != soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    possible = connections_within(wanted, limit)
    if possible < wanted:
        log.warning(
            "server.max_connections: at most %d connections instead of %d, since only %d files may be open in a process; "
            "raise the hard limit (ulimit -Hn, LimitNOFILE of systemd)",
            possible * server.processes,
            server.max_connections,
            limit,
        )
    return possible


def descriptor_limit(connections: int, soft: int, hard: int) -> int:
    """The soft limit that ``connections`` need, as far as the hard one allows. Not the hard one itself: where that is a
    billion, programs that go through all possible descriptors when they start another, as workers do, take minutes."""
    needed = connections + RESERVED
    if resource.RLIM_INFINITY in (soft, hard):
        return soft if soft == resource.RLIM_INFINITY else max(soft, needed)
    return max(soft, min(hard, needed))


def connections_within(wanted: int, descriptors: int) -> int:
    if descriptors == resource.RLIM_INFINITY:
        return wanted
    # A few, rather than none, where the reserve takes all.
    return min(wanted, max(descriptors - RESERVED, descriptors // 4, 1))
