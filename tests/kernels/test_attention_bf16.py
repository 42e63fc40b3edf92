"""Attention of bfloat16 on a CPU that multiplies it: level avx512_bf16.

Scores are sums of exact products of pairs along D, probabilities and their products with the values
float32: results are within the bounds of float32, rounded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import _core, kernels, reference
from memory import Guarded
from tolerances import assert_same_bits, assert_within, dot_bound, storage_bound, widen

from .bf16 import BF16, numbers
from .problems import absolute, thread_counts

pytestmark = pytest.mark.usefixtures("avx512_bf16")
U = 2.0**-24

#: (heads, heads of keys, queries, keys, D, Dv): around panels and blocks, dimensions that no pair
#: or vector fills, rows that share cache sets.
SIZES = [
    (1, 1, 2, 1, 1, 1),
    (2, 1, 31, 127, 7, 5),
    (2, 2, 33, 128, 32, 40),
    (4, 2, 32, 129, 33, 8),
    (1, 1, 70, 300, 64, 64),
    (1, 1, 5, 20, 1024, 16),
]


def qkv_of(rng: np.random.Generator, sizes: Any, batch: int = 1) -> tuple[Any, Any, Any]:
    heads, kv_heads, lq, lk, dim, dim_v = sizes
    return (
        numbers(rng, batch, heads, lq, dim),
        numbers(rng, batch, kv_heads, lk, dim),
        numbers(rng, batch, kv_heads, lk, dim_v),
    )


def bound_of(q: Any, k: Any, v: Any, options: dict[str, Any]) -> Any:
    """Bound the error of the output before it is rounded.

    A score errs by its sum, by a few roundings of the score itself, and the probability of a key by
    the errors of two scores, of its exponential and of the sum over keys.
    """
    group = q.shape[1] // k.shape[1]
    wide_q, wide_k = absolute(q, k)
    size = wide_q @ np.repeat(wide_k, group, 1).swapaxes(-1, -2)
    size = size.max(axis=-1, keepdims=True) * options.get("scale", q.shape[-1] ** -0.5)
    offset = np.abs(widen(options.get("bias", np.zeros(1, BF16)))).max()
    score = dot_bound(q.shape[-1], np.float32, size) + 4 * U * (size + offset)
    wide = {name: widen(o) if isinstance(o, np.ndarray) else o for name, o in options.items()}
    weighed = reference.attention(*widen(q, k), *absolute(v), **wide)
    return (2 * score + (k.shape[2] + 40) * U) * weighed


def check(q: Any, k: Any, v: Any, **options: Any) -> Any:
    wide = {name: widen(o) if isinstance(o, np.ndarray) else o for name, o in options.items()}
    expected, lse = reference.attention(*widen(q, k, v), **wide, return_lse=True)
    got, got_lse = kernels.attention(q, k, v, **options, return_lse=True)
    assert got.dtype == BF16
    bound = bound_of(q, k, v, options)
    assert_within(got, expected, bound + storage_bound(np.abs(expected) + bound, BF16))
    np.testing.assert_allclose(got_lse, lse, rtol=1e-5, atol=1e-4)
    return got


@pytest.mark.parametrize("sizes", SIZES)
def test_sizes(sizes: Any, rng: np.random.Generator) -> None:
    check(*qkv_of(rng, sizes))


@pytest.mark.parametrize("dim", [7, 64])
@pytest.mark.parametrize("name", ["mask", "bias", "causal", "window", "scale"])
def test_options(name: str, dim: int, rng: np.random.Generator) -> None:
    q, k, v = qkv_of(rng, (4, 2, 70, 150, dim, 24), batch=2)
    options: dict[str, Any] = {
        "mask": {"mask": rng.random((2, 1, 70, 150)) < 0.7},
        "bias": {"bias": numbers(rng, 4, 70, 150)},
        "causal": {"causal": "bottom_right"},
        "window": {"window": (30, 20), "causal": "top_left"},
        "scale": {"scale": 0.3},
    }[name]
    check(q, k, v, **options)


def test_any_memory(rng: np.random.Generator) -> None:
    """Rows an odd number apart, rows that begin between pairs, rows with others between them."""
    q, k, v = qkv_of(rng, (2, 2, 40, 140, 32, 32))
    expected = check(q, k, v)
    for far in (
        np.zeros((1, 2, 140, 33), BF16)[..., :32],
        np.zeros((1, 2, 140, 34), BF16)[..., 1:33],
        np.zeros((1, 140, 2, 32), BF16).swapaxes(1, 2),
        np.zeros((1, 2, 140, 1024), BF16)[..., :32],
    ):
        far[...] = k
        assert_same_bits(kernels.attention(q, far, v), expected)


def test_bits_of_teams_and_batches(rng: np.random.Generator) -> None:
    q, k, v = qkv_of(rng, (4, 2, 200, 300, 40, 24), batch=3)
    expected = kernels.attention(q, k, v, causal="top_left")
    for _ in thread_counts():
        assert_same_bits(kernels.attention(q, k, v, causal="top_left"), expected)
    for i in (0, 2):
        one = [x[i : i + 1] for x in (q, k, v)]
        assert_same_bits(kernels.attention(*one, causal="top_left"), expected[i : i + 1])
    guard = Guarded(expected.shape, BF16)
    kernels.attention(q, k, v, causal="top_left", out=guard.out)
    assert_same_bits(guard.out, expected)
    guard.check()


def test_hidden_nan_does_not_reach_the_output(rng: np.random.Generator) -> None:
    q, k, v = qkv_of(rng, (1, 1, 40, 140, 16, 16))
    mask = np.ones((1, 1, 40, 140), bool)
    mask[..., 7] = mask[..., 133] = False
    expected = kernels.attention(q, k, v, mask=mask)
    k[..., 7, 3], v[..., 133, :] = np.nan, np.inf
    assert_same_bits(kernels.attention(q, k, v, mask=mask), expected)
    k[0, 0, 20, 0] = np.nan
    assert np.isnan(kernels.attention(q, k, v, mask=mask).astype(np.float32)).all()


@pytest.mark.parametrize("dim", [15, 32])
def test_pages_and_packed_sequences(dim: int, rng: np.random.Generator) -> None:
    q, k, v = qkv_of(rng, (2, 1, 5, 48, dim, dim), batch=2)
    lengths = np.array([48, 33])
    expected = kernels.attention_decode(q, k, v, lengths)
    page, table = 16, np.array([[4, 1, 0], [2, 5, 3]])
    pools = []
    for cache in (k, v):
        pool = np.zeros((6, 1, page, dim), BF16)
        for b in range(2):
            for i in range(3):
                pool[table[b, i]] = cache[b, :, i * page : (i + 1) * page]
        pools.append(pool)
    assert_same_bits(kernels.attention_decode(q, *pools, lengths, block_table=table), expected)
    for b in range(2):
        rows = [x[b : b + 1, :, : lengths[b]] for x in (k, v)]
        alone = check(q[b : b + 1], *rows, causal="bottom_right")
        assert_same_bits(expected[b : b + 1], alone)
    flat = [np.concatenate([x[b].swapaxes(0, 1) for b in range(2)]) for x in (q, k, v)]
    packed = kernels.attention_varlen(*flat, np.array([0, 5, 10]), np.array([0, 48, 96]))
    for b in range(2):
        alone = kernels.attention(*(x[b : b + 1] for x in (q, k, v)))
        assert_same_bits(packed[5 * b : 5 * b + 5], alone[0].swapaxes(0, 1))


def test_a_lower_level_widens(rng: np.random.Generator) -> None:
    q, k, v = qkv_of(rng, (2, 2, 40, 140, 32, 32))
    _core.set_isa("avx512")
    wide = kernels.attention(*(x.astype(np.float32) for x in (q, k, v)))
    assert_same_bits(kernels.attention(q, k, v), wide.astype(BF16))
