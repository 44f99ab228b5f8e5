"""What the C library does with memory that torch gives back.

Once a process has seen large blocks, glibc returns the free end of its heap to the system as soon as it exceeds 64 MiB.
The activations of each step on a CPU then come anew, as pages of zeros that the system makes one by one: several
hundredths of the time. Told to keep the end of the heap, it takes from there the next time. Knows no model.
"""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""names of mallopt(3)"""
KEPT_BYTES = 1 << 30
"""of the heap's free end stay with the process"""
LARGEST_BYTES = 32 << 20
"""of a block on the heap, as glibc itself has it; larger aligned ones leave islands there, so that the heap creeps"""


def keep_freed_memory(kept: int = KEPT_BYTES) -> bool:
    """Keeps up to `kept` bytes of freed blocks from now on; says whether the C library can (glibc, on Linux)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(TRIM_THRESHOLD, kept)) and bool(mallopt(MMAP_THRESHOLD, LARGEST_BYTES))
