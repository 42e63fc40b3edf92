"""Transposed convolutions and their gradients against the reference, at every ISA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import arraynn.kernels
import arraynn.reference
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

# Names are built from the number of axes.
kernels: Any = arraynn.kernels
reference: Any = arraynn.reference

# (N, C, sizes...), (C, OC / groups, kernel...), options
CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    ((2, 3, 8, 8), (3, 16, 3, 3), {"padding": 1}),
    ((2, 16, 7, 9), (16, 8, 2, 2), {"stride": 2}),
    ((1, 8, 7, 6), (8, 5, 4, 4), {"stride": 2, "padding": 1}),
    ((2, 5, 4, 5), (5, 6, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    ((2, 5, 4, 5), (5, 33, 3, 2), {"stride": (3, 2), "output_padding": (2, 1)}),
    ((2, 17, 9, 8), (17, 33, 1, 1), {}),
    ((2, 17, 5, 4), (17, 33, 1, 1), {}),
    ((2, 4, 4, 3), (4, 7, 1, 1), {"stride": 2, "output_padding": 1}),
    ((2, 4, 3, 4), (4, 7, 2, 1), {"stride": (5, 3), "output_padding": (4, 0)}),
    ((1, 4, 3, 4), (4, 7, 2, 3), {"stride": (1, 5)}),
    ((1, 6, 5, 4), (6, 4, 3, 3), {"dilation": 2}),
    ((1, 6, 5, 4), (6, 4, 2, 4), {"dilation": (3, 2), "stride": 2, "padding": 2}),
    ((1, 6, 5, 4), (6, 4, 2, 2), {"dilation": 3, "output_padding": 2}),
    ((2, 3, 6, 5), (3, 5, 3, 4), {"padding": ((0, 2), (2, 0)), "stride": (1, 2)}),
    ((2, 8, 5, 5), (8, 3, 3, 3), {"groups": 4, "padding": 1, "stride": 2}),
    ((1, 35, 4, 4), (35, 1, 3, 3), {"groups": 35, "padding": 1}),
    ((1, 6, 5, 5), (6, 3, 2, 2), {"groups": 6, "stride": 4}),
    ((2, 4, 3, 3), (4, 2, 1, 1), {"groups": 2}),
    ((2, 5, 3, 4), (5, 35, 5, 6), {"stride": (5, 6), "output_padding": (2, 0)}),
    ((1, 6, 5, 4), (6, 20, 6, 4), {"stride": (3, 2), "groups": 2}),
    ((1, 2, 6, 6), (2, 3, 3, 3), {"padding": 3}),
    ((1, 130, 3, 3), (130, 5, 3, 3), {"padding": 1}),
    ((2, 3, 1, 30), (3, 9, 1, 9), {"padding": (0, 4)}),
    ((0, 3, 4, 4), (3, 5, 3, 3), {"padding": 1}),
    ((2, 3, 4, 4), (3, 0, 3, 3), {"stride": 2}),
    ((2, 0, 4, 4), (0, 5, 3, 3), {"stride": 4}),
    ((2, 0, 9, 9), (0, 5, 1, 1), {}),
    ((2, 3, 9), (3, 5, 4), {"stride": 2, "padding": 1}),
    ((2, 4, 20), (4, 18, 3), {"padding": ((2, 0),)}),
    ((1, 6, 7), (6, 2, 2), {"stride": 5, "output_padding": 4, "groups": 3}),
    ((1, 6, 70), (6, 20, 1), {}),
    ((3, 5, 11), (5, 4, 3), {"stride": (3,), "dilation": 4, "output_padding": (3,)}),
    ((0, 3, 9), (3, 5, 4), {}),
    # A residue of the stride without a tap beside others, rows that are no multiple of the stride.
    ((2, 20, 5, 40), (20, 35, 3, 2), {"stride": (2, 3), "output_padding": (1, 2)}),
    ((2, 8, 6, 7), (8, 20, 4, 4), {"stride": (4, 3), "padding": ((1, 2), (0, 2))}),
    ((2, 6, 5, 4), (6, 20, 3, 2), {"stride": 2, "dilation": 2, "padding": 1}),
    ((2, 24, 6, 9), (24, 20, 3, 4), {"stride": (3, 2), "groups": 3, "padding": (0, 1)}),
    # Results fewer than the stride, and residues more than a call takes.
    ((2, 4, 1, 1), (4, 20, 2, 3), {"stride": 5}),
    ((2, 6, 5), (6, 9, 23), {"stride": 20, "output_padding": 3}),
    ((2, 5, 4, 3), (5, 9, 7, 5), {"stride": (9, 4), "output_padding": (5, 1)}),
    # Rows that are cut, and few positions under many weights.
    ((1, 16, 700), (16, 33, 6), {"stride": 4, "padding": 1}),
    ((2, 300, 4, 5), (300, 40, 4, 4), {"stride": 2, "padding": 1}),
    ((1, 200, 9), (200, 40, 16), {"stride": 8, "padding": 4}),
    # Numbers of taps that are dealt from whole vectors, or transposed in squares.
    ((1, 9, 11), (9, 40, 2), {"stride": 2}),
    ((1, 9, 5, 6), (9, 70, 2, 4), {"stride": 2}),
    ((1, 9, 5, 6), (9, 40, 4, 8), {"stride": (2, 4)}),
]
#: Every way through the forward code: gemm, dense and strided rows, positions without a tap.
WAYS = [
    ((2, 6, 3, 23), (6, 19, 1, 1), {}),
    ((2, 6, 3, 4), (6, 19, 1, 1), {}),
    ((2, 6, 4, 5), (6, 19, 3, 3), {"padding": 1}),
    ((2, 6, 4, 5), (6, 19, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    ((2, 6, 4, 5), (6, 35, 2, 3), {"stride": 3}),
    ((2, 6, 4, 5), (6, 3, 2, 3), {"stride": (2, 1), "groups": 3}),
    ((2, 6, 3, 2), (6, 3, 1, 2), {"stride": (3, 4), "groups": 2, "output_padding": (2, 3)}),
    ((2, 6, 9), (6, 17, 2), {"stride": 3, "output_padding": 1}),
    ((2, 6, 3, 20), (6, 19, 3, 2), {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2)}),
    ((2, 6, 3, 3), (6, 19, 2, 5), {"stride": (7, 4), "output_padding": (6, 3)}),
]


def op_of(x: Any) -> str:
    """Return the name of the operation on x."""
    return f"conv_transpose{x.ndim - 2}d"


def forward(module: Any, x: Any, *args: Any, **options: Any) -> Any:
    return getattr(module, op_of(x))(x, *args, **options)


def backward(module: Any, grad: Any, x: Any, *args: Any, **options: Any) -> Any:
    return getattr(module, f"{op_of(x)}_backward")(grad, x, *args, **options)


def channels_out(weight: Any, options: dict[str, Any]) -> int:
    return int(weight.shape[1] * options.get("groups", 1))


def check_forward(x: Any, weight: Any, bias: Any, got: Any, **options: Any) -> None:
    """Hold a result without activation against both bounds."""
    ref = forward(reference, *widen(x, weight, bias), **options)
    native = forward(reference, x, weight, bias, **options)
    scale = forward(reference, *absolute(x, weight, bias), **options)
    # No more products than this meet in an output.
    k = int(weight.size // max(1, weight.shape[1]) // options.get("groups", 1))
    label = f"{op_of(x)} {x.shape} {weight.shape} {options}"
    assert got.flags.c_contiguous, label
    assert_within(got, ref, dot_bound(k, x.dtype, scale), label)
    assert_close_to_reference(got, ref, native, scale=scale, label=label)


def check_backward(grad: Any, x: Any, weight: Any, **options: Any) -> None:
    """Hold the three gradients against the reference's."""
    got = backward(kernels, grad, x, weight, **options)
    ref = backward(reference, *widen(grad, x, weight), **options)
    native = backward(reference, grad, x, weight, **options)
    scales = backward(reference, *absolute(grad, x, weight), **options)
    shapes = (x.shape, weight.shape, (channels_out(weight, options),))
    for i, (g, r, n, scale) in enumerate(zip(got, ref, native, scales, strict=True)):
        label = f"grad_{'xwb'[i]} of {op_of(x)} {x.shape} {weight.shape} {options}"
        assert g.shape == shapes[i], label
        assert g.flags.c_contiguous, label
        assert_close_to_reference(g, r, n, scale=scale, label=label)


def check(rng: np.random.Generator, dtype: Any, x: Any, weight: Any, **options: Any) -> None:
    """Check forward, with and without a bias, and backward, of the direct sum.

    Its bounds are not those of the transforms, which test_conv_winograd.py has.
    """
    options["algorithm"] = "direct"
    for bias in (None, normal(rng, dtype, channels_out(weight, options))):
        got = forward(kernels, x, weight, bias, **options)
        check_forward(x, weight, bias, got, **options)
    check_backward(normal(rng, dtype, *got.shape), x, weight, **options)


@pytest.mark.parametrize(("x_shape", "w_shape", "options"), CASES, ids=str)
def test_forward_and_backward(
    dtype: Any,
    layout: str,
    x_shape: Any,
    w_shape: Any,
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    x, weight = arranged(normal(rng, dtype, *x_shape), layout), normal(rng, dtype, *w_shape)
    check(rng, dtype, x, weight, **options, layout=layout)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (3, 2), (2, 3)])
def test_channels_and_pixels_around_the_register_tile(
    isa: str, dtype: Any, layout: str, kernel: int, stride: int, rng: np.random.Generator
) -> None:
    tile_m, tile_n = register_tile("conv_transpose2d", isa, dtype)
    for i, channels in enumerate(sorted({*around(tile_n), *around(tile_m)})):
        pixels = around(tile_m if i % 2 else tile_n)[i % 5 - 1]
        x = arranged(normal(rng, dtype, 2, (1, 2, 3, 15, 16, 17)[i % 6], 2, pixels), layout)
        channels_in = x.shape[-1 if layout == "channels_last" else 1]
        weight = normal(rng, dtype, channels_in, channels, kernel, kernel)
        check(rng, dtype, x, weight, stride=stride, layout=layout)


@pytest.mark.parametrize("channels", [255, 257, 600])
def test_depth_across_cache_blocks(
    dtype: Any, layout: str, channels: int, rng: np.random.Generator
) -> None:
    x = arranged(normal(rng, dtype, 1, channels, 3, 4), layout)
    for kernel, stride, padding in ((1, 1, 0), (3, 1, 1), (3, 2, 1), (2, 2, 0)):
        weight = normal(rng, dtype, channels, 5, kernel, kernel)
        check(rng, dtype, x, weight, stride=stride, padding=padding, layout=layout)


def test_many_pixels_and_samples(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    x = arranged(normal(rng, dtype, 9, 5, 19, 23), layout)
    weight = normal(rng, dtype, 5, 19, 3, 3)
    for options in ({"padding": 1}, {"stride": 2, "padding": 1, "output_padding": 1}):
        check(rng, dtype, x, weight, **options, layout=layout)


@pytest.mark.parametrize("activation", [None, *arraynn.reference.ACTIVATIONS])
@pytest.mark.parametrize(("x_shape", "w_shape", "options"), WAYS, ids=str)
def test_epilogues(
    dtype: Any,
    layout: str,
    activation: str | None,
    x_shape: Any,
    w_shape: Any,
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    """Positions that no tap reaches get the epilogue as well."""
    x, weight = arranged(normal(rng, dtype, *x_shape), layout), normal(rng, dtype, *w_shape)
    bias = normal(rng, dtype, channels_out(weight, options))
    more: dict[str, Any] = {**options, "layout": layout, "algorithm": "direct"}
    residual = normal(rng, dtype, *forward(reference, x, weight, **more).shape)
    for b, r in ((None, None), (bias, None), (None, residual), (bias, residual)):
        got = forward(kernels, x, weight, b, activation=activation, residual=r, **more)
        ref = forward(
            reference, *widen(x, weight, b), activation=activation, residual=widen(r), **more
        )
        native = forward(reference, x, weight, b, activation=activation, residual=r, **more)
        # Slopes of all activations are below 2; where no tap reaches, their value is what rounds.
        before = forward(reference, *absolute(x, weight, b), residual=absolute(r)[0], **more)
        scale = 2 * before + np.abs(ref)
        assert_close_to_reference(got, ref, native, scale=scale, label=str(activation))


@pytest.mark.parametrize(("x_shape", "w_shape", "options"), WAYS[3:], ids=str)
def test_any_memory(
    dtype: Any,
    layout: str,
    x_shape: Any,
    w_shape: Any,
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    x, weight = arranged(normal(rng, dtype, *x_shape), layout), normal(rng, dtype, *w_shape)
    bias = normal(rng, dtype, channels_out(weight, options))
    options = {**options, "layout": layout}
    residual = normal(rng, dtype, *forward(kernels, x, weight, **options).shape)
    y = forward(kernels, x, weight, bias, residual=residual, **options)
    gradients = backward(kernels, residual, x, weight, **options)
    for name, (a, w, b, r) in mixed_layouts(x, weight, bias, residual):
        assert_same_bits(forward(kernels, a, w, b, residual=r, **options), y, name)
        for got, expected in zip(backward(kernels, r, a, w, **options), gradients, strict=True):
            assert_same_bits(got, expected, name)


@pytest.mark.parametrize("axes", [1, 2])
def test_backward_needs(axes: int, dtype: Any, layout: str, rng: np.random.Generator) -> None:
    x = arranged(normal(rng, dtype, 2, 4, *(6, 5)[:axes]), layout)
    weight = normal(rng, dtype, 4, 7, *(3, 2)[:axes])
    grad = normal(rng, dtype, *forward(kernels, x, weight, stride=2, layout=layout).shape)
    every = backward(kernels, grad, x, weight, 2, layout=layout)
    for i, name in enumerate(("x", "weight", "bias")):
        only = backward(kernels, grad, x, weight, 2, layout=layout, needs=(name,))
        assert [g is not None for g in only] == [j == i for j in range(3)]
        assert_same_bits(only[i], every[i], name)
    assert backward(kernels, grad, x, weight, 2, layout=layout, needs=()) == (None, None, None)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"), [CASES[i] for i in (4, 5, 9, 12, 13, 14, 15, 28)], ids=str
)
def test_backward_is_the_derivative(
    layout: str,
    x_shape: Any,
    w_shape: Any,
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    x = arranged(normal(rng, np.float64, *x_shape), layout)
    weight = normal(rng, np.float64, *w_shape)
    bias = normal(rng, np.float64, channels_out(weight, options))
    options = {**options, "layout": layout}
    grad = normal(rng, np.float64, *forward(kernels, x, weight, **options).shape)
    gradients = backward(kernels, grad, x, weight, **options)
    arguments = [x, weight, bias]
    for i, gradient in enumerate(gradients):

        def loss(v: Any, i: int = i) -> Any:
            changed = [*arguments[:i], v, *arguments[i + 1 :]]
            return np.sum(grad * forward(kernels, *changed, **options))

        assert_gradient(loss, arguments[i], gradient, rng, label=f"gradient {i}")


def test_it_is_the_gradient_of_a_convolution(
    dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    """The inner products of the definition: <conv(x), y> = <x, conv_transpose(y)>."""
    x, y = normal(rng, dtype, 2, 4, 9, 7), normal(rng, dtype, 2, 6, 4, 3)
    weight = normal(rng, dtype, 6, 2, 3, 3)
    options: dict[str, Any] = {"stride": 2, "groups": 2, "layout": layout}
    x, y = arranged(x, layout), arranged(y, layout)
    (expected, _, _) = kernels.conv2d_backward(y, x, weight, **options, needs=("x",))
    assert_same_bits(kernels.conv_transpose2d(y, weight, **options), expected)


def test_one_axis_is_a_height_of_one(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    """conv_transpose1d has the bits of conv_transpose2d."""
    axis = 1 if layout == "channels_last" else 2
    x, weight = arranged(normal(rng, dtype, 3, 6, 40), layout), normal(rng, dtype, 6, 5, 4)
    bias, residual = normal(rng, dtype, 10), arranged(normal(rng, dtype, 3, 10, 79), layout)
    images = [np.expand_dims(a, axis) for a in (x, residual)]
    how: dict[str, Any] = {"activation": "gelu", "layout": layout}
    y = kernels.conv_transpose1d(x, weight, bias, 2, ((3, 0),), 0, 2, residual=residual, **how)
    expected = kernels.conv_transpose2d(
        images[0],
        weight[:, :, None],
        bias,
        (1, 2),
        ((0, 0), (3, 0)),
        0,
        2,
        residual=images[1],
        **how,
    )
    assert_same_bits(y, expected.squeeze(axis))
    parts = kernels.conv_transpose1d_backward(
        residual, x, weight, 2, ((3, 0),), 0, 2, layout=layout
    )
    wholes = kernels.conv_transpose2d_backward(
        images[1], images[0], weight[:, :, None], (1, 2), ((0, 0), (3, 0)), 0, 2, layout=layout
    )
    for got, whole, like in zip(parts, wholes, (x, weight, bias), strict=True):
        assert_same_bits(got, whole.reshape(like.shape))


def test_nan_reaches_its_windows_only(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    x = normal(rng, dtype, 2, 3, 5, 5)
    x[0, 1, 2, 2], x[1, 2, 0, 4] = np.nan, np.inf
    x, weight = arranged(x, layout), normal(rng, dtype, 3, 20, 3, 3)
    for stride in (1, 2, 4):
        got = kernels.conv_transpose2d(x, weight, None, stride, layout=layout)
        ref = reference.conv_transpose2d(*widen(x, weight), None, stride, layout=layout)
        assert np.isnan(ref).sum() == 9 * 20
        assert_within(got, ref, 1e-3, f"stride {stride}")


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"), [CASES[i] for i in (0, 1, 5, 6, 8, 15, 26, 28)], ids=str
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
    for activation in (None, "sigmoid"):
        more: dict[str, Any] = {**options, "layout": layout, "activation": activation}
        expected = forward(kernels, x, weight, **more)
        guard = Guarded(expected.shape, dtype, strided=strided)
        assert forward(kernels, x, weight, **more, out=guard.out) is guard.out
        assert_same_bits(guard.out, expected)
        guard.check()


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((5, 16, 12, 12), (16, 40, 3, 3), {"padding": 1}),
        ((3, 64, 14, 14), (64, 70, 1, 1), {}),
        ((4, 32, 9, 9), (32, 24, 2, 2), {"stride": 2}),
        ((4, 24, 9, 9), (24, 1, 3, 3), {"groups": 24, "padding": 1, "stride": 2}),
        ((3, 16, 7, 7), (16, 24, 2, 2), {"stride": 3}),
        ((3, 32, 200), (32, 48, 4), {"stride": 2, "padding": 1}),
        ((3, 20, 12, 21), (20, 40, 4, 4), {"stride": 2, "padding": 1}),
        ((3, 16, 300), (16, 33, 16), {"stride": 8, "padding": 4}),
        ((3, 300, 4, 5), (300, 40, 4, 3), {"stride": 2, "padding": 1}),
        ((3, 12, 9, 9), (12, 40, 2, 1), {"stride": 3, "output_padding": 1}),
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
    bias = normal(rng, dtype, channels_out(weight, options))
    options = {**options, "layout": layout}
    grad = normal(rng, dtype, *forward(kernels, x, weight, **options).shape)

    def run(samples: Any = slice(None)) -> Any:
        return forward(
            kernels, x[samples], weight, bias, activation="silu", residual=grad[samples], **options
        )

    y, gradients = run(), backward(kernels, grad, x, weight, **options)
    for n in thread_counts():
        for again in range(2):
            assert_same_bits(run(), y, f"{n} threads, run {again}")
            repeated = backward(kernels, grad, x, weight, **options)
            for got, expected in zip(repeated, gradients, strict=True):
                assert_same_bits(got, expected, f"gradient, {n} threads, run {again}")
        for samples in ([0], [len(x) - 1], range(len(x) // 2)):
            assert_same_bits(run(samples), y[samples], f"samples {samples}")


@given(data=st.data())
def test_property(data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(st.sampled_from([np.float32, np.float64]), "dtype")
    layout = draw(st.sampled_from(["channels_first", "channels_last"]), "layout")
    axes = draw(st.sampled_from([1, 2, 2]), "axes")
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]), "groups")
    n, ic, oc = (draw(st.integers(*r)) for r in ((0, 3), (1, 9), (1, 20)))

    def per_axis(low: int, high: int, name: str) -> Any:
        one = st.integers(low, high)
        return draw(st.one_of(one, st.tuples(*[one] * axes)), name)

    pairs = st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * axes)
    options: dict[str, Any] = {
        "stride": per_axis(1, 4, "stride"),
        "padding": draw(st.one_of(st.integers(0, 3), pairs), "padding"),
        "output_padding": per_axis(0, 3, "output_padding"),
        "dilation": per_axis(1, 3, "dilation"),
        "groups": groups,
        "layout": layout,
    }
    sizes = [draw(st.integers(1, 9), "size") for _ in range(axes)]
    kernel = [draw(st.integers(1, 4), "kernel") for _ in range(axes)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), "seed"))
    memory = st.sampled_from(sorted(LAYOUTS))
    x = in_layout(draw(memory), arranged(normal(rng, dtype, n, groups * ic, *sizes), layout))
    weight = in_layout(draw(memory), normal(rng, dtype, groups * ic, oc, *kernel))
    try:
        forward(reference, x, weight, **options)
    except ValueError:
        with pytest.raises(ValueError, match=rf"^\[{op_of(x)}\]"):
            forward(kernels, x, weight, **options)
        assume(False)
    check(rng, dtype, x, weight, **options)


def test_torch_is_a_second_witness(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    for x_shape, w_shape, options in CASES:
        padding = options.get("padding", 0)
        if isinstance(padding, tuple) and isinstance(padding[0], tuple):
            continue  # PyTorch pads both ends alike
        if 0 in x_shape or 0 in w_shape:
            continue
        x, weight = normal(rng, np.float64, *x_shape), normal(rng, np.float64, *w_shape)
        bias = normal(rng, np.float64, channels_out(weight, options))
        leaves = [torch.from_numpy(a.copy()).requires_grad_() for a in (x, weight, bias)]
        expected = getattr(torch.nn.functional, op_of(x))(*leaves, **options)
        got = forward(kernels, x, weight, bias, **options)
        np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-11, atol=1e-11)
        grad = normal(rng, np.float64, *got.shape)
        expected.backward(torch.from_numpy(grad))
        for g, leaf in zip(backward(kernels, grad, x, weight, **options), leaves, strict=True):
            np.testing.assert_allclose(g, leaf.grad.numpy(), rtol=1e-11, atol=1e-11)
