"""Lp pooling against the reference, at every ISA, in both layouts."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arraynn import kernels
from memory import LAYOUTS, in_layout, mixed_layouts
from tolerances import assert_close_to_reference, assert_gradient, assert_same_bits, widen

from .problems import arranged, check_out, normal, thread_counts
from .test_pool_family import GLOBAL
from .test_pool_unpool import named, sizes_of

pytestmark = pytest.mark.usefixtures("isa")

# Shape, options of lp_pool1d or lp_pool2d
LP: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 1), {"kernel_size": 1}),
    ((2, 3, 9), {"kernel_size": 2, "ceil_mode": True}),
    ((2, 17, 33), {"kernel_size": 3, "stride": 2}),
    ((1, 3, 131), {"kernel_size": 5, "stride": 7, "ceil_mode": True}),
    ((1, 2, 5003), {"kernel_size": 5003}),
    ((2, 3, 8, 8), {"kernel_size": 2}),
    ((2, 17, 9, 7), {"kernel_size": (2, 3), "stride": 2, "ceil_mode": True}),
    ((1, 3, 11, 70), {"kernel_size": 3, "stride": 1}),
    ((1, 9, 11, 70), {"kernel_size": (3, 2), "stride": (2, 5), "ceil_mode": True}),
    ((1, 33, 5, 5), {"kernel_size": 5}),
    ((2, 3, 31), {"kernel_size": 4, "stride": 3, "padding": "same"}),
    ((2, 4, 40), {"kernel_size": 3, "stride": 2, "dilation": 3, "padding": (2,)}),
    ((1, 3, 67), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    ((2, 8, 7, 7), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    ((1, 33, 10, 11), {"kernel_size": (3, 2), "stride": (1, 3), "padding": (1, 0)}),
    ((2, 3, 11, 70), {"kernel_size": (2, 4), "stride": (2, 3), "padding": "same_lower"}),
    ((1, 16, 13, 9), {"kernel_size": (2, 3), "dilation": (4, 2), "stride": 1, "padding": (2, 1)}),
    ((2, 2, 6, 5), {"kernel_size": 3, "stride": 2, "padding": ((0, 1), (1, 0))}),
    ((0, 3, 8, 8), {"kernel_size": 2}),
    ((2, 0, 8, 8), {"kernel_size": 2}),
]
# The same of lp_pool3d
LP_VOLUMES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 1, 1, 1), {"kernel_size": 1}),
    ((2, 3, 4, 6, 8), {"kernel_size": 2}),
    ((1, 17, 5, 7, 9), {"kernel_size": (2, 3, 2), "stride": 2, "ceil_mode": True}),
    ((1, 9, 3, 6, 40), {"kernel_size": (1, 2, 3), "stride": 1}),
    ((1, 3, 5, 5, 5), {"kernel_size": 5}),
    ((1, 17, 5, 7, 9), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((1, 4, 9, 9, 11), {"kernel_size": 3, "dilation": (2, 1, 3), "padding": (2, 1, 3)}),
    ((1, 3, 5, 8, 7), {"kernel_size": (2, 3, 4), "stride": 2, "padding": "same"}),
    ((1, 2, 4, 5, 36), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    ((0, 3, 4, 4, 4), {"kernel_size": 2}),
]
NORMS = [1, 2, 3, 1.5, 0.5]


def check_lp(
    x: Any,
    norm: float,
    rng: np.random.Generator,
    on: Any = kernels,
    name: str = "lp_pool",
    **options: Any,
) -> None:
    """Forward, and backward from the same y for kernel and references."""
    kernel, ref, kernel_back, ref_back = named(name, x, on)
    got = kernel(x, norm, **options)
    assert got.flags.c_contiguous
    wide, native = (ref(v, norm, **options) for v in (widen(x), x))
    # A root's relative error is 1/p of its sum's, whose terms are all positive or norm is 1.
    scale = ref(np.abs(widen(x)), norm, **options)
    assert_close_to_reference(got, wide, native, scale=scale, label=f"lp_pool {norm}")
    grad = normal(rng, x.dtype, *got.shape)
    grad_x = kernel_back(grad, x, native, norm, **options)
    wide = ref_back(*widen(grad, x, native), norm, **options)
    alone = ref_back(grad, x, native, norm, **options)
    scale = np.abs(ref_back(*widen(np.abs(grad), np.abs(x), np.abs(native)), norm, **options))
    assert_close_to_reference(grad_x, wide, alone, scale=scale, label=f"grad_x of lp_pool {norm}")


def check_lp_of_signs(dtype: Any, layout: str, on: Any = kernels) -> None:
    """Powers are of x itself: an odd norm of a negative sum is NaN, as in PyTorch."""
    rows = [[-2, -1], [2, -1], [0, 0], [np.nan, 1], [np.inf, 1], [-np.inf, 1]]
    x = arranged(np.array(rows, dtype).reshape(1, 1, 12), layout)
    expected = {
        1: [-3, 1, 0, np.nan, np.inf, -np.inf],
        2: [5**0.5, 5**0.5, 0, np.nan, np.inf, np.inf],
        3: [np.nan, 7 ** (1 / 3), 0, np.nan, np.inf, np.inf],
    }
    for norm, want in expected.items():
        y = on.lp_pool1d(x, norm, 2, layout=layout)
        np.testing.assert_allclose(y.ravel(), want, rtol=4 * np.finfo(dtype).eps)
        grad_x = on.lp_pool1d_backward(np.ones_like(y), x, y, norm, 2, layout=layout)
        # A window of nothing but zeros has no slope, unless it is a plain sum.
        np.testing.assert_array_equal(grad_x.ravel()[4:6], [norm == 1] * 2)


def check_lp_outs(x: Any, layout: str, strided: bool) -> None:
    lp, _, back, _ = named("lp_pool", x)
    y = lp(x, 2, 3, 2, layout=layout)
    check_out(partial(lp, x, 2, 3, 2, layout=layout), strided)
    check_out(partial(back, np.cos(y), x, y, 2, 3, 2, layout=layout), strided)
    y = kernels.global_lp_pool(x, 2, layout=layout)
    check_out(partial(kernels.global_lp_pool, x, 2, layout=layout), strided)
    back = kernels.global_lp_pool_backward
    check_out(partial(back, np.cos(y), x, y, 2, layout=layout), strided)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("shape", "options"), [*LP, *LP_VOLUMES], ids=str)
def test_lp(
    dtype: Any,
    layout: str,
    shape: tuple[int, ...],
    options: dict[str, Any],
    norm: float,
    rng: np.random.Generator,
) -> None:
    """lp_pool1d to lp_pool3d; signs where the norm is defined for them."""
    x = arranged(normal(rng, dtype, *shape), layout)
    x = x if norm in (1, 2) else np.abs(x) + np.asarray(0.01, dtype)
    check_lp(x, norm, rng, **options, layout=layout)


def test_lp_of_signs_and_zeros_in_volumes(dtype: Any, layout: str) -> None:
    """The sum of a box decides, not those of its planes; a window of zeros has no slope."""
    x = arranged(np.array([[-2, 3], [0, 0]], dtype).reshape(1, 2, 2, 1, 1), layout)
    y = kernels.lp_pool3d(x, 3, (2, 1, 1), layout=layout)
    np.testing.assert_allclose(y.ravel(), [19 ** (1 / 3), 0], rtol=4 * np.finfo(dtype).eps)
    for norm in (1, 2, 3):
        y = kernels.lp_pool3d(x, norm, (2, 1, 1), layout=layout)
        grad = kernels.lp_pool3d_backward(np.ones_like(y), x, y, norm, (2, 1, 1), layout=layout)
        zeros = grad[..., 1] if layout == "channels_last" else grad[:, 1]
        np.testing.assert_array_equal(zeros, np.full_like(zeros, norm == 1))


@pytest.mark.parametrize("norm", NORMS)
def test_global_lp(dtype: Any, layout: str, norm: float, rng: np.random.Generator) -> None:
    """global_lp_pool of short and long planes: a window as large as they are."""
    for shape in (*GLOBAL, (1, 19, 3, 4, 5), (1, 2, 9, 21, 34), (0, 3, 4, 4), (2, 0, 5)):
        x = arranged(normal(rng, dtype, *shape), layout)
        x = x if norm in (1, 2) else np.abs(x) + np.asarray(0.01, dtype)
        check_lp(x, norm, rng, name="global_lp_pool", layout=layout)
        y = kernels.global_lp_pool(x, norm, layout=layout)
        window = kernels, f"lp_pool{len(shape) - 2}d"
        assert_same_bits(y, getattr(*window)(x, norm, sizes_of(x, layout), layout=layout))


def test_padding_is_zeros(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    """Of signals, images and volumes, as if they were written out around the input."""
    for shape in ((2, 5, 17), (2, 5, 9, 17), (1, 3, 5, 6, 7)):
        x = np.abs(normal(rng, dtype, *shape)) + np.asarray(0.1, dtype)
        pads = [(2, 1), (0, 2), (1, 1)][: len(shape) - 2]
        wide = np.pad(x, [(0, 0), (0, 0), *pads])
        inside = tuple(slice(a, a + n) for (a, _), n in zip(pads, shape[2:], strict=True))
        kernel, _, back, _ = named("lp_pool", x)
        for norm in NORMS:
            more: dict[str, Any] = {"dilation": 2, "layout": layout}
            y = kernel(arranged(x, layout), norm, 2, 1, padding=pads, **more)
            expected = kernel(arranged(wide, layout), norm, 2, 1, **more)
            np.testing.assert_allclose(y, expected, rtol=16 * np.finfo(dtype).eps)
            grad = normal(rng, dtype, *y.shape)
            got = back(grad, arranged(x, layout), y, norm, 2, 1, padding=pads, **more)
            far = back(grad, arranged(wide, layout), expected, norm, 2, 1, **more)
            far = np.moveaxis(far, -1, 1) if layout == "channels_last" else far
            far = arranged(far[(slice(None), slice(None), *inside)], layout)
            scale = np.abs(far).max()
            np.testing.assert_allclose(got, far, atol=64 * np.finfo(dtype).eps * scale)


def test_lp_of_empty_windows(dtype: Any, layout: str) -> None:
    """Windows that hold padding alone give 0 and no gradient."""
    x = arranged(np.full((1, 17, 1, 1), 5, dtype), layout)
    more: dict[str, Any] = {"padding": 2, "dilation": 3, "layout": layout}
    for norm in NORMS:
        y = kernels.lp_pool2d(x, norm, 2, 1, **more)
        np.testing.assert_array_equal(y, np.zeros_like(y))
        grad_x = kernels.lp_pool2d_backward(np.ones_like(y), x, y, norm, 2, 1, **more)
        np.testing.assert_array_equal(grad_x, np.zeros_like(x))


def test_lp_of_signs_zeros_and_infinities(dtype: Any, layout: str) -> None:
    check_lp_of_signs(dtype, layout)


def test_any_memory(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    for shape in ((2, 5, 17), (2, 5, 9, 17)):
        x = arranged(normal(rng, dtype, *shape), layout)
        lp, _, lp_back, _ = named("lp_pool", x)
        y = lp(x, 2, 3, 2, layout=layout)
        grad = normal(rng, dtype, *y.shape)
        expected = lp_back(grad, x, y, 2, 3, 2, layout=layout)
        for name, (a, g, b) in mixed_layouts(x, grad, y):
            assert_same_bits(lp(a, 2, 3, 2, layout=layout), y, name)
            assert_same_bits(lp_back(g, a, b, 2, 3, 2, layout=layout), expected, name)
        whole = kernels.global_lp_pool(x, 2, layout=layout)
        grad = normal(rng, dtype, *whole.shape)
        expected = kernels.global_lp_pool_backward(grad, x, whole, 2, layout=layout)
        for name, (a, g, b) in mixed_layouts(x, grad, whole):
            assert_same_bits(kernels.global_lp_pool(a, 2, layout=layout), whole, name)
            got = kernels.global_lp_pool_backward(g, a, b, 2, layout=layout)
            assert_same_bits(got, expected, name)


@pytest.mark.parametrize("strided", [False, True])
def test_out_is_filled_and_nothing_beside_it(
    dtype: Any, layout: str, strided: bool, rng: np.random.Generator
) -> None:
    for shape in ((2, 5, 17), (1, 3, 5, 70), (2, 5, 9, 17)):
        x = arranged(normal(rng, dtype, *shape), layout)
        check_lp_outs(x, layout, strided)


@pytest.mark.parametrize("norm", NORMS)
def test_lp_backward_is_the_derivative(layout: str, norm: float, rng: np.random.Generator) -> None:
    for shape in ((2, 3, 17), (2, 3, 7, 6)):
        x = arranged(rng.uniform(0.5, 2.0, shape), layout)
        window: dict[str, Any] = {"kernel_size": 3, "stride": 2, "ceil_mode": True}
        calls: list[tuple[str, dict[str, Any]]] = [
            ("lp_pool", window),
            ("lp_pool", {**window, "padding": 1, "dilation": 2}),
            ("global_lp_pool", {}),
        ]
        for name, more in calls:
            options = {**more, "layout": layout}
            kernel, _, back, _ = named(name, x)
            y = kernel(x, norm, **options)
            grad = normal(rng, np.float64, *y.shape)
            grad_x = back(grad, x, y, norm, **options)

            def loss(v: Any, grad: Any = grad, kernel: Any = kernel, options: Any = options) -> Any:
                return np.sum(grad * kernel(v, norm, **options))

            assert_gradient(loss, x, grad_x, rng)


def test_same_bits_for_every_thread_count(
    dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    for shape in ((5, 33, 1700), (5, 33, 40, 41), (1, 3, 300, 400)):
        x = arranged(normal(rng, dtype, *shape), layout)
        lp, _, lp_back, _ = named("lp_pool", x)
        first: list[Any] = []
        for n in thread_counts():
            for run in range(2):
                y = lp(x, 2, 3, 2, padding=1, layout=layout)
                whole = kernels.global_lp_pool(x, 2, layout=layout)
                results = [
                    y,
                    lp_back(y, x, y, 2, 3, 2, padding=1, layout=layout),
                    whole,
                    kernels.global_lp_pool_backward(whole, x, whole, 2, layout=layout),
                ]
                first = first or results
                for got, expected in zip(results, first, strict=True):
                    assert_same_bits(got, expected, f"{n} threads, run {run}")


@given(data=st.data())
def test_lp_property(data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(st.sampled_from([np.float32, np.float64]), "dtype")
    layout = draw(st.sampled_from(["channels_first", "channels_last"]), "layout")
    axes = draw(st.integers(1, 3), "axes")
    n, c = draw(st.integers(0, 3), "n"), draw(st.integers(0, 19), "c")
    sizes = [draw(st.integers(1, 20 if axes < 3 else 7), f"size {i}") for i in range(axes)]
    norm = draw(st.sampled_from(NORMS), "norm")
    kernel = tuple(draw(st.integers(1, 4), f"kernel {i}") for i in range(axes))
    pads = tuple((draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))) for k in kernel)
    options: dict[str, Any] = {
        "kernel_size": kernel,
        "stride": draw(st.one_of(st.none(), st.integers(1, 5)), "stride"),
        "padding": draw(st.sampled_from([0, pads, "same", "same_lower"]), "padding"),
        "dilation": draw(st.integers(1, 3), "dilation"),
        "ceil_mode": draw(st.booleans(), "ceil_mode"),
        "layout": layout,
    }
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), "seed"))
    x = normal(rng, dtype, n, c, *sizes)
    x = x if norm in (1, 2) else np.abs(x) + np.asarray(0.01, dtype)
    x = in_layout(draw(st.sampled_from(sorted(LAYOUTS))), arranged(x, layout))
    pool, ref, *_ = named("lp_pool", x)
    try:
        ref(x, norm, **options)
    except ValueError:
        with pytest.raises(ValueError, match=r"^\[lp_pool"):
            pool(x, norm, **options)
        assume(False)
    check_lp(x, norm, rng, **options)
