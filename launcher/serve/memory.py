"""Memory that would stay with the process for nothing: free parts of the heap, pages of files that only the start needed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

MADV_DONTNEED = 4


def release_unused() -> None:
    """What only the start needed: free memory inside the heap, and pages of libraries, which are read again where they are
    touched again. After loading OpenVINO that is half of them (43 MB of 80)."""
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        return
    libc.malloc_trim(0)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, stop in unwritten_file_pages(Path("/proc/self/smaps").read_text().splitlines()):
        libc.madvise(start, stop - start, MADV_DONTNEED)


def unwritten_file_pages(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Where files are mapped that this process cannot write to there, and has not: nothing of it can get lost.

    ``smaps`` are lines as of https://man7.org/linux/man-pages/man5/proc_pid_smaps.5.html.
    """
    bounds, own_kb = "", 0
    for line in smaps:
        first, *rest = line.split()
        if not first.endswith(":"):
            readable_file = "w" not in rest[0] and rest[4:] and rest[4].startswith("/")
            bounds, own_kb = first if readable_file else "", 0
        elif first == "Anonymous:":
            own_kb = int(rest[0])
        # Comes later; what was written before the mapping was made read-only may have been swapped out.
        elif first == "Swap:" and bounds and not own_kb + int(rest[0]):
            start, stop = bounds.split("-")
            yield int(start, 16), int(stop, 16)
