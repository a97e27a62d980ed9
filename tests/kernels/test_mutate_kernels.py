"""The script that changes kernels at random: what it changes, and that it hears what the tests say of it."""

import mutate_kernels as mutate
import pytest
from rungs import needs_compiler

TEXT = """// a + b < 3
#define SIZE 64
__global__ void __launch_bounds__(128) k(const float* x, float* y, int n) {
    const int i = blockIdx.x * SIZE + threadIdx.x;
    if (i >= n) return;
    y[i] = min(x[i], 7.5f);
    __syncthreads();
}
"""


def test_what_is_changed():
    changed = [TEXT[: c.begin] + c.new + TEXT[c.end :] for c in mutate.changes(TEXT)]
    assert len(set(changed)) == len(changed) == 7 and TEXT not in changed
    for old, new in [
        ("blockIdx.x * SIZE", "blockIdx.x / SIZE"),
        ("SIZE + threadIdx", "SIZE - threadIdx"),
        ("i >= n", "i > n"),
        ("if (i >= n)", "if (!(i >= n))"),
        ("min(", "max("),
        ("y[i] = min(x[i], 7.5f);", ";"),
        ("__syncthreads();", ";"),
    ]:
        assert TEXT.replace(old, new, 1) in changed, old


@needs_compiler
def test_what_is_noticed_and_what_is_not(capsys):
    """Of one change, and of the same where no test looks."""
    given = ["adam/1_fours.cu", "--each", "1", "--tests", "tests/kernels/test_adam_cuda.py"]
    assert mutate.main(given) == 0
    assert capsys.readouterr().out == "1 of 1 changes noticed: out of range 1\n"
    assert mutate.main([*given[:4], "tests/kernels/test_adam.py"]) == 0
    line, summary = capsys.readouterr().out.splitlines()
    assert line.startswith("adam/1_fours.cu:") and summary == "0 of 1 changes noticed"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["nothing.cu"], "there is no kernels/nothing.cu"),
        (["--each", "0"], "--each and --jobs must be at least 1"),
        (["--jobs", "-1"], "--each and --jobs must be at least 1"),
    ],
)
def test_what_it_does_not_take(given, sentence, capsys):
    with pytest.raises(SystemExit) as stopped:
        mutate.main(given)
    assert stopped.value.code == 2 and capsys.readouterr().err.endswith(f"error: {sentence}\n")
