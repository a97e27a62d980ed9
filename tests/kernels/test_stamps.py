"""Is a measured time one of the code that is here? Its stamp tells text, which may change, from what is launched."""

import pytest
from rungs import needs_nvrtc

from kernels import bench, launch, source
from kernels.gpu_bench import pages, products, stamps
from kernels.gpu_bench.problem import Launch, rehearse

TEXT = """
#include "lib/own.cuh"
// A comment.
extern "C" __global__ void k(float * x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = scaled(x[i]) + SHIFT;
}
extern "C" __global__ void other(float * x) { x[0] = 7; }
"""
HEADER = "__device__ inline float scaled(float x) { return 3 * x; }"


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """A launch of a file of its own, with a header of its own."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "k.cu").write_text(TEXT)
    (tmp_path / "lib" / "own.cuh").write_text(HEADER)
    monkeypatch.setattr(source, "ROOT", tmp_path)
    return Launch(tmp_path / "k.cu", "k", (4, 1, 1), (128, 1, 1), 0, {"SHIFT": 1})


def changed(launched, old, new, file="k.cu"):
    path = launched.source.with_name("lib") / "own.cuh" if file == "own.cuh" else launched.source
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


ALIKE = [("// A comment.", "/* Another,\n longer. */"), ("    int", "  int"), ("int n) {", "int n)\n{  // n numbers\n")]
RENAMED = [("int i =", "int at = 0, i ="), ("x[i] = scaled(x[i])", "x[i] = scaled(*(x + i))"), ("= 7", "= 8")]
OTHER = [("if (i < n)", "if (i <= n)"), ("blockDim.x + ", "blockDim.x * 2 + ")]
IN_HEADER = [("3 * x", "x * 3"), ("3 * x", "4 * x")]


def test_comments_and_white_space_are_no_change_and_all_else_is(launched):
    before = stamps.sources([launched])
    for old, new in ALIKE:
        changed(launched, old, new)
        assert stamps.sources([launched]) == before, new
    seen = {before}
    for old, new in RENAMED + OTHER:
        changed(launched, old, new)
        seen.add(stamps.sources([launched]))
    changed(launched, *IN_HEADER[0], "own.cuh")
    seen.add(stamps.sources([launched]))
    for field in ({"grid": (5, 1, 1)}, {"threads": (64, 1, 1)}, {"shared_bytes": 8}, {"defines": {"SHIFT": 2}}):
        seen.add(stamps.sources([launched._replace(**field)]))
    seen |= {stamps.sources([launched._replace(kernel="other")]), stamps.sources([launched, launched])}
    assert len(seen) == 1 + len(RENAMED + OTHER) + 1 + 4 + 2


@needs_nvrtc
def test_machine_code_tells_what_is_launched_from_how_it_is_written(launched, monkeypatch):
    before = stamps.machine([launched], "90")
    for old, new in ALIKE + RENAMED:
        changed(launched, old, new)
        assert stamps.machine([launched], "90") == before, new
    changed(launched, *IN_HEADER[0], "own.cuh")
    assert stamps.machine([launched], "90") == before
    seen = {before, stamps.machine([launched], "75"), stamps.machine([launched._replace(kernel="other")], "90")}
    for field in ({"grid": (5, 1, 1)}, {"threads": (64, 1, 1)}, {"shared_bytes": 8}, {"defines": {"SHIFT": 2}}):
        seen.add(stamps.machine([launched._replace(**field)], "90"))
    for old, new in OTHER:
        changed(launched, old, new)
        seen.add(stamps.machine([launched], "90"))
    changed(launched, "x * 3", "x * 4", "own.cuh")
    seen.add(stamps.machine([launched], "90"))
    assert len(seen) == 3 + 4 + len(OTHER) + 1


@needs_nvrtc
def test_the_sections_of_a_compiled_kernel_are_found(launched):
    found = dict(stamps.sections(launch.compile_for(launched.source, "90", launched.defines).code))
    assert {".text.k", ".text.other", ".nv.info.k"} < found.keys() and found[".text.k"] != found[".text.other"]
    assert all(len(found[f".text.{kernel}"]) % 16 == 0 < len(found[f".text.{kernel}"]) for kernel in ("k", "other"))


# --- what becomes of a stamp ------------------------------------------------------------------------------------------

PROBLEM = products.matmul(64, 64, 64, "float32")
HERE = {"sources": stamps.sources(rehearse(PROBLEM, 2)), "nvrtc": "13.5", "machine": "m"}


def runs(code, name="rung 2", problem=PROBLEM.name):
    """Of one rung and one peer."""
    rung = {"name": name, "cold_ms": 1.0} | ({"code": code} if code else {})
    contestants = [rung, {"name": "torch.matmul", "peer": True, "cold_ms": 1.0}]
    row = {"op": "matmul", "problem": problem, "dtype": "float32", "contestants": contestants}
    return [{"conditions": {"architecture": "90a"}, "rows": [row]}]


@pytest.fixture
def compiled(monkeypatch):
    """What was compiled, by a compiler that makes "m" of everything."""
    asked = []
    monkeypatch.setattr(launch, "nvrtc_version", lambda: "13.5")
    monkeypatch.setattr(stamps, "machine", lambda launches, architecture: asked.append(architecture) or "m")
    return asked


def test_a_stamp_stays_with_the_code_while_the_machine_code_does(compiled):
    for code, after, compiles in (
        (HERE, HERE, 0),
        ({**HERE, "sources": "of an older text"}, HERE, 1),
        ({**HERE, "nvrtc": "13.0", "machine": "by another compiler"}, HERE, 1),
        ({"sources": "older", "nvrtc": "13.5", "machine": "other"}, None, 1),
        ({"sources": "older", "nvrtc": "13.0", "machine": "m"}, None, 1),
        (None, None, 0),
    ):
        assert stamps.brought_up(runs(code), [PROBLEM]) == runs(after or code), code
        assert compiled == ["90a"] * compiles
        compiled.clear()


def test_a_rung_or_a_problem_that_is_no_more_keeps_its_stamp_and_is_not_here(compiled):
    (peerless,) = (c for c in runs(HERE)[0]["rows"][0]["contestants"] if "peer" not in c)
    assert stamps.is_here(peerless, PROBLEM, "90a") and not stamps.is_here(peerless, None, "90a")
    assert not stamps.is_here({**peerless, "name": "rung 9"}, PROBLEM, "90a")
    assert not stamps.is_here({**peerless, "name": "rung 4"}, products.matmul(64, 64, 64, "bf16"), "75")
    for left in (runs(HERE, "rung 9"), runs(HERE, problem="gone")):
        assert stamps.brought_up(left, [PROBLEM]) == left and not compiled


def test_the_command_writes_new_stamps_and_says_what_it_lacks(tmp_path, monkeypatch, capsys, compiled):
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    monkeypatch.setattr(pages, "readmes", list)
    monkeypatch.setattr(pages, "write_plots", lambda rows: [])
    monkeypatch.setattr(pages, "all_rows", list)
    monkeypatch.setattr(bench, "gpu_problems", lambda: [PROBLEM])
    file, same = tmp_path / "gpu-a.json", tmp_path / "gpu-b.json"
    pages.write(file, runs({**HERE, "sources": "older"}))
    pages.write(same, runs(HERE))
    assert bench.main(["--tables"]) == 0
    assert capsys.readouterr().out == f"written: {file}\n"
    assert pages.read(file) == pages.read(same) == runs(HERE)

    def missing():
        raise launch.NoCuda("NVRTC was not found")

    monkeypatch.setattr(launch, "nvrtc_version", missing)
    assert bench.main(["--tables"]) == 2
    assert capsys.readouterr().err == "error: NVRTC was not found\n"
