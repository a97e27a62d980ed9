"""The peer's side of `minigen.bench`: the same networks in torch, layer for layer. Nothing else imports this file."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minigen.bench import GPT, UNET


def _trainer(torch: Any, parameters: Any, loss: Callable[[], Any]) -> Callable[[], float]:
    optimiser = torch.optim.AdamW(list(parameters), lr=1e-4, weight_decay=0.01)

    def step() -> float:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        optimiser.step()
        return float(value.detach())

    return step


def chain(torch: Any) -> Callable[[], Any]:
    """500 additions and 500 multiplications of ten numbers."""
    x = torch.ones(10, requires_grad=True)

    def run() -> None:
        y = x
        for _ in range(500):
            y = (y + 1.0) * 0.999
        x.grad = None
        y.sum().backward()

    return run


def mlp(torch: Any) -> Callable[[], float]:
    """784-512-512-10."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((128, 784)).astype(np.float32))
    c = torch.from_numpy(rng.integers(0, 10, 128))
    n = torch.nn
    net = n.Sequential(n.Linear(784, 512), n.ReLU(), n.Linear(512, 512), n.ReLU(), n.Linear(512, 10))
    return _trainer(torch, net.parameters(), lambda: n.functional.cross_entropy(net(x), c))


def gpt(torch: Any) -> Callable[[], float]:
    """The transformer of `minigen.nn`, norm first, tanh GELU."""
    n, f = torch.nn, torch.nn.functional
    c, heads = GPT["width"], GPT["heads"]

    class Block(n.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_1, self.norm_2 = n.LayerNorm(c), n.LayerNorm(c)
            self.qkv, self.out = n.Linear(c, 3 * c), n.Linear(c, c)
            self.linear_1, self.linear_2 = n.Linear(c, 4 * c), n.Linear(4 * c, c)

        def forward(self, x: Any) -> Any:
            b, t, _ = x.shape
            q, k, v = (a.view(b, t, heads, c // heads).transpose(1, 2) for a in self.qkv(self.norm_1(x)).split(c, 2))
            o = f.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(o.transpose(1, 2).reshape(b, t, c))
            return x + self.linear_2(f.gelu(self.linear_1(self.norm_2(x)), approximate="tanh"))

    tokens = torch.from_numpy(
        np.random.default_rng(0).integers(0, GPT["vocabulary"], (GPT["batch"], GPT["length"] + 1))
    )
    table, positions = n.Embedding(GPT["vocabulary"], c), n.Embedding(GPT["length"], c)
    body = n.Sequential(
        *[Block() for _ in range(GPT["layers"])], n.LayerNorm(c), n.Linear(c, GPT["vocabulary"], bias=False)
    )

    def loss() -> Any:
        logits = body(table(tokens[:, :-1]) + positions.weight)
        return f.cross_entropy(logits.reshape(-1, GPT["vocabulary"]), tokens[:, 1:].reshape(-1))

    return _trainer(torch, [*table.parameters(), *positions.parameters(), *body.parameters()], loss)


def unet(torch: Any) -> Callable[[], float]:
    """`minigen.nn.UNet`, block for block, in torch's usual layout."""
    n, f = torch.nn, torch.nn.functional
    base, heads, attention = UNET["base"], UNET["heads"], UNET["attention"]
    c_time = 4 * base

    class ResBlock(n.Module):
        def __init__(self, a: int, b: int) -> None:
            super().__init__()
            self.norm_1, self.conv_1 = n.GroupNorm(8, a), n.Conv2d(a, b, 3, padding=1)
            self.embed, self.norm_2 = n.Linear(c_time, b), n.GroupNorm(8, b)
            self.conv_2 = n.Conv2d(b, b, 3, padding=1)
            self.skip = n.Conv2d(a, b, 1) if a != b else n.Identity()

        def forward(self, x: Any, e: Any) -> Any:
            h = self.conv_1(f.silu(self.norm_1(x))) + self.embed(e)[:, :, None, None]
            return self.conv_2(f.silu(self.norm_2(h))) + self.skip(x)

    class Attention(n.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.norm, self.qkv, self.out = n.GroupNorm(8, c), n.Linear(c, 3 * c), n.Linear(c, c)

        def forward(self, x: Any, e: Any) -> Any:
            b, c, h, w = x.shape
            y = self.norm(x).flatten(2).transpose(1, 2)
            q, k, v = (a.view(b, h * w, heads, c // heads).transpose(1, 2) for a in self.qkv(y).split(c, 2))
            o = f.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
            return x + self.out(o).transpose(1, 2).view(b, c, h, w)

    class Resize(n.Module):
        def __init__(self, c: int, up: bool) -> None:
            super().__init__()
            self.conv, self.up = n.Conv2d(c, c, 3, stride=1 if up else 2, padding=1), up

        def forward(self, x: Any, e: Any) -> Any:
            return self.conv(f.interpolate(x, scale_factor=2) if self.up else x)

    widths = [base * m for m in UNET["multipliers"]]
    blocks, last = UNET["blocks"], len(widths) - 1

    def attend(level: int) -> list[Any]:
        return [Attention(widths[level])] if level in attention else []

    c, kept = base, [base]
    down, up = n.ModuleList(), n.ModuleList()
    for level, width in enumerate(widths):
        for _ in range(blocks):
            down.append(n.ModuleList([ResBlock(c, width), *attend(level)]))
            c = width
            kept.append(c)
        if level < last:
            down.append(n.ModuleList([Resize(c, up=False)]))
            kept.append(c)
    middle = n.ModuleList([ResBlock(c, c), Attention(c), ResBlock(c, c)])
    for level in reversed(range(len(widths))):
        for i in range(blocks + 1):
            rising = [Resize(widths[level], up=True)] if level > 0 and i == blocks else []
            up.append(n.ModuleList([ResBlock(c + kept.pop(), widths[level]), *attend(level), *rising]))
            c = widths[level]
    time = n.Sequential(n.Linear(base, c_time), n.SiLU(), n.Linear(c_time, c_time), n.SiLU())
    conv_in, norm_out, conv_out = n.Conv2d(3, base, 3, padding=1), n.GroupNorm(8, c), n.Conv2d(c, 3, 3, padding=1)
    rng = np.random.default_rng(0)
    x, eps = (
        torch.from_numpy(a.transpose(0, 3, 1, 2).copy())
        for a in rng.standard_normal((2, 32, 32, 32, 3)).astype(np.float32)
    )
    from minigen.nn import sinusoidal

    s = torch.from_numpy(sinusoidal(rng.integers(1, 1001, 32), base))

    def loss() -> Any:
        e = time(s)
        h = conv_in(x)
        left = [h]
        for part in down:
            for layer in part:
                h = layer(h, e)
            left.append(h)
        for layer in middle:
            h = layer(h, e)
        for part in up:
            h = torch.cat([h, left.pop()], 1)
            for layer in part:
                h = layer(h, e)
        return f.mse_loss(conv_out(f.silu(norm_out(h))), eps)

    modules = [down, middle, up, time, conv_in, norm_out, conv_out]
    return _trainer(torch, [p for m in modules for p in m.parameters()], loss)
