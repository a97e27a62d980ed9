"""The emulator finds what is planted, at the line where it is planted, and nothing in a kernel that is right."""

import os
from pathlib import Path

import numpy as np
import pytest
from rungs import needs_compiler, needs_nvrtc

from kernels import emulate, launch
from kernels.emulator import Emulator, EmulatorError, planted
from kernels.launch import compile_for
from kernels.source import clusters_of, kernels_of

FILES = tuple(planted.LAUNCHES)
MARKS = {name: planted.marks(planted.file_of(name)) for name in FILES}
KERNELS = [(name, kernel) for name in FILES for kernel in MARKS[name]]
CLEAN = [(name, kernel) for name, kernel in KERNELS if not MARKS[name][kernel]]
SEEDS = range(5)
UNALIKE = ("planted_clusters.cu", "planted_multicast.cu", "planted_windows.cu")  # in clusters already, or not alone
PORTABLE = f"{os.environ.get('CXX') or 'g++'} -DEMULATOR_PORTABLE"  # with the fibers of other processors than x86-64


def judged(name, kernel, seed=0):
    device = Emulator(seed, most_accesses=100_000)
    y = planted.judge(device, planted.file_of(name), kernel)
    return device, y


@needs_compiler
@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(("name", "kernel"), [k for k in KERNELS if k not in CLEAN])
def test_finds_exactly_what_is_planted(name, kernel):
    found = set()
    for seed in SEEDS:
        device, _ = judged(name, kernel, seed)
        assert device.findings, f"nothing found with seed {seed}"
        found |= {(f.where, f.kind) for f in device.findings}
    assert found == MARKS[name][kernel]


@needs_compiler
@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(("name", "kernel"), CLEAN)
def test_finds_nothing_where_nothing_is_planted(name, kernel):
    for seed in range(20):
        judged(name, kernel, seed)[0].check()


@needs_compiler
def test_the_fibers_of_other_processors(monkeypatch):
    monkeypatch.setenv("CXX", PORTABLE)
    for kernel in ("clean", "dropped_barrier", "returned_too_early", "different_barriers", "far_away", "multiplied"):
        name = "planted_matrices.cu" if kernel == "multiplied" else "planted.cu"
        found = {(f.where, f.kind) for seed in SEEDS for f in judged(name, kernel, seed)[0].findings}
        assert found == MARKS[name][kernel], kernel


def test_every_kernel_is_planted_or_clean():
    for name in FILES:
        assert set(MARKS[name]) == set(kernels_of(planted.file_of(name).read_text()))
    assert {Path(f).name for f in planted.file_of("planted.cu").parent.glob("planted*.cu")} == set(FILES)
    assert [kernel for name, kernel in CLEAN if name == "planted.cu"] == [
        "clean", "half_have_returned", "atomic_sum", "warp_barriers", "copied",
    ]  # fmt: skip


def lines(kind, kernel="dropped_barrier"):
    return {line for line, k in MARKS["planted.cu"][kernel] if k == kind}


@needs_compiler
def test_a_wrong_value_is_said_with_how_far_it_is_off():
    device, _ = judged("planted.cu", "wrong_index")
    with pytest.raises(EmulatorError, match=r"wrong value: \d+ of 128 elements of y are off; the worst is"):
        device.check()


@needs_compiler
def test_elements_that_are_never_written_are_named():
    device, _ = judged("planted.cu", "skips_the_tail")
    assert [str(f) for f in device.findings] == [
        "y: unwritten: 1 of 128 elements of y were never written, the first at (127,)"
    ]


@needs_compiler
def test_the_schedule_changes_what_a_racing_kernel_computes_and_not_what_a_right_one_does():
    results = {k: {judged("planted.cu", k, s)[1].tobytes() for s in SEEDS} for k in ("clean", "dropped_barrier")}
    assert len(results["clean"]) == 1 and len(results["dropped_barrier"]) > 1


@needs_compiler
def test_a_race_names_both_lines_and_a_deadlock_who_is_missing():
    found = judged("planted.cu", "dropped_barrier")[0].findings
    assert {(f.where, f.other_where) for f in found} == {(a, b) for a in lines("race") for b in lines("race") if a != b}
    text = said("planted.cu", "barrier_in_a_branch", "deadlock")
    assert "40 wait here, 0 have returned, 24 wait elsewhere; thread 40 waits at planted.cu:" in text


@needs_compiler
def test_shared_memory_that_nobody_wrote_is_nan():
    x = planted.problem("planted.cu")[0].reshape(2, 64)
    y = judged("planted.cu", "half_filled")[1].reshape(2, 64)
    assert np.isnan(y[:, 32:]).all()
    np.testing.assert_array_equal(y[:, :32], x[:, :31:-1])


def said(name, kernel, kind):
    return "\n".join(f.message for f in judged(name, kernel)[0].findings if f.kind == kind)


@needs_compiler
def test_findings_name_the_blocks_of_a_cluster():
    races = said("planted_clusters.cu", "changed_too_early", "race")
    assert "of tile of block 1 of the cluster by thread" in races
    assert "and a write by thread 16 of block 1 of the cluster at" in races
    assert "shared memory of block 0 of the cluster, which may have returned before" in said(
        "planted_clusters.cu", "no_barrier_after", "absent block"
    )
    assert (
        "64 wait here for the cluster, of which 64 threads are missing; the first is thread 0 of its block 1"
    ) in said("planted_clusters.cu", "one_block_does_not_come", "deadlock")


@needs_compiler
def test_who_waits_for_registers_is_told_how_many_there_are():
    """Two warps have 112 more, of the 416 that the other group gave: a fourth one would need 112 and 80 are left."""
    text = said("planted_registers.cu", "more_than_there_are", "deadlock")
    assert "32 wait here for 112 more registers each, and the pool has 80" in text
    text = said("planted_registers.cu", "nobody_gives", "deadlock")
    assert "128 wait here for 104 more registers each, and the pool has 0" in text


@needs_compiler
@pytest.mark.parametrize("name", [name for name in FILES if name not in UNALIKE])
def test_blocks_that_do_not_use_their_cluster_are_as_they_were(name, tmp_path):
    """All that is planted in single blocks, in clusters: what each block has of its own is not the other one's."""
    alone, together = planted.file_of(name), tmp_path / name
    text = alone.read_text().replace("__global__ void ", "__global__ void __cluster_dims__(2, 1, 1) ")
    if name == "planted90a.cu":  # else one block has its copies only when the other one has returned
        text = text.replace("mbarrier_wait(&full, 0);", "mbarrier_wait(&full, 0); cluster_sync();")
    together.write_text(text)
    assert set(clusters_of(together.read_text())) == set(MARKS[name])
    x = planted.problem(name)[0]
    x = (np.rint(x * 4096) / 4096).astype(np.float32)  # sums are exact in any order
    for kernel, want in MARKS[name].items():
        if "endless" in {kind for _, kind in want}:
            continue  # how far the other block has come by then is chance
        found, results, uses = set(), [], []
        for file, seed in ((alone, 0), *((together, seed) for seed in SEEDS)):
            device = Emulator(seed, most_accesses=10**7, banks=not want)
            y = planted.run(device, file, kernel, x)
            found |= {(f.where, f.kind) for f in device.findings if file == together}
            results.append(y.tobytes())
            uses.append(device.bank_uses)
        assert found == {(line, kind) for line, kind in want if kind not in ("unwritten", "wrong value")}
        if not want:
            assert len(set(results)) == 1 and all(use == uses[0] for use in uses), kernel


@needs_compiler
def test_the_command_says_that_all_of_what_is_planted_was_found(capsys, monkeypatch):
    bugs = len(KERNELS) - len(CLEAN)
    assert emulate.main(["--planted"]) == 0
    said = capsys.readouterr().out
    last = said.splitlines()[-1]
    assert last.startswith(f"found: {bugs} of {bugs} planted bugs") and f"{len(CLEAN)} are clean on purpose" in last
    assert all(f"{kernel} ({name})" in said for name, kernel in KERNELS)
    where = MARKS["planted.cu"]["dropped_barrier"]
    for marks, counts in (
        ({"clean": set(), "dropped_barrier": where}, "found: 1 of 1 planted bugs, each at its line, and false findings in 0"),
        ({"clean": where, "dropped_barrier": where}, "found: 1 of 2 planted bugs, each at its line, and false findings in 0"),
        ({"clean": set(), "dropped_barrier": set()}, "found: 0 of 0 planted bugs, each at its line, and false findings in 1"),
    ):  # fmt: skip
        monkeypatch.setattr(planted, "LAUNCHES", {"planted.cu": planted.LAUNCHES["planted.cu"]})
        monkeypatch.setattr(planted, "marks", lambda file, marks=marks: marks)
        assert emulate.main(["--planted"]) == (0 if "1 of 1" in counts else 1)
        assert counts in capsys.readouterr().out


@needs_nvrtc
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("architecture", ["80", "90", "90a", "120"])
def test_the_planted_kernels_compile_for_a_gpu(name, architecture):
    file = planted.file_of(name)
    if architecture in launch.architectures(file.read_text()):
        binary = compile_for(file, architecture)
        assert set(binary.resources()) == set(kernels_of(file.read_text()))
        assert "serialized" not in binary.log  # wgmma: C7510, C7515, ...


@needs_nvrtc
def test_the_compiler_begins_with_as_many_registers_as_the_emulator():
    """128 a thread where the launch bounds say both numbers; where they say one it leaves out what moves them."""
    binary = compile_for(planted.file_of("planted_registers.cu"), "90a")
    needed = {kernel: r.registers for kernel, r in binary.resources().items()}
    assert needed["moved"] == needed["nobody_gives"] == 128
    assert binary.log.count("'setmaxnreg' ignored") == 1


@pytest.mark.gpu
@pytest.mark.parametrize("name", FILES)
def test_a_gpu_does_what_the_emulator_does_with_kernels_that_are_right(name):
    device = launch.Device()
    if device.architecture not in launch.architectures(planted.file_of(name).read_text()):
        pytest.skip("is for other cards")
    x, want = planted.problem(name)
    for kernel in (kernel for n, kernel in CLEAN if n == name and kernel != "atomic_sum"):
        y = planted.run(device, planted.file_of(name), kernel, device.xp.asarray(x))
        np.testing.assert_array_equal(y.get(), want, err_msg=kernel)
