"""float16 and bfloat16 in the families of products: what float32 gives, rounded once.

The float32 kernels are held against the reference elsewhere. Here the same bits must come of arrays
of 16 bits as of the same numbers in float32, rounded by NumPy's or ml_dtypes' own conversion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import kernels
from halves import assert_rounded_once, assert_same_numbers, both_ways, rounded
from memory import Guarded
from tolerances import finfo

from .problems import arranged, normal

Call = tuple[tuple[Any, ...], dict[str, Any]]


@pytest.fixture(params=["float16", "bfloat16"])
def half(request: pytest.FixtureRequest) -> np.dtype[Any]:
    if request.param == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    return np.dtype(request.param)


def numbers(seed: int, *shape: int) -> Any:
    return normal(np.random.default_rng(seed), np.float32, *shape)


def check(half: Any, name: str, *arguments: Any, **options: Any) -> Any:
    """Hold a call in 16 bits against one in float32, and return its result."""
    function = getattr(kernels, name)
    short, long = both_ways(half, (arguments, options))
    before, _ = both_ways(half, short)
    got = function(*short[0], **short[1])
    expected = function(*long[0], **long[1])
    assert_rounded_once(got, expected, half, name)
    assert_unchanged(short, before)
    first = got if isinstance(got, np.ndarray) else next(g for g in got if g is not None)
    if isinstance(first, np.ndarray):
        assert first.dtype == half, name
    return got


def assert_unchanged(got: Any, before: Any) -> None:
    if isinstance(got, np.ndarray):
        assert got.tobytes() == before.tobytes()
    elif type(got) in (tuple, list):
        for g, b in zip(got, before, strict=True):
            assert_unchanged(g, b)
    elif type(got) is dict:
        for key in got:
            assert_unchanged(got[key], before[key])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("m", "k", "n"), [(1, 600, 33), (4, 513, 64), (37, 70, 101), (0, 3, 4)])
def test_linear(half: Any, m: int, k: int, n: int) -> None:
    x, weight = numbers(1, m, k), numbers(2, n, k)
    bias, residual = numbers(3, n), numbers(4, m, n)
    check(half, "linear", x, weight)
    check(half, "linear", x, weight.T.copy().T, bias)
    check(half, "linear", x, weight, bias, activation="gelu", residual=residual)
    check(half, "linear", numbers(5, 2, 3, k), weight.T.copy().T, bias)
    check(half, "linear_backward", residual, x, weight)
    check(half, "linear_backward", residual, x, weight, needs=("weight",))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [
        ((5,), (5,)),
        ((45, 61), (61, 77)),
        ((2, 1, 4, 5), (3, 5, 3)),
        ((2, 4, 5), (5,)),
        ((3, 0, 5), (5, 7)),
        ((3, 4, 0), (0, 7)),
    ],
)
def test_matmul(half: Any, a_shape: Any, b_shape: Any) -> None:
    check(half, "matmul", numbers(1, *a_shape), numbers(2, *b_shape))


VIEWS: dict[str, Callable[[Any], Any]] = {
    "transposed": lambda a: np.swapaxes(np.swapaxes(a, -1, -2).copy(), -1, -2),
    "every other": lambda a: np.repeat(np.repeat(a, 2, axis=-1), 2, axis=-2)[..., ::2, ::2],
    "reversed": lambda a: a[..., ::-1, ::-1].copy()[..., ::-1, ::-1],
    "of a wider one": lambda a: np.concatenate([a, a, a], axis=-1)[..., : a.shape[-1]],
    "batch inside": lambda a: np.moveaxis(np.moveaxis(a, 0, -1).copy(), -1, 0),
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "read-only": lambda a: np.broadcast_to(a, a.shape),
    "unaligned": lambda a: (
        np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)
    ),
}


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("view", VIEWS)
def test_operands_lie_as_they_like(half: Any, view: str) -> None:
    """Whatever the strides, the numbers are those of contiguous arrays."""
    a, b = rounded(numbers(1, 3, 17, 19), half), rounded(numbers(2, 3, 19, 23), half)
    seen = VIEWS[view]
    for first, second in ((seen(a), b), (a, seen(b)), (seen(a), seen(b))):
        wide = kernels.matmul(first.astype(np.float32), second.astype(np.float32))
        assert_same_numbers(kernels.matmul(first, second), rounded(wide, half))
    q, k = rounded(numbers(3, 2, 3, 9, 16), half), rounded(numbers(4, 2, 3, 11, 16), half)
    for first, second in ((seen(q), k), (q, seen(k)), (seen(q), seen(k))):
        wide = kernels.attention(*(v.astype(np.float32) for v in (first, second, second)))
        assert_same_numbers(kernels.attention(first, second, second), rounded(wide, half))


@pytest.mark.usefixtures("isa")
def test_products_are_rounded_once(half: Any) -> None:
    """Against the product in float64: half a unit of the last place, and the errors of float32."""
    a, b = rounded(numbers(1, 61, 300), half), rounded(numbers(2, 300, 67), half)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    scale = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))
    got = kernels.matmul(a, b).astype(np.float64)
    bound = float(finfo(half).eps) / 2 * np.abs(exact) + 302 * 2.0**-24 * scale * 1.01
    assert (np.abs(got - exact) <= bound).all()
    # Sums are not those of 16 bits, which stop growing at a few thousand ones.
    ones = np.ones((1, 20000), half)
    assert kernels.matmul(ones, ones.T).astype(np.float64)[0, 0] == rounded(20000.0, half)


def test_what_does_not_fit_is_infinite(half: Any) -> None:
    a = np.full((2, 4), finfo(half).max, half)
    assert np.isposinf(kernels.matmul(a, a.T).astype(np.float32)).all()
    a[0, 0] = np.nan
    assert np.isnan(kernels.matmul(a, a.T).astype(np.float32)[0]).all()


# shape of x, output channels, kernel, stride, padding, dilation, groups
IMAGES = [
    ((1, 16, 14, 14), 40, 3, 1, 1, 1, 1),  # winograd
    ((2, 16, 9, 9), 40, 3, 2, 1, 1, 1),
    ((1, 64, 10, 10), 70, 1, 1, 0, 1, 1),
    ((2, 6, 9, 8), 12, 3, 1, 1, 2, 3),
    ((2, 5, 6, 6), 5, 3, 1, 1, 1, 5),  # depthwise
    ((2, 3, 17, 15), 8, 7, 2, 3, 1, 1),
    ((0, 4, 6, 6), 4, 3, 1, 0, 1, 1),
]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("problem", IMAGES, ids=str)
def test_images(half: Any, layout: str, problem: Any) -> None:
    shape, oc, size, stride, padding, dilation, groups = problem
    x = arranged(numbers(1, *shape), layout)
    weight, bias = numbers(2, oc, shape[1] // groups, size, size), numbers(3, oc)
    geometry = (stride, padding, dilation, groups)
    y = check(half, "conv2d", x, weight, bias, *geometry, layout=layout)
    residual = y.astype(np.float32)
    options = {"activation": "silu", "residual": residual, "layout": layout}
    check(half, "conv2d", x, weight, bias, *geometry, **options)
    check(half, "conv2d_backward", residual, x, weight, *geometry, layout=layout)
    back = numbers(4, shape[1], oc // groups, size, size)
    transposed = (stride, padding, 0, groups, dilation)
    y = check(half, "conv_transpose2d", x, back, numbers(5, oc), *transposed, layout=layout)
    grad = y.astype(np.float32)
    check(half, "conv_transpose2d_backward", grad, x, back, *transposed, layout=layout)
    for pool in ("max", "avg"):
        check(half, "conv2d_pool", x, weight, bias, *geometry, pool=pool, layout=layout)


@pytest.mark.usefixtures("isa")
def test_signals_and_volumes(half: Any) -> None:
    x, weight = numbers(1, 2, 5, 33), numbers(2, 8, 5, 3)
    y = check(half, "conv1d", x, weight, None, 2, 1)
    check(half, "conv1d_backward", y.astype(np.float32), x, weight, 2, 1)
    y = check(half, "conv_transpose1d", x, numbers(3, 5, 4, 3), None, 2, 1)
    check(half, "conv_transpose1d_backward", y.astype(np.float32), x, numbers(3, 5, 4, 3), 2, 1)
    x, weight = numbers(1, 2, 4, 5, 7, 6), numbers(2, 6, 4, 3, 3, 3)
    y = check(half, "conv3d", x, weight, None, 1, 1)
    check(half, "conv3d_backward", y.astype(np.float32), x, weight, 1, 1)
    y = check(half, "conv_transpose3d", x, numbers(3, 4, 3, 2, 2, 2), None, 2)
    check(half, "conv_transpose3d_backward", y.astype(np.float32), x, numbers(3, 4, 3, 2, 2, 2), 2)


@pytest.mark.usefixtures("isa")
def test_windows(half: Any) -> None:
    windows = check(half, "unfold", numbers(1, 2, 3, 9, 8), 3, 1, 1, 2)
    check(half, "fold", windows.astype(np.float32), (9, 8), 3, 1, 1, 2)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_pooling(half: Any, layout: str) -> None:
    x = np.round(arranged(numbers(1, 2, 17, 13, 11), layout) * 4) / 4  # with ties
    options = {"layout": layout}
    y, indices = check(half, "max_pool2d", x, 3, 2, 1, return_indices=True, **options)
    check(half, "max_pool2d", x, 2, **options)
    grad = numbers(2, *y.shape)
    check(half, "max_pool2d_backward", grad, x, 3, 2, 1, **options)
    check(half, "max_pool2d_backward", grad, x, 3, 2, 1, indices=indices, **options)
    check(half, "avg_pool2d", x, 3, 2, 1, **options)
    check(half, "avg_pool2d_backward", grad, x.shape, 3, 2, 1, **options)
    y = check(half, "lp_pool2d", np.abs(x), 2.0, 3, 2, padding=1, **options)
    check(
        half,
        "lp_pool2d_backward",
        grad,
        np.abs(x),
        y.astype(np.float32),
        2.0,
        3,
        2,
        padding=1,
        **options,
    )
    check(half, "adaptive_avg_pool2d", x, (4, 3), **options)
    check(half, "adaptive_max_pool2d", x, (4, 3), return_indices=True, **options)
    for name in ("global_avg_pool", "global_max_pool"):
        check(half, name, x, **options)
    y, indices = kernels.max_pool2d(x, 2, return_indices=True, **options)
    spread = check(half, "max_unpool2d", y, indices, 2, output_size=(13, 11), **options)
    check(half, "max_unpool2d_backward", spread.astype(np.float32), indices, **options)


@pytest.mark.usefixtures("isa")
def test_pooling_of_volumes(half: Any) -> None:
    x = numbers(1, 2, 3, 6, 7, 9)
    y = check(half, "max_pool3d", x, 2, return_indices=True)[0]
    check(half, "max_pool3d_backward", y.astype(np.float32), x, 2)
    check(half, "avg_pool3d", x, 3, 2, 1)


def test_maxima_keep_nan_and_the_first_of_equals(half: Any) -> None:
    x = rounded([[[[1, 3, 3, np.nan, 2], [0, 3, 1, 0, 2]]]], half)
    y, at = kernels.max_pool2d(x, (2, 2), 1, return_indices=True)
    np.testing.assert_array_equal(y[0, 0, 0].astype(np.float32), [3, 3, np.nan, np.nan])
    np.testing.assert_array_equal(at[0, 0, 0], [1, 1, 3, 3])


ATTENTION: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": "bottom_right"},
    "window": {"window": (5, 3), "softcap": 5.0},
    "mask": {"mask": np.random.default_rng(9).random((2, 1, 37, 41)) < 0.7},
    "bias": {"bias": numbers(8, 4, 1, 41)},
    "slopes": {"alibi_slopes": numbers(7, 4), "sinks": numbers(6, 4)},
    "lengths": {"kv_lengths": np.array([13, 0])},
    "dropout": {"dropout": 0.3, "seed": 5},
}


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("options", ATTENTION.values(), ids=ATTENTION)
@pytest.mark.parametrize("dims", [(16, 16), (40, 24), (7, 33)])
def test_attention(half: Any, options: dict[str, Any], dims: tuple[int, int]) -> None:
    """Grouped heads; lse comes in float32, and goes back so."""
    d, dv = dims
    q, k, v = numbers(1, 2, 4, 37, d), numbers(2, 2, 2, 41, d), numbers(3, 2, 2, 41, dv)
    out, lse = check(half, "attention", q, k, v, return_lse=True, **options)
    assert (out.dtype, lse.dtype) == (half, np.float32)
    short, _ = both_ways(half, (numbers(4, *out.shape), q, k, v, options))
    grad, q, k, v, narrow = short
    got = kernels.attention_backward(grad, q, k, v, out, lse, **narrow)
    wide = [a.astype(np.float32) for a in (grad, q, k, v, out)]
    expected = kernels.attention_backward(*wide, lse, **both_ways(half, options)[1])
    assert_rounded_once(got, expected, half, "attention_backward")


@pytest.mark.usefixtures("isa")
def test_long_attention(half: Any) -> None:
    """More keys than a block has, and gradients in several units."""
    q, k, v = numbers(1, 1, 2, 300, 64), numbers(2, 1, 2, 515, 64), numbers(3, 1, 2, 515, 64)
    out, lse = check(half, "attention", q, k, v, causal="bottom_right", return_lse=True)
    q, k, v = (rounded(a, half) for a in (q, k, v))
    wide = [a.astype(np.float32) for a in (out, q, k, v, out)]
    expected = kernels.attention_backward(*wide, lse, causal="bottom_right")
    got = kernels.attention_backward(out, q, k, v, out, lse, causal="bottom_right")
    assert_rounded_once(got, expected, half, "attention_backward")


@pytest.mark.usefixtures("isa")
def test_packed_sequences(half: Any) -> None:
    q, k, v = numbers(1, 30, 4, 16), numbers(2, 35, 2, 16), numbers(3, 35, 2, 16)
    ends = np.array([0, 9, 9, 30]), np.array([0, 20, 21, 35])
    out, lse = check(half, "attention_varlen", q, k, v, *ends, return_lse=True)
    grad, q, k, v = both_ways(half, (numbers(4, *out.shape), q, k, v))[0]
    wide = [a.astype(np.float32) for a in (grad, q, k, v, out)]
    got = kernels.attention_varlen_backward(grad, q, k, v, out, lse, *ends)
    expected = kernels.attention_varlen_backward(*wide, lse, *ends)
    assert_rounded_once(got, expected, half, "attention_varlen_backward")


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("dim", [16, 40, 64, 128, 136])
def test_one_query(half: Any, heads: int, dim: int) -> None:
    """Keys and values are read as they are, by every tile of heads and rows."""
    q = numbers(1, 2, heads * 2, 1, dim)
    for length in (1, 15, 35, 530):
        k, v = numbers(2, 2, 2, length, dim), numbers(3, 2, 2, length, dim + 3)
        check(half, "attention", q, k, v, return_lse=True)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("layout", ["bhld", "blhd"])
def test_cache(half: Any, queries: int, layout: str) -> None:
    """Against a cache of rows and of pages; what is beyond the lengths is not read."""

    def laid(a: Any) -> Any:
        return a if layout == "bhld" else np.ascontiguousarray(np.swapaxes(a, 1, 2))

    q, k, v = numbers(1, 2, 4, queries, 24), numbers(2, 2, 2, 40, 24), numbers(3, 2, 2, 40, 16)
    lengths = np.array([37, 5])
    for b, n in enumerate(lengths):
        k[b, :, n:], v[b, :, n:] = np.nan, np.nan
    for options in ({}, {"bias": numbers(5, 4, queries, 40)}, {"sinks": numbers(6, 4)}):
        check(
            half,
            "attention_decode",
            laid(q),
            laid(k),
            laid(v),
            lengths,
            return_lse=True,
            layout=layout,
            **options,
        )
    pages = np.array([[3, 0, 5], [1, 4, 2]])
    k, v = numbers(2, 6, 2, 8, 24), numbers(3, 6, 2, 8, 16)
    lengths = np.array([20, 9])
    call = (laid(q), laid(k), laid(v), lengths)
    check(half, "attention_decode", *call, block_table=pages, layout=layout)


@pytest.mark.parametrize("paged", [False, True])
def test_cache_takes_new_rows(half: Any, paged: bool) -> None:
    """Rows of 16 bits are moved into the cache as they are; turned ones are rounded before."""
    q, new_k, new_v = (rounded(numbers(i, 2, 2, 1, 16), half) for i in (1, 2, 3))
    shape = (6, 2, 8, 16) if paged else (2, 2, 24, 16)
    table = {"block_table": np.array([[3, 0, 5], [1, 4, 2]])} if paged else {}
    angles = numbers(4, 24, 8)
    cos, sin = rounded(np.cos(angles), half), rounded(np.sin(angles), half)
    lengths = np.array([17, 8])
    for turns in ({}, {"cos": cos, "sin": sin}):
        caches = [rounded(numbers(i, *shape), half) for i in (5, 6)]
        wide = [c.astype(np.float32) for c in caches]
        got = kernels.attention_decode(q, *caches, lengths, k=new_k, v=new_v, **table, **turns)
        asked, rows = q.astype(np.float32), new_k.astype(np.float32)
        if turns:
            at = lengths[:, None]
            table_of = [a.astype(np.float32) for a in (cos, sin)]
            asked, rows = (kernels.rope(a, *table_of, positions=at) for a in (asked, rows))
            asked, rows = (rounded(a, half).astype(np.float32) for a in (asked, rows))
        expected = kernels.attention_decode(
            asked, *wide, lengths, k=rows, v=new_v.astype(np.float32), **table
        )
        assert_same_numbers(got, rounded(expected, half))
        for cache, there in zip(caches, wide, strict=True):
            assert_same_numbers(cache, rounded(there, half))


def gates(kind: str) -> int:
    return {"rnn": 1, "lstm": 4, "gru": 3}[kind]


def recurrent(kind: str, groups: int, inputs: list[int], hidden: int) -> list[Any]:
    rows = gates(kind) * hidden
    shapes = [
        s for g in range(groups) for s in ((rows, inputs[g]), (rows, hidden), (rows,), (rows,))
    ]
    return [0.3 * numbers(10 + i, *shape) for i, shape in enumerate(shapes)]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_recurrent_networks(half: Any, kind: str, batch_first: bool) -> None:
    hidden, steps, batch = 18, 5, 3
    weights = recurrent(kind, 4, [7, 7, 36, 36], hidden)
    x = numbers(1, batch, steps, 7) if batch_first else numbers(1, steps, batch, 7)
    h0, c0 = numbers(2, 4, batch, hidden), numbers(3, 4, batch, hidden)
    state = (h0, c0) if kind == "lstm" else h0
    options = {"num_layers": 2, "bidirectional": True, "batch_first": batch_first}
    options["lengths"] = np.array([5, 0, 3])
    results = []
    short, long = both_ways(half, (x, weights, state))
    for call in (short, long):
        results.append(getattr(kernels, kind)(*call, return_workspace=True, **options))
    (*got, kept), (*expected, wide) = results
    assert kept.nbytes > 0
    assert_rounded_once(got, expected, half, kind)
    grad, wide_grad = both_ways(half, (numbers(4, *got[0].shape), state))
    back = getattr(kernels, f"{kind}_backward")
    assert_rounded_once(back(*grad, kept), back(*wide_grad, wide), half, f"{kind}_backward")
    packed = kernels.pack(short[1], kind)
    assert packed.dtype == half
    again = getattr(kernels, kind)(short[0], packed, short[2], **options)
    assert_rounded_once(again, tuple(expected), half, "packed")


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_cells(half: Any, kind: str) -> None:
    weights = recurrent(kind, 1, [7], 18)
    state: Any = numbers(2, 3, 18)
    if kind == "lstm":
        state = (state, numbers(3, 3, 18))
    short, long = both_ways(half, (numbers(1, 3, 7), weights, state))
    step, back = getattr(kernels, f"{kind}_cell"), getattr(kernels, f"{kind}_cell_backward")
    got, kept = step(*short, return_workspace=True)
    expected, wide = step(*long, return_workspace=True)
    assert_rounded_once(got, expected, half, "cell")
    assert_rounded_once(back(short[2], kept), back(long[2], wide), half, "cell_backward")


def test_layer_norms_and_peepholes(half: Any) -> None:
    weights = recurrent("lstm", 1, [7], 18)
    options = {
        "peepholes": [0.1 * numbers(5, 3, 18)],
        "layer_norm": [numbers(6, 72), numbers(7, 72), numbers(8, 18), numbers(9, 18)],
        "return_cells": True,
    }
    short, long = both_ways(half, ((numbers(1, 4, 3, 7), weights), options))
    got = kernels.lstm(*short[0], **short[1], return_workspace=True)
    expected = kernels.lstm(*long[0], **long[1], return_workspace=True)
    assert_rounded_once(got[:-1], expected[:-1], half, "lstm")
    grads = both_ways(half, (numbers(2, *got[0].shape), None, numbers(3, *got[0].shape)))
    backs = [
        kernels.lstm_backward(g, s, kept[-1], grad_cells=c)
        for (g, s, c), kept in zip(grads, (got, expected), strict=True)
    ]
    assert_rounded_once(*backs, half, "lstm_backward")


def test_packed_weights(half: Any) -> None:
    weight, x = rounded(numbers(1, 33, 600), half), rounded(numbers(2, 5, 600), half)
    packed = kernels.pack(weight, "linear")
    assert (packed.dtype, packed.shape) == (half, (33, 600))
    expected = kernels.linear(x, weight)
    weight[:] = 0  # a copy of its own
    for _ in range(2):
        assert_same_numbers(kernels.linear(x, packed), expected)
    weight, x = rounded(numbers(1, 40, 16, 3, 3), half), rounded(numbers(2, 1, 16, 14, 14), half)
    packed = kernels.pack(weight, "conv2d")
    assert_same_numbers(kernels.conv2d(x, packed), kernels.conv2d(x, weight))
    with pytest.raises(TypeError, match=r"\[conv2d\] weight: expected float32 \(the dtype of x\)"):
        kernels.conv2d(x.astype(np.float32), packed)


@pytest.mark.parametrize("strided", [False, True])
def test_out(half: Any, strided: bool) -> None:
    x, weight = rounded(numbers(1, 37, 70), half), rounded(numbers(2, 33, 70), half)
    expected = kernels.linear(x, weight)
    wide = x.astype(np.float32)
    for other in (np.float32, np.float64):
        with pytest.raises(TypeError, match=rf"out: expected {half.name}, got float"):
            kernels.linear(x, weight, out=np.empty((37, 33), other))
    with pytest.raises(TypeError, match=rf"out: expected float32, got {half.name}"):
        kernels.linear(wide, weight.astype(np.float32), out=np.empty((37, 33), half))
    out = np.full((41, 80), 7, half)
    view = out[2:39, 3 : 3 + 66 : 2] if strided else out[2:39, 3:36]
    assert kernels.linear(x, weight, out=view) is view
    assert_same_numbers(view, expected)
    view[...] = 7
    assert (out == half.type(7)).all()
    square = rounded(numbers(3, 70, 70), half)
    with pytest.raises(ValueError, match="overlapping an input"):
        kernels.linear(square, square, out=square)


def test_guards_stay(half: Any) -> None:
    """Whole vectors are not stored beside a result of odd length."""
    for name, call in {
        "linear": (numbers(1, 3, 5), numbers(2, 7, 5)),
        "conv2d": (numbers(1, 1, 3, 5, 5), numbers(2, 5, 3, 3, 3)),
        "avg_pool2d": (numbers(1, 1, 3, 5, 5), 3),
    }.items():
        short, _ = both_ways(half, call)
        expected = getattr(kernels, name)(*short)
        guard = Guarded(expected.shape, np.uint16)
        getattr(kernels, name)(*short, out=guard.out.view(half))
        assert_same_numbers(guard.out.view(half), expected)
        guard.check()


CALLS: dict[str, tuple[Any, ...]] = {
    "linear": (numbers(1, 8, 5), numbers(2, 6, 5), numbers(3, 6)),
    "matmul": (numbers(1, 8, 5), numbers(2, 5, 6)),
    "linear_backward": (numbers(1, 8, 6), numbers(2, 8, 5), numbers(3, 6, 5)),
    "conv2d": (numbers(1, 1, 3, 6, 6), numbers(2, 4, 3, 3, 3), numbers(3, 4)),
    "conv2d_backward": (
        numbers(3, 1, 4, 4, 4),
        numbers(1, 1, 3, 6, 6),
        numbers(2, 4, 3, 3, 3),
    ),
    "attention": (numbers(1, 1, 2, 6, 8), numbers(2, 1, 2, 7, 8), numbers(3, 1, 2, 7, 8)),
    "max_pool2d_backward": (numbers(1, 1, 1, 3, 3), numbers(2, 1, 1, 6, 6), 2),
}


@pytest.mark.parametrize("name", CALLS)
def test_dtypes_are_not_mixed(half: Any, name: str) -> None:
    short, long = both_ways(half, CALLS[name])
    for i, a in enumerate(short):
        for other in (np.float32, np.float64, np.int32):
            if not isinstance(a, np.ndarray):
                continue
            mixed = [*short]
            mixed[i] = long[i].astype(other)
            with pytest.raises(TypeError, match=rf"{half.name}|float32 or float64"):
                getattr(kernels, name)(*mixed)


def test_the_two_of_16_bits_are_not_mixed() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    a, b = np.ones((2, 3), np.float16), np.ones((3, 2), bfloat16)
    with pytest.raises(TypeError, match=r"b: expected float16 \(the dtype of a\), got bfloat16"):
        kernels.matmul(a, b)
    with pytest.raises(TypeError, match=r"b: expected bfloat16 \(the dtype of a\), got float16"):
        kernels.matmul(b, a)


def test_threads_and_batches_give_the_same_bits(half: Any) -> None:
    """Conversions are shared among threads; a sample alone has the bits that it has in a batch."""
    x, weight = rounded(numbers(1, 300, 700), half), rounded(numbers(2, 400, 700), half)
    image = rounded(numbers(3, 4, 32, 40, 40), half)
    taps = rounded(numbers(4, 32, 32, 3, 3), half)
    q = rounded(numbers(5, 2, 4, 200, 64), half)
    calls: list[Callable[[], Any]] = [
        lambda: kernels.linear(x, weight),
        lambda: kernels.conv2d(image, taps, padding=1),
        lambda: kernels.attention(q, q, q),
    ]
    for call in calls:
        with ann.threads(1):
            expected = call()
        for n in (2, 3, 4):
            with ann.threads(n):
                assert_same_numbers(call(), expected)
    assert_same_numbers(kernels.linear(x[7:8], weight), kernels.linear(x, weight)[7:8])
    alone = kernels.conv2d(image[2:3], taps, padding=1)
    assert_same_numbers(alone, kernels.conv2d(image, taps, padding=1)[2:3])


@pytest.mark.usefixtures("isa")
def test_plans_tell_of_the_copies(half: Any) -> None:
    x, weight = numbers(1, 1, 16, 20, 20), numbers(2, 24, 16, 3, 3)
    wide = kernels.plan("conv2d", x, weight)
    short = kernels.plan("conv2d", rounded(x, half), rounded(weight, half))
    assert short.algorithm == wide.algorithm
    result = 24 * 18 * 18
    assert short.scratch_bytes == wide.scratch_bytes + 4 * (x.size + weight.size + result)
    packed = kernels.plan("conv2d", rounded(x, half), kernels.pack(rounded(weight, half), "conv2d"))
    assert packed.scratch_bytes == wide.scratch_bytes + 4 * (x.size + result)
