"""Max and average pooling against the reference, at every ISA, in both layouts."""

from __future__ import annotations

import itertools
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
    widen,
)

from .problems import arranged, normal, thread_counts
from .test_pool_family import check_outs

pytestmark = pytest.mark.usefixtures("isa")

# (N, C, H, W), options of both poolings
CASES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 1, 1), {"kernel_size": 1}),
    ((2, 3, 8, 8), {"kernel_size": 2}),
    ((2, 17, 9, 7), {"kernel_size": 2, "ceil_mode": True}),
    ((2, 5, 16, 33), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((1, 4, 35, 67), {"kernel_size": 2, "stride": 2}),
    ((1, 33, 10, 11), {"kernel_size": (3, 2), "stride": (1, 3), "padding": (1, 0)}),
    ((2, 8, 7, 7), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    ((2, 3, 11, 12), {"kernel_size": 3, "stride": 2, "padding": "same"}),
    ((2, 3, 11, 12), {"kernel_size": (2, 4), "stride": (2, 3), "padding": "same_lower"}),
    ((1, 15, 13, 13), {"kernel_size": 3, "dilation": 2, "padding": "valid"}),
    ((1, 16, 13, 9), {"kernel_size": (2, 3), "dilation": (4, 2), "stride": 1, "padding": (2, 1)}),
    ((2, 2, 6, 5), {"kernel_size": 3, "stride": 2, "padding": ((0, 1), (1, 0))}),
    ((2, 4, 6, 6), {"kernel_size": 1, "stride": 4, "ceil_mode": True}),
    ((2, 4, 5, 40), {"kernel_size": (5, 40)}),
    ((1, 2, 5, 5), {"kernel_size": 2, "stride": 5, "ceil_mode": True}),
    ((3, 64, 5, 5), {"kernel_size": 2, "stride": 1}),
    ((2, 70, 6, 9), {"kernel_size": 3, "stride": (2, 1), "padding": 1}),
    ((1, 35, 5, 40), {"kernel_size": (4, 3), "stride": (1, 2), "padding": (2, 1)}),
    ((2, 3, 3, 67), {"kernel_size": (1, 4)}),
    ((1, 9, 2, 35), {"kernel_size": (1, 2), "stride": (1, 2)}),
    ((1, 2, 5, 70), {"kernel_size": (3, 4), "stride": (2, 4), "padding": (1, 0)}),
    ((0, 3, 8, 8), {"kernel_size": 2}),
    ((2, 0, 8, 8), {"kernel_size": 2}),
]
DIVISORS: list[dict[str, Any]] = [
    {},
    {"count_include_pad": False},
    {"divisor_override": 7},
    {"divisor_override": -2},
]


def check_max(x: Any, grad_of: Any, **options: Any) -> None:
    """Values and indices of max pooling are exact; its gradient is a sum."""
    y, indices = reference.max_pool2d(x, **options, return_indices=True)
    got = kernels.max_pool2d(x, **options)
    assert got.flags.c_contiguous
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, y)
    got, got_indices = kernels.max_pool2d(x, **options, return_indices=True)
    np.testing.assert_array_equal(got, y)
    assert got_indices.dtype == np.int64
    np.testing.assert_array_equal(got_indices, indices)
    grad = grad_of(y.shape)
    ref = reference.max_pool2d_backward(widen(grad), x, **options)
    native = reference.max_pool2d_backward(grad, x, **options)
    scale = reference.max_pool2d_backward(np.abs(widen(grad)), x, **options)
    for given_indices in (None, indices):
        grad_x = kernels.max_pool2d_backward(grad, x, **options, indices=given_indices)
        assert_close_to_reference(grad_x, ref, native, scale=scale, label="grad_x of max_pool2d")


def check_average(x: Any, grad_of: Any, **options: Any) -> None:
    got = kernels.avg_pool2d(x, **options)
    assert got.flags.c_contiguous
    ref, native = (reference.avg_pool2d(v, **options) for v in (widen(x), x))
    scale = reference.avg_pool2d(np.abs(widen(x)), **options)
    assert_close_to_reference(got, ref, native, scale=scale, label="avg_pool2d")
    grad = grad_of(got.shape)
    grad_x = kernels.avg_pool2d_backward(grad, x.shape, **options)
    ref, native = (
        reference.avg_pool2d_backward(v, x.shape, **options) for v in (widen(grad), grad)
    )
    scale = reference.avg_pool2d_backward(np.abs(widen(grad)), x.shape, **options)
    assert_close_to_reference(grad_x, ref, native, scale=scale, label="grad_x of avg_pool2d")


@pytest.mark.parametrize(("shape", "options"), CASES, ids=str)
def test_max(
    dtype: Any,
    layout: str,
    shape: tuple[int, ...],
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    distinct = arranged(normal(rng, dtype, *shape), layout)
    equal = arranged(rng.integers(0, 3, shape).astype(dtype), layout)
    for x in (distinct, equal, -np.abs(distinct)):
        check_max(x, lambda s: normal(rng, dtype, *s), **options, layout=layout)


@pytest.mark.parametrize("divisor", DIVISORS, ids=str)
@pytest.mark.parametrize(("shape", "options"), CASES, ids=str)
def test_average(
    dtype: Any,
    layout: str,
    shape: tuple[int, ...],
    options: dict[str, Any],
    divisor: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    x = arranged(normal(rng, dtype, *shape), layout)
    options = {**options, **divisor, "layout": layout}
    check_average(x, lambda s: normal(rng, dtype, *s), **options)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 34, 35, 65])
def test_rows_around_the_vector_width(
    dtype: Any, layout: str, width: int, rng: np.random.Generator
) -> None:
    for channels, columns in ((3, width), (width, 3)):
        x = arranged(normal(rng, dtype, 2, channels, 5, columns), layout)
        for options in ({"kernel_size": (2, 1)}, {"kernel_size": 3, "stride": 2, "padding": 1}):
            more: dict[str, Any] = {**options, "layout": layout}
            check_max(x, lambda s: normal(rng, dtype, *s), **more)
            check_average(x, lambda s: normal(rng, dtype, *s), **more)


def test_max_of_nan_and_infinities(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -1.0], dtype)
    for channels in (1, 2, 19):
        x = arranged(rng.choice(special, (2, channels, 12, 21)), layout)
        for options in (
            {"kernel_size": 2},
            {"kernel_size": 3, "stride": 2, "padding": 1},
            {"kernel_size": 2, "stride": 1, "padding": 1},
        ):
            more: dict[str, Any] = {**options, "layout": layout}
            check_max(x, lambda s: normal(rng, dtype, *s), **more)


@pytest.mark.parametrize(
    "options", [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}], ids=str
)
def test_one_nan_or_infinities_in_a_large_array(
    dtype: Any, layout: str, options: dict[str, Any], rng: np.random.Generator
) -> None:
    """A window finds its NaN wherever it lies, whichever thread pools it."""
    plain = normal(rng, dtype, 1, 17, 90, 128)
    for special in ([np.nan], [np.inf, -np.inf]):
        for at in (0, plain.size // 2, plain.size - len(special)):
            values = plain.copy()
            values.reshape(-1)[at : at + len(special)] = special
            x = arranged(values, layout)
            y = reference.max_pool2d(x, **options, layout=layout)
            for threads in thread_counts():
                got = kernels.max_pool2d(x, **options, layout=layout)
                np.testing.assert_array_equal(got, y, f"{special} at {at}, {threads} threads")


def test_max_of_nothing_but_minus_infinity(dtype: Any, layout: str) -> None:
    """Padding is never chosen, not even over -inf: indices stay inside the input."""
    x = arranged(np.full((1, 3, 4, 5), -np.inf, dtype), layout)
    check_max(x, lambda s: np.ones(s, dtype), kernel_size=3, stride=2, padding=1, layout=layout)


def test_max_moves_denormals_unchanged(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    x = (rng.integers(1, 1000, (2, 9, 8, 8)) * np.finfo(dtype).smallest_subnormal).astype(dtype)
    x = arranged(x, layout)
    got = kernels.max_pool2d(x, 2, layout=layout)
    assert_same_bits(got, reference.max_pool2d(x, 2, layout=layout))
    assert (got > 0).all()


def test_average_propagates_nan_and_infinity(dtype: Any, layout: str) -> None:
    x = np.ones((1, 2, 6, 20), dtype)
    x[0, 0, 1, 1], x[0, 1, 4, 4], x[0, 1, 5, 5] = np.nan, np.inf, -np.inf
    x = arranged(x, layout)
    got = kernels.avg_pool2d(x, 2, layout=layout)
    np.testing.assert_array_equal(got, reference.avg_pool2d(x, 2, layout=layout))
    assert np.isnan(got).sum() == 2


def test_empty_windows(dtype: Any, layout: str) -> None:
    """A dilated window can miss the input altogether: the average is 0 and no gradient flows."""
    x = arranged(np.full((1, 17, 1, 1), 5, dtype), layout)
    options: dict[str, Any] = {"dilation": 3, "layout": layout}
    padding = ((2, 2), (2, 2))
    y = kernels.avg_pool2d(x, 2, 1, padding, count_include_pad=False, **options)
    np.testing.assert_array_equal(y, np.zeros_like(y))
    grad_x = kernels.avg_pool2d_backward(
        np.ones_like(y), x.shape, 2, 1, padding, count_include_pad=False, **options
    )
    np.testing.assert_array_equal(grad_x, np.zeros_like(x))


def test_any_memory(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    x = arranged(normal(rng, dtype, 2, 5, 9, 17), layout)
    options: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 1, "layout": layout}
    y, indices = kernels.max_pool2d(x, **options, return_indices=True)
    average = kernels.avg_pool2d(x, **options)
    grad = normal(rng, dtype, *y.shape)
    expected = kernels.max_pool2d_backward(grad, x, **options)
    moved = kernels.max_pool2d_backward(grad, x, **options, indices=indices)
    spread = kernels.avg_pool2d_backward(grad, x.shape, **options)
    for name, (a, g, i) in mixed_layouts(x, grad, indices):
        assert_same_bits(kernels.max_pool2d(a, **options), y, name)
        assert_same_bits(kernels.avg_pool2d(a, **options), average, name)
        assert_same_bits(kernels.max_pool2d_backward(g, a, **options), expected, name)
        got = kernels.max_pool2d_backward(g, a, **options, indices=i)
        assert_same_bits(got, moved, name)
        assert_same_bits(kernels.avg_pool2d_backward(g, x.shape, **options), spread, name)


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize(("shape", "options"), CASES[:13], ids=str)
def test_out_is_filled_and_nothing_beside_it(
    dtype: Any,
    layout: str,
    strided: bool,
    shape: tuple[int, ...],
    options: dict[str, Any],
) -> None:
    check_outs(shape, ("{}_pool2d", (), {**options, "layout": layout}), dtype, strided)


@pytest.mark.parametrize(
    "options",
    [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": "same", "dilation": 2}],
    ids=str,
)
def test_backward_is_the_derivative(
    layout: str, options: dict[str, Any], rng: np.random.Generator
) -> None:
    # Distinct values far apart: a step of the finite difference changes no maximum.
    x = arranged(rng.permutation(2 * 3 * 8 * 7).reshape(2, 3, 8, 7).astype(np.float64), layout)
    options = {**options, "layout": layout}
    grad = normal(rng, np.float64, *kernels.max_pool2d(x, **options).shape)
    grad_x = kernels.max_pool2d_backward(grad, x, **options)
    assert_gradient(
        lambda v: np.sum(grad * kernels.max_pool2d(v, **options)), x, grad_x, rng, step=1e-3
    )
    grad_x = kernels.avg_pool2d_backward(grad, x.shape, **options)
    assert_gradient(
        lambda v: np.sum(grad * kernels.avg_pool2d(v, **options)), x, grad_x, rng, step=1e-3
    )


def test_same_bits_for_every_thread_count(
    dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    x = arranged(normal(rng, dtype, 5, 33, 40, 41), layout)
    problems: tuple[dict[str, Any], ...] = (
        {"kernel_size": 2},
        {"kernel_size": (2, 1)},
        {"kernel_size": (40, 41)},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 1, "padding": 1},
        {"kernel_size": (1, 4)},
    )
    for options in problems:
        more: dict[str, Any] = {**options, "layout": layout}
        first: list[Any] = []
        for n in thread_counts():
            for run in range(2):
                y, indices = kernels.max_pool2d(x, **more, return_indices=True)
                average = kernels.avg_pool2d(x, **more)
                results = [
                    y,
                    indices,
                    average,
                    kernels.max_pool2d_backward(average, x, **more),
                    kernels.max_pool2d_backward(average, x, **more, indices=indices),
                    kernels.avg_pool2d_backward(y, x.shape, **more),
                ]
                first = first or results
                for got, expected in zip(results, first, strict=True):
                    assert_same_bits(got, expected, f"{n} threads, run {run}")


@pytest.mark.parametrize("channels", [1, 4, 8])
def test_a_sample_alone(dtype: Any, layout: str, channels: int, rng: np.random.Generator) -> None:
    x = arranged(normal(rng, dtype, 6, channels, 9, 9), layout)
    for samples in (slice(1), slice(2, 5)):
        alone = kernels.avg_pool2d(x[samples], 3, 1, 1, layout=layout)
        assert_same_bits(alone, kernels.avg_pool2d(x, 3, 1, 1, layout=layout)[samples])
        alone = kernels.avg_pool2d_backward(x[samples], alone.shape, 3, 1, 1, layout=layout)
        whole = kernels.avg_pool2d_backward(x, x.shape, 3, 1, 1, layout=layout)
        assert_same_bits(alone, whole[samples])


@given(data=st.data())
def test_property(data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(st.sampled_from([np.float32, np.float64]), "dtype")
    layout = draw(st.sampled_from(["channels_first", "channels_last"]), "layout")
    n, c, h, w = (draw(st.integers(lo, hi)) for lo, hi in ((0, 3), (0, 19), (1, 14), (1, 14)))
    kernel = draw(st.integers(1, 4), "kernel_h"), draw(st.integers(1, 4), "kernel_w")
    axis = st.integers(1, 3)
    stride = draw(st.one_of(st.none(), axis, st.tuples(axis, axis)), "stride")
    # Less than the kernel, so that every choice is legal and no window is only padding.
    top, left = (draw(st.integers(0, k - 1)) for k in kernel)
    padding = draw(
        st.sampled_from(
            [0, (top, left), ((top, 0), (0, left)), ((0, top), (left, left)), "same", "same_lower"]
        ),
        "padding",
    )
    dilation = draw(st.one_of(axis, st.tuples(axis, axis)), "dilation") if padding == 0 else 1
    options: dict[str, Any] = {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "ceil_mode": draw(st.booleans(), "ceil_mode"),
        "layout": layout,
    }
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), "seed"))
    values = normal(rng, dtype, n, c, h, w)
    if draw(st.booleans(), "many equal values"):
        values = np.round(values)
    x = in_layout(draw(st.sampled_from(sorted(LAYOUTS))), arranged(values, layout))
    try:
        reference.max_pool2d(x, **options)
    except ValueError:
        with pytest.raises(ValueError, match=r"^\[max_pool2d\]"):
            kernels.max_pool2d(x, **options)
        with pytest.raises(ValueError, match=r"^\[avg_pool2d\]"):
            kernels.avg_pool2d(x, **options)
        assume(False)
    check_max(x, lambda s: normal(rng, dtype, *s), **options)
    divisor = draw(st.sampled_from(DIVISORS), "divisor")
    check_average(x, lambda s: normal(rng, dtype, *s), **options, **divisor)


@pytest.mark.parametrize("planes", [7, 8, 16, 17, 33])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 1, "padding": 1, "ceil_mode": True},
        {"kernel_size": (2, 3), "stride": (7, 4), "padding": (1, 0)},
        {"kernel_size": (5, 2), "stride": (1, 2), "dilation": (3, 1), "padding": (2, 0)},
    ],
    ids=str,
)
def test_bands_of_short_rows(
    dtype: Any, layout: str, planes: int, options: dict[str, Any], rng: np.random.Generator
) -> None:
    """Tall planes of short rows: several bands of every block of planes."""
    x = arranged(normal(rng, dtype, 1, planes, 331, 12), layout)
    check_max(x, lambda s: normal(rng, dtype, *s), **options, layout=layout)
    for divisor in DIVISORS[:2]:
        check_average(x, lambda s: normal(rng, dtype, *s), **options, **divisor, layout=layout)


# Rows shorter than a vector, as long as one, and longer than a block of halved rows.
@pytest.mark.parametrize("columns", [2, 4, 6, 8, 10, 16, 28, 34, 1030, 2050])
def test_tiles(dtype: Any, layout: str, columns: int, rng: np.random.Generator) -> None:
    """Windows of 2 x 2 that tile the plane, with equal values, NaN and infinities among them."""
    options: dict[str, Any] = {"kernel_size": 2, "layout": layout}
    for planes, rows in ((3, 2), (19, 6)):
        if columns > 1000 and planes > 3:
            continue
        shape = (1, planes, rows, columns)
        equal = rng.integers(0, 3, shape).astype(dtype)
        odd = rng.choice(np.array([np.nan, np.inf, -np.inf, 1.0], dtype=dtype), shape)
        for x in (normal(rng, dtype, *shape), equal):
            check_max(arranged(x, layout), lambda s: normal(rng, dtype, *s), **options)
        check_average(arranged(equal, layout), lambda s: normal(rng, dtype, *s), **options)
        x = arranged(odd, layout)
        y, indices = reference.max_pool2d(x, **options, return_indices=True)
        np.testing.assert_array_equal(kernels.max_pool2d(x, **options), y)
        got, got_indices = kernels.max_pool2d(x, **options, return_indices=True)
        np.testing.assert_array_equal(got, y)
        np.testing.assert_array_equal(got_indices, indices)
        grad = normal(rng, dtype, *y.shape)  # every element has one window: moved, not summed
        expected = reference.max_pool2d_backward(grad, x, **options)
        got = kernels.max_pool2d_backward(grad, x, **options)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 7), (4, 16), (9, 33), (66, 64)])
def test_one_window(
    dtype: Any, layout: str, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    """A window over the whole plane: any number of planes, and bits that depend on one alone."""
    for planes in (1, 5, 16, 37):
        x = arranged(normal(rng, dtype, 1, planes, *shape), layout)
        options: dict[str, Any] = {"kernel_size": shape, "layout": layout}
        check_max(x, lambda s: normal(rng, dtype, *s), **options)
        check_average(x, lambda s: normal(rng, dtype, *s), **options)
        if layout == "channels_first":
            every = kernels.avg_pool2d(x, **options)
            alone = [kernels.avg_pool2d(x[:, c : c + 1], **options) for c in range(planes)]
            assert_same_bits(np.concatenate(alone, axis=1), every)


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
@pytest.mark.parametrize("stride", [3, 4, 5])
def test_wide_strides(
    dtype: Any, layout: str, stride: int, padding: int, rng: np.random.Generator
) -> None:
    """Residues of a position modulo the stride are kept apart in a row, up to four of them."""
    for width in (7, 40, 133):
        equal = rng.integers(0, 4, (1, 3, 5, width)).astype(dtype)
        for columns in (4, 7):
            if width + 2 * padding < columns or 2 * padding > columns:
                continue
            options = {
                "kernel_size": (2, columns),
                "stride": (2, stride),
                "padding": (0, padding),
                "layout": layout,
            }
            for x in (equal, normal(rng, dtype, *equal.shape)):
                check_max(arranged(x, layout), lambda s: normal(rng, dtype, *s), **options)
                check_average(arranged(x, layout), lambda s: normal(rng, dtype, *s), **options)


def test_indices_outside_of_planes_are_refused(
    dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    shapes = ((1, 16, 6, 8), (1, 16, 6, 80), (1, 3, 6, 8), (2, 3, 96, 64))
    for shape, kernel in itertools.product(shapes, (2, 3)):
        x = arranged(normal(rng, dtype, *shape), layout)
        options: dict[str, Any] = {"kernel_size": kernel, "stride": 2, "layout": layout}
        y, indices = kernels.max_pool2d(x, **options, return_indices=True)
        for wrong in (-1, shape[2] * shape[3], 1 << 40, -(1 << 40)):
            for place in (0, -1):
                bad = indices.copy()
                bad.reshape(-1)[place] = wrong
                with pytest.raises(ValueError, match="indices"):
                    kernels.max_pool2d_backward(np.ones_like(y), x, **options, indices=bad)


def test_gradients_go_where_indices_say(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    """Any positions of the planes, in any order, some of them many times."""
    for shape in ((2, 3, 6, 8), (1, 33, 96, 64), (1, 1, 2, 2)):
        n, c, h, w = shape
        x = normal(rng, dtype, *shape)
        grad = rng.integers(-8, 9, (n, c, h // 2, w // 2)).astype(dtype)  # sums are exact
        indices = rng.integers(0, h * w, grad.shape)
        expected = np.zeros((n * c, h * w), dtype)
        planes = np.arange(n * c)[:, None]
        np.add.at(expected, (planes, indices.reshape(n * c, -1)), grad.reshape(n * c, -1))
        for _ in thread_counts():
            got = kernels.max_pool2d_backward(
                arranged(grad, layout),
                arranged(x, layout),
                2,
                indices=arranged(indices, layout),
                layout=layout,
            )
            assert_same_bits(got, arranged(expected.reshape(shape), layout), f"{shape}")


@pytest.mark.parametrize("stride", [1, 2])
def test_one_index_outside_of_its_window(
    dtype: Any, layout: str, stride: int, rng: np.random.Generator
) -> None:
    """The positions around a window at an edge and at a corner, and two rows away."""
    n, c, h, w = 2, 37, 7, 9
    x = normal(rng, dtype, n, c, h, w)
    window: dict[str, Any] = {"kernel_size": 3, "stride": stride, "padding": 1}
    y, indices = reference.max_pool2d(x, **window, return_indices=True)
    grad = rng.integers(-8, 9, y.shape).astype(dtype)  # sums are exact
    planes = np.arange(n * c)[:, None]
    for row, column in ((0, 0), (1, 0), (1, y.shape[3] - 1), (y.shape[2] - 1, 1)):
        top, left = row * stride - 1, column * stride - 1
        around = {(top - 1) * w + left + 1, (top + 3) * w + left + 1}
        around |= {(top + i) * w + left + j for i in range(3) for j in (-1, 0, 2, 3)}
        for wrong in sorted(p for p in around if 0 <= p < h * w):
            moved = indices.copy()
            moved[1, 35, row, column] = wrong
            expected = np.zeros((n * c, h * w), dtype)
            np.add.at(expected, (planes, moved.reshape(n * c, -1)), grad.reshape(n * c, -1))
            got = kernels.max_pool2d_backward(
                arranged(grad, layout),
                arranged(x, layout),
                **window,
                indices=arranged(moved, layout),
                layout=layout,
            )
            np.testing.assert_array_equal(got, arranged(expected.reshape(x.shape), layout))


def test_gradient_of_a_maximum_beside_nan_and_infinities(
    dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    """Windows that hold both infinities, a NaN, or nothing but minus infinity."""
    values = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0], dtype=dtype)
    x = arranged(rng.choice(values, (2, 70, 9, 9)), layout)
    windows: tuple[dict[str, Any], ...] = (
        {"kernel_size": 2},
        {"kernel_size": (1, 4)},
        {"kernel_size": 3, "stride": 1, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1},
    )
    for options in windows:
        y, _ = reference.max_pool2d(x, **options, layout=layout, return_indices=True)
        grad = normal(rng, dtype, *y.shape)
        expected = reference.max_pool2d_backward(widen(grad), x, **options, layout=layout)
        got = kernels.max_pool2d_backward(grad, x, **options, layout=layout)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
