"""conv1d and conv1d_backward against the reference, at every ISA, in both layouts."""

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

# (N, C, L), (OC, C / groups, K), options
CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 1), (1, 1, 1), {}),
    ((2, 3, 31), (16, 3, 3), {"padding": 1}),
    ((1, 2, 100), (8, 2, 9), {"stride": 4, "padding": "same"}),
    ((2, 16, 70), (33, 16, 1), {}),
    ((2, 17, 20), (33, 17, 1), {}),
    ((2, 17, 20), (33, 17, 1), {"stride": (3,)}),
    ((2, 4, 13), (6, 4, 4), {"stride": 2, "padding": "same_lower"}),
    ((1, 6, 12), (4, 6, 3), {"dilation": (4,), "padding": "valid"}),
    ((2, 3, 6), (5, 3, 3), {"padding": ((0, 3),)}),
    ((2, 3, 6), (5, 3, 3), {"padding": (2,), "flip_kernel": True}),
    ((2, 8, 7), (12, 2, 3), {"groups": 4, "padding": 1}),
    ((1, 35, 18), (35, 1, 3), {"groups": 35, "padding": 1}),
    ((1, 2, 5), (3, 2, 2), {"stride": 7}),
    ((1, 2, 3), (3, 2, 3), {"padding": 4}),
    ((1, 300, 9), (5, 300, 3), {"padding": 1}),
    ((0, 3, 8), (5, 3, 3), {}),
    ((2, 3, 8), (0, 3, 3), {}),
    ((2, 0, 8), (5, 0, 3), {}),
]


def check(rng: np.random.Generator, dtype: Any, x: Any, weight: Any, **options: Any) -> None:
    """Hold forward, with and without a bias, and backward against the reference."""
    label = f"conv1d {x.shape} {weight.shape} {options}"
    for bias in (None, normal(rng, dtype, len(weight))):
        got = kernels.conv1d(x, weight, bias, **options)
        ref = reference.conv1d(*widen(x, weight, bias), **options)
        native = reference.conv1d(x, weight, bias, **options)
        scale = reference.conv1d(*absolute(x, weight, bias), **options)
        assert got.flags.c_contiguous, label
        k = int(np.prod(weight.shape[1:]))
        assert_within(got, ref, dot_bound(k, x.dtype, scale), label)
        assert_close_to_reference(got, ref, native, scale=scale, label=label)
    grad = normal(rng, dtype, *got.shape)
    gradients = kernels.conv1d_backward(grad, x, weight, **options)
    ref_gradients = reference.conv1d_backward(*widen(grad, x, weight), **options)
    native_gradients = reference.conv1d_backward(grad, x, weight, **options)
    scales = reference.conv1d_backward(*absolute(grad, x, weight), **options)
    parts = zip("xwb", gradients, ref_gradients, native_gradients, scales, strict=True)
    for name, g, r, n, s in parts:
        assert g is not None
        assert s is not None
        assert g.flags.c_contiguous, label
        assert_close_to_reference(g, r, n, scale=s, label=f"grad_{name} of {label}")


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


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((1, 5, 1501), (7, 5, 3), {"padding": 1}),
        ((2, 5, 1501), (35, 5, 4), {"stride": 3, "padding": ((0, 5),), "dilation": 2}),
        ((1, 260, 331), (9, 260, 2), {"padding": 1}),
        ((1, 6, 4001), (4, 3, 1), {"stride": 2, "groups": 2}),
        ((1, 2, 30001), (3, 2, 9), {"stride": 2, "padding": 4}),
    ],
    ids=str,
)
def test_rows_cut_into_strips(
    dtype: Any,
    layout: str,
    x_shape: Any,
    w_shape: Any,
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    """Rows too long for a strip, and a single row for a team: the same bits from every cut."""
    x, weight = arranged(normal(rng, dtype, *x_shape), layout), normal(rng, dtype, *w_shape)
    bias, more = normal(rng, dtype, len(weight)), {**options, "layout": layout}
    y = kernels.conv1d(x, weight, bias, **more)
    k = weight[0].size + 1
    ref = reference.conv1d(*widen(x, weight, bias), **more)
    scale = reference.conv1d(*absolute(x, weight, bias), **more)
    assert_within(y, ref, dot_bound(k, x.dtype, scale))
    residual = normal(rng, dtype, *y.shape)
    guard = Guarded(y.shape, dtype)
    total = kernels.conv1d(x, weight, bias, **more, residual=residual)
    assert_within(total, ref + residual, dot_bound(k + 1, x.dtype, scale + np.abs(residual)))
    for n in thread_counts():
        assert_same_bits(kernels.conv1d(x, weight, bias, **more), y, f"{n} threads")
        packed = kernels.pack(weight, "conv1d")
        assert_same_bits(kernels.conv1d(x, packed, bias, **more), y, f"{n} threads, packed")
        kernels.conv1d(x, weight, bias, **more, residual=residual, out=guard.out)
        assert_same_bits(guard.out, total, f"{n} threads, residual")
        guard.check()


def test_a_long_row_by_x(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    """Its results lie a stride apart."""
    for ic, stride in ((5, 1), (5, 2), (40, 3)):
        x = arranged(normal(rng, dtype, 1, ic, 1400), layout)
        weight = normal(rng, dtype, ic, 6, 4)
        more: dict[str, Any] = {"stride": stride, "padding": 1, "layout": layout}
        y = kernels.conv_transpose1d(x, weight, **more)
        residual = normal(rng, dtype, *y.shape)
        total = kernels.conv_transpose1d(x, weight, **more, residual=residual)
        ref = reference.conv_transpose1d(*widen(x, weight), **more)
        scale = reference.conv_transpose1d(*absolute(x, weight), **more)
        assert_within(y, ref, dot_bound(4 * ic, x.dtype, scale))
        bound = dot_bound(4 * ic + 1, x.dtype, scale + np.abs(residual))
        assert_within(total, ref + residual, bound)
        for n in thread_counts():
            again = kernels.conv_transpose1d(x, weight, **more, residual=residual)
            assert_same_bits(again, total, f"{n} threads")


def test_channels_and_length_around_the_register_tile(
    isa: str, dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    tile_m, tile_n = register_tile("conv1d", isa, dtype)
    for i, channels_out in enumerate(sorted({*around(tile_n), *around(tile_m)})):
        length = around(tile_m if i % 2 else tile_n)[i % 5 - 1]
        channels_in = (1, 2, 3, 15, 16, 17)[i % 6]
        x = arranged(normal(rng, dtype, 2, channels_in, length), layout)
        weight = normal(rng, dtype, channels_out, channels_in, 3)
        check(rng, dtype, x, weight, padding=1, layout=layout)


def test_it_is_conv2d_of_height_one(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    """The same kernel and the same bits, strided arrays included."""
    axis = 1 if layout == "channels_last" else 2
    x = arranged(normal(rng, dtype, 3, 6, 50), layout)
    weight, bias = normal(rng, dtype, 10, 3, 5), normal(rng, dtype, 10)
    residual = arranged(normal(rng, dtype, 3, 10, 25), layout)
    geometry = (2, "same", 1, 2)
    geometry2 = ((1, 2), "same", 1, 2)
    image = kernels.conv2d(
        np.expand_dims(x, axis),
        weight[:, :, None],
        bias,
        *geometry2,
        activation="gelu",
        residual=np.expand_dims(residual, axis),
        layout=layout,
    )
    grads = kernels.conv2d_backward(
        np.expand_dims(residual, axis),
        np.expand_dims(x, axis),
        weight[:, :, None],
        *geometry2,
        layout=layout,
    )
    for name, (a, w, b, r) in mixed_layouts(x, weight, bias, residual):
        y = kernels.conv1d(a, w, b, *geometry, activation="gelu", residual=r, layout=layout)
        assert_same_bits(y, image.squeeze(axis), name)
        parts = kernels.conv1d_backward(r, a, w, *geometry, layout=layout)
        for got, expected, like in zip(parts, grads, (x, weight, bias), strict=True):
            assert expected is not None
            assert_same_bits(got, expected.reshape(like.shape), name)


@pytest.mark.parametrize("activation", [None, *reference.ACTIVATIONS])
def test_epilogues(
    dtype: Any, layout: str, activation: str | None, rng: np.random.Generator
) -> None:
    for w_shape in ((19, 6, 3), (35, 6, 1)):
        x = arranged(normal(rng, dtype, 2, 6, 70), layout)
        weight, bias = normal(rng, dtype, *w_shape), normal(rng, dtype, w_shape[0])
        residual = arranged(normal(rng, dtype, 2, w_shape[0], 70), layout)
        more: dict[str, Any] = {"padding": "same", "layout": layout}
        for b, r in ((None, None), (bias, None), (None, residual), (bias, residual)):
            got = kernels.conv1d(x, weight, b, activation=activation, residual=r, **more)
            ref = reference.conv1d(
                *widen(x, weight, b), activation=activation, residual=widen(r), **more
            )
            native = reference.conv1d(x, weight, b, activation=activation, residual=r, **more)
            # Slopes of all activations are below 2.
            scale = 2 * reference.conv1d(*absolute(x, weight, b), residual=absolute(r)[0], **more)
            assert_close_to_reference(got, ref, native, scale=scale, label=str(activation))


def test_backward_needs(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    x, weight = arranged(normal(rng, dtype, 2, 4, 9), layout), normal(rng, dtype, 7, 4, 3)
    grad = arranged(normal(rng, dtype, 2, 7, 7), layout)
    every = kernels.conv1d_backward(grad, x, weight, layout=layout)
    for i, name in enumerate(("x", "weight", "bias")):
        only = kernels.conv1d_backward(grad, x, weight, layout=layout, needs=(name,))
        assert [g is not None for g in only] == [j == i for j in range(3)]
        assert_same_bits(only[i], every[i], name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": "same", "dilation": 2},
        {"groups": 2, "padding": ((0, 2),), "flip_kernel": True},
    ],
    ids=str,
)
def test_backward_is_the_derivative(
    layout: str, options: dict[str, Any], rng: np.random.Generator
) -> None:
    x = arranged(normal(rng, np.float64, 2, 4, 9), layout)
    weight = normal(rng, np.float64, 6, 4 // options.get("groups", 1), 3)
    arguments = [x, weight, normal(rng, np.float64, 6)]
    options = {**options, "layout": layout}
    grad = normal(rng, np.float64, *kernels.conv1d(x, weight, **options).shape)
    gradients = kernels.conv1d_backward(grad, x, weight, **options)
    for i, gradient in enumerate(gradients):

        def loss(v: Any, i: int = i) -> Any:
            changed = [*arguments[:i], v, *arguments[i + 1 :]]
            return np.sum(grad * kernels.conv1d(*changed, **options))

        assert gradient is not None
        assert_gradient(loss, arguments[i], gradient, rng, label=f"gradient {i}")


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"), [CASES[i] for i in (0, 1, 3, 5, 10, 13)], ids=str
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
    expected = kernels.conv1d(x, weight, **options, layout=layout)
    guard = Guarded(expected.shape, dtype, strided=strided)
    assert kernels.conv1d(x, weight, **options, layout=layout, out=guard.out) is guard.out
    assert_same_bits(guard.out, expected)
    guard.check()


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((3, 16, 900), (40, 16, 5), {"padding": 2}),
        ((3, 64, 200), (70, 64, 1), {}),
        ((4, 24, 400), (24, 1, 3), {"groups": 24, "padding": 1, "stride": 2}),
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
    options = {**options, "layout": layout}
    y = kernels.conv1d(x, weight, activation="silu", **options)
    grad = normal(rng, dtype, *y.shape)
    gradients = kernels.conv1d_backward(grad, x, weight, **options)
    for n in thread_counts():
        for run in range(2):
            again = kernels.conv1d(x, weight, activation="silu", **options)
            assert_same_bits(again, y, f"{n} threads, run {run}")
            repeated = kernels.conv1d_backward(grad, x, weight, **options)
            for got, expected in zip(repeated, gradients, strict=True):
                assert_same_bits(got, expected, f"gradient, {n} threads, run {run}")
        for samples in ([0], [len(x) - 1], range(len(x) // 2)):
            alone = kernels.conv1d(x[samples], weight, activation="silu", **options)
            assert_same_bits(alone, y[samples], f"samples {samples}")


@given(data=st.data())
def test_property(data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(st.sampled_from([np.float32, np.float64]), "dtype")
    layout = draw(st.sampled_from(["channels_first", "channels_last"]), "layout")
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5]), "groups")
    n, length, k = (draw(st.integers(*r)) for r in ((0, 3), (1, 40), (1, 7)))
    ic, oc = groups * draw(st.integers(1, 9), "ic"), groups * draw(st.integers(1, 20), "oc")
    pad = st.integers(0, 5)
    named = st.sampled_from(["valid", "same", "same_lower"])
    options: dict[str, Any] = {
        "stride": draw(st.integers(1, 4), "stride"),
        "padding": draw(
            st.one_of(pad, st.tuples(pad), st.tuples(st.tuples(pad, pad)), named), "padding"
        ),
        "dilation": draw(st.integers(1, 4), "dilation"),
        "groups": groups,
        "layout": layout,
        "flip_kernel": draw(st.booleans(), "flip_kernel"),
    }
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), "seed"))
    memory = st.sampled_from(sorted(LAYOUTS))
    x = in_layout(draw(memory), arranged(normal(rng, dtype, n, ic, length), layout))
    weight = in_layout(draw(memory), normal(rng, dtype, oc, ic // groups, k))
    try:
        reference.conv1d(x, weight, **options)
    except ValueError:
        with pytest.raises(ValueError, match=r"^\[conv1d\]"):
            kernels.conv1d(x, weight, **options)
        assume(False)
    check(rng, dtype, x, weight, **options)
