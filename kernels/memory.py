"""Keep the memory that arrays free, instead of returning it to the system and asking for it again.

NumPy frees a large array as soon as nobody holds it. The C library then returns its pages, and the next array of that
size pays for every page again: the system clears it on first touch, which costs as much as several passes of
arithmetic. A training step frees and asks for the same sizes over and over.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of the settings in glibc's malloc.h


def keep_freed_memory() -> bool:
    """Ask glibc not to return freed blocks; returns whether it agreed (False where the C library is another).

    For programs that own their process (the command line, benchmarks): the process stays as large as it once was.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    agreed = [mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_MMAP_THRESHOLD, 1 << 30)]
    return all(agreed)
