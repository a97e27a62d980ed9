"""``python -m kernels.emulate attention --rung 2 --shape 2,4,77,64``: run a kernel's CUDA source on the CPU and check it.

Each rung runs under several schedules; its values are compared with the definition's in float64 and everything that
would be wrong on a GPU is reported with file and line (``kernels.emulator``), once per line and kind, and a race once
per pair of lines. So are results whose bits differ from those under the first schedule. After a schedule in which a
kernel does not end, no further one is run. ``--planted`` runs kernels with one planted mistake each, ``--banks`` counts
bank conflicts and sectors of global memory. With ``--device cuda`` the same problems run on a GPU, where only their
values are checked: for the rest there is NVIDIA's compute-sanitizer. Exit status: 0 without findings (with
``--planted``: exactly the planted ones), 1 with findings, or if a rung does not compile, lacks its kernel, or is given
wrong arguments or a launch that no GPU can make (a rung may refuse sizes, by ``checks.WrongSize``), 2 if the request
makes no sense or no rung could be run.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from . import attention, bfloat16, command, conv2d, launch, quantize
from .attention import cuda as attention_cuda
from .checks import WrongSize
from .companions import COMPANIONS, normals
from .compare import bound
from .conv2d import cuda as conv2d_cuda
from .emulator import BadArguments, DoesNotCompile, Emulator, Finding, NoCompiler, planted
from .gradients import GRADIENTS
from .launch import CompileError, NoCuda
from .quantize import cuda as quantize_cuda

Run = Callable[[Emulator, int], None]
OTHER_BITS = "not the bits of the first schedule: what is added up has no order, as by atomics of floats"
MISTAKES = (ValueError, DoesNotCompile, CompileError, BadArguments)  # in a rung, but for a WrongSize


def _quantize(m: int, codes: int, d: int) -> Run:
    z, codebook = normals((m, d), (codes, d))
    want = quantize.reference.nearest_code(z, codebook)

    def run(device: Emulator, rung: int) -> None:
        device.expect(quantize_cuda.nearest_code(device, z, codebook, rung=rung), want, 0, "indices")

    return run


def _attention(n: int, heads: int, t: int, d: int, precision: str = "bf16") -> Run:
    forward = partial(attention_cuda.attention_forward, causal=False, precision=precision)
    return _attend(forward, n, heads, t, t, d, precision == "float32")


def _attention_short(n: int, heads: int, t_q: int, t_k: int, d: int) -> Run:
    return _attend(attention_cuda.short_forward, n, heads, t_q, t_k, d)


def _attend(forward: Callable[..., Any], n: int, heads: int, t_q: int, t_k: int, d: int, exactly: bool = False) -> Run:
    q, k, v = normals(*((n, heads, t, d) for t in (t_q, t_k, t_k)))
    settings: dict[str, Any] = {"causal": False, "key_mask": None, "scale": d**-0.5}
    want = attention.reference.forward(*(x.astype(np.float64) for x in (q, k, v)), **settings)
    near = [bfloat16.rounded(x).astype(np.float64) for x in (q, k, v)]  # what rung 3 multiplies
    want_near = attention.reference.forward(*near, **settings)
    size = d**-0.5 * float((np.abs(q) @ np.abs(k).swapaxes(2, 3)).max(initial=0))
    allowed = (bound(d + 1, 4 * size + 4, np.float32) + bound(2 * t_k, 4, np.float32)) * np.abs(v).max(initial=0)

    def run(device: Emulator, rung: int) -> None:
        o, _ = forward(device, q, k, v, key_mask=None, scale=d**-0.5, rung=rung, keep=False)
        if rung < 3 or exactly:
            device.expect(o, want, allowed, "o")
        else:
            largest = bfloat16.UNIT_ROUNDOFF * np.abs(near[2]).max(initial=0)  # of the weights' rounding
            device.expect(o, want_near, 2 * allowed + largest, "o")

    return run


def _conv2d(n: int, size: int, c_in: int, c_out: int, precision: str = "bf16") -> Run:
    x, w = normals((n, size, size, c_in), (3, 3, c_in, c_out))
    settings: dict[str, Any] = {"stride": (1, 1), "padding": (1, 1)}
    x64, w64 = x.astype(np.float64), w.astype(np.float64)
    want = conv2d.reference.conv2d(x64, w64, None, **settings)
    magnitude = conv2d.reference.conv2d(np.abs(x64), np.abs(w64), None, **settings)
    allowed = bound(9 * c_in, magnitude, np.float32)

    near_x, near_w = (bfloat16.rounded(a).astype(np.float64) for a in (x, w))  # what rung 3 multiplies
    near = conv2d.reference.conv2d(near_x, near_w, None, **settings)

    def run(device: Emulator, rung: int) -> None:
        y = conv2d_cuda.conv2d(device, x, w, None, **settings, rung=rung, precision=precision)
        exact = rung < 3 or precision == "float32"
        device.expect(y, *((want, allowed) if exact else (near, 2.1 * allowed)), "y")

    return run


# operation -> (what makes its problem, the names of its sizes, sizes that take a second, its rungs)
OPERATIONS: dict[str, tuple[Callable[..., Run], str, tuple[int, ...], dict[int, str]]] = {
    "attention": (_attention, "n,heads,t,d", (1, 2, 77, 16), attention_cuda.RUNGS),
    "attention-float32": (
        partial(_attention, precision="float32"),
        "n,heads,t,d",
        (1, 2, 77, 16),
        attention_cuda.FLOAT32_RUNGS,
    ),
    "attention-short": (_attention_short, "n,heads,t_q,t_k,d", (1, 2, 200, 77, 16), attention_cuda.SHORT),
    "conv2d": (_conv2d, "n,size,c_in,c_out", (1, 12, 8, 20), conv2d_cuda.RUNGS),
    "conv2d-float32": (
        partial(_conv2d, precision="float32"),
        "n,size,c_in,c_out",
        (1, 12, 7, 20),
        conv2d_cuda.FLOAT32_RUNGS,
    ),
    "quantize": (_quantize, "m,codes,d", (200, 50, 20), quantize_cuda.RUNGS),
    **COMPANIONS,
    **GRADIENTS,
}


def _ladder(
    op: str, rungs: Sequence[int], shape: Sequence[int], seeds: int, emulator: Mapping[str, Any], on_gpu: Any = None
) -> tuple[int, int]:
    """How many of the rungs could be run, and how many have something wrong with them; ``emulator`` are its settings."""
    make, names, _, files = OPERATIONS[op]
    done, wrong = 0, 0
    print(f"{op} --shape {','.join(map(str, shape))} ({names})")
    try:
        run = make(*shape)
    except ValueError as error:
        print(f"{op}: not run: {error}")
        return done, wrong
    for rung in rungs:
        start, accesses, ran = time.process_time(), 0, [files[rung]]
        here: dict[tuple[str, str], list[tuple[int, Finding]]] = {}  # kind and line -> (seed, what was found)
        first: list[tuple[str, bytes]] = []  # the results of the first schedule
        try:
            for seed in range(seeds):
                device = on_gpu() if on_gpu else Emulator(seed, **emulator)
                results = [] if on_gpu else _noted(device)
                run(device, rung)
                first = first or results
                if not device.findings:  # which say why
                    device.findings.extend(
                        Finding("other bits", now[0], "", OTHER_BITS)
                        for now, before in zip(results, first)
                        if now != before
                    )
                accesses += device.accesses
                ran = device.ran or ran
                for f in device.findings:
                    f = _first_told(f, (g for found in here.values() for _, g in found))
                    here.setdefault((f.kind, f.where), []).append((seed, f))
                if any(f.kind == "endless" for f in device.findings):
                    break  # the others would take as long
        except (NoCuda, *MISTAKES) as error:
            print(f"{op} {files[rung]}: not run: {error}", flush=True)
            wrong += not isinstance(error, WrongSize | NoCuda)  # not every rung takes every size, nor every card
            continue
        done += 1
        seconds = time.process_time() - start
        verdict = f"{len(here)} finding{'s' * (len(here) > 1)}" if here else "right, nothing found"
        other = "" if files[rung] in ran else f"; these sizes were left to {', '.join(dict.fromkeys(ran))}"
        runs = f"{seed + 1} of {seeds}" if seed + 1 < seeds else f"{seeds}"
        how = f"{runs} runs on a GPU" if on_gpu else f"{runs} schedules, {accesses} accesses"
        print(f"{op} {files[rung]}: {verdict} ({how}, {seconds:.2f} s){other}", flush=True)
        for found in here.values():
            print(f"  {found[0][1]}{_again(found, seed + 1)}")
        if emulator.get("banks"):
            _print_memory(device)
        wrong += bool(here)
    return done, wrong


def _noted(device: Any) -> list[tuple[str, bytes]]:
    """The names and bits of the results for which the device is told what to expect, collected as it is told."""
    results: list[tuple[str, bytes]] = []
    expect = device.expect

    def noting(array: np.ndarray, want: Any, allowed: Any = 0.0, name: str = "the result") -> None:
        results.append((name, array.tobytes()))
        expect(array, want, allowed, name)

    device.expect = noting
    return results


def _first_told(f: Finding, earlier: Iterable[Finding]) -> Finding:
    """A finding, or for a race an earlier finding of the same two lines in the other order."""
    if f.kind != "race":
        return f
    return next((g for g in earlier if (g.kind, g.where, g.other_where) == (f.kind, f.other_where, f.where)), f)


def _again(found: Sequence[tuple[int, Finding]], schedules: int) -> str:
    """What the findings of one line and kind, with their seeds, say beyond the first of them."""
    lines = dict.fromkeys(f.other_where for _, f in found)
    others = [line for line in lines if line not in ("", found[0][1].other_where)]
    said = [f"also with {', '.join(others)}"] if others else []
    said += [f"in {len({seed for seed, _ in found})} of {schedules} schedules"] if schedules > 1 else []
    return f" ({', '.join(said)})" if said else ""


def _print_memory(device: Emulator) -> None:
    """What each line took of memory in the last schedule, the worst first."""
    if not device.bank_uses:
        print("  no shared memory was used")
    for uses, unit, least in (
        (device.bank_uses, "passes through shared memory", "without bank conflicts"),
        (device.sector_uses, "sectors of global memory", "side by side"),
    ):
        for line, use in sorted(uses.items(), key=lambda item: (item[1].least - item[1].taken, item[0])):
            at_once = f", at worst {use.worst} for one" if use.taken > use.least else ""
            print(f"  {line}: {use.taken} {unit}, {least} {use.least}{at_once}")


def _planted() -> int:
    """Whether what is planted is found, and nothing else: 0 if so, else 1."""
    bugs, clean, found, false = 0, 0, 0, 0
    for name in planted.LAUNCHES:
        file = planted.file_of(name)
        for kernel, marks in planted.marks(file).items():
            device = Emulator(0, most_accesses=100_000)
            planted.judge(device, file, kernel)
            here = {(f.where, f.kind) for f in device.findings}
            print(f"{kernel} ({name})" + ("" if here else ": nothing found"))
            for i, finding in enumerate(device.findings):
                if _first_told(finding, device.findings[:i]) is finding:
                    print(f"  {finding}")
            bugs, clean = bugs + bool(marks), clean + (not marks)
            found, false = found + bool(here & marks), false + bool(here - marks)
    print(
        f"found: {found} of {bugs} planted bugs, each at its line, and false findings in {false} kernels ("
        f"{clean} are clean on purpose)"
    )
    return int(found < bugs or false > 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m kernels.emulate", description=(__doc__ or "").partition("\n")[0].replace("``", "")
    )
    known_ops = ["all", *sorted(OPERATIONS)]
    parser.add_argument("op", nargs="?", metavar="op", choices=known_ops, help=f"one of {', '.join(known_ops)}")
    parser.add_argument("--rung", default="all", help="the rung's number, or all (default)")
    shapes = ", ".join(f"{op}: {names}" for op, (_, names, _, _) in OPERATIONS.items())
    parser.add_argument("--shape", help=f"comma-separated sizes ({shapes})")
    parser.add_argument("--seeds", type=int, default=3, help="number of schedules (default 3)")
    parser.add_argument(
        "--banks", action="store_true", help="count, for each line, bank conflicts and sectors of global memory"
    )
    parser.add_argument(
        "--device", choices=["emulator", "cuda"], default="emulator", help="cuda: run on a GPU, check only values"
    )
    parser.add_argument(
        "--architecture",
        default="90a",
        metavar="SM",
        help=f"the card that is emulated, one of {', '.join(launch.ARCHITECTURES)} (default 90a): its tensor cores' sums",
    )
    parser.add_argument("--planted", action="store_true", help="run kernels with one planted mistake each")
    given = parser.parse_args(arguments)
    try:
        if given.planted:
            if given != parser.parse_args(["--planted"]):
                parser.error("--planted has kernels of its own: it takes no operation and no other flag")
            return _planted()
        if given.op is None:
            parser.error("name an operation, or give --planted")
        ops = sorted(OPERATIONS) if given.op == "all" else [given.op]
        known = sorted({rung for op in ops for rung in OPERATIONS[op][3]})
        if given.rung != "all" and given.rung not in map(str, known):
            parser.error(f"--rung must be all or one of {', '.join(map(str, known))}, got {given.rung!r}")
        if given.seeds < 1:
            parser.error(f"--seeds must be at least 1, got {given.seeds}")
        if given.shape is not None and given.op == "all":
            parser.error("--shape is for one operation")
        if given.architecture not in launch.ARCHITECTURES:
            parser.error(f"--architecture must be one of {', '.join(launch.ARCHITECTURES)}, got {given.architecture!r}")
        emulator = {"banks": given.banks, "architecture": given.architecture}
        if given.device == "cuda" and emulator != {"banks": False, "architecture": "90a"}:
            parser.error("--banks and --architecture are the emulator's: a GPU has neither")
        on_gpu = _gpu() if given.device == "cuda" else None
        done, wrong = 0, 0
        for op in ops:
            _, names, shape, files = OPERATIONS[op]
            if given.shape is not None:
                parts = given.shape.split(",")
                if len(parts) != len(shape) or not all(
                    re.fullmatch(r"\d{1,999}", p.strip()) and int(p) > 0 for p in parts
                ):
                    parser.error(f"--shape must be {len(shape)} sizes of at least 1 ({names}), got {given.shape!r}")
                shape = tuple(map(int, parts))
            rungs = [r for r in files if given.rung in ("all", str(r))]
            of_op = _ladder(op, rungs, shape, given.seeds, emulator, on_gpu)
            done, wrong = done + of_op[0], wrong + of_op[1]
        if not done:
            print("error: nothing was run", file=sys.stderr)
            return 2
        return 1 if wrong else 0
    except (NoCompiler, NoCuda) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _gpu() -> Callable[[], Any]:
    """A function that makes a device on the GPU, without a memory pool, so that a tool sees each array by itself."""
    from .gpu_bench.through_host import ThroughHost

    gpu = launch.Device()
    launch.nvrtc()
    gpu.xp.cuda.set_allocator(None)
    return lambda: ThroughHost(gpu, gpu.xp)


if __name__ == "__main__":
    sys.exit(command.run(main, "kernels.emulate"))
