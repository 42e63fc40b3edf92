"""One-dimensional, adaptive and global pooling against the reference, at every ISA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arraynn import kernels, reference
from memory import LAYOUTS, in_layout, mixed_layouts
from tolerances import (
    assert_close_to_reference,
    assert_gradient,
    assert_same_bits,
    assert_within,
    dot_bound,
    widen,
)

from .problems import arranged, check_out, normal, thread_counts

pytestmark = pytest.mark.usefixtures("isa")

#: A pooling by its name with max or avg in the braces, positional arguments, and keywords.
Call = tuple[str, tuple[Any, ...], dict[str, Any]]

# (N, C, L), options
SIGNALS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 1), {"kernel_size": 1}),
    ((2, 3, 8), {"kernel_size": 2}),
    ((2, 17, 9), {"kernel_size": (2,), "ceil_mode": True}),
    ((2, 5, 133), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((1, 3, 67), {"kernel_size": 5, "stride": 7}),
    ((1, 9, 65), {"kernel_size": 4, "stride": 1, "padding": ((2, 1),)}),
    ((2, 4, 40), {"kernel_size": 3, "stride": 2, "dilation": 3, "padding": (2,)}),
    ((2, 3, 31), {"kernel_size": 4, "stride": 3, "padding": "same"}),
    ((2, 3, 31), {"kernel_size": 4, "stride": 3, "padding": "same_lower"}),
    ((1, 2, 1000), {"kernel_size": 2, "stride": 2}),
    ((0, 3, 8), {"kernel_size": 2}),
    ((2, 0, 8), {"kernel_size": 2}),
]
# Shape and output size: windows that overlap, tile, repeat (more outputs than inputs), one and all.
ADAPTIVE: list[tuple[tuple[int, ...], Any]] = [
    ((1, 1, 1), 1),
    ((2, 3, 7), 3),
    ((2, 17, 8), 4),
    ((1, 5, 3), (7,)),
    ((3, 33, 131), 10),
    ((2, 2, 40), 1),
    ((2, 3, 9), None),
    ((2, 3, 9), 0),
    ((0, 3, 9), 4),
    ((1, 1, 1, 1), 1),
    ((2, 3, 7, 5), 3),
    ((2, 17, 8, 6), (4, 3)),
    ((1, 5, 3, 2), (7, 5)),
    ((1, 9, 13, 37), (5, 36)),
    ((2, 3, 10, 67), (None, 6)),
    ((2, 3, 10, 67), (4, None)),
    ((1, 20, 301, 6), (97, 4)),
    ((2, 17, 44, 57), (6, 5)),
    ((1, 3, 40, 16), (3, 15)),
    ((2, 1, 31, 131), (5, 100)),
    ((2, 4, 6, 5), (0, 2)),
    ((2, 0, 6, 5), 2),
]
GLOBAL = [
    *((1, 1, 1), (2, 3, 7), (1, 2, 5003), (1, 1, 1, 1), (2, 19, 7, 7), (1, 2, 67, 64)),
    *((1, 35, 4, 4), (3, 5, 16), (1, 17, 127), (2, 18, 8, 16)),
]


def adaptive_name(shape: tuple[int, ...]) -> str:
    return "adaptive_{}_pool1d" if len(shape) == 3 else "adaptive_{}_pool2d"


def all_calls() -> Iterator[tuple[tuple[int, ...], Call]]:
    """Yield one call of every function with a shape for it."""
    yield (2, 5, 33), ("{}_pool1d", (3,), {"stride": 2, "padding": 1})
    yield (2, 5, 33), ("adaptive_{}_pool1d", (7,), {})
    yield (2, 5, 9, 17), ("adaptive_{}_pool2d", ((4, 5),), {})
    yield (2, 5, 33), ("global_{}_pool", (), {})
    yield (2, 5, 9, 17), ("global_{}_pool", (), {})


def pools(kind: str, call: Call, on: Any = kernels) -> tuple[Any, Any, Any, Any]:
    """Return kernel and reference, each with its backward."""
    name = call[0].format(kind)
    back = f"{name}_backward"
    found = (on, name), (reference, name), (on, back), (reference, back)
    return tuple(getattr(*f) for f in found)  # type: ignore[return-value]


def single_results(
    x: Any, grad: Any, call: Call, on: Any = kernels
) -> dict[str, Callable[..., Any]]:
    """Return both poolings and their gradients, all that takes ``out=``, yet to be called."""
    _, args, options = call
    largest, _, largest_back, _ = pools("max", call, on)
    mean, _, mean_back, _ = pools("avg", call, on)
    _, indices = largest(x, *args, return_indices=True, **options)
    return {
        "max": partial(largest, x, *args, **options),
        "average": partial(mean, x, *args, **options),
        "grad of max": partial(largest_back, grad, x, *args, **options),
        "grad by indices": partial(largest_back, grad, x, *args, indices=indices, **options),
        "grad of average": partial(mean_back, grad, x.shape, *args, **options),
    }


def check_outs(
    shape: tuple[int, ...], call: Call, dtype: Any, strided: bool, seed: int = 5
) -> None:
    """``out=`` of everything that a call of both poolings gives."""
    rng, layout = np.random.default_rng(seed), call[2]["layout"]
    x = arranged(normal(rng, dtype, *shape), layout)
    y = pools("max", call)[1](x, *call[1], **call[2])
    for result in single_results(x, normal(rng, dtype, *y.shape), call).values():
        check_out(result, strided)


def check_max(x: Any, call: Call, rng: np.random.Generator, on: Any = kernels) -> None:
    """Values and indices are exact; the gradient is a sum."""
    kernel, ref, kernel_back, ref_back = pools("max", call, on)
    _, args, options = call
    y, indices = ref(x, *args, return_indices=True, **options)
    got = kernel(x, *args, **options)
    assert got.flags.c_contiguous
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, y)
    got, got_indices = kernel(x, *args, return_indices=True, **options)
    np.testing.assert_array_equal(got, y)
    assert got_indices.dtype == np.int64
    np.testing.assert_array_equal(got_indices, indices)
    grad = normal(rng, x.dtype, *y.shape)
    wide, native = ref_back(widen(grad), x, *args, **options), ref_back(grad, x, *args, **options)
    scale = ref_back(np.abs(widen(grad)), x, *args, **options)
    for given_indices in (None, indices):
        grad_x = kernel_back(grad, x, *args, indices=given_indices, **options)
        assert_close_to_reference(grad_x, wide, native, scale=scale, label="grad_x of max")


def check_average(x: Any, call: Call, rng: np.random.Generator, on: Any = kernels) -> None:
    kernel, ref, kernel_back, ref_back = pools("avg", call, on)
    _, args, options = call
    got = kernel(x, *args, **options)
    assert got.flags.c_contiguous
    wide, native = (ref(v, *args, **options) for v in (widen(x), x))
    scale = ref(np.abs(widen(x)), *args, **options)
    assert_close_to_reference(got, wide, native, scale=scale, label="mean")
    grad = normal(rng, x.dtype, *got.shape)
    grad_x = kernel_back(grad, x.shape, *args, **options)
    wide, native = (ref_back(v, x.shape, *args, **options) for v in (widen(grad), grad))
    scale = ref_back(np.abs(widen(grad)), x.shape, *args, **options)
    assert_close_to_reference(grad_x, wide, native, scale=scale, label="grad_x of mean")


@pytest.mark.parametrize(("shape", "options"), SIGNALS, ids=str)
def test_signals(
    dtype: Any,
    layout: str,
    shape: tuple[int, ...],
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    """max_pool1d and avg_pool1d."""
    options = {**options, "layout": layout}
    distinct = arranged(normal(rng, dtype, *shape), layout)
    equal = arranged(rng.integers(0, 3, shape).astype(dtype), layout)
    for x in (distinct, equal, -np.abs(distinct)):
        check_max(x, ("{}_pool1d", (), options), rng)
    more: dict[str, Any]
    for more in ({}, {"count_include_pad": False}, {"divisor_override": -3}):
        check_average(distinct, ("{}_pool1d", (), {**options, **more}), rng)


@pytest.mark.parametrize(("shape", "size"), ADAPTIVE, ids=str)
def test_adaptive(
    dtype: Any, layout: str, shape: tuple[int, ...], size: Any, rng: np.random.Generator
) -> None:
    """adaptive_max_pool1d, adaptive_max_pool2d, adaptive_avg_pool1d and adaptive_avg_pool2d."""
    call: Call = (adaptive_name(shape), (size,), {"layout": layout})
    distinct = arranged(normal(rng, dtype, *shape), layout)
    equal = arranged(rng.integers(0, 3, shape).astype(dtype), layout)
    for x in (distinct, equal):
        check_max(x, call, rng)
    check_average(distinct, call, rng)


@pytest.mark.parametrize("shape", GLOBAL, ids=str)
def test_global(dtype: Any, layout: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """global_max_pool and global_avg_pool, short and long planes."""
    x = arranged(normal(rng, dtype, *shape), layout)
    call: Call = ("global_{}_pool", (), {"layout": layout})
    check_max(x, call, rng)
    check_average(x, call, rng)
    assert kernels.global_avg_pool(x, layout=layout).shape == tuple(
        arranged(np.empty((*shape[:2], *(1,) * (len(shape) - 2))), layout).shape
    )


def test_global_of_planes_too_long_for_a_band(
    dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    for shape in ((1, 9, 66001), (1, 9, 301, 220)):
        x = arranged(normal(rng, dtype, *shape), layout)
        check_max(x, ("global_{}_pool", (), {"layout": layout}), rng)
        mean = reference.global_avg_pool(widen(x), layout=layout)
        scale = reference.global_avg_pool(np.abs(widen(x)), layout=layout)
        count = int(np.prod(shape[2:]))
        got = kernels.global_avg_pool(x, layout=layout)
        assert_within(got, mean, dot_bound(count, dtype, scale), "mean")
        grad = normal(rng, dtype, *got.shape)
        spread = kernels.global_avg_pool_backward(grad, x.shape, layout=layout)
        assert_same_bits(spread, np.broadcast_to(grad / dtype.type(count), x.shape))


@pytest.mark.parametrize("position", [0, 1, 4095, 5000, 5002])
def test_global_maximum_of_a_long_plane_finds_nan(dtype: Any, layout: str, position: int) -> None:
    x = np.zeros((1, 2, 5003), dtype)
    x[0, 1, position] = np.nan
    x = arranged(x, layout)
    y, indices = kernels.global_max_pool(x, True, layout=layout)
    for values in (y.ravel(), kernels.global_max_pool(x, layout=layout).ravel()):
        np.testing.assert_array_equal(values, np.array([0, np.nan], dtype))
    np.testing.assert_array_equal(indices.ravel(), [0, position])


def test_nan_and_infinities(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -1.0], dtype)
    for shape, (name, args, options) in all_calls():
        for channels in (1, 19):
            x = rng.choice(special, (2, channels, *shape[2:]))
            check_max(arranged(x, layout), (name, args, {**options, "layout": layout}), rng)
        x = np.ones(shape, dtype)
        x[0, 0, ..., 1], x[0, 1, ..., 2], x[1, 1, ..., 3] = np.nan, np.inf, -np.inf
        kernel, ref, *_ = pools("avg", (name, args, options))
        x = arranged(x, layout)
        np.testing.assert_allclose(
            kernel(x, *args, **options, layout=layout), ref(x, *args, **options, layout=layout)
        )


@pytest.mark.parametrize("planes", [1, 7, 16, 33])
@pytest.mark.parametrize("size", [(100, 5), (330, 7), (64, 12), (2, 11)], ids=str)
def test_adaptive_windows_across_bands(
    dtype: Any, layout: str, planes: int, size: Any, rng: np.random.Generator
) -> None:
    """Tall planes: several bands of every block of planes, cut at any window."""
    call: Call = ("adaptive_{}_pool2d", (size,), {"layout": layout})
    for width in (12, 23):
        x = arranged(normal(rng, dtype, 1, planes, 331, width), layout)
        check_max(x, call, rng)
        check_average(x, call, rng)


def test_any_memory(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    for shape, (name, args, options) in all_calls():
        x = arranged(normal(rng, dtype, *shape), layout)
        more = {**options, "layout": layout}
        call = (name, args, more)
        largest, _, largest_back, _ = pools("max", call)
        mean, _, mean_back, _ = pools("avg", call)
        y, indices = largest(x, *args, return_indices=True, **more)
        average = mean(x, *args, **more)
        grad = normal(rng, dtype, *y.shape)
        expected = largest_back(grad, x, *args, **more)
        moved = largest_back(grad, x, *args, indices=indices, **more)
        spread = mean_back(grad, x.shape, *args, **more)
        for label, (a, g, i) in mixed_layouts(x, grad, indices):
            assert_same_bits(largest(a, *args, **more), y, label)
            assert_same_bits(mean(a, *args, **more), average, label)
            assert_same_bits(largest_back(g, a, *args, **more), expected, label)
            assert_same_bits(largest_back(g, a, *args, indices=i, **more), moved, label)
            assert_same_bits(mean_back(g, x.shape, *args, **more), spread, label)


@pytest.mark.parametrize("strided", [False, True])
def test_out_is_filled_and_nothing_beside_it(dtype: Any, layout: str, strided: bool) -> None:
    for shape, (name, args, options) in all_calls():
        check_outs(shape, (name, args, {**options, "layout": layout}), dtype, strided)


def test_backward_is_the_derivative(layout: str, rng: np.random.Generator) -> None:
    for shape, call in all_calls():
        name, args, options = call
        # Distinct values far apart: a step of the finite difference changes no maximum.
        size = int(np.prod(shape))
        x = arranged(rng.permutation(size).reshape(shape).astype(np.float64), layout)
        for kind in ("max", "avg"):
            kernel, _, back, _ = pools(kind, call)
            grad = normal(rng, np.float64, *kernel(x, *args, **options, layout=layout).shape)
            source = x if kind == "max" else x.shape
            grad_x = back(grad, source, *args, **options, layout=layout)

            def loss(v: Any, grad: Any = grad, kernel: Any = kernel, call: Any = call) -> Any:
                return np.sum(grad * kernel(v, *call[1], **call[2], layout=layout))

            assert_gradient(loss, x, grad_x, rng, step=1e-3, label=name.format(kind))


def test_same_bits_for_every_thread_count_and_batch(
    dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    calls: list[tuple[tuple[int, ...], Call]] = [
        ((5, 33, 1700), ("{}_pool1d", (3,), {"stride": 2, "padding": 1})),
        ((5, 33, 1700), ("adaptive_{}_pool1d", (333,), {})),
        ((5, 33, 40, 41), ("adaptive_{}_pool2d", ((7, 9),), {})),
        ((2, 3, 300, 400), ("global_{}_pool", (), {})),
        ((5, 33, 40, 41), ("global_{}_pool", (), {})),
    ]
    for shape, call in calls:
        x = arranged(normal(rng, dtype, *shape), layout)
        _, args, options = call
        options = {**options, "layout": layout}
        largest, _, largest_back, _ = pools("max", call)
        mean, _, mean_back, _ = pools("avg", call)
        first: list[Any] = []
        for n in thread_counts():
            for run in range(2):
                y, indices = largest(x, *args, return_indices=True, **options)
                average = mean(x, *args, **options)
                results = [
                    y,
                    indices,
                    average,
                    largest_back(average, x, *args, **options),
                    largest_back(average, x, *args, indices=indices, **options),
                    mean_back(y, x.shape, *args, **options),
                ]
                first = first or results
                for got, expected in zip(results, first, strict=True):
                    assert_same_bits(got, expected, f"{call[0]}, {n} threads, run {run}")


def test_indices_outside_of_planes_are_refused(
    dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    for shape, call in all_calls():
        _, args, options = call
        options = {**options, "layout": layout}
        x = arranged(normal(rng, dtype, *shape), layout)
        kernel, _, back, _ = pools("max", call)
        y, indices = kernel(x, *args, return_indices=True, **options)
        for wrong in (-1, int(np.prod(shape[2:])), 1 << 40, -(1 << 40)):
            bad = indices.copy()
            bad[..., -1, -1] = wrong
            with pytest.raises(ValueError, match="indices"):
                back(np.ones_like(y), x, *args, indices=bad, **options)


@given(data=st.data())
def test_adaptive_property(data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(st.sampled_from([np.float32, np.float64]), "dtype")
    layout = draw(st.sampled_from(["channels_first", "channels_last"]), "layout")
    axes = draw(st.integers(1, 2), "axes")
    n, c = draw(st.integers(0, 3), "n"), draw(st.integers(0, 19), "c")
    sizes = [draw(st.integers(1, 25), f"size {i}") for i in range(axes)]
    wanted = tuple(
        draw(st.one_of(st.none(), st.integers(0, 30)), f"output {i}") for i in range(axes)
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), "seed"))
    x = normal(rng, dtype, n, c, *sizes)
    if draw(st.booleans(), "many equal values"):
        x = np.round(x)
    x = in_layout(draw(st.sampled_from(sorted(LAYOUTS))), arranged(x, layout))
    call: Call = (f"adaptive_{{}}_pool{axes}d", (wanted,), {"layout": layout})
    check_max(x, call, rng)
    check_average(x, call, rng)


@given(data=st.data())
def test_signal_property(data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(st.sampled_from([np.float32, np.float64]), "dtype")
    layout = draw(st.sampled_from(["channels_first", "channels_last"]), "layout")
    n, c, length = (draw(st.integers(lo, hi)) for lo, hi in ((0, 3), (0, 19), (1, 60)))
    kernel = draw(st.integers(1, 5), "kernel")
    begin, end = (draw(st.integers(0, kernel - 1)) for _ in range(2))
    padding = draw(st.sampled_from([begin, (begin,), ((begin, end),), "same", "valid"]), "padding")
    options = {
        "kernel_size": kernel,
        "stride": draw(st.one_of(st.none(), st.integers(1, 6)), "stride"),
        "padding": padding,
        "dilation": draw(st.integers(1, 3), "dilation") if padding in (0, "valid") else 1,
        "ceil_mode": draw(st.booleans(), "ceil_mode"),
        "layout": layout,
    }
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), "seed"))
    x = arranged(normal(rng, dtype, n, c, length), layout)
    try:
        reference.max_pool1d(x, **options)
    except ValueError:
        for pool in (kernels.max_pool1d, kernels.avg_pool1d):
            with pytest.raises(ValueError, match=r"^\[(max|avg)_pool1d\]"):
                pool(x, **options)
        assume(False)
    check_max(x, ("{}_pool1d", (), options), rng)
    include = draw(st.booleans(), "count_include_pad")
    check_average(x, ("{}_pool1d", (), {**options, "count_include_pad": include}), rng)
