"""What ``check`` runs for the attention family; see :mod:`arraynn.cli._checks`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import arraynn.kernels
import arraynn.reference
from arraynn._proof import Array, Arrays, dot_bound, uniform, unit_roundoff

kernels: Any = arraynn.kernels
reference: Any = arraynn.reference

Outcome = tuple[Arrays, Arrays, list[Any]]

# (batch, heads, kv_heads, Lq, Lk, D, Dv) around the panels of queries and the blocks of keys.
_SIZES = ((2, 4, 2, 33, 129, 16, 17), (1, 3, 1, 70, 70, 64, 64), (2, 4, 2, 1, 600, 20, 33))
_ENDS = np.array([0, 33, 33, 70])


def _options(dtype: str, sizes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Yield sets of options that fit the sizes."""
    b, h, _, lq, lk, _, _ = sizes
    rng = np.random.default_rng(1)
    yield {}
    sinks = uniform(dtype, h, seed=7)
    yield {"causal": "bottom_right", "window": (40, -1), "softcap": 2.0, "sinks": sinks}
    yield {
        "mask": rng.random((b, 1, lq, lk)) < 0.8,
        "bias": uniform(dtype, h, 1, lk, seed=5),
        "kv_lengths": np.arange(b) + lk - b,
        "dropout": 0.25,
        "seed": 3,
    }


def _inputs(dtype: str, sizes: tuple[int, ...]) -> tuple[Array, ...]:
    b, h, kv, lq, lk, d, dv = sizes
    shapes = ((b, h, lq, d), (b, kv, lk, d), (b, kv, lk, dv))
    return tuple(uniform(dtype, *shape, seed=i) for i, shape in enumerate(shapes))


def _wide(*arrays: Array) -> Arrays:
    return tuple(a.astype(np.float64) for a in arrays)


def _widen(how: dict[str, Any]) -> dict[str, Any]:
    return {
        k: v.astype(np.float64) if "float" in getattr(v, "dtype", np.dtype(bool)).name else v
        for k, v in how.items()
    }


def _grain(dtype: str, keys: int, dim: int) -> float:
    """Relative error of a probability.

    Twice that of a score, a dot product times 1 / sqrt(dim) and a bias below 1, and the roundings
    of the exponential and of the sum of ``keys`` terms (Higham and Mary 2019).
    """
    u = unit_roundoff(dtype)
    return float(2 * dot_bound(dim + 2, dtype) / dim**0.5 + (16 + 8 * keys**0.5) * u)


def attention(dtype: str) -> Iterator[Outcome]:
    """Yield output and lse."""
    for sizes in _SIZES:
        q, k, v = _inputs(dtype, sizes)
        for how in _options(dtype, sizes):
            got = kernels.attention(q, k, v, **how, return_lse=True)
            want = reference.attention(*_wide(q, k, v), **_widen(how), return_lse=True)
            grain = _grain(dtype, sizes[4], sizes[5])
            # Values are below 1, and below 4/3 after dropout.
            yield got, want, [3 * grain, 2 * grain + 8 * unit_roundoff(dtype)]


def _bounds(
    dtype: str, q: Array, k: Array, v: Array, how: dict[str, Any], grad: Array
) -> tuple[list[Any], Array]:
    """Bounds of the gradients by q, k and v, and of that of each score."""
    group, lk = q.shape[1] // k.shape[1], k.shape[2]
    eye = np.broadcast_to(np.eye(lk), (*k.shape[:2], lk, lk))
    plain = {n: x for n, x in _widen(how).items() if n not in ("dropout", "seed")}
    p = reference.attention(*_wide(q, k), eye, **plain)
    grain = _grain(dtype, lk, q.shape[3])
    dim = v.shape[3]
    # grad . v and grad . out are at most dim, or 4/3 of that after dropout.
    ds = p * 3 * (grain * dim + dot_bound(dim, dtype))
    scale = q.shape[3] ** -0.5
    own = scale * ds.sum(axis=-1, keepdims=True)
    columns = [x.sum(axis=2)[..., None] for x in (scale * ds, p * 4 * grain)]
    b, h = grad.shape[:2]
    keys = [c.reshape(b, h // group, group, lk, 1).sum(axis=2) for c in columns]
    return [own, *keys], ds


def attention_backward(dtype: str) -> Iterator[Outcome]:
    """Yield the gradients by q, k, v, and by a bias or sinks where there are some."""
    for sizes in _SIZES:
        q, k, v = _inputs(dtype, sizes)
        for how in _options(dtype, sizes):
            y, lse = kernels.attention(q, k, v, **how, return_lse=True)
            g = uniform(dtype, *y.shape, seed=6)
            got = kernels.attention_backward(g, q, k, v, y, lse, **how)
            want = reference.attention_backward(*_wide(g, q, k, v, y, lse), **_widen(how))
            bounds, ds = _bounds(dtype, q, k, v, how, g)
            if "bias" in how:
                bounds.append(ds.sum(axis=(0, 2))[:, None])
            if "sinks" in how:
                # As ds for one more key, whose share is at most 1, summed over the queries.
                one = 3 * (_grain(dtype, sizes[4], sizes[5]) + 2 * unit_roundoff(dtype)) * sizes[6]
                bounds.append(one * g.shape[0] * g.shape[2])
            floor = float(np.finfo(dtype).tiny)
            results, truth = (tuple(x for x in xs if x is not None) for xs in (got, want))
            yield results, truth, [np.asarray(b) + floor for b in bounds]


def _packed(dtype: str) -> tuple[Array, ...]:
    shapes = ((70, 4, 16), (70, 2, 16), (70, 2, 20))
    return tuple(uniform(dtype, *shape, seed=i) for i, shape in enumerate(shapes))


def attention_varlen(dtype: str) -> Iterator[Outcome]:
    """Yield output and lse of three sequences, one of them empty."""
    q, k, v = _packed(dtype)
    how: dict[str, Any] = {"causal": True, "dropout": 0.25, "seed": 3, "return_lse": True}
    how["mask"] = np.random.default_rng(1).random((70, 37)) < 0.8
    how["bias"] = uniform(dtype, 4, 1, 37, seed=5)
    got = kernels.attention_varlen(q, k, v, _ENDS, _ENDS, **how)
    want = reference.attention_varlen(*_wide(q, k, v), _ENDS, _ENDS, **_widen(how))
    grain = _grain(dtype, 40, 16)
    yield got, want, [3 * grain, 2 * grain + 8 * unit_roundoff(dtype)]


def attention_varlen_backward(dtype: str) -> Iterator[Outcome]:
    """Yield its gradients."""
    q, k, v = _packed(dtype)
    how: dict[str, Any] = {"causal": True, "bias": uniform(dtype, 4, 70, 37, seed=5)}
    y, lse = kernels.attention_varlen(q, k, v, _ENDS, _ENDS, **how, return_lse=True)
    g = uniform(dtype, *y.shape, seed=6)
    got = kernels.attention_varlen_backward(g, q, k, v, y, lse, _ENDS, _ENDS, **how)
    wide = _wide(g, q, k, v, y, lse)
    want = reference.attention_varlen_backward(*wide, _ENDS, _ENDS, **_widen(how))
    grain, dim = _grain(dtype, 40, 16), 20
    ds = 3 * (grain * dim + dot_bound(dim, dtype)) / 4
    # Probabilities of a query sum to 1, those of a key over two heads to at most 2 x 37.
    yield got[:4], want[:4], [ds, 74 * ds, 74 * 4 * grain, 4 * ds]


def attention_decode(dtype: str) -> Iterator[Outcome]:
    """Yield output, lse and caches, with and without pages."""
    rng = np.random.default_rng(2)
    for pages, masked in ((False, False), (True, False), (True, True)):
        q, k, v = _inputs(dtype, (2, 4, 2, 1, 640, 20, 33))
        new = [uniform(dtype, 2, 2, 1, d, seed=9) for d in (20, 33)]
        how: dict[str, Any] = {"k": new[0], "v": new[1], "softcap": 2.0, "return_lse": True}
        how["sinks"] = uniform(dtype, 4, seed=8)
        lengths = np.array([530, 31])
        if masked:
            how["mask"] = rng.random((2, 1, 1, 640)) < 0.8
            how["bias"] = uniform(dtype, 4, 1, 640, seed=5)
        if pages:
            k, v = (np.ascontiguousarray(x.reshape(-1, 2, 64, x.shape[3])) for x in (k, v))
            how["block_table"] = rng.permutation(20).reshape(2, 10)
        wide_k, wide_v = _wide(k, v)
        got = kernels.attention_decode(q, k, v, lengths, **how)
        (wide_q,) = _wide(q)
        want = reference.attention_decode(wide_q, wide_k, wide_v, lengths, **_widen(how))
        grain = _grain(dtype, 640, 20)
        bounds = [3 * grain, 2 * grain + 8 * unit_roundoff(dtype), 0.0, 0.0]
        yield (*got, k, v), (*want, wide_k, wide_v), bounds


def _rope(name: str, dtype: str) -> Iterator[Outcome]:
    for layout in ("bhld", "blhd"):
        for half, interleaved in ((1, False), (5, True), (32, False), (33, True)):
            x = uniform(dtype, 2, 7, 7, 70, seed=half)
            cos, sin = (uniform(dtype, 11, half, seed=s) for s in (1, 2))
            at = np.random.default_rng(half).integers(0, 11, (2, 7))
            how: dict[str, Any] = {"interleaved": interleaved, "layout": layout}
            got = getattr(kernels, name)(x, cos, sin, at, **how)
            want = getattr(reference, name)(*_wide(x, cos, sin), at, **how)
            # Two products of numbers of at most 1 and their sum.
            yield (got,), (want,), [6 * unit_roundoff(dtype)]


ATTENTION_CHECKS: dict[str, Any] = {
    f.__name__: f
    for f in (
        attention,
        attention_backward,
        attention_varlen,
        attention_varlen_backward,
        attention_decode,
    )
} | {
    "rope": partial(_rope, "rope"),
    "rope_backward": partial(_rope, "rope_backward"),
}
