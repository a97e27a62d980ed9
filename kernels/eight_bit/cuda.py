"""Eight-bit numbers in CUDA: which file, which grid. ``device`` is a GPU or the emulator.

The functions have the contracts of ``eight_bit``'s, for contiguous arrays on the device.
"""

from pathlib import Path
from typing import Any

from ..backend import Array, address
from ..checks import check_rung
from ..matmul import cuda as matmul
from ..source import file_in
from ..tensor_map import TensorMap
from .formats import LARGEST

RUNGS = {1: "1_naive.cu", 2: "2_tiled.cu", 3: "3_mma.cu", 4: "4_wgmma.cu"}  # of int8 by int8
WEIGHT_ONLY_RUNGS = {**RUNGS, 3: "3_split.cu", 4: "4_split.cu"}
SPLIT = "split.cu"  # prepares the last two
SPLIT_TILE, SPLIT_STAGES = (128, 128), 6  # of 4_split.cu
FEW_ROWS = "2_few_rows.cu"  # beside rung 2, for weights in int8 and at most FEW rows of x
FEW = 8
PART = 128  # at least so many of the k terms for a block of FEW_ROWS
ROWS = 64  # at least so many for a block that looks for its columns' largest values
BUSY = 264  # blocks, two for each multiprocessor of an H100
THREADS = 128
SIDE = 64  # of the square that a block of 256 threads computes in rung 2, or transposes
TWICE = ("86", "89", "120", "121")  # GeForce: bf16 tensor cores with float sums do twice what float32 units do
FP8 = {"e4m3": (3, 7, 0x7E), "e5m2": (2, 15, 0x7B)}  # bits of the mantissa, the exponent's bias, the largest pattern

HERE = Path(__file__).parent


def best_rung(device: Any, *, weight_only: bool) -> int:
    """The last rung of a linear layer that pays on this device; all are exact, or about as exact as float32.

    With only the weights in int8, x is in three parts, so tensor cores must do over three times what float32 units do.
    """
    architecture = device.architecture
    if int(architecture.rstrip("a")) < 80 or (weight_only and architecture in TWICE):
        return 2
    return matmul.last_rung(device)


def quantize(device: Any, x: Array, *, axis: int, form: str = "int8") -> tuple[Array, Array]:
    """(codes, scale)."""
    m, n = x.shape
    codes, scale = (
        device.empty((m, n), "int8" if form == "int8" else "uint8"),
        device.empty((x.shape[axis],), "float32"),
    )
    source, arguments = _file("quantize.cu"), {"scale": scale, "n": n, "limit": LARGEST[form]}
    if axis == 0:
        device.run(source, "row_scales", m, 32, {"x": x, **arguments})
    else:
        blocks = -(-n // 32)
        part = max(ROWS, -(-m // max(4 * BUSY // max(blocks, 1), 1)))
        sizes = device.empty((-(-m // part), n), "float32")
        device.run(
            source, "column_sizes", (blocks, len(sizes)), 256, {"x": x, "sizes": sizes, "m": m, "n": n, "part": part}
        )
        arguments |= {"sizes": sizes, "parts": len(sizes)}
        device.run(source, "column_scales", -(-n // THREADS), THREADS, arguments)
    device.result(scale, "scale")
    _elementwise(device, "to", form, axis, codes, {"x": x, "scale": scale})
    return device.result(codes, "codes"), scale


def dequantize(device: Any, codes: Array, scale: Array, *, axis: int, form: str = "int8") -> Array:
    """The values, float32."""
    x = device.empty(codes.shape, "float32")
    _elementwise(device, "from", form, axis, codes, {"scale": scale, "x": x})
    return device.result(x, "x")


def linear_weight_only(
    device: Any, x: Array, codes: Array, scale: Array, bias: Array | None = None, *, rung: int
) -> Array:
    """y (m, n), float32. From rung 2 on, few rows go to ``FEW_ROWS``; rung 4 leaves to 3 what TMA cannot bring."""
    check_rung(rung, WEIGHT_ONLY_RUNGS)
    if rung >= 2 and 0 < len(x) <= FEW and codes.size:
        return _few_rows(device, x, codes, scale, bias)
    if rung >= 3:
        return _split(device, x, codes, scale, bias, _brought(rung, x, codes))
    return _linear(device, "weight_only", rung, x, codes, {"x": x, "scale": scale, "bias": bias})


def linear_int8(
    device: Any, x_codes: Array, x_scale: Array, codes: Array, scale: Array, bias: Array | None = None, *, rung: int
) -> Array:
    """y (m, n), float32. Rung 4 leaves to rung 3 what TMA cannot bring."""
    check_rung(rung, RUNGS)
    arguments = {"p": x_codes, "x_scale": x_scale, "scale": scale, "bias": bias}
    if rung >= 3:
        return _tensor_cores(device, codes, arguments, _brought(rung, x_codes, codes))
    if rung == 2:
        arguments["words"] = _in_words(x_codes)
    return _linear(device, "int8", rung, x_codes, codes, arguments)


def _brought(rung: int, x: Array, codes: Array) -> int:
    return 4 if rung == 4 and matmul.takes_wgmma(x) and matmul.takes_wgmma(codes) else 3


def _few_rows(device: Any, x: Array, codes: Array, scale: Array, bias: Array | None) -> Array:
    (m, k), n = x.shape, codes.shape[1]
    blocks = -(-n // 128)
    part_size = max(PART, -(-k // max(1, BUSY // blocks)))
    parts = -(-k // part_size)
    sums = device.empty((parts, m, n), "float32")
    words = _in_words(codes)
    arguments = {"x": x, "q": codes, "sums": sums, "k": k, "n": n, "part_size": part_size, "words": words}
    device.run(_file(FEW_ROWS), "weight_only", parts * blocks, 256, arguments, defines={"ROWS": m})
    y = device.empty((m, n), "float32")
    arguments = {"sums": sums, "scale": scale, "bias": bias, "y": y, "parts": parts, "count": y.size, "n": n}
    device.run(_file(FEW_ROWS), "finish", -(-y.size // THREADS), THREADS, arguments)
    return device.result(y, "y")


def _split(device: Any, x: Array, codes: Array, scale: Array, bias: Array | None, rung: int) -> Array:
    (m, k), n = x.shape, codes.shape[1]
    pitch_x, pitch = (-(-size // 8) * 8 for size in (k, n))  # rows of multiples of 16 bytes
    parts, wide = device.empty((3, m, pitch_x), "uint16"), device.empty((k, pitch), "uint16")
    eights = m * pitch_x // 8
    arguments: dict[str, Any] = {"x": x, "parts": parts, "count": eights, "k": k, "pitch": pitch_x}
    device.run(_file(SPLIT), "split", -(-eights // THREADS), THREADS, arguments)
    eights = wide.size // 8
    arguments = {"q": codes, "wide": wide, "count": eights, "n": n, "pitch": pitch, "words": _in_words(codes)}
    device.run(_file(SPLIT), "widen", -(-eights // THREADS), THREADS, arguments)
    y = device.empty((m, n), "float32")
    arguments = {"x": parts, "q": wide, "scale": scale, "bias": bias, "y": y, "m": m, "k": k, "n": n}
    if rung == 3:
        tile = matmul.mma_tile_for(m, n)
        arguments |= {"x_pitch": pitch_x, "q_pitch": pitch}
        blocks = -(-m // tile[0]) * -(-n // tile[1])
        source = _file(WEIGHT_ONLY_RUNGS[3])
        matmul.run_mma(device, source, "weight_only", blocks, tile, arguments, matmul.defines_of(tile))
    else:
        tile = SPLIT_TILE
        arguments |= {"x": TensorMap(parts, (1, tile[0], 64), 128), "q": TensorMap(wide, (64, 64), 128)}
        blocks = min(-(-m // tile[0]) * -(-n // tile[1]), matmul.MULTIPROCESSORS)
        source = _file(WEIGHT_ONLY_RUNGS[4])
        matmul.run_ring(device, source, "weight_only", blocks, tile[1], arguments, {}, stages=SPLIT_STAGES)
    return device.result(y, "y")


def _tensor_cores(device: Any, codes: Array, arguments: dict[str, Any], rung: int) -> Array:
    p, m, n = matmul.rows_of_16_bytes(arguments["p"]), len(arguments["p"]), codes.shape[1]
    k, y = p.shape[1], device.empty((m, n), "float32")
    q = _turned(device, codes, k)
    arguments |= {"p": p, "q": q, "y": y, "m": m, "k": k, "n": n}
    if rung == 3:
        tile = matmul.mma_tile_for(m, n)
        blocks = -(-m // tile[0]) * -(-n // tile[1])
        matmul.run_mma(device, _file(RUNGS[3]), "int8", blocks, tile, arguments, matmul.defines_of(tile))
    else:
        rows, columns = matmul.wgmma_tile_for(m, n)
        arguments |= {"p": TensorMap(p, (rows, 128), 128), "q": TensorMap(q, (columns, 128), 128)}
        blocks = min(-(-m // rows) * -(-n // columns), matmul.blocks_at_a_time(columns))
        matmul.run_ring(device, _file(RUNGS[4]), "int8", blocks, columns, arguments, {})
    return device.result(y, "y")


def _turned(device: Any, codes: Array, pitch: int) -> Array:
    """Codes (k, n) transposed to (n, pitch), with zeros behind each row."""
    k, n = codes.shape
    turned = device.empty((n, pitch), "int8")
    words = _in_words(codes)
    arguments = {"q": codes, "turned": turned, "k": k, "n": n, "pitch": pitch, "words": words}
    device.run(_file("turn.cu"), "turn", -(-pitch // SIDE) * -(-n // SIDE), 256, arguments)
    return turned


def _linear(device: Any, kernel: str, rung: int, x: Array, codes: Array, arguments: dict[str, Any]) -> Array:
    (m, k), n = x.shape, codes.shape[1]
    y = device.empty((m, n), "float32")
    arguments |= {"q": codes, "y": y, "k": k, "n": n}
    if rung == 1:
        device.run(_file(RUNGS[1]), kernel, -(-y.size // THREADS), THREADS, {**arguments, "count": y.size})
    else:
        blocks = -(-m // SIDE) * -(-n // SIDE)
        device.run(_file(RUNGS[2]), kernel, blocks, 256, {**arguments, "m": m})
    return device.result(y, "y")


def _elementwise(device: Any, way: str, form: str, axis: int, codes: Array, arguments: dict[str, Any]) -> None:
    m, n = codes.shape
    arguments |= {"codes": codes, "m": m, "n": n, "rows": axis == 0, "words": _in_words(codes)}
    kernel = f"{way}_int8" if form == "int8" else f"{way}_fp8"
    if form != "int8":
        arguments |= dict(zip(("mantissa", "bias", "most"), FP8[form]))
    device.run(_file("quantize.cu"), kernel, -(-m * -(-n // 4) // THREADS), THREADS, arguments)


def _in_words(codes: Array) -> bool:
    """Whether every four numbers of a row are one aligned word."""
    return codes.shape[1] % 4 == 0 and address(codes) % 4 == 0


def _file(name: str) -> Path:
    return file_in(HERE, name)
