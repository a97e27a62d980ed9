"""Compiling for every card without one, the cache, what is passed to a kernel, and what is said when something lacks."""

import ctypes
import inspect
import re
from types import SimpleNamespace

import numpy as np
import pytest
from rungs import needs_nvrtc

from kernels import backend, check, launch, source
from kernels.checks import WrongSize
from kernels.launch import ARCHITECTURES, CompileError, NoCuda, compile_for
from kernels.tensor_map import MOST, TensorMap

SOURCES = list(check.sources().values())


def test_a_source_says_which_architectures_it_is_for(cache):
    file = write(cache, "y[0] = a;")
    assert launch.architectures(file.read_text()) == ARCHITECTURES
    text = '#include "lib/ptx.cuh"\n' + file.read_text()
    assert launch.architectures(text) == ARCHITECTURES[1:]  # the header says so
    assert launch.architectures("// Needs sm_90 (TMA)\n" + text) == ("90", "90a", "100", "103", "110", "120", "121")
    assert launch.architectures(text + "// Needs sm_90a.\n") == ("90a",)
    assert launch.architectures("// Needs sm_90\n// Needs sm_100\n") == ("100", "103", "110", "120", "121")
    assert source.headers_of('#include "lib/ptx90.cuh"').keys() >= {"lib/ptx90.cuh", "lib/ptx.cuh", "lib/cuda.cuh"}
    file.write_text(text)
    with pytest.raises(NoCuda, match=r"k\.cu is for sm_80, it cannot run on sm_75"):
        compile_for(file, "75")


def test_there_are_kernels_to_compile():
    assert {f.name for f in SOURCES} >= {"1_naive.cu", "1_direct.cu", "2_tiled.cu", "2_online_softmax.cu"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path


def write(tmp_path, body, name="k.cu"):
    file = tmp_path / name
    file.write_text(f'#include "lib/cuda.cuh"\nextern "C" __global__ void k(float* y, float a) {{ {body} }}\n')
    return file


@needs_nvrtc
def test_the_cache_knows_the_source_the_headers_the_options_and_the_compiler(cache, monkeypatch):
    calls = []
    compile_ = launch._compile
    monkeypatch.setattr(launch, "_compile", lambda *a: calls.append(a) or compile_(*a))
    file = write(cache, "y[0] = a * FACTOR;")
    first = compile_for(file, "90", {"FACTOR": 2})
    assert compile_for(file, "90", {"FACTOR": 2}) == first and len(calls) == 1
    compile_for(file, "90", {"FACTOR": 3})
    compile_for(file, "80", {"FACTOR": 2})
    write(cache, "y[1] = a * FACTOR;")
    compile_for(file, "90", {"FACTOR": 2})
    assert len(calls) == 4
    headers = launch.headers_of
    monkeypatch.setattr(launch, "headers_of", lambda text: {n: h + "\n// more" for n, h in headers(text).items()})
    compile_for(file, "90", {"FACTOR": 2})
    monkeypatch.setattr(launch, "nvrtc_version", lambda: "99.0")
    compile_for(file, "90", {"FACTOR": 2})
    assert len(calls) == 6


def test_half_a_binary_is_compiled_again(cache, monkeypatch):
    """A power cut may leave empty what was written, and somebody may tidy up."""
    calls = []
    monkeypatch.setattr(launch, "nvrtc_version", lambda: "99.0")
    monkeypatch.setattr(launch, "_compile", lambda *a: calls.append(a) or launch.Binary(b"code", "log"))
    file = write(cache, "y[0] = a;")
    for spoil in (lambda code, log: None, lambda code, log: code.write_bytes(b""), lambda code, log: log.unlink()):
        assert compile_for(file, "90") == compile_for(file, "90") == launch.Binary(b"code", "log")
        spoil(*(next(cache.rglob(f"*.{end}")) for end in ("cubin", "log")))
    assert compile_for(file, "90") == launch.Binary(b"code", "log") and len(calls) == 3


def test_what_a_header_of_a_header_says_is_in_the_key(cache, monkeypatch):
    monkeypatch.setattr(launch, "nvrtc_version", lambda: "99.0")
    monkeypatch.setattr(source, "ROOT", cache)
    file = cache / "k.cu"
    file.write_text('#include "outer.cuh"\n')
    (cache / "outer.cuh").write_text('#include "inner.cuh"\n')
    codes = set()
    for text in ("// one", "// another"):
        (cache / "inner.cuh").write_text(text)
        codes.add(launch._program(file, "90", {}).code)
    assert len(codes) == 2


@needs_nvrtc
def test_where_cudas_own_headers_lie(cache, monkeypatch):
    include, other = cache / "toolkit" / "include", cache / "wheels" / "cuda" / "include"
    for folder in (include, other):
        folder.mkdir(parents=True)
        (folder / "cuda_fp16.h").touch()
    wheels = SimpleNamespace(submodule_search_locations=[str(cache / "wheels")])
    monkeypatch.setenv("CUDA_PATH", str(cache / "toolkit"))
    for spec, found in ((wheels, other), (None, include)):
        monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name, spec=spec: spec)
        assert launch._include_folders.__wrapped__() == [str(found), str(found / "cccl")]
    (include / "cuda_fp16.h").unlink()
    assert launch._include_folders.__wrapped__() == []


def test_a_program_with_cudas_headers_knows_where_they_lie(cache, monkeypatch):
    monkeypatch.setattr(launch, "nvrtc_version", lambda: "99.0")
    kernel, codes = 'extern "C" __global__ void k(float* y) {}', set()
    for folder in ("a", "b"):
        monkeypatch.setattr(launch, "_include_folders", lambda folder=folder: [folder])
        for before, has in (
            ("", False),
            ('#include "lib/cuda.cuh"\n', False),
            ("int x;\n # include <cuda_fp16.h>\n", True),
        ):
            (cache / "k.cu").write_text(before + kernel)
            program = launch._program(cache / "k.cu", "90", {})
            assert (f"--include-path={folder}" in program.options) == has
            codes.add(program.code)
    assert len(codes) == 4


def test_what_was_compiled_ahead_is_found_and_what_does_not_compile_is_left(cache, monkeypatch):
    good, bad = write(cache, "y[0] = a * FACTOR;"), write(cache, "y[0] = nothing;", "bad.cu")
    wanted = [(good, "90", {"FACTOR": 2}), (good, "75", {"FACTOR": 3})]
    launch.compile_ahead([*wanted, (bad, "90", {})])
    with pytest.raises(CompileError, match=r"bad\.cu does not compile"):
        compile_for(bad, "90")
    monkeypatch.setattr(launch, "_compile", None)
    monkeypatch.setattr(launch, "ProcessPoolExecutor", None)
    launch.compile_ahead(wanted)  # which starts no processes for what is compiled
    assert compile_for(good, "90", {"FACTOR": 2}).code[:4] == compile_for(good, "75", {"FACTOR": 3}).code[:4]


@needs_nvrtc
def test_what_is_not_cuda_is_told_with_the_compilers_words(cache):
    with pytest.raises(CompileError, match=r"k.cu does not compile with -arch=sm_75 (.|\n)*k.cu\(2\): error"):
        compile_for(write(cache, "y[0] = nothing;"), "75")


@needs_nvrtc
def test_resources_are_the_assemblers(cache):
    body = "__shared__ float s[100]; s[threadIdx.x] = a; __syncthreads(); y[0] = s[1]; float b[99]; "
    body += "for (int i = 0; i < 99; i++) b[i] = i; for (int i = 0; i < 99; i++) b[(int)y[i]] += a; y[0] = b[(int)a];"
    resources = compile_for(write(cache, body), "90").resources()["k"]
    assert resources.shared_bytes == 400 and resources.local_bytes >= 396 and resources.spill_bytes == 0


def test_what_a_kernel_needs_is_read_from_the_messages():
    log = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k' for 'sm_90'
ptxas info    : Function properties for k
    8 bytes stack frame, 16 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 400 bytes smem
ptxas info    : Compiling entry function 'other' for 'sm_90'
ptxas info    : Used 24 registers, used 0 barriers"""
    assert launch.Binary(b"", log).resources() == {
        "k": launch.Resources(registers=32, shared_bytes=400, local_bytes=8, spill_bytes=36),
        "other": launch.Resources(registers=24, shared_bytes=0, local_bytes=0, spill_bytes=0),
    }


def test_other_architectures_are_refused():
    with pytest.raises(ValueError, match="unknown architecture '70': use one of 75, 80"):
        compile_for(SOURCES[0], "70")
    with pytest.raises(NoCuda, match="the GPU has compute capability 61, supported are 75"):
        launch.architecture_of("61")
    assert launch.architecture_of("90") == "90a" and launch.architecture_of("121") == "121"


def test_a_missing_compiler_and_a_missing_gpu_are_one_sentence(monkeypatch):
    monkeypatch.setattr(launch, "_from_wheels", list)
    monkeypatch.setattr(launch, "_VERSIONS", ())
    with pytest.raises(NoCuda, match="NVRTC, which compiles CUDA kernels, was not found: pip install"):
        launch.nvrtc.__wrapped__()

    def no_cupy():
        raise ImportError("CuPy is not installed: pip install ...")

    monkeypatch.setattr(backend, "cupy", no_cupy)
    with pytest.raises(NoCuda, match="no GPU can be used: CuPy is not installed"):
        launch.Device()
    without = SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=lambda: 0)))
    monkeypatch.setattr(backend, "cupy", lambda: without)
    with pytest.raises(NoCuda, match="no GPU can be used: the driver reports no device"):
        launch.Device()


class Launched:
    """In CuPy's place: a module that remembers what was launched."""

    def __init__(self):
        self.calls = []
        self.cuda = SimpleNamespace(
            Device=lambda: SimpleNamespace(compute_capability="90", id=3),
        )
        self.empty = np.empty
        self.function = _Callable(self.calls, 7)


def there(x):
    """In a CuPy array's place."""
    return SimpleNamespace(dtype=x.dtype, flags=SimpleNamespace(c_contiguous=True), shape=x.shape)


class _Callable:
    def __init__(self, calls, ptr):
        self.calls, self.ptr = calls, ptr

    def __call__(self, *arguments, **options):
        self.calls.append((arguments, options))


def test_a_launch_passes_exactly_the_kernels_types(cache, monkeypatch):
    xp, keys = Launched(), []
    monkeypatch.setattr(launch, "_usable_cupy", lambda: xp)
    monkeypatch.setattr(launch, "_loaded", lambda *key: keys.append(key) or xp.function)
    file = cache / "k.cu"
    file.write_text(
        'extern "C" __global__ void __launch_bounds__(64) k(const float* x, double* y, const bool* mask, float a, '
        "double b, int c, long long e, bool f, unsigned long long h) {}"
    )
    arguments = {
        "x": there(np.ones(3, "f")),
        "y": there(np.ones(3)),
        "mask": None,
        "a": 0.1,
        "b": 0.1,
        "c": 5,
        "e": 2**40,
        "f": True,
        "h": 2**64 - 1,
    }
    device = launch.Device()
    device.run(file, "k", 3, (8, 4), arguments, shared_bytes=100)
    ((blocks, threads, values), options) = xp.calls[0]
    assert blocks == (3, 1, 1) and threads == (8, 4, 1) and options == {"shared_mem": 100}
    assert [getattr(v, "dtype", None) for v in values] == [
        np.dtype(t) for t in ("float32", "float64", "uintp", "float32", "float64", "int32", "int64", "bool", "uint64")
    ]
    assert values[3] == np.float32(0.1) and values[6] == 2**40 and values[8] == 2**64 - 1
    device.run(file, "k", 0, 64, arguments)
    assert len(xp.calls) == 1  # an empty grid is no launch
    device.run(file, "k", 1, 64, arguments, defines={"B": 2, "A": "true"})
    assert keys == [(xp.cuda, 3, "90a", file, "k", settings) for settings in ((), (("A", "true"), ("B", 2)))]
    for change, message in [
        ({"x": there(np.ones(3))}, "x must be an array of float, got one of float64"),
        ({"x": np.ones(3, "f")}, "x must be on the GPU, got a NumPy array"),
        ({"a": "1"}, "a must be a number, got str"),
        ({"a": np.ones(2)}, r"a must be one float, got an array of shape \(2,\)"),
        ({"c": True}, "c must be a whole number, got True"),
        ({"f": 1}, "f must be True or False, got 1"),
        ({"x": 3}, "x must be an array of float, got int"),
        ({"x": np.float32(3)}, "x must be an array of float, got float32"),
    ]:
        with pytest.raises(TypeError, match=message):
            device.run(file, "k", 1, 64, {**arguments, **change})


@pytest.mark.parametrize("kind", source._TYPES)
def test_a_number_is_passed_as_the_same_bits_whoever_passes_it(kind):
    """Python's numbers take a shorter way than NumPy's; the emulator's are ctypes values, CuPy's are NumPy's."""
    exact = source._TYPES[kind][0]
    parameter = source.Parameter("a", kind, False, False)
    if kind == "bool":
        numbers = [True, False]
    elif kind in ("float", "double"):
        numbers = [0.0, -0.0, 0.1, -1e38, 1.1e38, 3.5e38, 1e39, -1e300, 1e-45, 1e-300, float("inf"), float("nan"), 3]
    else:
        least, most = np.iinfo(exact).min, np.iinfo(exact).max
        numbers = [0, 1, int(least), min(int(most), MOST) if kind == "int" else int(most)]
    for number in numbers:
        want = bytes(exact(number))
        of_numpy = np.dtype(exact).type(number) if abs(number) < 1e38 else np.float64(number)
        for value in (number, of_numpy):
            passed, there = parameter.as_ctypes(value), parameter.as_cupy(value)
            assert type(passed) is exact and bytes(passed) == want
            assert there.dtype == np.dtype(exact) and there.tobytes() == want
    if np.dtype(exact).kind in "iu":
        for number in (numbers[2] - 1, numbers[3] + 1):
            for take in (parameter.as_ctypes, parameter.as_cupy):
                with pytest.raises(WrongSize, match=rf"a must (fit into {kind}|be at most {MOST}), got {number}"):
                    take(number)


def test_a_tensor_map_is_written_only_for_a_launch(cache, monkeypatch):
    """The driver refuses one of an empty array, and an empty grid needs none."""
    xp, asked = Launched(), []
    monkeypatch.setattr(launch, "_usable_cupy", lambda: xp)
    monkeypatch.setattr(launch, "_loaded", lambda *key: xp.function)
    monkeypatch.setattr(TensorMap, "encoded", lambda self: asked.append(self) or "its bytes")
    file = cache / "k.cu"
    file.write_text('extern "C" __global__ void k(const __grid_constant__ TensorMap m, int n) {}')
    arguments = {"m": TensorMap(np.ones((8, 8), "f"), (8, 8)), "n": 1}
    launch.Device().run(file, "k", 0, 32, arguments)
    assert not asked and not xp.calls
    launch.Device().run(file, "k", 1, 32, arguments)
    assert len(asked) == 1 and xp.calls[0][0][2][0] == "its bytes"


def test_a_launch_is_of_whole_clusters(cache, monkeypatch):
    monkeypatch.setattr(launch, "_usable_cupy", Launched)
    file = cache / "k.cu"
    file.write_text('extern "C" __global__ void __cluster_dims__(2, 1, 1) k(float a) {}')
    with pytest.raises(ValueError, match=r"the grid must be a multiple of the cluster of \(2, 1, 1\) blocks, got"):
        launch.Device().run(file, "k", 3, 64, {"a": 1.0})


@pytest.mark.parametrize(
    ("grid", "threads"),
    [
        ((2**31, 1, 1), (1, 1, 1)),
        ((1, 65536, 1), (1, 1, 1)),
        ((1, 1, 65536), (1, 1, 1)),
        ((-1, 1, 1), (1, 1, 1)),
        ((1, 1, 1), (1025, 1, 1)),
        ((1, 1, 1), (205, 5, 1)),
        ((1, 1, 1), (1, 1, 65)),
        ((1, 1, 1), (32, 0, 1)),
    ],
)
def test_what_is_more_than_a_gpu_can_launch_is_refused(grid, threads):
    source.check_grid("k", (2**31 - 1, 65535, 65535), (16, 1, 64))
    source.check_grid("k", (0, 1, 1), (1024, 1, 1))
    with pytest.raises(ValueError, match=r"kernel k: (the grid must be at most|a block has 1 to 1024 threads)"):
        source.check_grid("k", grid, threads)


def test_a_size_has_up_to_three_numbers():
    assert source.three(5) == source.three((5,)) == source.three(np.array([5, 1])) == (5, 1, 1)
    assert source.three((2, 3, 4)) == (2, 3, 4)
    for sizes in ((), (2, 3, 4, 5)):
        with pytest.raises(ValueError, match="a size along x, y, z has one to three numbers, got"):
            source.three(sizes)


@pytest.mark.parametrize(("architecture", "kilobytes"), [("90a", 227), ("80", 163), ("86", 99), ("75", 64)])
def test_a_kernel_may_have_all_the_shared_memory_that_its_own_arrays_leave(cache, architecture, kilobytes):
    """48 KiB without asking are for both together: 48 KiB in a launch and a table in the kernel are too many."""
    file, allowed = cache / "k.cu", []
    file.write_text('extern "C" __global__ void k(int* y) { *y = 1; }')
    module = SimpleNamespace(load=lambda code: None, get_function=lambda name: _Callable([], 7))
    own = lambda attribute, function: {1: 512}[attribute]  # noqa: E731  CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
    cuda = SimpleNamespace(
        function=SimpleNamespace(Module=lambda: module),
        driver=SimpleNamespace(funcSetAttribute=lambda *a: allowed.append(a), funcGetAttribute=own),
    )
    launch._loaded.__wrapped__(cuda, 0, architecture, file, "k", ())
    assert allowed == [(7, 8, kilobytes * 1024 - 512)]


def test_the_emulator_and_the_device_have_the_same_methods():
    from kernels.emulator import Emulator

    for name in ("empty", "result", "run"):
        both = [list(inspect.signature(getattr(c, name)).parameters) for c in (Emulator, launch.Device)]
        assert both[0] == both[1], name


def test_the_parameters_are_read_from_the_text():
    text = """
    // extern "C" __global__ void not_this(int x)
    extern "C" __global__ void __launch_bounds__(128, 2) first(const float* __restrict__ x, /* a */ unsigned char* y,
                                                               const long long n, unsigned int m) {}
    __device__ float helper(float x);
    """
    found = source.kernels_of(text)
    assert list(found) == ["first"]
    assert [(p.name, p.type, p.pointer, p.const) for p in found["first"]] == [
        ("x", "float", True, True),
        ("y", "unsigned char", True, False),
        ("n", "long long", False, True),
        ("m", "unsigned int", False, False),
    ]
    with pytest.raises(ValueError, match="kernel k: parameter x has the type 'float4', allowed are float"):
        source.kernels_of("__global__ void k(float4 x) {}")
    for words in ("const TensorMap", "__grid_constant__ TensorMap", "TensorMap"):  # TMA cannot read a thread's own copy
        with pytest.raises(ValueError, match="parameter x must be a const __grid_constant__ TensorMap"):
            source.kernels_of(f"__global__ void k({words} x) {{}}")
    assert ctypes.sizeof(source._TYPES["long long"][0]) == 8
    for name, size in (("half", 2), ("half2", 4), ("nv_bfloat16", 2), ("nv_bfloat162", 4)):
        assert ctypes.sizeof(source._TYPES[name][0]) == ctypes.sizeof(source._TYPES[f"__{name}"][0]) == size


def test_ptx_stands_in_two_headers_alone():
    """Where both bodies of an instruction stand (lib/ptx.cuh): elsewhere it would be one that the emulator cannot run."""
    ptx = {"lib/ptx.cuh", "lib/ptx90.cuh"}
    files = {f.relative_to(source.ROOT).as_posix(): f.read_text() for f in source.ROOT.glob("*/*.cu*")}
    assert ptx <= {name for name, text in files.items() if re.search(r"\basm\b", text)}
    for name in files.keys() - ptx:
        assert not re.search(r"\basm\b", files[name]), name
