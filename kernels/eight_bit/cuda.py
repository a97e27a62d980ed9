"""Eight-bit numbers in CUDA: which file, which grid. ``device`` is a GPU or the emulator.

The functions have the contracts of ``eight_bit``'s, for contiguous arrays on the device. Of the products on eight-bit
tensor cores the codes may also be a transposed view of a contiguous array.
"""

from pathlib import Path
from typing import Any

from ..backend import Array, address
from ..checks import check_rung
from ..device import contiguous, in_order
from ..matmul import cuda as matmul
from ..precision import in_force
from ..source import file_in
from ..tensor_map import TensorMap
from .formats import LARGEST

INT8_RUNGS = {1: "1_naive.cu", 2: "2_tiled.cu", 3: "3_mma.cu", 4: "4_wgmma.cu"}
WEIGHT_ONLY_RUNGS = {**INT8_RUNGS, 3: "3_split.cu", 4: "4_split.cu"}
FP8_RUNGS = {**WEIGHT_ONLY_RUNGS, 5: "5_fp8.cu"}  # the last is less exact than float32
RUNGS = {**INT8_RUNGS, 5: FP8_RUNGS[5]}  # all numbers, for those who try one after the other
WIDEN = "widen.cu"  # prepares weights for 3_split.cu and 4_split.cu
SPLIT_TILE = (128, 128)  # of 4_split.cu and 5_fp8.cu
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


def fp8_rung(device: Any) -> int:
    """The rung of fp8 by fp8: the last as exact as float32, or with ``precision("bf16")`` the last there is."""
    last = best_rung(device, weight_only=False)
    return 5 if last == 4 and in_force() == "bf16" else last


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
    check_rung(rung, INT8_RUNGS)
    arguments = {"p": x_codes, "x_scale": x_scale, "scale": scale, "bias": bias}
    if rung >= 3:
        return _tensor_cores(device, codes, arguments, _brought(rung, x_codes, codes))
    codes = contiguous(codes)
    if rung == 2:
        arguments["words"] = _in_words(x_codes)
    return _linear(device, "int8", rung, x_codes, codes, arguments)


def linear_fp8(
    device: Any,
    x_codes: Array,
    x_scale: Array,
    codes: Array,
    scale: Array,
    bias: Array | None = None,
    *,
    x_form: str = "e4m3",
    form: str = "e4m3",
    rung: int,
) -> Array:
    """y (m, n), float32. Rungs 4 and 5 leave to rung 3 what TMA cannot bring."""
    check_rung(rung, FP8_RUNGS)
    arguments = {"x_scale": x_scale, "scale": scale, "bias": bias}
    forms = {"X_FORM": x_form, "W_FORM": form}
    if rung >= 3:
        rung = _brought(rung, x_codes, codes)
    if rung == 5:
        return _tensor_cores(device, codes, {"p": x_codes, **arguments}, 5, forms)
    codes = contiguous(codes)
    if rung >= 3:
        x, q = _widened(device, x_codes, x_form), _widened(device, codes, form)
        return _bf16(device, "fp8", rung, x, q, arguments, (len(x_codes), *codes.shape))
    return _linear(device, "fp8", rung, x_codes, codes, {"p": x_codes, **arguments}, forms)


def _brought(rung: int, x: Array, codes: Array) -> int:
    return rung if rung >= 4 and matmul.takes_wgmma(x) and matmul.takes_wgmma(codes) else 3


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
    parts, arguments = matmul.in_parts(device, x), {"scale": scale, "bias": bias}
    return _bf16(device, "weight_only", rung, parts, _widened(device, codes), arguments, (len(x), *codes.shape))


def _widened(device: Any, codes: Array, form: str = "int8") -> Array:
    """The bits of codes (rows, n) as bfloat16, (rows, a multiple of 8) with zeros behind."""
    rows, n = codes.shape
    wide = device.empty((rows, -(-n // 8) * 8), "uint16")
    eights = wide.size // 8
    arguments = {"wide": wide, "count": eights, "n": n, "pitch": wide.shape[1], "words": _in_words(codes)}
    if form == "int8":
        kernel, arguments = "widen", {"q": codes, **arguments}
    else:
        kernel, arguments = "widen_fp8", {"codes": codes, **arguments, "mantissa": FP8[form][0]}
    device.run(_file(WIDEN), kernel, -(-eights // THREADS), THREADS, arguments)
    return wide


def _bf16(
    device: Any, kernel: str, rung: int, x: Array, q: Array, arguments: dict[str, Any], shape: tuple[int, int, int]
) -> Array:
    """The product of x (m, k), or of its parts (3, m, k), and q (k, n), both bits of bfloat16."""
    m, k, n = shape
    y = device.empty((m, n), "float32")
    source = _file(WEIGHT_ONLY_RUNGS[rung])
    arguments = {"x": x, "q": q, **arguments, "y": y, "m": m, "k": k, "n": n}
    if rung == 3:
        tile = matmul.mma_tile_for(m, n)
        arguments |= {"x_pitch": x.shape[-1], "q_pitch": q.shape[1]}
        blocks = -(-m // tile[0]) * -(-n // tile[1])
        matmul.run_mma(device, source, kernel, blocks, tile, arguments, matmul.defines_of(tile))
    else:
        tile = SPLIT_TILE
        parts = x.reshape(-1, *x.shape[-2:])
        arguments |= {"x": TensorMap(parts, (1, tile[0], 64), 128), "q": TensorMap(q, (64, 64), 128)}
        blocks = min(-(-m // tile[0]) * -(-n // tile[1]), matmul.MULTIPROCESSORS)
        matmul.run_ring(device, source, kernel, blocks, tile[1], arguments, {}, stages=matmul.SPLIT_STAGES)
    return device.result(y, "y")


def _tensor_cores(
    device: Any, codes: Array, arguments: dict[str, Any], rung: int, forms: dict[str, str] | None = None
) -> Array:
    """int8 by int8, or with ``forms`` fp8 by fp8."""
    p, m, n = matmul.rows_of_16_bytes(arguments["p"]), len(arguments["p"]), codes.shape[1]
    k, y = p.shape[1], device.empty((m, n), "float32")
    q = turned(device, codes, k)
    arguments |= {"p": p, "q": q, "y": y, "m": m, "k": k, "n": n}
    if rung == 3:
        tile = matmul.mma_tile_for(m, n)
        blocks = -(-m // tile[0]) * -(-n // tile[1])
        matmul.run_mma(device, _file(INT8_RUNGS[3]), "int8", blocks, tile, arguments, matmul.defines_of(tile))
        return device.result(y, "y")
    rows, columns = SPLIT_TILE if forms else matmul.wgmma_tile_for(m, n)
    arguments |= {"p": TensorMap(p, (rows, 128), 128), "q": TensorMap(q, (columns, 128), 128)}
    tiles = -(-m // rows) * -(-n // columns)
    if forms:
        blocks = min(tiles, matmul.MULTIPROCESSORS)
        matmul.run_ring(
            device, _file(FP8_RUNGS[5]), "fp8", blocks, columns, arguments, forms, stages=matmul.SPLIT_STAGES
        )
    else:
        blocks = min(tiles, matmul.blocks_at_a_time(columns))
        matmul.run_ring(device, _file(INT8_RUNGS[4]), "int8", blocks, columns, arguments, {})
    return device.result(y, "y")


def turned(device: Any, codes: Array, pitch: int) -> Array:
    """Codes (k, n) transposed to (n, pitch), with zeros behind each row; no copy is made if they lie like that already."""
    k, n = codes.shape
    if not in_order(codes):
        return matmul.rows_of_16_bytes(codes.T)
    result = device.empty((n, pitch), str(codes.dtype))
    words = _in_words(codes)
    arguments = {"q": codes.view("int8"), "turned": result.view("int8"), "k": k, "n": n, "pitch": pitch, "words": words}
    device.run(_file("turn.cu"), "turn", -(-pitch // SIDE) * -(-n // SIDE), 256, arguments)
    return result


def _linear(
    device: Any,
    kernel: str,
    rung: int,
    x: Array,
    codes: Array,
    arguments: dict[str, Any],
    defines: dict[str, str] | None = None,
) -> Array:
    (m, k), n = x.shape, codes.shape[1]
    y = device.empty((m, n), "float32")
    arguments |= {"q": codes, "y": y, "k": k, "n": n}
    if rung == 1:
        arguments |= {"count": y.size}
        device.run(_file(INT8_RUNGS[1]), kernel, -(-y.size // THREADS), THREADS, arguments, defines=defines)
    else:
        blocks = -(-m // SIDE) * -(-n // SIDE)
        device.run(_file(INT8_RUNGS[2]), kernel, blocks, 256, {**arguments, "m": m}, defines=defines)
    return device.result(y, "y")


def _elementwise(device: Any, way: str, form: str, axis: int, codes: Array, arguments: dict[str, Any]) -> None:
    m, n = codes.shape
    arguments |= {"codes": codes, "m": m, "n": n, "rows": axis == 0, "words": _in_words(codes)}
    kernel = f"{way}_int8" if form == "int8" else f"{way}_fp8"
    if form != "int8":
        arguments |= dict(zip(("mantissa", "bias", "most") if way == "to" else ("mantissa",), FP8[form]))
    device.run(_file("quantize.cu"), kernel, -(-m * -(-n // 4) // THREADS), THREADS, arguments)


def _in_words(codes: Array) -> bool:
    """Whether every four numbers of a row are one aligned word."""
    return codes.shape[1] % 4 == 0 and address(codes) % 4 == 0


def _file(name: str) -> Path:
    return file_in(HERE, name)
