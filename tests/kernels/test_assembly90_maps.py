"""How a kernel gets maps of TMA: in a structure, in an array of a structure, or at an address."""

import numpy as np
import pytest
from hopper import HEAD, on_a_gpu
from rungs import needs_compiler, needs_nvrtc

from kernels.emulator import BadArguments, EmulatorError
from kernels.emulator.raw import RawKernel
from kernels.source import WrongSource
from kernels.tensor_map import TensorMap

pytestmark = needs_compiler

# Block i copies a tile of 8 x 4 from maps.from[i] to maps.to, i tiles further.
TILES = """
struct Maps { int rows; CUtensorMap from[2]; const int* first; CUtensorMap to; float scale; };
__device__ void load(void* to, const CUtensorMap* map, uint64_t* bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
                 :: "r"(address(to)), "l"(map), "r"(address(bar)), "r"(0), "r"(0) : "memory");
}
__device__ void store(const CUtensorMap* map, const void* from, int row) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];"
                 :: "l"(map), "r"(address(from)), "r"(0), "r"(row) : "memory");
    asm volatile("cp.async.bulk.commit_group;");
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
extern "C" __global__ void in_a_structure(const __grid_constant__ Maps maps) {
    __shared__ alignas(128) int tile[8][4];
    __shared__ uint64_t full;
    if (threadIdx.x == 0) {
        init(&full, 1);
        expect(&full, 128);
        load(tile, &maps.from[blockIdx.x], &full);
    }
    __syncthreads();
    wait(&full, 0);
    tile[threadIdx.x / 4][threadIdx.x % 4] += maps.scale * *maps.first;
    fence();
    __syncthreads();
    if (threadIdx.x == 0) store(&maps.to, tile, blockIdx.x * maps.rows);
}
extern "C" __global__ void at_an_address(const CUtensorMap* maps) {
    __shared__ alignas(128) int tile[8][4];
    __shared__ uint64_t full;
    if (threadIdx.x == 0) {
        init(&full, 1);
        expect(&full, 128);
        load(tile, maps + blockIdx.x, &full);
        wait(&full, 0);
        fence();
        store(maps + 2, tile, 8 * blockIdx.x);
    }
}
"""


def arrays():
    a, b = (np.arange(32, dtype=np.int32).reshape(8, 4) + 100 * i for i in (1, 2))
    a.setflags(write=False)
    return a, b, np.zeros((16, 4), np.int32)


def test_maps_in_a_structure(each_compiler):
    (a, b, y), first = arrays(), np.full(1, 7, np.int32)
    members = (
        np.int32(8),
        tuple(TensorMap(x, (8, 4)) for x in (a, b)),
        np.uint64(first.ctypes.data),
        TensorMap(y, (8, 4)),
        np.float32(2),
    )
    RawKernel(HEAD + TILES, "in_a_structure")((2,), (32,), (members,), held=(first,))
    np.testing.assert_array_equal(y, np.concatenate([a, b]) + 14)


def test_maps_at_an_address(each_compiler):
    a, b, y = arrays()
    maps = tuple(TensorMap(x, (8, 4)) for x in (a, b, y))
    RawKernel(HEAD + TILES, "at_an_address")((2,), (32,), (maps,))
    np.testing.assert_array_equal(y, np.concatenate([a, b]))
    with pytest.raises(EmulatorError, match=r"out of range: read of 128 bytes at element \(3,\) of maps"):
        RawKernel(HEAD + TILES.replace("maps + 2", "maps + 3"), "at_an_address")((2,), (32,), (maps,))


def test_an_address_without_a_map():
    a, b, y = arrays()
    maps = tuple(TensorMap(x, (8, 4)) for x in (a, b, y))
    with pytest.raises(EmulatorError, match=r"bad operand: there is no map of TMA \(TensorMap\) at the address"):
        RawKernel(HEAD + TILES.replace("maps + 2", "(const CUtensorMap*)tile"), "at_an_address")((2,), (32,), (maps,))


def test_what_is_no_such_structure():
    a, b, y = arrays()
    maps = tuple(TensorMap(x, (8, 4)) for x in (a, b, y))
    kernel = RawKernel(HEAD + TILES, "in_a_structure")
    with pytest.raises(
        BadArguments,
        match="maps must be a structure of 576 bytes, got a tuple, which would be a structure of 384 bytes",
    ):
        kernel((2,), (32,), (maps,))
    with pytest.raises(
        BadArguments, match="members of a structure must be TensorMaps, NumPy's numbers or tuples, got 8"
    ):
        kernel((2,), (32,), ((8, *maps),))
    with pytest.raises(BadArguments, match="maps must be an array, or a tuple of TensorMaps"):
        RawKernel(HEAD + TILES, "at_an_address")((2,), (32,), ((np.int32(1),),))
    own = HEAD + TILES.replace("const __grid_constant__ Maps", "const Maps")
    members = np.int32(8), maps[:2], np.uint64(0), maps[2], np.float32(2)
    with pytest.raises(WrongSource, match="parameter maps must be const __grid_constant__"):
        RawKernel(own, "in_a_structure")((2,), (32,), (members,))


@needs_nvrtc
def test_a_gpu_takes_these_maps(tmp_path):
    on_a_gpu(tmp_path, TILES)
