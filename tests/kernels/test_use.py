"""The kernel of the README."""

from pathlib import Path

import numpy as np
import pytest
from rungs import needs_compiler

from kernels.emulator import EmulatorError

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
_, BLOCK, REST = (
    part
    for half in README.split("<!-- example of kernels: begin -->")
    for part in half.split("<!-- example of kernels: end -->")
)
EXAMPLE = "\n".join(line.removeprefix("    ") for line in BLOCK.splitlines())


@needs_compiler
def test_the_readmes_kernel_does_what_it_says():
    found = {}
    exec(EXAMPLE, found)
    np.testing.assert_array_equal(found["y"], 1000)
    with pytest.raises(EmulatorError) as error:
        exec(EXAMPLE.replace("__syncthreads();", ""), {})
    said = REST.split("which says\n\n    ")[1].partition("\n")[0]
    assert said in str(error.value).splitlines()
