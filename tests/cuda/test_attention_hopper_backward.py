"""The gradients of attention in 16 bits on a Hopper (attention/cuda_hopper_backward.hpp)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from attention_device import OPTIONS, check, put_all
from attention_problems import fill, normal, to_layout
from tolerances import assert_same_bits, widen

#: (batch, heads, kv_heads, Lq, Lk, D, Dv) of every class of head dimensions: one tile of the other
#: side and more of them than a ring has stages, two blocks of 128 rows, heads that share keys.
SIZES = [
    (1, 1, 1, 2, 1, 8, 8),
    (1, 3, 1, 130, 70, 64, 40),
    (2, 1, 1, 33, 540, 32, 64),
    (1, 2, 1, 140, 200, 72, 128),
    (1, 1, 1, 65, 129, 192, 96),
    (1, 1, 1, 129, 40, 256, 200),
    (1, 1, 1, 40, 90, 16, 136),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("causal", [False, "bottom_right"])
def test_sizes(half: Any, sizes: Any, causal: Any, hopper: Any, rng: np.random.Generator) -> None:
    q, k, v, options = fill(rng, half, sizes, {"causal": causal})
    check(hopper, rng, q, k, v, options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options: dict[str, Any], half: Any, hopper: Any, rng: np.random.Generator) -> None:
    length = 70 if options.get("causal") is True else 100
    q, k, v, options = fill(rng, half, (2, 4, 2, 70, length, 24, 40), options)
    check(hopper, rng, q, k, v, options)


@pytest.mark.parametrize(
    "options", [{"window": (40, 12)}, {"dropout": 0.3, "softcap": 2.0, "bias": "plane"}], ids=str
)
@pytest.mark.parametrize("dims", [(128, 104), (160, 128), (136, 256)], ids=str)
def test_options_of_long_heads(
    options: dict[str, Any], dims: Any, half: Any, hopper: Any, rng: np.random.Generator
) -> None:
    """Tiles of their own, and kernels by k and by v."""
    q, k, v, options = fill(rng, half, (1, 2, 1, 70, 100, *dims), options)
    check(hopper, rng, q, k, v, options)


@pytest.mark.parametrize("factor", [2.0**-9, 2.0**9])
@pytest.mark.parametrize("dim", [24, 136])
def test_factors_keep_their_bits(
    factor: float, dim: int, half: Any, hopper: Any, rng: np.random.Generator
) -> None:
    """Gradients of scores beyond the range of float16 take part as those of float32 would."""
    sizes = (1, 2, 1, 70, 150, dim, 16)
    q, k, v, options = fill(rng, half, sizes, {"causal": "bottom_right"})
    q, k, v = (q * factor).astype(half), (k / factor).astype(half), (v * factor).astype(half)
    check(hopper, rng, q, k, v, options, gradient=factor)


@pytest.mark.parametrize("layout", ["bhld", "blhd"])
def test_every_array_goes_this_way(
    layout: str, half: Any, hopper: Any, rng: np.random.Generator
) -> None:
    """A block of each of four heads, by q, by k and v: two boxes of its rows, two of a tile."""

    def boxes(dim: int) -> int:
        q, k, v, grad = (hopper.put(normal(rng, half, 2, 2, 2, dim)) for _ in range(4))
        given: dict[str, Any] = {"layout": layout}
        y, lse = kernels.attention(q, k, v, **given, return_lse=True)
        before = hopper.copies()
        kernels.attention_backward(grad, q, k, v, y, lse, **given)
        return int(hopper.copies() - before)

    assert boxes(64) == 2 * 4 * (2 + 2)
    assert boxes(60) == 0  # no multiple of 8: element by element


@pytest.mark.parametrize(
    "given",
    [{"causal": True}, {"mask": "full", "bias": "plane", "dropout": 0.3, "softcap": 3.0}],
    ids=str,
)
def test_the_same_bits_at_every_schedule_and_alone(
    given: dict[str, Any], half: Any, hopper: Any, rng: np.random.Generator
) -> None:
    q, k, v, options = fill(rng, half, (2, 2, 1, 130, 130, 40, 64), given)
    grad = hopper.put(normal(rng, half, *q.shape[:3], 64))
    there, qkv = put_all(hopper, options), [hopper.put(a) for a in (q, k, v)]
    y, lse = kernels.attention(*qkv, **there, return_lse=True)

    def run(*arrays: Any, **options: Any) -> list[Any]:
        return [hopper.get(a) for a in kernels.attention_backward(*arrays, **options)[:3]]

    first = run(grad, *qkv, y, lse, **there)
    for schedule in hopper.schedules():
        for a, b in zip(run(grad, *qkv, y, lse, **there), first, strict=True):
            assert_same_bits(a, b, schedule)
    one = {**there, "mask": there["mask"][:1]} if "mask" in there else there
    alone = run(*(a[:1] for a in (grad, *qkv, y, lse)), **one)
    for a, whole in zip(alone, first, strict=True):
        assert_same_bits(a[0], whole[0])


def test_a_gradient_alone(half: Any, hopper: Any, rng: np.random.Generator) -> None:
    """Gradients that are wanted have the bits that they have beside others."""
    for dims in ((64, 64), (256, 16)):
        q, k, v, _ = fill(rng, half, (1, 2, 1, 20, 30, *dims), {})
        qkv = [hopper.put(a) for a in (q, k, v)]
        y, lse = kernels.attention(*qkv, return_lse=True)
        grad = hopper.put(normal(rng, half, *y.shape))
        every = kernels.attention_backward(grad, *qkv, y, lse)
        for i, name in enumerate("qkv"):
            alone = kernels.attention_backward(grad, *qkv, y, lse, needs=(name,))
            assert [g is None for g in alone[:3]] == [j != i for j in range(3)]
            assert_same_bits(hopper.get(alone[i]), hopper.get(every[i]), name)


@pytest.mark.parametrize("layout", ["bhld", "blhd"])
def test_what_is_hidden_does_not_show(
    layout: str, half: Any, hopper: Any, rng: np.random.Generator
) -> None:
    """NaN behind the lengths gives the bits of zeros there, and gradients that are zeros."""
    lengths = np.array([71, 0, 130])
    q, k, v, _ = fill(rng, half, (3, 2, 1, 70, 150, 64, 64), {})
    grad = hopper.put(to_layout(normal(rng, half, 3, 2, 70, 64), layout))
    options: dict[str, Any] = {"kv_lengths": hopper.put(lengths), "layout": layout}
    results = []
    for hidden in (0, np.nan):
        for b, n in enumerate(lengths):
            k[b, :, n:] = v[b, :, n:] = hidden
        there = [hopper.put(to_layout(a, layout)) for a in (q, k, v)]
        y, lse = kernels.attention(*there, **options, return_lse=True)
        back = kernels.attention_backward(grad, *there, y, lse, **options)[:3]
        results.append([hopper.get(a) for a in back])
    for a, b in zip(*results, strict=True):
        assert_same_bits(a, b)
    for g in results[1][1:]:
        behind = np.arange(150) >= lengths[:, None, None]
        assert (to_layout(g, layout)[np.broadcast_to(behind, (3, 1, 150))] == 0).all()


def test_what_is_not_finite_is_formed_again(
    half: Any, hopper: Any, rng: np.random.Generator
) -> None:
    """A query, a value and a gradient that are NaN show where the reference has them."""
    q, k, v, _ = fill(rng, half, (1, 2, 1, 150, 150, 64, 64), {})
    q[0, 0, 20], v[0, 0, 140] = np.nan, np.inf
    qkv = [hopper.put(a) for a in (q, k, v)]
    y, lse = kernels.attention(*qkv, causal=True, return_lse=True)
    grad = normal(rng, half, *y.shape)
    grad[0, 1, 90] = np.nan
    got = kernels.attention_backward(hopper.put(grad), *qkv, y, lse, causal=True)
    given = widen(grad, q, k, v, hopper.get(y), hopper.get(lse))
    with np.errstate(invalid="ignore"):
        expected = reference.attention_backward(*given, causal=True)
    for g, e in zip(got[:3], expected[:3], strict=True):
        a = hopper.get(g).astype(np.float64)
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(e))
        np.testing.assert_allclose(a, e, rtol=2.0**-6, atol=1e-2)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_packed_sequences(dropout: float, half: Any, hopper: Any, rng: np.random.Generator) -> None:
    """A sequence's gradients are those of the sequence alone, NaN in the next one or not."""
    lengths_q, lengths_k = [5, 0, 150, 1], [9, 3, 166, 2]
    cu_q, cu_k = (np.concatenate([[0], np.cumsum(n)]) for n in (lengths_q, lengths_k))
    q = normal(rng, half, cu_q[-1], 4, 32)
    k, v = normal(rng, half, cu_k[-1], 2, 32), normal(rng, half, cu_k[-1], 2, 24)
    grad = normal(rng, half, cu_q[-1], 4, 24)
    options: dict[str, Any] = {"causal": "bottom_right", "dropout": dropout, "seed": 3}
    offsets = [hopper.put(a) for a in (cu_q, cu_k)]

    def run(grad: Any, q: Any, k: Any, v: Any) -> Any:
        given = [hopper.put(a) for a in (q, k, v)]
        y, lse = kernels.attention_varlen(*given, *offsets, **options, return_lse=True)
        back = [hopper.put(grad), *given, y, lse, *offsets]
        results = kernels.attention_varlen_backward(*back, **options)[:3]
        return [hopper.get(a) for a in (y, lse, *results)]

    y, lse, *got = run(grad, q, k, v)
    args = (*widen(grad, q, k, v, y, lse), cu_q, cu_k)
    expected = reference.attention_varlen_backward(*args, **options)
    for name, g, e in zip("qkv", got, expected, strict=False):
        np.testing.assert_allclose(g.astype(np.float64), e, rtol=2.0**-7, atol=1e-3, err_msg=name)
    k[cu_k[1]], v[cu_k[3]] = np.nan, np.inf
    q[cu_q[3]] = grad[cu_q[3]] = np.nan
    _, _, *again = run(grad, q, k, v)
    for b in (0, 2):
        of_q, of_k = slice(cu_q[b], cu_q[b + 1]), slice(cu_k[b], cu_k[b + 1])
        for a, g, of in zip(again, got, (of_q, of_k, of_k), strict=True):
            assert_same_bits(a[of], g[of])
