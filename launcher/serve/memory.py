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
    try:
        mapped = Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        # Not every kernel, and not every container, shows it.
        return
    for start, stop in unwritten_library_pages(mapped):
        libc.madvise(start, stop - start, MADV_DONTNEED)


def unwritten_library_pages(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Where libraries are mapped that this process cannot write to there, and has not: nothing of it can get lost. Of libraries
    only, since they stay where they are: other files another thread may have unmapped by now, and have memory there.

    ``smaps`` are lines as of https://man7.org/linux/man-pages/man5/proc_pid_smaps.5.html.
    """
    bounds, own_kb = "", 0
    for line in smaps:
        first, *rest = line.split()
        if not first.endswith(":"):
            library = "w" not in rest[0] and rest[4:] and ".so" in rest[-1].rpartition("/")[2]
            bounds, own_kb = first if library else "", 0
        elif first == "Anonymous:":
            own_kb = int(rest[0])
        # Comes later; what was written before the mapping was made read-only may have been swapped out.
        elif first == "Swap:" and bounds and not own_kb + int(rest[0]):
            start, stop = bounds.split("-")
            yield int(start, 16), int(stop, 16)
