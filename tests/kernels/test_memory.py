"""Where the C library is glibc, freed memory stays with the process."""

import subprocess
import sys

from kernels.memory import keep_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from kernels.memory import keep_freed_memory
agreed = keep_freed_memory() if sys.argv[1] == "keep" else True
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(4 << 20, np.float32)  # 16 MiB: 4,096 pages
print(int(agreed), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_used_again_without_page_faults():
    def faults(how):
        run = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return map(int, run.stdout.split())

    agreed, kept = faults("keep")
    if agreed:  # glibc: the first array's pages are the only ones
        assert kept < 2 * 4096
    else:
        assert not sys.platform.startswith("linux") or keep_freed_memory() is False
