"""The forward of attention in 16 bits on a Hopper: wgmma and rings (attention/cuda_hopper.hpp)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from attention_device import OPTIONS, check_forward, put_all
from attention_problems import fill, normal, to_layout
from tolerances import assert_same_bits, widen

#: (batch, heads, kv_heads, Lq, Lk, D, Dv) of every class of head dimensions: keys in one tile, in
#: several, more tiles of the result than the emulated device has multiprocessors.
SIZES = [
    (1, 1, 1, 2, 1, 8, 8),
    (2, 3, 1, 130, 64, 64, 40),
    (1, 2, 2, 65, 600, 32, 64),
    (1, 4, 2, 129, 300, 128, 128),
    (2, 1, 1, 70, 257, 72, 96),
    (1, 2, 1, 64, 270, 192, 128),
    (1, 2, 2, 200, 200, 256, 256),
    (1, 1, 1, 40, 90, 16, 136),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("causal", [False, "bottom_right"])
def test_sizes(half: Any, sizes: Any, causal: Any, hopper: Any, rng: np.random.Generator) -> None:
    q, k, v, options = fill(rng, half, sizes, {"causal": causal})
    check_forward(hopper, q, k, v, options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options: dict[str, Any], half: Any, hopper: Any, rng: np.random.Generator) -> None:
    """What every tile sees, and no pair of a warpgroup; a tile of one query."""
    length = 129 if options.get("causal") is True else 150
    q, k, v, options = fill(rng, half, (2, 4, 2, 129, length, 24, 40), options)
    check_forward(hopper, q, k, v, options)


def test_every_array_goes_this_way(half: Any, hopper: Any, rng: np.random.Generator) -> None:
    """One box of 64 elements by 128 queries, two of keys and values a tile, in both layouts."""
    for layout in ("bhld", "blhd"):
        q, k, v = (normal(rng, half, 2, 2, 2, 64) for _ in range(3))
        before = hopper.copies()
        kernels.attention(*(hopper.put(x) for x in (q, k, v)), layout=layout)
        assert hopper.copies() - before == 4 * 3
    x = hopper.put(normal(rng, half, 2, 2, 2, 60))  # no multiple of 8
    before = hopper.copies()
    kernels.attention(x, x, x)
    assert hopper.copies() == before  # element by element


@pytest.mark.parametrize(
    "given", [{"causal": True}, {"mask": "full", "bias": "plane", "dropout": 0.3}], ids=str
)
def test_the_same_bits_at_every_schedule_and_alone(
    given: dict[str, Any], half: Any, hopper: Any, rng: np.random.Generator
) -> None:
    q, k, v, options = fill(rng, half, (2, 2, 1, 200, 200, 40, 64), given)
    there, qkv = put_all(hopper, options), [hopper.put(a) for a in (q, k, v)]

    def run(*arrays: Any, **given: Any) -> list[Any]:
        return [hopper.get(a) for a in kernels.attention(*arrays, **given, return_lse=True)]

    first = run(*qkv, **there)
    for schedule in hopper.schedules():
        for a, b in zip(run(*qkv, **there), first, strict=True):
            assert_same_bits(a, b, schedule)
    one = {**there, "mask": there["mask"][:1]} if "mask" in there else there
    for a, whole in zip(run(*(a[:1] for a in qkv), **one), first, strict=True):
        assert_same_bits(a[0], whole[0])


@pytest.mark.parametrize("layout", ["bhld", "blhd"])
def test_what_is_hidden_does_not_show(
    layout: str, half: Any, hopper: Any, rng: np.random.Generator
) -> None:
    """NaN behind the lengths: cleared in shared memory; and in keys of a mask: formed again."""
    lengths = np.array([71, 0, 130])
    q, k, v, _ = fill(rng, half, (3, 2, 1, 70, 150, 64, 64), {})
    expected = []
    for b, n in enumerate(lengths):
        k[b, :, n:] = v[b, :, n:] = np.nan
        given = (q[b : b + 1], k[b : b + 1, :, :n], v[b : b + 1, :, :n])
        expected.append(reference.attention(*widen(*given))[0])
    there = [hopper.put(to_layout(a, layout)) for a in (q, k, v)]
    y = kernels.attention(*there, kv_lengths=hopper.put(lengths), layout=layout)
    got = to_layout(hopper.get(y).astype(np.float64), layout)
    np.testing.assert_allclose(got, np.stack(expected), rtol=2.0**-7, atol=1e-4)
    mask = (np.arange(150) < lengths[:, None])[:, None, None]
    y = kernels.attention(*there, mask=hopper.put(mask), layout=layout)
    got = to_layout(hopper.get(y).astype(np.float64), layout)
    np.testing.assert_allclose(got, np.stack(expected), rtol=2.0**-7, atol=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_packed_sequences(dropout: float, half: Any, hopper: Any, rng: np.random.Generator) -> None:
    """A sequence's result is that of the sequence alone, NaN in the next one or not."""
    lengths_q, lengths_k = [5, 0, 150, 1], [9, 3, 266, 2]
    cu_q, cu_k = (np.concatenate([[0], np.cumsum(n)]) for n in (lengths_q, lengths_k))
    q = normal(rng, half, cu_q[-1], 4, 32)
    k, v = normal(rng, half, cu_k[-1], 2, 32), normal(rng, half, cu_k[-1], 2, 24)
    options: dict[str, Any] = {"causal": "bottom_right", "dropout": dropout, "seed": 3}
    given = [hopper.put(a) for a in (q, k, v, cu_q, cu_k)]
    y = hopper.get(kernels.attention_varlen(*given, **options))
    ref = reference.attention_varlen(*widen(q, k, v), cu_q, cu_k, **options)
    np.testing.assert_allclose(y.astype(np.float64), ref, rtol=2.0**-7, atol=1e-4)
    v[cu_k[1]], v[cu_k[3]] = np.nan, np.inf
    again = hopper.get(kernels.attention_varlen(*given[:2], hopper.put(v), *given[3:], **options))
    for b in (0, 2):
        of = slice(cu_q[b], cu_q[b + 1])
        assert_same_bits(again[of], y[of])


def test_the_mask_of_dropout_is_that_of_the_cpu(
    half: Any, hopper: Any, rng: np.random.Generator
) -> None:
    """Values that are unit vectors show every element of the mask."""
    q, k, _, _ = fill(rng, half, (2, 2, 1, 70, 40, 8, 1), {})
    v = np.broadcast_to(np.eye(40, dtype=half), (2, 1, 40, 40)).copy()
    options: dict[str, Any] = {"dropout": 0.4, "seed": 2**50 + 3}
    got = hopper.get(kernels.attention(*(hopper.put(a) for a in (q, k, v)), **options))
    q, k, v = (x.astype(np.float32) for x in (q, k, v))
    np.testing.assert_array_equal(got == 0, kernels.attention(q, k, v, **options) == 0)
