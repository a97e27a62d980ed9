"""The check of all kernels: no spills, the committed table, and what the command says of each kind of trouble."""

import json
import re
from dataclasses import replace

import pytest
from rungs import needs_nvrtc

from kernels import check, launch
from kernels.launch import NoCuda, Resources

KERNEL = '#include "lib/cuda.cuh"\nextern "C" __global__ void k(float* y, float a) {{ {} }}\n'
HOPPER = ("90a",)
LOCAL = "float b[99]; for (int i = 0; i < 99; i++) b[i] = y[i]; b[(int)y[0]] += a; y[0] = b[(int)a] + b[(int)y[1]];"


@needs_nvrtc
def test_every_kernel_is_as_the_table_says():
    """For Hopper, which every kernel is for; for all architectures `make check` asks, and CI."""
    found, wrong = check.measure(check.sources(), HOPPER)
    version, table = check.read(check.TABLE)
    assert not wrong
    assert found.keys() == table.keys(), "python -m kernels.check --update writes the table anew"
    if version == launch.nvrtc_version():
        assert not check.differences(found, table, HOPPER)


def test_settings_belong_to_files_that_there_are():
    assert check.sources().keys() >= check.VARIANTS.keys() | {name for name, _ in check.EXCEPTIONS}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one kernel in place of this one; ``write(body)`` changes it."""
    monkeypatch.setenv("MINIGEN_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "k.cu"
    monkeypatch.setattr(check, "sources", lambda: {"some/k.cu": file})
    monkeypatch.setattr(check, "TABLE", tmp_path / "none.json")
    monkeypatch.setattr(check, "ARCHITECTURES", ("75", "90"))
    file.write_text(KERNEL.format("y[0] = a;"))
    return file


@needs_nvrtc
def test_the_table_is_compared_and_updated_on_purpose(project, monkeypatch, tmp_path, capsys):
    table = tmp_path / "resources.json"
    monkeypatch.setattr(check, "TABLE", table)
    monkeypatch.setattr(check, "ROOT", tmp_path / "kernels")
    assert (
        check.main([]) == 0
        and "registers were not compared: the table is that of NVRTC none" in capsys.readouterr().out
    )
    assert check.main(["--update"]) == 0 and "written to resources.json" in capsys.readouterr().out
    assert check.main([]) == 0 and check.main(["--architecture", "90"]) == 0
    out = capsys.readouterr().out
    assert "some/k.cu\n  k  " in out and "1 kernels, 2 binaries" in out and "nothing spills, nothing is wrong" in out
    content = json.loads(table.read_text())
    assert content["nvrtc"] == launch.nvrtc_version() and content["kernels"]["some/k.cu: k"].keys() == {"75", "90"}

    project.write_text(KERNEL.format("__shared__ float s[32]; s[threadIdx.x] = a; __syncthreads(); y[0] = s[1];"))
    assert check.main([]) == 1
    out = capsys.readouterr().out
    assert "WRONG some/k.cu: k on sm_75: " in out and "128 bytes shared, the table says " in out
    project.write_text(project.read_text().replace("void k(", "void other("))
    assert check.main([]) == 1
    out = capsys.readouterr().out
    assert "other: not in the table" in out and "k on sm_90: only in the table" in out
    table.write_text(table.read_text().replace(launch.nvrtc_version(), "1.0"))
    assert check.main([]) == 0 and "the table is that of NVRTC 1.0" in capsys.readouterr().out


@needs_nvrtc
def test_several_files_are_compiled_on_all_cores(project, monkeypatch, capsys):
    sized = project.with_name("sized.cu")
    sized.write_text("// Needs sm_80\n" + KERNEL.format("y[0] = a * SIZE;"))
    monkeypatch.setattr(check, "sources", lambda: {"some/k.cu": project, "some/sized.cu": sized})
    monkeypatch.setattr(check, "VARIANTS", {"some/sized.cu": ({"SIZE": 1}, {"SIZE": 2})})
    monkeypatch.setattr(launch, "_compile", None)  # in this process nothing is left to compile
    assert check.main([]) == 0 and "3 kernels, 4 binaries" in capsys.readouterr().out


@needs_nvrtc
def test_a_new_kernel_is_one_line_and_a_hint(project, monkeypatch, tmp_path, capsys):
    table = tmp_path / "resources.json"
    monkeypatch.setattr(check, "TABLE", table)
    monkeypatch.setattr(check, "ROOT", tmp_path / "kernels")
    assert check.main(["--update"]) == 0
    assert check.main([]) == 0 and "--update" not in capsys.readouterr().out
    project.write_text(project.read_text() + KERNEL.format("y[0] = a;").replace("void k(", "void other("))
    assert check.main(["some/k"]) == 1
    *_, line, wrong, hint = capsys.readouterr().out.splitlines()
    assert line == "WRONG some/k.cu: other: not in the table" and wrong == "wrong: 1"
    assert hint == "python -m kernels.check some/k --update adds new kernels to the table"
    assert check.main([]) == 1
    assert capsys.readouterr().out.endswith("\npython -m kernels.check --update adds new kernels to the table\n")
    project.write_text(KERNEL.format("__shared__ float s[32]; s[threadIdx.x] = a; __syncthreads(); y[0] = s[1];"))
    assert check.main([]) == 1 and "--update" not in capsys.readouterr().out  # changed, but none is new


def test_a_kernel_that_is_new_on_one_architecture_is_told_with_it():
    row = Resources(32, 0, 0, 0)
    found, table = {"k": {"75": row, "90": row}, "new": {"75": row, "90": row}}, {"k": {"75": row}}
    assert check.differences(found, table, ("75", "90")) == ["k on sm_90: not in the table", "new: not in the table"]


@pytest.mark.parametrize("number", ["registers", "shared_bytes", "local_bytes", "spill_bytes"])
def test_every_number_of_the_table_is_compared(number):
    row = Resources(32, 0, 0, 0)
    (said,) = check.differences({"k": {"90": replace(row, **{number: 48})}}, {"k": {"90": row}}, ("90",))
    assert said.startswith("k on sm_90: ") and said.endswith(", the table says 32 registers, 0 bytes shared")
    assert "48" in said


def test_spills_alone_need_a_reason_too():
    assert check._faults("a.cu", "k on sm_90", "k", Resources(255, 0, 0, 8)) == [
        "k on sm_90: 0 bytes of local memory, 8 bytes of spills, and no reason is stated"
    ]


def test_the_table_is_shown_by_file_with_each_number_in_its_place():
    table = {
        "a.cu: k": {"75": Resources(32, 400, 0, 0), "90": Resources(40, 512, 8, 16)},
        "a.cu: other": {"90": Resources(24, 0, 0, 0)},
    }
    assert [line.split() for line in check.show(table, ("75", "90")).splitlines()][1:] == [
        ["a.cu"],
        ["k", "32", "40", "400", "or", "512;", "sm_90:", "8", "local,", "16", "spilled"],
        ["other", "-", "24", "0"],
    ]


@needs_nvrtc
def test_some_files_are_compared_and_updated_alone(project, monkeypatch, tmp_path, capsys):
    table, other = tmp_path / "resources.json", tmp_path / "other.cu"
    other.write_text(KERNEL.format("y[1] = a;"))
    monkeypatch.setattr(check, "TABLE", table)
    monkeypatch.setattr(check, "ROOT", tmp_path / "kernels")
    monkeypatch.setattr(check, "sources", lambda: {"some/k.cu": project, "other/k.cu": other})
    assert check.main(["--update"]) == 0
    before = json.loads(table.read_text())["kernels"]
    for file in (project, other):
        file.write_text(file.read_text().replace("void k(", "void renamed("))
    assert check.main(["some"]) == 1  # its old row is wrong, the other file's is not looked at
    out = capsys.readouterr().out
    assert "some/k.cu: k on sm_75: only in the table" in out and "other/k.cu" not in out.split("wrong")[-1]
    assert check.main(["some/k", "--update"]) == 0 and check.main(["some"]) == 0
    after = json.loads(table.read_text())["kernels"]
    assert after.keys() == {"some/k.cu: renamed", "other/k.cu: k"}
    assert after["other/k.cu: k"] == before["other/k.cu: k"]
    table.write_text(table.read_text().replace(launch.nvrtc_version(), "1.0"))
    assert check.main(["some", "--update"]) == 1
    assert "the table is that of NVRTC 1.0" in capsys.readouterr().out and "1.0" in table.read_text()


@needs_nvrtc
def test_local_memory_needs_a_reason(project, monkeypatch, capsys):
    project.write_text(KERNEL.format(LOCAL))
    assert check.main(["--update"]) == 1
    out = capsys.readouterr().out
    assert "not updated" in out and "bytes of local memory, 0 bytes of spills, and no reason is stated" in out
    assert "; sm_75: 400 local, 0 spilled" in out
    assert not check.TABLE.exists()
    monkeypatch.setattr(check, "EXCEPTIONS", {("some/k.cu", "k"): "a test"})
    assert check.main([]) == 0


@needs_nvrtc
def test_what_does_not_compile_is_told(project, capsys):
    project.write_text(KERNEL.format("y[0] = nothing;"))
    assert check.main([]) == 1
    assert "WRONG k.cu does not compile with -arch=sm_75" in capsys.readouterr().out


@pytest.mark.parametrize("number", ["C7510", "C7515"])  # one for each reason
def test_serialised_wgmma_is_wrong(project, monkeypatch, number):
    class Binary:
        log = f"info    : ({number}) Potential Performance Loss: wgmma.mma_async instructions are serialized"

        def resources(self):
            return {"k": Resources(32, 0, 0, 0)}

    monkeypatch.setattr(check, "compile_for", lambda *_: Binary())
    _, wrong = check.measure(check.sources(), ("90",))
    assert wrong == [f"some/k.cu on sm_90: the compiler serialises its wgmma instructions ({number})"]


def test_a_kernel_with_a_mangled_name_is_wrong(project, monkeypatch):
    monkeypatch.setattr(check, "compile_for", lambda *_: launch.Binary(b"", "Compiling entry function '_Z1kPff' for"))
    table, wrong = check.measure(check.sources(), ("75", "90"))
    assert wrong == ['some/k.cu: k is not in what the compiler made: is it extern "C"?'] * 2 and not table


@needs_nvrtc
@pytest.mark.parametrize(("bounds", "wrong"), [("256, 1", 0), ("256", 1)])
def test_registers_that_do_not_move_are_wrong(project, bounds, wrong):
    body = "if (threadIdx.x < 128) registers_down<24>(); else registers_up<232>(); y[threadIdx.x] = 1;"
    text = KERNEL.format(body).replace("__global__ void", f"__global__ void __launch_bounds__({bounds})")
    project.write_text('// Needs sm_90a.\n#include "lib/ptx90.cuh"\n' + text)
    said = "some/k.cu on sm_90a: the compiler leaves out the instructions that move registers from warp to warp (C7508)"
    assert check.measure(check.sources(), ("90a",))[1] == [said] * wrong


def test_bad_requests_and_a_missing_compiler(project, monkeypatch, capsys):
    for arguments, message in [
        (["--architecture", "70"], "--architecture must be some of 75, 90, got 70"),
        (["--architecture", "90", "--update"], "--update writes all architectures"),
        (["conv3d"], "no kernel file of the project begins with 'conv3d'; there are some/k.cu"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            check.main(arguments)
        assert stopped.value.code == 2 and message in capsys.readouterr().err

    def missing():
        raise NoCuda("NVRTC, which compiles CUDA kernels, was not found: pip install nvidia-cuda-nvrtc")

    monkeypatch.setattr(launch, "nvrtc_version", missing)
    assert check.main([]) == 2
    assert capsys.readouterr().err.startswith("error: NVRTC, which compiles CUDA kernels, was not found: pip install")


@needs_nvrtc
def test_what_only_some_cards_take(tmp_path, capsys):
    """Other cards are checked all the same; a mark at the file's begin, and comments in another encoding, do not matter."""
    body = 'asm volatile("cp.async.commit_group;"); y[0] = 1;'
    file = tmp_path / "mine.cu"
    file.write_bytes(
        b"\xef\xbb\xbf// caf\xe9\n" + KERNEL.replace('#include "lib/cuda.cuh"\n', "").format(body).encode()
    )
    assert check.main([str(file), "--architecture", "75", "80", "90"]) == 1
    out = capsys.readouterr().out
    assert "1 kernels, 2 binaries" in out and out.count("WRONG sm_75: ") == 1 and "requires .target sm_80" in out
    file.write_text(KERNEL.format("y[0] = nothing;"))
    assert check.main([str(file), "--architecture", "80", "90"]) == 1
    assert capsys.readouterr().out.count("WRONG sm_80, sm_90: ") == 1
    with pytest.raises(SystemExit):
        check.main([str(tmp_path / "other.cu")])
    assert "there is no file " in capsys.readouterr().err


@needs_nvrtc
def test_files_of_ones_own(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "half.cuh").write_text("__device__ float half(float x) { return x / 2; }")
    (tmp_path / "mine.cu").write_text(
        '#include "half.cuh"\nextern "C" __global__ void k(float* y) { float z[9]; z[int(y[1])] = 1; *y = half(z[int(*y)]); }'
    )
    assert check.main(["mine.cu", "--architecture", "75", "80"]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"mine\.cu\n  k +\d+ +\d+   0; sm_75: \d+ local, 0 spilled; sm_80: \d+ local", said
    ) and said.endswith("wrong: 0\n")
    (tmp_path / "mine.cu").write_text("__global__ void k(float* y) { *y = half(*y); }")
    assert check.main(["mine.cu"]) == 1
    assert 'WRONG mine.cu has no kernel, which would be extern "C"' in capsys.readouterr().out
    (tmp_path / "mine.cu").write_text('extern "C" __global__ void k(float* y) { *y = half(*y); }')
    assert check.main(["mine.cu"]) == 1
    assert capsys.readouterr().out.count('identifier "half" is undefined') == 1
    for more in ("--update", "norm"):
        with pytest.raises(SystemExit):
            check.main(["mine.cu", more])
        assert "files of your own cannot be combined with --update or with the project's" in capsys.readouterr().err
