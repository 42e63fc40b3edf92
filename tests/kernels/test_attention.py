"""attention and attention_backward against the reference, at every ISA."""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from arraynn import kernels, reference
from attention_problems import SHAPES, Sizes, fill, problems, to_layout, widened
from memory import Guarded, mixed_layouts
from tolerances import assert_close_to_reference, assert_gradient, assert_same_bits, widen

from .problems import normal, thread_counts

pytestmark = pytest.mark.usefixtures("isa")


def check(rng: np.random.Generator, q: Any, k: Any, v: Any, options: dict[str, Any]) -> None:
    """Hold output, lse and every gradient against the reference."""
    layout = options.get("layout", "bhld")
    label = f"q {q.shape} k {k.shape} v {v.shape} {sorted(options)} {options.get('causal')}"
    sizes = Sizes(q, k, v, options)
    wide = widened(options)
    qkv = [to_layout(x, layout) for x in (q, k, v)]
    y, lse = kernels.attention(*qkv, **options, return_lse=True)
    ref_y, ref_lse = reference.attention(*widen(*qkv), **wide, return_lse=True)
    own_y, own_lse = reference.attention(*qkv, **options, return_lse=True)
    scale = to_layout(sizes.out(), layout)
    assert_close_to_reference(y, ref_y, own_y, scale=scale, label=f"out of {label}")
    scale = np.broadcast_to(sizes.error[..., 0], lse.shape)
    assert_close_to_reference(lse, ref_lse, own_lse, scale=scale, label=f"lse of {label}")
    assert_same_bits(kernels.attention(*qkv, **options), y, label)

    grad = normal(rng, q.dtype, *y.shape)
    got = kernels.attention_backward(grad, *qkv, y, lse, **options)
    # The oracle starts from the rounded output and lse: they are the backward's inputs.
    args = widen(grad, *qkv, y, lse)
    ref = reference.attention_backward(*args, **wide)
    own = reference.attention_backward(grad, *qkv, y, lse, **options)
    *scales, ds = sizes.backward(to_layout(grad, layout))
    for name, g, r, o, s in zip("qkv", got, ref, own, scales, strict=False):
        s = to_layout(s, layout)
        assert_close_to_reference(g, r, o, scale=s, label=f"gradient by {name} of {label}")
    sinks = options.get("sinks")
    if sinks is None:
        assert got[4] is None
    else:
        some = np.where(lse == -np.inf, 0, widen(lse))
        share = np.exp(np.minimum(widen(sinks)[:, None] - some, 0)) * sizes.error[..., 0]
        s = share * (np.abs(to_layout(widen(grad), layout)) * sizes.out()).sum(axis=-1)
        s = np.where(lse == -np.inf, 0, s).sum(axis=(0, 2))
        label_s = f"gradient by sinks of {label}"
        assert_close_to_reference(got[4], ref[4], own[4], scale=s, label=label_s)
    bias = options.get("bias")
    if bias is None:
        assert got[3] is None
        return
    shape = (1,) * (4 - bias.ndim) + bias.shape
    axes = tuple(i for i in range(4) if shape[i] == 1)
    s = ds.sum(axis=axes, keepdims=True).reshape(bias.shape)
    assert_close_to_reference(got[3], ref[3], own[3], scale=s, label=f"gradient by bias of {label}")


@settings(max_examples=45)
@given(problem=problems(), seed=st.integers(0, 2**32))
def test_options_compose(dtype: Any, problem: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, k, v, options = fill(rng, dtype, *problem)
    check(rng, q, k, v, options)


@pytest.mark.parametrize(
    "sizes",
    [
        (1, 1, 1, 1, 1, 1, 1),
        (1, 2, 1, 31, 127, 16, 16),
        (1, 1, 1, 32, 128, 15, 17),
        (1, 1, 1, 33, 129, 64, 32),
        (1, 2, 2, 65, 257, 80, 80),
        (1, 1, 1, 16, 13, 512, 300),
        (1, 1, 1, 1, 1100, 33, 65),
        (2, 6, 2, 1, 513, 128, 128),
    ],
    ids=str,
)
def test_sizes_around_the_tiles(dtype: Any, sizes: Any, rng: np.random.Generator) -> None:
    for causal in (False, "top_left", "bottom_right"):
        q, k, v, options = fill(rng, dtype, sizes, {"causal": causal})
        check(rng, q, k, v, options)


@pytest.mark.parametrize("lq", [1, 3, 40])
def test_a_sink_is_a_key_without_a_value(dtype: Any, lq: int, rng: np.random.Generator) -> None:
    q, k, v, _ = fill(rng, dtype, (2, 4, 2, lq, 150, 8, 8), {})
    sinks = normal(rng, dtype, 4)
    sizes = Sizes(q, k, v, {"sinks": sinks})
    y, lse = kernels.attention(q, k, v, sinks=sinks, return_lse=True)
    # The plain result, times the share that the keys have left.
    plain, plain_lse = reference.attention(*widen(q, k, v), return_lse=True)
    total = np.logaddexp(plain_lse, widen(sinks)[:, None])
    expected = plain * np.exp(plain_lse - total)[..., None]
    allowed = 64 * np.finfo(dtype).eps
    assert (np.abs(y - expected) <= allowed * sizes.out()).all()
    assert (np.abs(lse - total) <= allowed * sizes.error[..., 0]).all()
    nothing = np.full(4, -np.inf, dtype)
    same = kernels.attention(q, k, v, sinks=nothing, return_lse=True)
    for a, b in zip(same, kernels.attention(q, k, v, return_lse=True), strict=True):
        assert_same_bits(a, b)
    huge = kernels.attention(q, k, v, sinks=np.full(4, np.finfo(dtype).max, dtype))
    assert (huge == 0).all()
    # A query that sees nothing keeps the sink alone.
    lengths = np.array([0, 7])
    y, lse = kernels.attention(q, k, v, sinks=sinks, kv_lengths=lengths, return_lse=True)
    assert (y[0] == 0).all()
    assert_same_bits(lse[0], np.repeat(sinks[:, None], lq, 1))
    nan = np.full(4, np.nan, dtype)
    assert np.isnan(kernels.attention(q, k, v, sinks=nan)).all()


def test_large_scores(dtype: Any, rng: np.random.Generator) -> None:
    q, k, v, _ = fill(rng, dtype, (1, 2, 2, 40, 150, 8, 8), {})
    check(rng, 30 * q, 30 * k, v, {})
    y = kernels.attention(dtype.type(1e15) * q, dtype.type(1e15) * k, v)
    assert np.isfinite(y).all()


@pytest.mark.parametrize(
    "options",
    [{}, {"dropout": 0.3, "seed": 4}, {"softcap": 5.0}, {"layout": "blhd"}, {"scale": 0.1}],
    ids=str,
)
def test_hidden_nan_and_queries_that_see_nothing(
    dtype: Any, options: dict[str, Any], rng: np.random.Generator
) -> None:
    b, h, lq, lk, d = 2, 2, 40, 140, 8
    q, k, v, _ = fill(rng, dtype, (b, h, 1, lq, lk, d, d), {})
    mask = rng.random((b, 1, lq, lk)) < 0.7
    mask[:, :, [3, 35]] = False
    mask[..., [5, 130]] = False
    dirty_k, dirty_v = k.copy(), v.copy()
    dirty_k[:, :, 5], dirty_v[:, :, 130] = np.nan, np.inf
    dirty_v[:, :, 5, ::2] = np.nan
    layout = options.get("layout", "bhld")
    q, k, v, dirty_k, dirty_v = (to_layout(x, layout) for x in (q, k, v, dirty_k, dirty_v))
    grad = normal(rng, dtype, *q.shape)
    bias = np.where(mask, 0, -np.inf).astype(dtype)
    for hide in ({"mask": mask}, {"bias": bias}):
        clean = kernels.attention(q, k, v, return_lse=True, **hide, **options)
        dirty = kernels.attention(q, dirty_k, dirty_v, return_lse=True, **hide, **options)
        assert_same_bits(dirty[0], clean[0])
        assert_same_bits(dirty[1], clean[1])
        y = to_layout(clean[0], layout)
        assert (y[:, :, [3, 35]] == 0).all()
        assert (clean[1][:, :, [3, 35]] == -np.inf).all()
        expected = kernels.attention_backward(grad, q, k, v, *clean, **hide, **options)
        got = kernels.attention_backward(grad, q, dirty_k, dirty_v, *dirty, **hide, **options)
        for g, e in zip(got, expected, strict=True):
            if e is not None:
                assert_same_bits(g, e)
        assert (to_layout(got[0], layout)[:, :, [3, 35]] == 0).all()
        assert (to_layout(got[1], layout)[:, :, [5, 130]] == 0).all()
    # What every query sees, it gets.
    seen = kernels.attention(q, k, dirty_v, **options)
    assert not np.isfinite(to_layout(seen, layout)).all(axis=(0, 1, 2)).any()
    # Structure hides as well as masks do.
    lengths = np.array([4, 0])
    late = k.copy(), v.copy()
    for x in late:
        rows = x if layout == "bhld" else np.swapaxes(x, 1, 2)
        rows[:, :, 4:] = np.nan
    y = kernels.attention(q, *late, kv_lengths=lengths, **options)
    expected_y = kernels.attention(q, k, v, kv_lengths=lengths, **options)
    assert_same_bits(y, expected_y)
    assert (y[1] == 0).all()


def test_causal_hides_later_nan(dtype: Any, rng: np.random.Generator) -> None:
    q, k, v, _ = fill(rng, dtype, (1, 1, 1, 100, 100, 16, 16), {})
    clean = kernels.attention(q, k, v, causal=True, return_lse=True)
    for x in (k, v):
        x[:, :, 50:] = np.nan
    y, lse = kernels.attention(q, k, v, causal=True, return_lse=True)
    assert_same_bits(y[:, :, :50], clean[0][:, :, :50])
    assert np.isnan(y[:, :, 50:]).all()
    grad = normal(rng, dtype, *y.shape)
    grad[:, :, 50:] = 0
    dq, *_ = kernels.attention_backward(grad, q, k, v, y, lse, causal=True)
    assert np.isfinite(dq[:, :, :50]).all()


@pytest.mark.parametrize("zero", range(5), ids=["B", "Lq", "Lk", "Dv", "B Lk"])
def test_nothing_in_nothing_out(dtype: Any, zero: int) -> None:
    b, lq, lk, dv = (
        0 if zero in z else n
        for n, z in zip((2, 3, 5, 4), ((0, 4), (1,), (2, 4), (3,)), strict=True)
    )
    q, k, v = (
        np.ones((b, 2, lq, 4), dtype),
        np.ones((b, 1, lk, 4), dtype),
        np.ones((b, 1, lk, dv), dtype),
    )
    y, lse = kernels.attention(q, k, v, return_lse=True)
    assert y.shape == (b, 2, lq, dv)
    if lk == 0:
        assert (y == 0).all()
        assert (lse == -np.inf).all()
    bias, sinks = np.ones((2, lq, 1), dtype), np.zeros(2, dtype)
    grads = kernels.attention_backward(y, q, k, v, y, lse, bias=bias, sinks=sinks)
    for g, x in zip(grads, (q, k, v, bias, sinks), strict=True):
        assert g.shape == x.shape
        assert (g == 0).all() or (lq > 0 and lk > 0)


def test_an_endless_batch_of_nothing(dtype: Any) -> None:
    q = np.broadcast_to(np.ones(4, dtype), (2**40, 1, 1, 4))
    y = kernels.attention(q, q, q[..., :0])
    assert y.shape == (2**40, 1, 1, 0)
    lse = np.broadcast_to(np.ones((), dtype), (2**40, 1, 0))
    none = q[:, :, :0], q[:, :, :0], q[:, :, :0]
    sinks = np.ones(1, dtype)
    grads = kernels.attention_backward(none[0], *none, none[0], lse, sinks=sinks)
    assert_same_bits(grads[4], np.zeros(1, dtype))
    assert grads[1] is not None
    assert grads[1].size == 0


def test_dropout_is_that_of_the_probabilities(dtype: Any, rng: np.random.Generator) -> None:
    b, h, lq, lk = 2, 3, 37, 131
    q, k, _, _ = fill(rng, dtype, (b, h, h, lq, lk, 8, 8), {})
    eye = np.broadcast_to(np.eye(lk, dtype=dtype), (b, h, lk, lk))
    p = kernels.attention(q, k, eye)
    dropped = kernels.attention(q, k, eye, dropout=0.4, seed=7)
    expected = kernels.dropout(p, 0.4, 7)
    np.testing.assert_array_equal(dropped == 0, expected == 0)
    np.testing.assert_allclose(dropped, expected, rtol=8 * np.finfo(dtype).eps)
    assert (kernels.attention(q, k, eye, dropout=1.0, seed=7) == 0).all()


def test_any_memory(dtype: Any, rng: np.random.Generator) -> None:
    sizes = (2, 2, 1, 9, 21, 8, 8)
    q, k, v, options = fill(rng, dtype, sizes, {"mask": "full", "bias": "heads"})
    mask, bias = options["mask"], options["bias"]
    y, lse = kernels.attention(q, k, v, mask=mask, bias=bias, return_lse=True)
    grad = normal(rng, dtype, *y.shape)
    grads = kernels.attention_backward(grad, q, k, v, y, lse, mask=mask, bias=bias)
    assert grads[4] is None
    for memory, (a, b, c, d, e, f) in mixed_layouts(q, k, v, bias, grad, y):
        again = kernels.attention(a, b, c, mask=mask, bias=d)
        assert_same_bits(again, y, memory)
        got = kernels.attention_backward(e, a, b, c, f, lse, mask=mask, bias=d)
        for g, expected in zip(got[:4], grads[:4], strict=True):
            assert_same_bits(g, expected, memory)
    turned = np.asfortranarray(mask)
    assert_same_bits(kernels.attention(q, k, v, mask=turned, bias=bias), y, "mask")


def test_any_byte_but_zero_attends(dtype: Any, rng: np.random.Generator) -> None:
    q, k, v = (normal(rng, dtype, 1, 2, n, 8) for n in (37, 133, 133))
    whole = rng.choice(np.array([0, 1, 2, 128, 255], np.uint8), (1, 2, 37, 133))
    whole[:, :, 16:32, 32:64] = 1
    for shape in ((1, 2, 37, 133), (1, 1, 37, 133), (1, 2, 37, 1), (1, 1, 1, 133)):
        odd = np.ascontiguousarray(whole[:, : shape[1], : shape[2], : shape[3]])
        expected = kernels.attention(q, k, v, mask=odd != 0)
        assert_same_bits(kernels.attention(q, k, v, mask=odd.view(np.bool_)), expected, str(shape))
        bias = np.where(odd != 0, 0, -np.inf).astype(dtype)
        assert_same_bits(kernels.attention(q, k, v, bias=bias), expected, f"{shape}, as a bias")


def test_packed_projections_and_aliasing_rows(dtype: Any, rng: np.random.Generator) -> None:
    # Rows 2048 bytes apart share sets of the cache and are copied; slices of one array are not.
    heads = 2048 // np.dtype(dtype).itemsize // 16
    packed = normal(rng, dtype, 1, 40, 3, heads, 16)
    views = [packed[:, :, i] for i in range(3)]
    y, lse = kernels.attention(*views, layout="blhd", return_lse=True)
    plain = [np.ascontiguousarray(np.swapaxes(x, 1, 2)) for x in views]
    expected, expected_lse = kernels.attention(*plain, return_lse=True)
    assert_same_bits(np.swapaxes(y, 1, 2), expected)
    assert_same_bits(lse, expected_lse)
    grad = normal(rng, dtype, *y.shape)
    own = [np.ascontiguousarray(x) for x in views]
    for taken in (views, own):
        got = kernels.attention_backward(grad, *taken, y, lse, layout="blhd")
        ref = kernels.attention_backward(np.swapaxes(grad, 1, 2), *plain, expected, lse)
        for g, r in zip(got[:3], ref[:3], strict=True):
            assert_same_bits(np.swapaxes(g, 1, 2), r)


@pytest.mark.parametrize("strided", [False, True])
def test_out_is_filled_and_nothing_beside_it(
    dtype: Any, strided: bool, rng: np.random.Generator
) -> None:
    for sizes in ((1, 2, 1, 33, 20, 5, 7), (2, 1, 1, 1, 40, 16, 33)):
        q, k, v, _ = fill(rng, dtype, sizes, {})
        y = kernels.attention(q, k, v)
        guard = Guarded(y.shape, dtype, strided=strided)
        assert kernels.attention(q, k, v, out=guard.out) is guard.out
        assert_same_bits(guard.out, y)
        guard.check()


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((3, 4, 2, 70, 150, 16, 16), {"causal": "bottom_right"}),
        ((1, 1, 1, 600, 600, 8, 24), {"causal": True, "window": (300, -1)}),
        ((1, 2, 1, 300, 260, 8, 8), {"mask": "full", "bias": "plane", "dropout": 0.2}),
        ((2, 2, 2, 90, 90, 8, 8), {"bias": "queries", "softcap": 3.0, "alibi_slopes": True}),
        ((2, 4, 2, 600, 70, 8, 40), {"sinks": False, "causal": "bottom_right"}),
        ((2, 4, 2, 1, 5000, 16, 16), {"kv_lengths": True, "sinks": False}),
    ],
    ids=str,
)
def test_same_bits_for_every_thread_count_and_batch(
    dtype: Any, sizes: Any, options: dict[str, Any], rng: np.random.Generator
) -> None:
    q, k, v, options = fill(rng, dtype, sizes, options)
    y, lse = kernels.attention(q, k, v, **options, return_lse=True)
    grad = normal(rng, dtype, *y.shape)
    grads = kernels.attention_backward(grad, q, k, v, y, lse, **options)
    for n in thread_counts():
        again = kernels.attention(q, k, v, **options, return_lse=True)
        assert_same_bits(again[0], y, f"{n} threads")
        assert_same_bits(again[1], lse, f"{n} threads")
        got = kernels.attention_backward(grad, q, k, v, y, lse, **options)
        for name, g, expected in zip("qkvbs", got, grads, strict=True):
            if expected is not None:
                assert_same_bits(g, expected, f"gradient by {name}, {n} threads")
    if "dropout" in options:  # its mask depends on the place in the batch
        return
    for b in range(sizes[0]):
        own = dict(options)
        for name in ("kv_lengths", "alibi_slopes"):
            if name in own and own[name].shape[0] == sizes[0]:
                own[name] = own[name][b : b + 1]
        alone = kernels.attention(*(x[b : b + 1] for x in (q, k, v)), **own)
        assert_same_bits(alone, y[b : b + 1], f"sample {b} alone")


@pytest.mark.parametrize("causal", [False, "bottom_right"])
@pytest.mark.parametrize("kind", SHAPES)
def test_backward_is_the_derivative(kind: str, causal: Any, rng: np.random.Generator) -> None:
    q, k, v, options = fill(
        rng,
        np.float64,
        (2, 4, 2, 7, 11, 5, 6),
        {
            "mask": "full",
            "bias": kind,
            "softcap": 3.0,
            "alibi_slopes": False,
            "sinks": False,
            "dropout": 0.2,
        },
    )
    options["causal"] = causal
    options["bias"] = normal(rng, np.float64, *options["bias"].shape)
    y, lse = kernels.attention(q, k, v, **options, return_lse=True)
    grad = rng.standard_normal(y.shape)
    grads = kernels.attention_backward(grad, q, k, v, y, lse, **options)
    point = [q, k, v, options.pop("bias"), options.pop("sinks")]
    for i, name in enumerate(("q", "k", "v", "bias", "sinks")):

        def total(x: Any, i: int = i) -> Any:
            a, b, c, d, e = (*point[:i], x, *point[i + 1 :])
            return np.sum(grad * kernels.attention(a, b, c, bias=d, sinks=e, **options))

        gradient = grads[i]
        assert gradient is not None
        assert_gradient(total, point[i], gradient, rng, label=f"gradient by {name}")


def test_only_what_is_needed(dtype: Any, rng: np.random.Generator) -> None:
    q, k, v, options = fill(rng, dtype, (1, 2, 1, 20, 30, 8, 8), {"bias": "full", "sinks": False})
    y, lse = kernels.attention(q, k, v, **options, return_lse=True)
    grad = normal(rng, dtype, *y.shape)
    full = kernels.attention_backward(grad, q, k, v, y, lse, **options)
    names = ("q", "k", "v", "bias", "sinks")
    for n in range(6):
        for needs in itertools.combinations(names, n):
            got = kernels.attention_backward(grad, q, k, v, y, lse, **options, needs=needs)
            for name, g, expected in zip(names, got, full, strict=True):
                assert (g is None) == (name not in needs)
                if g is not None and expected is not None:
                    assert_same_bits(g, expected, f"{name} of {needs}")
