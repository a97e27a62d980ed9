r"""Attention as it is defined, one query at a time: the keys that a query may not attend to are never touched."""

from collections.abc import Iterator

from ..backend import Array, array_module


def _queries(t_q: int, k: Array, causal: bool, key_mask: Array | None) -> Iterator[tuple[int, int, Array]]:
    """(sample, query, the indices of the keys it may attend to), for every query that has such a key."""
    xp = array_module(k)
    n, _, t_k, _ = k.shape
    for sample in range(n):
        for i in range(t_q):
            allowed = xp.arange(t_k)
            if causal:
                allowed = allowed[allowed <= i + t_k - t_q]
            if key_mask is not None:
                allowed = allowed[key_mask[sample][allowed]]
            if allowed.size:
                yield sample, i, allowed


def _softmax(s: Array) -> Array:
    xp = array_module(s)
    e = xp.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def forward(q: Array, k: Array, v: Array, *, causal: bool, key_mask: Array | None, scale: float) -> Array:
    r"""$o_i = \sum_j p_{ij} v_j$, $p_{ij} = \mathrm{softmax}_j(\mathrm{scale}\; q_i \cdot k_j)$ over the allowed keys $j$.

    q (n, heads, t_q, d), k (n, heads, t_k, d), v (n, heads, t_k, d_v) -> (n, heads, t_q, d_v); 0 where no key is
    allowed.
    """
    o = array_module(q, k, v).zeros((*q.shape[:3], v.shape[3]), q.dtype)
    for n, i, keys in _queries(q.shape[2], k, causal, key_mask):
        p = _softmax(scale * (k[n][:, keys] @ q[n, :, i, :, None])[..., 0])  # (heads, keys)
        o[n, :, i] = (p[:, None] @ v[n][:, keys])[:, 0]
    return o


def backward(
    g: Array, q: Array, k: Array, v: Array, *, causal: bool, key_mask: Array | None, scale: float
) -> tuple[Array, Array, Array]:
    r"""$(dq, dk, dv)$ for $g = \partial L / \partial o$; every sum over $i$ is over the queries that may see key $j$.

    $dv_j = \sum_i p_{ij} g_i$, $ds_{ij} = p_{ij} (g_i \cdot v_j - \sum_l p_{il}\, g_i \cdot v_l)$,
    $dq_i = \mathrm{scale} \sum_j ds_{ij} k_j$, $dk_j = \mathrm{scale} \sum_i ds_{ij} q_i$.
    """
    xp = array_module(g, q, k, v)
    dq, dk, dv = xp.zeros(q.shape, q.dtype), xp.zeros(k.shape, k.dtype), xp.zeros(v.shape, v.dtype)
    for n, i, keys in _queries(q.shape[2], k, causal, key_mask):
        p = _softmax(scale * (k[n][:, keys] @ q[n, :, i, :, None])[..., 0])  # (heads, keys)
        dp = (v[n][:, keys] @ g[n, :, i, :, None])[..., 0]
        ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True))
        dq[n, :, i] = scale * (ds[:, None] @ k[n][:, keys])[:, 0]
        dk[n][:, keys] += scale * ds[..., None] * q[n, :, None, i]
        dv[n][:, keys] += p[..., None] * g[n, :, None, i]
    return dq, dk, dv
