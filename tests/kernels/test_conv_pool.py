"""conv2d_pool: the bits of the two calls it stands for, at every ISA, in both layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import arraynn as ann
import arraynn.kernels
import arraynn.reference
from memory import LAYOUTS, Guarded, in_layout, mixed_layouts
from tolerances import assert_same_bits, assert_within, dot_bound, widen

from .problems import around, arranged, normal, register_tile, thread_counts

pytestmark = pytest.mark.usefixtures("isa")

# Called with keywords from tables.
kernels: Any = arraynn.kernels
reference: Any = arraynn.reference


def windows(
    size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil: bool = False
) -> dict[str, Any]:
    """Return the keywords of a pooling."""
    return {
        "pool_size": size,
        "pool_stride": stride,
        "pool_padding": padding,
        "pool_dilation": dilation,
        "ceil_mode": ceil,
    }


# (N, C, H, W), (OC, C / groups, KH, KW), options of the convolution, of the pooling.
CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any], dict[str, Any]]] = [
    ((1, 1, 2, 2), (1, 1, 1, 1), {}, {}),
    ((2, 3, 23, 19), (40, 3, 7, 7), {"stride": 2, "padding": 3}, windows(3, 2, 1)),
    ((2, 3, 30, 33), (7, 3, 3, 3), {"padding": 1}, {}),
    ((2, 3, 30, 33), (7, 3, 3, 3), {"padding": 1}, windows(2, ceil=True)),
    ((3, 13, 21, 22), (35, 13, 3, 3), {"padding": 1, "algorithm": "winograd"}, {}),
    ((3, 13, 21, 22), (35, 13, 3, 3), {"algorithm": "winograd"}, windows(3, 1, 1)),
    (
        (1, 12, 40, 41),
        (12, 12, 3, 3),
        {"padding": 1, "algorithm": "winograd"},
        windows((5, 3), (3, 2), (2, 0), ceil=True),
    ),
    ((5, 170, 5, 5), (38, 170, 3, 3), {"padding": 1}, windows(3, 2)),
    ((2, 8, 15, 15), (12, 2, 3, 3), {"groups": 4, "padding": 1}, windows(2, 3)),
    # Groups that are half a vector, at some level each.
    *(((2, 6, 9, 8), (2 * n, 3, 3, 3), {"groups": 2}, windows(3, 2, 1)) for n in (1, 2, 4, 8)),
    ((2, 4, 25, 9), (6, 4, 3, 3), {}, windows((2, 3), (7, 1))),
    ((2, 4, 25, 9), (6, 4, 3, 3), {}, windows(3, padding=(2, 1), dilation=(3, 2))),
    ((2, 4, 25, 17), (6, 4, 3, 3), {"dilation": 2, "flip_kernel": True}, windows(4, 3, "same")),
    ((2, 17, 9, 7), (33, 17, 1, 1), {}, {}),  # gemm
    ((70, 17, 9, 12), (64, 17, 1, 1), {}, windows(3, 2)),
    ((2, 17, 19, 18), (17, 1, 3, 3), {"groups": 17, "padding": 1}, {}),  # depthwise
    ((2, 6, 19, 18), (18, 1, 3, 3), {"groups": 6, "stride": 2}, windows(3, 1)),
    ((1, 5, 60, 70), (25, 1, 5, 3), {"groups": 5, "padding": 1}, windows(3, 2, 1)),
    ((2, 33, 40, 9), (33, 1, 3, 3), {"groups": 33}, windows((5, 2), (2, 1))),
    ((1, 1, 50, 40), (1, 1, 5, 5), {"padding": 2}, windows(3, 2)),
    ((2, 3, 12, 11), (9, 3, 3, 3), {"padding": 1}, windows((12, 11))),  # of whole planes
    ((0, 3, 8, 8), (5, 3, 3, 3), {"padding": 1}, {}),
    ((2, 3, 8, 8), (0, 3, 3, 3), {"padding": 1}, {}),
    ((2, 0, 8, 8), (5, 0, 3, 3), {"padding": 1}, {}),
]

#: Options of the convolution.
CONV = (
    "stride",
    "padding",
    "dilation",
    "groups",
    "activation",
    "layout",
    "algorithm",
    "flip_kernel",
)


def two_calls(module: Any, x: Any, weight: Any, bias: Any, **options: Any) -> Any:
    """Convolve, then pool."""
    conv = {k: v for k, v in options.items() if k in CONV}
    pool = {k.removeprefix("pool_"): v for k, v in options.items() if k not in CONV}
    kind, size = pool.pop("pool", "max"), pool.pop("size", 2)
    function = getattr(module, f"{kind}_pool2d")
    y = module.conv2d(x, weight, bias, **conv)
    return function(y, size, **pool, layout=options.get("layout", "channels_first"))


def check(x: Any, weight: Any, bias: Any, **options: Any) -> Any:
    """Hold the kernel against the two calls, and against the reference."""
    label = f"conv2d_pool {x.shape} {weight.shape} {options}"
    maxima = kernels.conv2d_pool(x, weight, bias, **options)
    assert maxima.flags.c_contiguous, label
    assert_same_bits(maxima + 0.0, two_calls(kernels, x, weight, bias, **options) + 0.0, label)
    means = kernels.conv2d_pool(x, weight, bias, **options, pool="avg")
    expected = two_calls(kernels, x, weight, bias, **options, pool="avg")
    taps = int(np.prod(np.broadcast_to(options.get("pool_size", 2), 2)))
    if options.get("layout") == "channels_last":
        assert_same_bits(means, expected, label)
    else:
        scale = two_calls(reference, *(np.abs(a) for a in widen(x, weight, bias)), **options)
        assert_within(means, widen(expected), dot_bound(taps, x.dtype, 2 * scale), label)
    return maxima


@pytest.mark.parametrize(("x_shape", "w_shape", "conv", "pool"), CASES, ids=str)
def test_same_as_two_calls(
    dtype: Any,
    layout: str,
    x_shape: Any,
    w_shape: Any,
    conv: dict[str, Any],
    pool: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    x = arranged(normal(rng, dtype, *x_shape), layout)
    weight, bias = normal(rng, dtype, *w_shape), normal(rng, dtype, w_shape[0])
    options = {**conv, **pool, "layout": layout}
    check(x, weight, bias, **options)
    check(x, weight, bias, **options, activation="relu")
    check(x, weight, np.zeros_like(bias), **options, activation="tanh")


@pytest.mark.parametrize(("x_shape", "w_shape", "conv", "pool"), CASES, ids=str)
def test_against_the_reference(
    layout: str,
    x_shape: Any,
    w_shape: Any,
    conv: dict[str, Any],
    pool: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    """In float64 every algorithm is far below the bound of a float32 sum."""
    x = arranged(normal(rng, np.float64, *x_shape), layout)
    weight, bias = normal(rng, np.float64, *w_shape), normal(rng, np.float64, w_shape[0])
    for kind in ("max", "avg"):
        for more in ({}, {"count_include_pad": False}, {"divisor_override": -3}):
            options: dict[str, Any] = {**conv, **pool, **more, "layout": layout, "pool": kind}
            got = kernels.conv2d_pool(x, weight, bias, **options, activation="relu")
            ref = reference.conv2d_pool(x, weight, bias, **options, activation="relu")
            np.testing.assert_allclose(got, ref, rtol=1e-11, atol=1e-11)
    assert_same_bits(
        kernels.conv2d_pool(x, weight, **conv, **pool, layout=layout),
        kernels.conv2d_pool(x, weight, bias * 0, **conv, **pool, layout=layout) + 0.0,
    )


def test_channels_around_the_register_tile(
    isa: str, dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    _, tile = register_tile("conv2d_pool", isa, dtype)
    for i, channels in enumerate(around(tile)):
        x = arranged(normal(rng, dtype, 2, 12 + i, 9, 10), layout)
        weight = normal(rng, dtype, channels, 12 + i, 3, 3)
        for algorithm in ("direct", "winograd"):
            check(x, weight, normal(rng, dtype, channels), layout=layout, algorithm=algorithm)


def test_tall_windows_of_many_strips(layout: str, rng: np.random.Generator) -> None:
    """Windows that several strips fill, of direct and tiled convolutions; and of whole planes."""
    x = arranged(normal(rng, np.float32, 1, 12, 60, 150), layout)
    weight, bias = normal(rng, np.float32, 40, 12, 3, 3), normal(rng, np.float32, 40)
    for algorithm in ("direct", "winograd"):
        for size, stride in ((17, 1), (40, 9), (58, 1)):
            options: dict[str, Any] = {"pool_size": (size, 2), "pool_stride": (stride, 2)}
            check(x, weight, bias, **options, layout=layout, algorithm=algorithm)
    plan = kernels.plan("conv2d_pool", x, weight, pool_size=(58, 2), layout=layout)
    assert "samples" in plan.reason


@given(data=st.data())
def test_property(data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(st.sampled_from([np.float32, np.float64]), "dtype")
    layout = draw(st.sampled_from(["channels_first", "channels_last"]), "layout")
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5]), "groups")
    n, h, w = (draw(st.integers(lo, hi)) for lo, hi in ((0, 3), (1, 30), (1, 30)))
    per_group = draw(st.sampled_from([1, 1, 2, 9, 13]), "ic")
    columns = draw(st.sampled_from([1, 1, 3, 14, 35]), "oc")
    size, step, pad = st.integers(1, 4), st.integers(1, 3), st.integers(0, 3)
    window = st.integers(1, 5)
    kernel = draw(st.one_of(st.just((3, 3)), st.tuples(size, size)), "kernel")
    options: dict[str, Any] = {
        "stride": draw(st.sampled_from([1, 1, 2, (1, 3)]), "stride"),
        "padding": draw(st.one_of(pad, st.just("same")), "padding"),
        "dilation": draw(st.sampled_from([1, 1, 2]), "dilation"),
        "groups": groups,
        "layout": layout,
        "flip_kernel": draw(st.booleans(), "flip_kernel"),
        "activation": draw(st.sampled_from([None, "relu", "gelu"]), "activation"),
        "pool_size": draw(st.tuples(window, window), "pool_size"),
        "pool_stride": draw(st.one_of(st.none(), step, st.tuples(window, window)), "pool_stride"),
        "pool_padding": draw(st.one_of(pad, st.sampled_from(["same", "same_lower"])), "pool_pad"),
        "pool_dilation": draw(step, "pool_dilation"),
        "ceil_mode": draw(st.booleans(), "ceil_mode"),
    }
    if kernel == (3, 3) and options["stride"] == 1 and options["dilation"] == 1:
        options["algorithm"] = draw(st.sampled_from(["auto", "direct", "winograd"]), "algorithm")
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), "seed"))
    memory = st.sampled_from(sorted(LAYOUTS))
    x = in_layout(draw(memory), arranged(normal(rng, dtype, n, groups * per_group, h, w), layout))
    weight = in_layout(draw(memory), normal(rng, dtype, groups * columns, per_group, *kernel))
    bias = normal(rng, dtype, groups * columns)
    try:
        two_calls(kernels, x, weight, bias, **options)
    except ValueError:
        with pytest.raises(ValueError, match=r"^\[conv2d_pool\]"):
            kernels.conv2d_pool(x, weight, bias, **options)
        assume(False)
    check(x, weight, bias, **options)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((5, 3, 20, 21), (9, 3, 3, 3), {"padding": 1, "pool_size": 3, "pool_stride": 2}),
        ((5, 16, 18, 60), (40, 16, 3, 3), {"pool_size": 3, "pool_stride": 2}),
        ((3, 130, 6, 6), (70, 130, 3, 3), {"padding": 1}),
        ((3, 20, 18, 40), (20, 1, 3, 3), {"groups": 20, "pool_size": 3, "pool_stride": 1}),
        ((5, 20, 18, 40), (90, 20, 1, 1), {}),
    ],
    ids=str,
)
def test_same_bits_for_any_team_and_batch(
    dtype: Any,
    layout: str,
    x_shape: Any,
    w_shape: Any,
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    x = arranged(normal(rng, dtype, *x_shape), layout)
    weight, bias = normal(rng, dtype, *w_shape), normal(rng, dtype, w_shape[0])
    for pool in ("max", "avg"):
        how: dict[str, Any] = {**options, "layout": layout, "pool": pool, "activation": "silu"}
        y = kernels.conv2d_pool(x, weight, bias, **how)
        for n in thread_counts():
            again = kernels.conv2d_pool(x, weight, bias, **how)
            assert_same_bits(again, y, f"{n} threads")
            for samples in ([0], [len(x) - 1], range(len(x) // 2)):
                alone = kernels.conv2d_pool(x[samples], weight, bias, **how)
                assert_same_bits(alone, y[samples], f"samples {samples}, {n} threads")


def test_memory(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    """Operands anywhere; nothing but `out` is written, and all of it."""
    for ic, columns, groups in ((13, 17, 1), (6, 6, 6)):
        x = arranged(normal(rng, dtype, 2, ic, 9, 11), layout)
        weight = normal(rng, dtype, columns, ic // groups, 3, 3)
        bias = normal(rng, dtype, columns)
        options: dict[str, Any] = {"groups": groups, "layout": layout, "pool_stride": 3}
        expected = kernels.conv2d_pool(x, weight, bias, **options)
        for names, arrays in mixed_layouts(x, weight, bias):
            assert_same_bits(kernels.conv2d_pool(*arrays, **options), expected, names)
        for strided in (False, True):
            guarded = Guarded(expected.shape, dtype, strided=strided)
            guarded.out[...] = np.nan
            assert kernels.conv2d_pool(x, weight, bias, **options, out=guarded.out) is guarded.out
            assert_same_bits(np.ascontiguousarray(guarded.out), expected)
            guarded.check()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(
    dtype: Any, layout: str, value: float, rng: np.random.Generator
) -> None:
    for groups in (1, 4):
        x = normal(rng, dtype, 2, 4, 13, 14)
        x[0, 1, 6, 7] = value
        weight = np.abs(normal(rng, dtype, 4, 4 // groups, 3, 3))
        options: dict[str, Any] = {"groups": groups, "pool_size": 3, "layout": layout}
        options["pool_stride"] = 2
        with np.errstate(invalid="ignore"):
            got = kernels.conv2d_pool(arranged(x, layout), weight, **options)
            ref = two_calls(kernels, arranged(x, layout), weight, None, **options)
        np.testing.assert_array_equal(got, ref)
        assert np.isfinite(got).sum() < got.size or value == -np.inf


def test_packed_weight(layout: str, rng: np.random.Generator) -> None:
    """One that is packed for conv2d, in the same forms."""
    x = arranged(normal(rng, np.float32, 2, 14, 19, 18), layout)
    for groups, kernel in ((1, 3), (1, 1), (2, 5), (14, 3)):
        weight = normal(rng, np.float32, 28, 14 // groups, kernel, kernel)
        packed = kernels.pack(weight, "conv2d")
        options: dict[str, Any] = {"groups": groups, "layout": layout, "pool_size": 3}
        expected = kernels.conv2d_pool(x, weight, **options)
        for _ in range(2):
            assert_same_bits(kernels.conv2d_pool(x, packed, **options), expected)
        size = packed.nbytes
        kernels.conv2d(x, packed, groups=groups, layout=layout)
        assert packed.nbytes == size
    packed = kernels.pack(weight, "conv_transpose2d")
    with pytest.raises(ValueError, match=r"\[conv2d_pool\] weight: expected .* packed for conv2d,"):
        kernels.conv2d_pool(x, packed, groups=14)


def test_plan_and_scratch() -> None:
    """The result of the convolution, 12 MiB here, is never formed."""
    x, w = np.ones((1, 64, 224, 224), np.float32), np.ones((64, 64, 3, 3), np.float32)
    with ann.threads(2):
        for how, name in (
            ({"padding": 1}, "winograd"),
            ({"padding": 1, "algorithm": "direct"}, "direct"),
        ):
            plan = kernels.plan("conv2d_pool", x, w, **how, pool_size=3, pool_stride=2)
            alone = kernels.plan("conv2d", x, w, **how)
            assert (plan.op, plan.algorithm, plan.threads) == ("conv2d_pool", name, alone.threads)
            assert "pooled in cache" in plan.reason
            assert plan.scratch_bytes < alone.scratch_bytes + (2 << 20)
        plan = kernels.plan("conv2d_pool", x, w[:, :1], groups=64)
        assert plan.algorithm == "depthwise"
        assert plan.scratch_bytes < 1 << 20
        plan = kernels.plan("conv2d_pool", x, w[:, :, :1, :1])
        assert plan.algorithm == "gemm"
        assert "samples" in plan.reason
    assert kernels.plan("conv2d_pool", x[:0], w).algorithm == "none"
    with pytest.raises(ValueError, match=r"\[conv2d_pool\] pool_size: expected a window that fits"):
        kernels.plan("conv2d_pool", x, w, pool_size=300)
