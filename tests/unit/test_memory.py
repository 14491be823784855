"""What is given back after the start, from made-up and from real mappings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.serve.memory import unwritten_library_pages

LIBRARY = "/usr/lib/libm.so"
# A library's code, then what was written before it was made read-only, in memory and swapped out; data; the heap; the kernel's.
SMAPS = f"""\
7f0000000000-7f0000002000 r-xp 00001000 fd:00 12345 {LIBRARY}
Rss:                   8 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me
7f0000002000-7f0000003000 r--p 00003000 fd:00 12345 {LIBRARY}
Anonymous:             4 kB
Swap:                  0 kB
7f0000003000-7f0000004000 r--p 00004000 fd:00 12345 {LIBRARY}
Anonymous:             0 kB
Swap:                  4 kB
7f0000004000-7f0000005000 rw-p 00005000 fd:00 12345 {LIBRARY}
Anonymous:             0 kB
Swap:                  0 kB
7f0000005000-7f0000006000 r--p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
7ffc00000000-7ffc00002000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
Swap:                  0 kB
7f0000006000-7f0000007000 r--s 00000000 fd:00 54321 /opt/with a space/libopenvino.so.2641
Anonymous:             0 kB
Swap:                  0 kB
7f0000008000-7f0000009000 r--s 00000000 fd:00 54322 /models/with.so/model.safetensors
Anonymous:             0 kB
Swap:                  0 kB
"""
RELEASE = """
import ctypes, re
from pathlib import Path
from launcher.serve.memory import release_unused

def resident_kb(kind):
    return int(re.search(kind + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

import openvino
before = resident_kb("RssFile")
release_unused()
released = before - resident_kb("RssFile")
# All of it is still there.
assert openvino.Core().available_devices == ["CPU"]
print(released)
"""
LEAST_RELEASED_KB = 10_000


def test_only_libraries_that_the_process_has_not_written_to_are_released():
    assert [*unwritten_library_pages(SMAPS.splitlines())] == [
        (0x7F0000000000, 0x7F0000002000),
        (0x7F0000006000, 0x7F0000007000),
    ]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the kernel does not show what is mapped")
def test_libraries_lose_their_pages_and_go_on_working():
    released = subprocess.run([sys.executable, "-c", RELEASE], stdout=subprocess.PIPE, text=True, check=True)
    assert int(released.stdout) > LEAST_RELEASED_KB
