"""Pooling in three dimensions against the reference, at every ISA, in both layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arraynn import kernels, reference
from memory import LAYOUTS, in_layout, mixed_layouts
from tolerances import assert_gradient, assert_same_bits

from .problems import normal, thread_counts
from .test_pool_family import Call, arranged, check_average, check_max, check_outs, pools
from .test_pool_lp import check_lp_outs
from .test_pool_unpool import check_unpool_outs

pytestmark = pytest.mark.usefixtures("isa")

# (N, C, D, H, W), options of max_pool3d and avg_pool3d
WINDOWS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 1, 1, 1), {"kernel_size": 1}),
    ((2, 3, 4, 6, 8), {"kernel_size": 2}),
    ((1, 17, 5, 7, 9), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((2, 5, 4, 9, 7), {"kernel_size": (1, 2, 3), "stride": (1, 2, 1)}),
    ((2, 5, 3, 6, 8), {"kernel_size": (1, 2, 2)}),
    ((1, 3, 2, 4, 38), {"kernel_size": (1, 2, 2)}),
    ((1, 3, 9, 5, 6), {"kernel_size": (3, 1, 1), "stride": (2, 1, 1), "padding": (1, 0, 0)}),
    ((2, 9, 7, 6, 5), {"kernel_size": (2, 3, 2), "stride": (3, 2, 5), "ceil_mode": True}),
    ((1, 2, 4, 5, 36), {"kernel_size": 3, "stride": 1, "padding": ((1, 0), (0, 1), (1, 1))}),
    ((1, 4, 9, 9, 11), {"kernel_size": 3, "dilation": (2, 1, 3), "padding": (2, 1, 3)}),
    ((1, 3, 5, 8, 7), {"kernel_size": (2, 3, 4), "stride": 2, "padding": "same"}),
    ((1, 3, 5, 8, 7), {"kernel_size": (2, 3, 4), "stride": 3, "padding": "same_lower"}),
    ((1, 18, 3, 4, 5), {"kernel_size": (3, 4, 5)}),
    ((0, 3, 4, 4, 4), {"kernel_size": 2}),
    ((2, 0, 4, 4, 4), {"kernel_size": 2}),
]
# Windows that overlap, tile, repeat, and all in one.
ADAPTIVE: list[tuple[tuple[int, ...], Any]] = [
    ((1, 1, 1, 1, 1), 1),
    ((2, 3, 4, 7, 5), 3),
    ((1, 17, 4, 8, 6), (2, 4, 3)),
    ((1, 5, 2, 3, 2), (3, 7, 5)),
    ((2, 3, 3, 5, 67), (None, 2, 6)),
    ((1, 9, 5, 6, 7), (1, None, 1)),
    ((2, 4, 5, 6, 7), 1),
    ((2, 4, 3, 6, 5), (2, 0, 2)),
    ((2, 0, 3, 6, 5), 2),
]
# Too large for one unit of work, as float64: bands of rows, and blocks of volumes.
LARGE: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = [
    ((1, 20, 9, 38, 33), (3, 3, 3), (2, 1, 2)),
    ((1, 2, 19, 96, 95), (3, 2, 2), (1, 1, 1)),
    ((3, 70, 3, 7, 6), (2, 2, 2), (1, 1, 1)),
    ((1, 24, 6, 40, 21), (2, 2, 3), (3, 5, 2)),
    ((1, 24, 6, 40, 22), (2, 2, 2), (2, 2, 2)),
]


@pytest.mark.parametrize(("shape", "options"), WINDOWS, ids=str)
def test_windows(
    dtype: Any,
    layout: str,
    shape: tuple[int, ...],
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    """max_pool3d and avg_pool3d."""
    options = {**options, "layout": layout}
    distinct = arranged(normal(rng, dtype, *shape), layout)
    equal = arranged(rng.integers(0, 3, shape).astype(dtype), layout)
    for x in (distinct, equal, -np.abs(distinct)):
        check_max(x, ("{}_pool3d", (), options), rng)
    more: dict[str, Any]
    for more in ({}, {"count_include_pad": False}, {"divisor_override": -3}):
        check_average(distinct, ("{}_pool3d", (), {**options, **more}), rng)


@pytest.mark.parametrize(("shape", "kernel", "stride"), LARGE, ids=str)
def test_several_units_of_work(
    layout: str,
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    rng: np.random.Generator,
) -> None:
    volumes = rng.integers(-9, 9, shape).astype(np.float64)  # sums are exact
    x = arranged(volumes, layout)
    windows = np.lib.stride_tricks.sliding_window_view(volumes, kernel, (2, 3, 4))
    windows = windows[:, :, :: stride[0], :: stride[1], :: stride[2]]
    best, total = windows.max(axis=(-3, -2, -1)), windows.sum(axis=(-3, -2, -1))
    y, indices = kernels.max_pool3d(x, kernel, stride, return_indices=True, layout=layout)
    np.testing.assert_array_equal(y, arranged(best, layout))
    assert_same_bits(kernels.max_pool3d(x, kernel, stride, layout=layout), y)
    where = np.moveaxis(indices, -1, 1) if layout == "channels_last" else indices
    flat = volumes.reshape(*shape[:2], -1)
    found = np.take_along_axis(flat, where.reshape(*shape[:2], -1), axis=2).reshape(best.shape)
    np.testing.assert_array_equal(found, best)
    mean = kernels.avg_pool3d(x, kernel, stride, layout=layout)
    np.testing.assert_array_equal(mean, arranged(total, layout) / np.prod(kernel))
    # Both are linear where the maxima stay: the backward is the transpose of the forward.
    grad = rng.integers(-9, 9, y.shape).astype(np.float64)
    grad_x = kernels.max_pool3d_backward(grad, x, kernel, stride, layout=layout)
    assert np.vdot(grad_x, x) == np.vdot(grad, y)
    spread = kernels.avg_pool3d_backward(
        grad, x.shape, kernel, stride, divisor_override=1, layout=layout
    )
    other = rng.integers(-9, 9, x.shape).astype(np.float64)
    summed = kernels.avg_pool3d(other, kernel, stride, divisor_override=1, layout=layout)
    assert np.vdot(spread, other) == np.vdot(grad, summed)


@pytest.mark.parametrize(("shape", "size"), ADAPTIVE, ids=str)
def test_adaptive(
    dtype: Any, layout: str, shape: tuple[int, ...], size: Any, rng: np.random.Generator
) -> None:
    """adaptive_max_pool3d and adaptive_avg_pool3d."""
    call: Call = ("adaptive_{}_pool3d", (size,), {"layout": layout})
    for x in (normal(rng, dtype, *shape), rng.integers(0, 3, shape).astype(dtype)):
        check_max(arranged(x, layout), call, rng)
    check_average(arranged(normal(rng, dtype, *shape), layout), call, rng)


def test_adaptive_windows_of_several_bands(layout: str, rng: np.random.Generator) -> None:
    x = arranged(normal(rng, np.dtype("f4"), 1, 21, 40, 70, 40), layout)
    call: Call = ("adaptive_{}_pool3d", ((3, 11, 31),), {"layout": layout})
    check_max(x, call, rng)
    check_average(x, call, rng)


@pytest.mark.parametrize("shape", [(2, 3, 1, 1, 1), (1, 19, 3, 4, 5), (1, 2, 9, 21, 34)])
def test_global(dtype: Any, layout: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x = arranged(normal(rng, dtype, *shape), layout)
    call: Call = ("global_{}_pool", (), {"layout": layout})
    check_max(x, call, rng)
    check_average(x, call, rng)
    y = kernels.global_max_pool(x, layout=layout)
    assert y.shape == arranged(np.empty((*shape[:2], 1, 1, 1)), layout).shape


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 1, 1, 1, 1), {"kernel_size": 1}),
        ((2, 17, 4, 6, 8), {"kernel_size": 2}),
        ((1, 5, 5, 6, 7), {"kernel_size": 3, "stride": (2, 3, 2), "padding": (1, 0, 1)}),
        ((2, 0, 4, 4, 4), {"kernel_size": 2}),
    ],
    ids=str,
)
def test_unpool(
    dtype: Any,
    layout: str,
    shape: tuple[int, ...],
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    """max_unpool3d moves numbers: every bit is the reference's."""
    x = arranged(normal(rng, dtype, *shape), layout)
    options = {**options, "layout": layout}
    y, indices = kernels.max_pool3d(x, **options, return_indices=True)
    sizes = x.shape[1:-1] if layout == "channels_last" else x.shape[2:]
    got = kernels.max_unpool3d(y, indices, **options, output_size=sizes)
    assert got.shape == x.shape
    assert_same_bits(got, reference.max_unpool3d(y, indices, **options, output_size=sizes))
    np.testing.assert_array_equal(got[got != 0], x[got != 0])
    grad = normal(rng, dtype, *x.shape)
    grad_y = kernels.max_unpool3d_backward(grad, indices, layout=layout)
    assert_same_bits(grad_y, reference.max_unpool3d_backward(grad, indices, layout=layout))


def all_calls() -> list[tuple[tuple[int, ...], Call]]:
    """One call of every max and average with a shape for it."""
    return [
        ((2, 5, 5, 6, 9), ("{}_pool3d", (3,), {"stride": (2, 1, 2), "padding": 1})),
        ((2, 5, 5, 6, 9), ("adaptive_{}_pool3d", ((2, 4, 3),), {})),
        ((2, 5, 3, 4, 5), ("global_{}_pool", (), {})),
    ]


def test_nan_and_infinities(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -1.0], dtype)
    for shape, (name, args, options) in all_calls():
        for channels in (1, 19):
            x = arranged(rng.choice(special, (2, channels, *shape[2:])), layout)
            check_max(x, (name, args, {**options, "layout": layout}), rng)
            mean, ref, *_ = pools("avg", (name, args, options))
            np.testing.assert_array_equal(
                np.isnan(mean(x, *args, **options, layout=layout)),
                np.isnan(ref(x, *args, **options, layout=layout)),
            )


def test_any_memory(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    for shape, (name, args, options) in all_calls():
        x = arranged(normal(rng, dtype, *shape), layout)
        more = {**options, "layout": layout}
        largest, _, largest_back, _ = pools("max", (name, args, more))
        mean, _, mean_back, _ = pools("avg", (name, args, more))
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
def test_out_is_filled_and_nothing_beside_it(
    dtype: Any, layout: str, strided: bool, rng: np.random.Generator
) -> None:
    for shape, (name, args, options) in all_calls():
        check_outs(shape, (name, args, {**options, "layout": layout}), dtype, strided)
    x = arranged(normal(rng, dtype, 2, 5, 4, 6, 9), layout)
    check_lp_outs(x, layout, strided)
    check_unpool_outs(x, layout, strided, rng)


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
    x = arranged(normal(rng, np.float64, 2, 3, 4, 5, 6), layout)
    more: dict[str, Any] = {"padding": (1, 0, 1), "dilation": (1, 2, 1), "layout": layout}
    for norm in (1, 2, 4):
        y = kernels.lp_pool3d(x, norm, 2, 1, **more)
        grad = normal(rng, np.float64, *y.shape)
        grad_x = kernels.lp_pool3d_backward(grad, x, y, norm, 2, 1, **more)

        def lp_loss(v: Any, grad: Any = grad, norm: int = norm) -> Any:
            return np.sum(grad * kernels.lp_pool3d(v, norm, 2, 1, **more))

        assert_gradient(lp_loss, x, grad_x, rng)


def test_same_bits_for_every_thread_count_and_batch(
    dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    calls: list[tuple[tuple[int, ...], Call]] = [
        ((3, 5, 6, 33, 34), ("{}_pool3d", (3,), {"stride": (1, 2, 1), "padding": 1})),
        ((3, 5, 4, 9, 8), ("{}_pool3d", (2,), {"stride": 1, "count_include_pad": False})),
        ((3, 5, 6, 30, 33), ("adaptive_{}_pool3d", ((4, 7, 9),), {})),
    ]
    for shape, (name, args, both) in calls:
        x = arranged(normal(rng, dtype, *shape), layout)
        options = {"layout": layout, **both}
        include = {k: options.pop(k) for k in ("count_include_pad",) if k in options}
        call = (name, args, options)
        largest, _, largest_back, _ = pools("max", call)
        mean, _, mean_back, _ = pools("avg", call)
        first: list[Any] = []
        for n in thread_counts():
            for samples in (slice(None), slice(1, 2)):
                a = x[samples]
                y, indices = largest(a, *args, return_indices=True, **options)
                average = mean(a, *args, **options, **include)
                results = [
                    y,
                    indices,
                    average,
                    largest_back(average, a, *args, **options),
                    largest_back(average, a, *args, indices=indices, **options),
                    mean_back(y, a.shape, *args, **options, **include),
                ]
                first = first or results
                for got, expected in zip(results, first, strict=True):
                    assert_same_bits(got, expected[samples], f"{name}, {n} threads, {samples}")


def test_volumes_of_one_plane(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    """They are images, where windows are one plane deep and where they reach beyond it."""
    for shape, kernel, padding in (
        ((1, 33, 1, 20, 20), (1, 3, 3), 0),
        ((2, 16, 1, 9, 7), (3, 3, 3), 1),
        ((1, 3, 1, 5, 70), (1, 2, 5), 0),
    ):
        x = normal(rng, dtype, *shape)
        for stride in (1, 2):
            deep = {"stride": stride, "padding": padding, "layout": layout}
            y, indices = kernels.max_pool3d(
                arranged(x, layout), kernel, return_indices=True, **deep
            )
            flat, where = reference.max_pool2d(
                x[:, :, 0], kernel[1:], stride, padding, return_indices=True
            )
            assert_same_bits(y, arranged(flat[:, :, None], layout), f"{shape}, {stride}")
            assert_same_bits(indices, arranged(where[:, :, None], layout), f"{shape}, {stride}")


def test_indices_outside_of_volumes_are_refused(
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
def test_property(data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(st.sampled_from([np.float32, np.float64]), "dtype")
    layout = draw(st.sampled_from(["channels_first", "channels_last"]), "layout")
    n, c = draw(st.integers(0, 2), "n"), draw(st.integers(0, 18), "c")
    sizes = [draw(st.integers(1, 9), f"size {i}") for i in range(3)]
    kernel = tuple(draw(st.integers(1, 4), f"kernel {i}") for i in range(3))
    pads = tuple((draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))) for k in kernel)
    options: dict[str, Any] = {
        "kernel_size": kernel,
        "stride": draw(st.one_of(st.none(), st.integers(1, 4)), "stride"),
        "padding": draw(st.sampled_from([0, pads, "same", "same_lower"]), "padding"),
        "dilation": draw(st.integers(1, 2), "dilation"),
        "ceil_mode": draw(st.booleans(), "ceil_mode"),
        "layout": layout,
    }
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), "seed"))
    x = normal(rng, dtype, n, c, *sizes)
    if draw(st.booleans(), "many equal values"):
        x = np.round(x)
    x = in_layout(draw(st.sampled_from(sorted(LAYOUTS))), arranged(x, layout))
    try:
        reference.max_pool3d(x, **options)
    except ValueError:
        for pool in (kernels.max_pool3d, kernels.avg_pool3d):
            with pytest.raises(ValueError, match=r"^\[(max|avg)_pool3d\]"):
                pool(x, **options)
        assume(False)
    check_max(x, ("{}_pool3d", (), options), rng)
    include = draw(st.booleans(), "count_include_pad")
    check_average(x, ("{}_pool3d", (), {**options, "count_include_pad": include}), rng)


def test_references_are_torchs(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 3, 6, 7, 8))
    t, f = torch.from_numpy(x), torch.nn.functional
    options: dict[str, Any]
    window: dict[str, Any] = {"kernel_size": (2, 3, 2), "stride": (2, 1, 3), "padding": (1, 1, 0)}
    for ceil in (False, True):
        y, where = reference.max_pool3d(
            x, **window, dilation=2, ceil_mode=ceil, return_indices=True
        )
        ty, twhere = f.max_pool3d(t, **window, dilation=2, ceil_mode=ceil, return_indices=True)
        np.testing.assert_array_equal(y, ty.numpy())
        np.testing.assert_array_equal(where, twhere.numpy())
        for include in (True, False):
            options = {**window, "ceil_mode": ceil, "count_include_pad": include}
            np.testing.assert_allclose(
                reference.avg_pool3d(x, **options), f.avg_pool3d(t, **options).numpy(), rtol=1e-12
            )
    y, where = reference.adaptive_max_pool3d(x, (4, None, 3), True)
    ty, twhere = f.adaptive_max_pool3d(t, (4, None, 3), True)
    np.testing.assert_array_equal(y, ty.numpy())
    np.testing.assert_array_equal(where, twhere.numpy())
    np.testing.assert_allclose(
        reference.adaptive_avg_pool3d(x, (4, 3, 9)),
        f.adaptive_avg_pool3d(t, (4, 3, 9)).numpy(),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        reference.lp_pool3d(x, 2, (2, 3, 2), 2, True),
        f.lp_pool3d(t, 2, (2, 3, 2), 2, True).numpy(),
        rtol=1e-12,
    )
