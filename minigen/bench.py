"""How fast are whole training steps, compared with the same networks in torch?

    python -m minigen.bench [step ...] [--peer torch|none] [--threads N] [--rounds N] [--json FILE] [--list]

    chain    1,000 tiny operations forward and backward: the engine's overhead
    mlp      784-512-512-10 perceptron, batch 128, cross-entropy, AdamW
    gpt      4 layers, width 128, 4 heads, 128 tokens, batch 32, AdamW
    unet     DDPM's U-Net: 32x32x3, batch 32, base 32, multipliers 1, 2, 2, attention at 16x16, AdamW
    cache    8 samples of 256 tokens from such a GPT with its key/value cache; peer: the same GPT without the cache
    shards   DALL-E 2's decoder, batch 64 in two shards with a process each; peer: the whole batch in one process
    import   seconds to ``import minigen``
    memory   peak resident size of four U-Net steps, each side in a process of its own

Both sides have the same layers, get the same inputs, and are timed alternately (see kernels/bench.py).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import autograd as ag
from kernels import command, memory, threads
from kernels.adam import adam_step
from kernels.bench import conditions, load_peer, time_paired
from minigen import nn
from minigen.samplers import autoregressive

GOALS = {"chain": 1.0, "mlp": 0.7, "gpt": 0.95, "unet": 1.3, "cache": 0.2, "shards": 0.7, "import": 0.35, "memory": 0.5}
UNET: dict[str, Any] = {"base": 32, "multipliers": (1, 2, 2), "blocks": 2, "attention": (1,), "heads": 4}
GPT = {"vocabulary": 512, "width": 128, "layers": 4, "heads": 4, "length": 128, "batch": 32}


class Gpt(nn.Module):
    """Token and position tables, causal transformer, linear head."""

    def __init__(self, *, rng: Any):
        c = GPT["width"]
        self.tokens = nn.Embedding(GPT["vocabulary"], c, std=0.02, rng=rng)
        self.positions = nn.Embedding(GPT["length"], c, std=0.02, rng=rng)
        self.transformer = nn.Transformer(c, GPT["layers"], GPT["heads"], rng=rng)
        self.head = nn.Linear(c, GPT["vocabulary"], bias=False, rng=rng)

    def forward(self, tokens: Any) -> Any:
        """(n, t) -> (n, t, vocabulary)."""
        x = self.tokens(tokens) + self.positions(np.arange(tokens.shape[1]))
        return self.head(self.transformer(x, causal=True))


def trainer(module: Any, loss: Callable[[], Any]) -> Callable[[], float]:
    """One optimiser step on a fixed batch."""
    module.flatten()
    m, v, count = np.zeros_like(module.flat), np.zeros_like(module.flat), [0]

    def step() -> float:
        count[0] += 1
        module.zero_grad()
        value = loss()
        value.backward()
        adam_step(module.flat, module.flat_grad, m, v, step=count[0], lr=1e-4, weight_decay=0.01)
        return float(value)

    return step


def chain() -> Callable[[], Any]:
    """Our chain of tiny operations."""
    x = ag.Tensor(np.ones(10, np.float32), requires_grad=True)

    def run() -> None:
        y = x
        for _ in range(500):
            y = (y + 1.0) * 0.999
        x.grad = None
        ag.sum(y).backward()

    return run


def mlp() -> Callable[[], float]:
    """Our perceptron."""
    rng = np.random.default_rng(0)
    x, c = rng.standard_normal((128, 784)).astype(np.float32), rng.integers(0, 10, 128)
    net = nn.MLP(784, 512, 512, 10, activation=ag.relu, rng=rng)
    return trainer(net, lambda: ag.mean(ag.cross_entropy(net(x), c)))


def gpt() -> Callable[[], float]:
    """Our language model."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, GPT["vocabulary"], (GPT["batch"], GPT["length"] + 1))
    net = Gpt(rng=rng)

    def loss() -> Any:
        logits = ag.reshape(net(tokens[:, :-1]), (-1, GPT["vocabulary"]))
        return ag.mean(ag.cross_entropy(logits, tokens[:, 1:].reshape(-1)))

    return trainer(net, loss)


def unet() -> Callable[[], float]:
    """Our U-Net on noise, with DDPM's squared error."""
    rng = np.random.default_rng(0)
    x, eps = rng.standard_normal((2, 32, 32, 32, 3)).astype(np.float32)
    t = rng.integers(1, 1001, 32)
    net = nn.UNet(3, 3, **UNET, rng=rng)

    def loss() -> Any:
        d = net(x, t) - eps
        return ag.mean(d * d)

    return trainer(net, loss)


def cache() -> list[Callable[[], Any]]:
    """Sampling with the cache and without it: the same tokens."""
    from minigen.models.gpt import GPT as Model
    from minigen.models.gpt import Names

    rng = np.random.default_rng(0)
    ends = Names(GPT["vocabulary"], GPT["width"], rng=rng)
    net = Model(ends, 256, GPT["width"], GPT["layers"], GPT["heads"], rng=rng)
    u = autoregressive.uniforms(8, 256, rng=rng)
    return [lambda: autoregressive.sample_cached(net.step, u), lambda: autoregressive.sample(net.logits, u)]


def shards() -> list[Callable[[], Any]]:
    """Training steps of DALL-E 2's decoder with two shards and with one."""
    from minigen.data import load
    from minigen.models import dalle2
    from minigen.train.loop import Trainer

    data = load("shapes")

    def step(n: int) -> Callable[[], Any]:
        system = dalle2.build(dalle2.Config(), data, seed=0)
        stage = replace(next(s for s in system.stages() if s.name == "decoder"), shards=n)
        run = Trainer(replace(system, stages=lambda: [stage]), seed=0)

        def advance() -> Any:
            with threads.blas_at_one_thread():  # as in the command line
                return run.advance(data.train)

        return advance

    return [step(2), step(1)]


STEPS = {"chain": chain, "mlp": mlp, "gpt": gpt, "unet": unet}
BESIDE_OURS = {"cache": cache, "shards": shards}  # both sides are ours


def import_seconds() -> float:
    """Median seconds that ``import minigen`` adds to a bare interpreter."""

    def seconds(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    pairs = [(seconds("import minigen"), seconds("pass")) for _ in range(5)]
    return statistics.median(a for a, _ in pairs) - statistics.median(b for _, b in pairs)


def peak_of(side: str, n_threads: int) -> float:
    """MiB at the peak of four U-Net steps in a process of its own."""
    code = f"from minigen.bench import run_and_report; run_and_report({side!r}, {n_threads})"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(run.stdout.split()[-1])


def run_and_report(side: str, n_threads: int) -> None:
    """Four U-Net steps of one side (``"ours"`` or a peer's name), then print the peak resident size in MiB."""
    threads.set_threads(n_threads)
    memory.keep_freed_memory()
    step = unet() if side == "ours" else _peer_step("unet", load_peer(side))
    for _ in range(4):
        step()
    print(peak_mib())


def peak_mib() -> float:
    """The peak resident size of this process. (Linux's ``ru_maxrss`` would count its parent's as well.)"""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) / 2**10
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _peer_step(name: str, peer: Any) -> Callable[[], Any]:
    from minigen import bench_torch

    return getattr(bench_torch, name)(peer)


def measure(name: str, peer: Any, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    if name == "import":
        return {"step": name, "value": import_seconds(), "unit": "s", "peer": None, "ratio": None, "goal": GOALS[name]}
    if name == "memory":
        ours = peak_of("ours", threads.get_threads())
        theirs = peak_of(peer.__name__, threads.get_threads()) if peer else None
        ratio = ours / theirs if theirs else None
        return {"step": name, "value": ours, "unit": "MiB", "peer": theirs, "ratio": ratio, "goal": GOALS[name]}
    own = BESIDE_OURS.get(name)
    runs = own() if own else [STEPS[name](), *([_peer_step(name, peer)] if peer else [])]
    seconds = [1e3 * s for s in time_paired(runs, min(rounds, 3) if name == "cache" else rounds)]
    theirs = seconds[1] if len(runs) > 1 else None
    ratio = seconds[0] / theirs if theirs else None
    return {"step": name, "value": seconds[0], "unit": "ms", "peer": theirs, "ratio": ratio, "goal": GOALS[name]}


def main(arguments: list[str] | None = None) -> int:
    """Entry point of ``python -m minigen.bench``."""
    known = [*STEPS, *BESIDE_OURS, "import", "memory"]
    parser = argparse.ArgumentParser(
        prog="python -m minigen.bench", description="Time whole training steps and a peer."
    )
    parser.add_argument("steps", nargs="*", metavar="step", help=f"which steps (default all): {', '.join(known)}")
    parser.add_argument("--peer", default="torch", choices=["torch", "none"], help="what to compare with")
    parser.add_argument("--threads", type=int, help="threads for both sides (default: all cores)")
    parser.add_argument("--rounds", type=int, default=7, help="figures are medians over this many (default 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows and the conditions to this file")
    parser.add_argument("--list", action="store_true", help="only list the steps")
    options = parser.parse_args(arguments)
    unknown = [s for s in options.steps if s not in known]
    if unknown:
        parser.error(f"unknown step {unknown[0]!r}: use {', '.join(known)}")
    if options.rounds < 1 or (options.threads is not None and options.threads < 1):
        parser.error("--rounds and --threads must be at least 1")
    if options.json and (why := command.unwritable(options.json)):
        parser.error(f"--json: {why}")
    if options.list:
        about = {line.split()[0]: line.strip() for line in (__doc__ or "").splitlines() if line.startswith("    ")}
        print(*(about[name] for name in options.steps or known), sep="\n")
        return 0
    if options.threads:
        threads.set_threads(options.threads)
    memory.keep_freed_memory()  # for both sides
    peer = load_peer(options.peer)
    state = conditions()
    print(state)
    rows = []
    for name in options.steps or known:
        row = measure(name, peer, options.rounds)
        rows.append(row)
        beside = f"   peer {row['peer']:9.2f}   ratio {row['ratio']:.2f}" if row["peer"] else ""
        print(f"{name:8} {row['value']:9.2f} {row['unit']:3}{beside}   goal {row['goal']}", flush=True)
    if options.json:
        peer_name = f"{peer.__name__} {peer.__version__}" if peer else None
        options.json.write_text(json.dumps({**state, "peer": peer_name, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main, "minigen.bench"))
