"""conv2d and conv2d_backward against the reference, at every ISA, in both layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arraynn import kernels, reference
from memory import LAYOUTS, Guarded, in_layout, mixed_layouts
from tolerances import (
    assert_close_to_reference,
    assert_gradient,
    assert_same_bits,
    assert_within,
    dot_bound,
    widen,
)

from .problems import absolute, around, arranged, normal, register_tile, thread_counts

pytestmark = pytest.mark.usefixtures("isa")

# (N, C, H, W), (OC, C / groups, KH, KW), options
CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    ((2, 3, 8, 8), (16, 3, 3, 3), {"padding": 1}),
    ((1, 3, 23, 19), (8, 3, 7, 7), {"stride": 2, "padding": 3}),
    ((2, 16, 9, 7), (32, 16, 1, 1), {}),
    ((2, 17, 9, 7), (33, 17, 1, 1), {"stride": 2}),
    ((2, 5, 9, 7), (7, 5, 1, 1), {"padding": (2, 1)}),
    ((3, 32, 6, 6), (17, 32, 3, 3), {"padding": "same"}),
    ((2, 4, 13, 11), (6, 4, 5, 3), {"stride": (3, 2), "padding": "same"}),
    ((2, 4, 13, 12), (6, 4, 4, 2), {"stride": (1, 3), "padding": "same_lower"}),
    ((1, 6, 12, 10), (4, 6, 3, 3), {"dilation": 2, "padding": "valid"}),
    ((1, 6, 12, 10), (4, 6, 2, 4), {"dilation": (3, 2), "stride": 2, "padding": 3}),
    ((2, 3, 6, 5), (5, 3, 3, 2), {"padding": ((0, 3), (2, 0))}),
    ((2, 8, 7, 7), (12, 2, 3, 3), {"groups": 4, "padding": 1}),
    ((1, 35, 8, 8), (35, 1, 3, 3), {"groups": 35, "padding": 1}),
    ((1, 6, 8, 8), (18, 1, 3, 3), {"groups": 6, "stride": 2, "padding": "same"}),
    ((2, 18, 9, 35), (18, 1, 3, 3), {"groups": 18, "stride": 2, "padding": 1}),
    ((1, 33, 7, 21), (33, 1, 5, 5), {"groups": 33, "padding": 2}),
    ((1, 17, 12, 9), (17, 1, 7, 7), {"groups": 17, "padding": 3, "flip_kernel": True}),
    ((1, 5, 19, 40), (5, 1, 3, 3), {"groups": 5, "dilation": 2, "padding": ((3, 0), (0, 4))}),
    ((1, 4, 20, 20), (4, 1, 3, 2), {"groups": 4, "stride": 3, "dilation": 2, "padding": 1}),
    ((2, 3, 70, 90), (6, 1, 3, 3), {"groups": 3, "padding": 1}),
    ((2, 1, 19, 40), (1, 1, 3, 3), {"padding": 1}),
    ((2, 1, 19, 17), (5, 1, 5, 5), {"stride": 2}),
    ((1, 2, 9, 40), (2, 1, 1, 17), {"groups": 2, "padding": (0, 8)}),
    ((2, 34, 5, 5), (66, 17, 1, 1), {"groups": 2}),
    ((2, 4, 3, 5), (9, 4, 3, 5), {}),
    ((2, 4, 1, 40), (9, 4, 1, 9), {"padding": (0, 4)}),
    ((2, 4, 40, 1), (9, 4, 9, 1), {"padding": (4, 0)}),
    ((1, 2, 2, 2), (3, 2, 3, 3), {"padding": 4}),
    ((1, 2, 5, 5), (3, 2, 2, 2), {"stride": 7}),
    ((1, 130, 4, 4), (3, 130, 3, 3), {"padding": 1}),
    ((2, 3, 9, 9), (5, 3, 3, 3), {"flip_kernel": True, "padding": 1}),
    ((2, 6, 9, 8), (4, 3, 3, 2), {"flip_kernel": True, "groups": 2, "stride": 2}),
    ((0, 3, 8, 8), (5, 3, 3, 3), {"padding": 1}),
    ((2, 3, 8, 8), (0, 3, 3, 3), {"padding": 1}),
    ((2, 0, 8, 8), (5, 0, 3, 3), {"padding": 1}),
]


#: The bounds below are those of a direct sum; test_conv_winograd.py has those of the transforms.
DIRECT: dict[str, Any] = {"algorithm": "direct"}


def check_forward(x: Any, weight: Any, bias: Any, got: Any, **options: Any) -> None:
    """Hold a convolution without activation against both bounds."""
    ref = reference.conv2d(*widen(x, weight, bias), **options)
    native = reference.conv2d(x, weight, bias, **options)
    scale = reference.conv2d(*absolute(x, weight, bias), **options)
    k = int(np.prod(weight.shape[1:]))
    label = f"conv2d {x.shape} {weight.shape} {options}"
    assert got.flags.c_contiguous, label
    assert_within(got, ref, dot_bound(k, x.dtype, scale), label)
    assert_close_to_reference(got, ref, native, scale=scale, label=label)


def check_backward(grad: Any, x: Any, weight: Any, **options: Any) -> None:
    """Hold the three gradients against the reference's."""
    got = kernels.conv2d_backward(grad, x, weight, **options)
    ref = reference.conv2d_backward(*widen(grad, x, weight), **options)
    native = reference.conv2d_backward(grad, x, weight, **options)
    scales = reference.conv2d_backward(*absolute(grad, x, weight), **options)
    for name, g, r, n, scale in zip("xwb", got, ref, native, scales, strict=True):
        label = f"grad_{name} of conv2d {x.shape} {weight.shape} {options}"
        assert g is not None, label
        assert scale is not None
        assert g.flags.c_contiguous, label
        assert_close_to_reference(g, r, n, scale=scale, label=label)


@pytest.mark.parametrize(("x_shape", "w_shape", "options"), CASES, ids=str)
def test_forward_and_backward(
    dtype: Any,
    layout: str,
    x_shape: Any,
    w_shape: Any,
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    x = arranged(normal(rng, dtype, *x_shape), layout)
    weight, bias = normal(rng, dtype, *w_shape), normal(rng, dtype, w_shape[0])
    options = {**options, **DIRECT, "layout": layout}
    got = kernels.conv2d(x, weight, bias, **options)
    check_forward(x, weight, bias, got, **options)
    check_forward(x, weight, None, kernels.conv2d(x, weight, **options), **options)
    check_backward(normal(rng, dtype, *got.shape), x, weight, **options)


@pytest.mark.parametrize("kernel", [1, 3])
def test_channels_and_pixels_around_the_register_tile(
    isa: str, dtype: Any, layout: str, kernel: int, rng: np.random.Generator
) -> None:
    tile_m, tile_n = register_tile("conv2d", isa, dtype)
    for i, channels_out in enumerate(sorted({*around(tile_n), *around(tile_m)})):
        pixels = around(tile_m if i % 2 else tile_n)[i % 5 - 1]
        channels_in = (1, 2, 3, 15, 16, 17)[i % 6]
        x = arranged(normal(rng, dtype, 2, channels_in, 2, pixels), layout)
        weight = normal(rng, dtype, channels_out, channels_in, kernel, kernel)
        bias = normal(rng, dtype, channels_out)
        options: dict[str, Any] = {"padding": kernel // 2, "layout": layout, **DIRECT}
        got = kernels.conv2d(x, weight, bias, **options)
        check_forward(x, weight, bias, got, **options)
        check_backward(normal(rng, dtype, *got.shape), x, weight, **options)


@pytest.mark.parametrize("channels", [255, 256, 257, 600])
def test_depth_across_cache_blocks(
    dtype: Any, layout: str, channels: int, rng: np.random.Generator
) -> None:
    x = arranged(normal(rng, dtype, 1, channels, 3, 4), layout)
    for kernel in (1, 3):
        weight = normal(rng, dtype, 5, channels, kernel, kernel)
        options: dict[str, Any] = {"padding": kernel // 2, "layout": layout, **DIRECT}
        got = kernels.conv2d(x, weight, **options)
        check_forward(x, weight, None, got, **options)
        check_backward(normal(rng, dtype, *got.shape), x, weight, **options)


def test_many_pixels_and_samples(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    x = arranged(normal(rng, dtype, 9, 5, 31, 37), layout)
    weight = normal(rng, dtype, 19, 5, 3, 3)
    for geometry in ({"padding": 1}, {"stride": 2, "padding": "same"}):
        options: dict[str, Any] = {**geometry, **DIRECT, "layout": layout}
        got = kernels.conv2d(x, weight, **options)
        check_forward(x, weight, None, got, **options)
        check_backward(normal(rng, dtype, *got.shape), x, weight, **options)


@pytest.mark.parametrize("activation", [None, *reference.ACTIVATIONS])
def test_epilogues(
    dtype: Any, layout: str, activation: str | None, rng: np.random.Generator
) -> None:
    for w_shape, options in (
        ((19, 6, 3, 3), {"padding": 1}),
        ((6, 1, 3, 3), {"padding": 1, "groups": 6}),
        ((35, 6, 1, 1), {}),
    ):
        x = arranged(normal(rng, dtype, 2, 6, 5, 7), layout)
        weight, bias = normal(rng, dtype, *w_shape), normal(rng, dtype, w_shape[0])
        residual = arranged(normal(rng, dtype, 2, w_shape[0], 5, 7), layout)
        for b, r in ((None, None), (bias, None), (None, residual), (bias, residual)):
            more: dict[str, Any] = {**options, **DIRECT, "layout": layout}
            got = kernels.conv2d(x, weight, b, activation=activation, residual=r, **more)
            ref = reference.conv2d(
                *widen(x, weight, b), activation=activation, residual=widen(r), **more
            )
            native = reference.conv2d(x, weight, b, activation=activation, residual=r, **more)
            # Slopes of all activations are below 2.
            scale = 2 * reference.conv2d(*absolute(x, weight, b), residual=absolute(r)[0], **more)
            assert_close_to_reference(got, ref, native, scale=scale, label=str(activation))


def test_any_memory(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    x = arranged(normal(rng, dtype, 2, 6, 7, 8), layout)
    weight, bias = normal(rng, dtype, 10, 3, 3, 3), normal(rng, dtype, 10)
    residual = arranged(normal(rng, dtype, 2, 10, 7, 8), layout)
    options: dict[str, Any] = {"padding": 1, "groups": 2, "layout": layout}
    y = kernels.conv2d(x, weight, bias, residual=residual, **options)
    gradients = kernels.conv2d_backward(residual, x, weight, **options)
    for name, (a, w, b, r) in mixed_layouts(x, weight, bias, residual):
        assert_same_bits(kernels.conv2d(a, w, b, residual=r, **options), y, name)
        for got, expected in zip(
            kernels.conv2d_backward(r, a, w, **options), gradients, strict=True
        ):
            assert_same_bits(got, expected, name)


def test_transposed_views_are_the_other_layout(dtype: Any, rng: np.random.Generator) -> None:
    last = normal(rng, dtype, 2, 9, 8, 6)
    weight = normal(rng, dtype, 5, 6, 3, 3)
    view = np.moveaxis(last, -1, 1)  # channels-first by strides only
    y = kernels.conv2d(view, weight, padding=1)
    assert_same_bits(y, kernels.conv2d(np.ascontiguousarray(view), weight, padding=1))


def test_backward_needs(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    x = arranged(normal(rng, dtype, 2, 4, 6, 5), layout)
    weight = normal(rng, dtype, 7, 4, 3, 3)
    grad = arranged(normal(rng, dtype, 2, 7, 4, 3), layout)
    every = kernels.conv2d_backward(grad, x, weight, layout=layout)
    for i, name in enumerate(("x", "weight", "bias")):
        only = kernels.conv2d_backward(grad, x, weight, layout=layout, needs=(name,))
        assert [g is not None for g in only] == [j == i for j in range(3)]
        assert_same_bits(only[i], every[i], name)
    none = kernels.conv2d_backward(grad, x, weight, layout=layout, needs=())
    assert none == (None, None, None)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": (2, 1), "padding": "same", "dilation": (1, 2)},
        {"groups": 2, "padding": ((0, 2), (1, 0)), "flip_kernel": True},
    ],
    ids=str,
)
def test_backward_is_the_derivative(
    layout: str, options: dict[str, Any], rng: np.random.Generator
) -> None:
    x = arranged(normal(rng, np.float64, 2, 4, 7, 6), layout)
    weight = normal(rng, np.float64, 6, 4 // options.get("groups", 1), 3, 2)
    bias = normal(rng, np.float64, 6)
    options = {**options, "layout": layout}
    grad = normal(rng, np.float64, *kernels.conv2d(x, weight, **options).shape)
    gradients = kernels.conv2d_backward(grad, x, weight, **options)
    arguments = [x, weight, bias]
    for i, gradient in enumerate(gradients):

        def loss(v: Any, i: int = i) -> Any:
            changed = [*arguments[:i], v, *arguments[i + 1 :]]
            return np.sum(grad * kernels.conv2d(*changed, **options))

        assert gradient is not None
        assert_gradient(loss, arguments[i], gradient, rng, label=f"gradient {i}")


def test_nan_and_infinity_reach_the_windows_that_hold_them(
    dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    x = normal(rng, dtype, 2, 3, 9, 9)
    x[0, 1, 4, 4], x[1, 2, 0, 8] = np.nan, np.inf
    x, weight = arranged(x, layout), normal(rng, dtype, 20, 3, 3, 3)
    got = kernels.conv2d(x, weight, padding=1, layout=layout)
    ref = reference.conv2d(*widen(x, weight), padding=1, layout=layout)
    assert np.isnan(ref).sum() == 9 * 20
    assert_within(got, ref, 1e-3, "conv2d")


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"), [CASES[i] for i in (0, 1, 4, 7, 12, 13, 16, 19)], ids=str
)
def test_out_is_filled_and_nothing_beside_it(
    dtype: Any,
    layout: str,
    strided: bool,
    x_shape: Any,
    w_shape: Any,
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    x, weight = arranged(normal(rng, dtype, *x_shape), layout), normal(rng, dtype, *w_shape)
    expected = kernels.conv2d(x, weight, **options, layout=layout)
    guard = Guarded(expected.shape, dtype, strided=strided)
    assert kernels.conv2d(x, weight, **options, layout=layout, out=guard.out) is guard.out
    assert_same_bits(guard.out, expected)
    guard.check()


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((5, 16, 20, 20), (40, 16, 3, 3), {"padding": 1}),
        ((3, 64, 14, 14), (70, 64, 1, 1), {}),
        ((4, 24, 17, 17), (24, 1, 3, 3), {"groups": 24, "padding": 1, "stride": 2}),
        ((1, 3, 64, 64), (16, 3, 3, 3), {"stride": 2, "padding": "same"}),
    ],
    ids=str,
)
def test_same_bits_for_every_thread_count_and_batch(
    dtype: Any,
    layout: str,
    x_shape: Any,
    w_shape: Any,
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    x, weight = arranged(normal(rng, dtype, *x_shape), layout), normal(rng, dtype, *w_shape)
    bias = normal(rng, dtype, w_shape[0])
    options = {**options, "layout": layout}
    y = kernels.conv2d(x, weight, bias, activation="silu", **options)
    grad = normal(rng, dtype, *y.shape)
    gradients = kernels.conv2d_backward(grad, x, weight, **options)
    for n in thread_counts():
        for run in range(2):
            again = kernels.conv2d(x, weight, bias, activation="silu", **options)
            assert_same_bits(again, y, f"{n} threads, run {run}")
            for got, expected in zip(
                kernels.conv2d_backward(grad, x, weight, **options), gradients, strict=True
            ):
                assert_same_bits(got, expected, f"gradient, {n} threads, run {run}")
        for samples in ([0], [len(x) - 1], range(len(x) // 2)):
            alone = kernels.conv2d(x[samples], weight, bias, activation="silu", **options)
            assert_same_bits(alone, y[samples], f"samples {samples}")


@given(data=st.data())
def test_property(data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(st.sampled_from([np.float32, np.float64]), "dtype")
    layout = draw(st.sampled_from(["channels_first", "channels_last"]), "layout")
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5]), "groups")
    n, h, w = (draw(st.integers(lo, hi)) for lo, hi in ((0, 3), (1, 12), (1, 12)))
    ic, oc = groups * draw(st.integers(1, 9), "ic"), groups * draw(st.integers(1, 20), "oc")
    kh, kw = draw(st.integers(1, 4), "kh"), draw(st.integers(1, 4), "kw")
    axis = st.integers(1, 3)
    stride = draw(st.one_of(axis, st.tuples(axis, axis)), "stride")
    dilation = draw(st.one_of(axis, st.tuples(axis, axis)), "dilation")
    pad = st.integers(0, 4)
    padding = draw(
        st.one_of(
            pad,
            st.tuples(pad, pad),
            st.tuples(st.tuples(pad, pad), st.tuples(pad, pad)),
            st.sampled_from(["valid", "same", "same_lower"]),
        ),
        "padding",
    )
    options: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "layout": layout,
        "flip_kernel": draw(st.booleans(), "flip_kernel"),
        **DIRECT,
    }
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), "seed"))
    memory = st.sampled_from(sorted(LAYOUTS))
    x = in_layout(draw(memory), arranged(normal(rng, dtype, n, ic, h, w), layout))
    weight = in_layout(draw(memory), normal(rng, dtype, oc, ic // groups, kh, kw))
    bias = normal(rng, dtype, oc) if draw(st.booleans(), "bias") else None
    try:
        reference.conv2d(x, weight, bias, **options)
    except ValueError:
        with pytest.raises(ValueError, match=r"^\[conv2d\]"):
            kernels.conv2d(x, weight, bias, **options)
        assume(False)
    got = kernels.conv2d(x, weight, bias, **options)
    check_forward(x, weight, bias, got, **options)
    check_backward(normal(rng, dtype, *got.shape), x, weight, **options)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 9])
def test_borders(dtype: Any, layout: str, size: int, rng: np.random.Generator) -> None:
    """Images about as large as the kernel: every pixel sees taps of its own."""
    for kernel, padding, dilation, stride in (
        (3, 1, 1, 1),
        (3, 2, 1, 2),
        (3, 3, 2, 1),
        (5, 2, 1, 1),
        (5, ((4, 1), (0, 4)), 1, 3),
        (7, 3, 1, 2),
        ((1, 3), (0, 2), 2, 1),
    ):
        x = arranged(normal(rng, dtype, 2, 3, size, max(1, size - 1)), layout)
        weight = normal(rng, dtype, 5, 3, *np.broadcast_to(kernel, 2))
        options: dict[str, Any] = {
            "padding": padding,
            "dilation": dilation,
            "stride": stride,
            "layout": layout,
            **DIRECT,
        }
        got = kernels.conv2d(x, weight, None, **options)
        check_forward(x, weight, None, got, **options)
        check_backward(normal(rng, dtype, *got.shape), x, weight, **options)


@pytest.mark.parametrize(
    ("samples", "channels", "size", "kernel", "options"),
    [
        (1, 171, 5, 3, {"padding": 1}),
        (2, 64, 7, 3, {"padding": 1, "stride": 2}),
        (3, 130, 4, 3, {"padding": ((1, 0), (0, 2)), "flip_kernel": True}),
        (1, 114, 6, 3, {"padding": 2, "dilation": 2, "groups": 2}),
        (1, 600, 3, (1, 2), {}),
        (40, 58, 5, 3, {"padding": 1}),
    ],
    ids=str,
)
def test_units_of_channels(
    dtype: Any,
    layout: str,
    samples: int,
    channels: int,
    size: int,
    kernel: Any,
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    """Few pixels under many weights; the last case has several strips of them."""
    x = arranged(normal(rng, dtype, samples, channels, size, size), layout)
    per_group = channels // options.get("groups", 1)
    weight = normal(rng, dtype, 38, per_group, *np.broadcast_to(kernel, 2))
    options = {**options, **DIRECT, "layout": layout}
    got = kernels.conv2d(x, weight, None, **options)
    check_forward(x, weight, None, got, **options)
    check_backward(normal(rng, dtype, *got.shape), x, weight, **options)


@pytest.mark.parametrize("width", [31, 32, 33, 34, 66, 67])
def test_every_second_column(dtype: Any, layout: str, width: int, rng: np.random.Generator) -> None:
    """Stride 2 loads and stores whole vectors of every second column."""
    x = arranged(normal(rng, dtype, 1, 17, 5, width), layout)
    for kernel, padding in ((1, 0), (2, 0), (3, 1)):
        weight = normal(rng, dtype, 18, 17, kernel, kernel)
        options: dict[str, Any] = {"stride": 2, "padding": padding, "layout": layout}
        got = kernels.conv2d(x, weight, None, **options)
        check_forward(x, weight, None, got, **options)
        check_backward(normal(rng, dtype, *got.shape), x, weight, **options)


#: Channels and size of x, stride, output channels, padding: several samples and parts of one are
#: gathered together.
PRODUCTS: list[tuple[int, tuple[int, int], Any, int, Any]] = [
    (5, (17, 19), 2, 7, 0),
    (33, (31, 16), (1, 2), 18, 0),
    (20, (40, 9), (3, 1), 33, 0),
    (6, (25, 31), 3, 5, ((0, 2), (1, 3))),
    (24, (241, 239), 2, 15, 0),
]


@pytest.mark.parametrize(("channels", "size", "stride", "columns", "padding"), PRODUCTS, ids=str)
def test_products_of_every_second_pixel(
    dtype: Any,
    layout: str,
    channels: int,
    size: Any,
    stride: Any,
    columns: int,
    padding: Any,
    rng: np.random.Generator,
) -> None:
    """A 1x1 of a stride in channels first is a product of the pixels that it reads."""
    x = arranged(normal(rng, dtype, 3, channels, *size), layout)
    weight, bias = normal(rng, dtype, columns, channels, 1, 1), normal(rng, dtype, columns)
    how: dict[str, Any] = {"stride": stride, "padding": padding, "layout": layout}
    y = kernels.conv2d(x, weight, bias, **how)
    check_forward(x, weight, bias, y, **how)
    if layout == "channels_first":
        assert kernels.plan("conv2d", x, weight, **how).algorithm == "gemm"
    residual = normal(rng, dtype, *y.shape)
    more: dict[str, Any] = {**how, "residual": residual, "activation": "relu"}
    guard = Guarded(y.shape, dtype)
    kernels.conv2d(x, weight, bias, **more, out=guard.out)
    guard.check()
    plain = {k: v for k, v in more.items() if k != "activation"}
    both = reference.conv2d(*widen(x, weight, bias), **{**plain, "residual": widen(residual)})
    scale = reference.conv2d(
        *absolute(x, weight, bias), **{**plain, "residual": absolute(residual)[0]}
    )
    assert_within(guard.out, np.maximum(both, 0), dot_bound(channels + 2, dtype, scale))
    for n in thread_counts():
        assert_same_bits(kernels.conv2d(x, weight, bias, **how), y, f"{n} threads")
    assert_same_bits(kernels.conv2d(x[1:2], weight, bias, **how), y[1:2], "alone")
    packed = kernels.pack(weight, "conv2d")
    for _ in range(2):
        assert_same_bits(kernels.conv2d(x, packed, bias, **how), y, "packed")


@pytest.mark.parametrize("op", ["conv2d", "conv_transpose2d"])
def test_a_packed_weight_serves_images_of_any_size(
    dtype: Any, layout: str, op: str, rng: np.random.Generator
) -> None:
    """Sums over units of channels, as on small images, and over whole taps read the same form."""
    function: Any = getattr(kernels, op)
    for stride in (1, 2):
        how: dict[str, Any] = {**DIRECT, "stride": stride, "padding": 1, "layout": layout}
        weight = normal(rng, dtype, 90, 90, 3, 3)
        for sizes in ((7, 35, 14), (35, 9)):
            packed = kernels.pack(weight, op)
            for size in sizes:
                x = arranged(normal(rng, dtype, 1, 90, size, size), layout)
                y = function(x, weight, **how)
                assert_same_bits(function(x, packed, **how), y, f"{op} {stride} {size} {sizes}")
