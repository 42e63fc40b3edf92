"""conv3d and conv_transpose3d with their gradients against the reference, at every ISA."""

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

Shape = tuple[int, ...]
# (N, C, D, H, W), (OC, C / groups, KD, KH, KW), options
CONVOLUTIONS: list[tuple[Shape, Shape, dict[str, Any]]] = [
    ((1, 1, 1, 1, 1), (1, 1, 1, 1, 1), {}),
    ((2, 3, 5, 6, 7), (17, 3, 3, 3, 3), {"padding": 1}),
    ((1, 4, 4, 9, 9), (9, 4, 3, 3, 3), {"padding": 1}),  # planes with borders of their own
    ((1, 2, 7, 8, 9), (8, 2, 3, 2, 5), {"stride": (2, 3, 1), "padding": "same"}),
    ((1, 6, 5, 6, 8), (4, 6, 2, 3, 3), {"dilation": (3, 1, 2), "padding": (2, 1, 2)}),
    ((2, 8, 4, 5, 6), (12, 2, 2, 3, 3), {"groups": 4, "padding": ((0, 2), (1, 0), (1, 1))}),
    ((1, 9, 4, 5, 6), (9, 1, 3, 3, 3), {"groups": 9, "padding": 1}),
    ((2, 5, 6, 4, 5), (7, 5, 3, 1, 1), {"padding": (1, 0, 0)}),  # an image of depth
    ((1, 5, 6, 4, 5), (7, 5, 3, 1, 1), {"stride": (2, 2, 1)}),
    ((2, 16, 3, 4, 5), (33, 16, 1, 1, 1), {}),  # a matrix product
    ((2, 5, 4, 6, 5), (7, 5, 1, 3, 3), {"stride": (2, 1, 1), "padding": (0, 1, 1)}),
    ((2, 5, 4, 6, 5), (7, 5, 1, 3, 3), {"flip_kernel": True}),
    ((1, 3, 4, 5, 6), (4, 3, 2, 3, 2), {"flip_kernel": True, "padding": "same_lower"}),
    ((1, 2, 1, 2, 2), (3, 2, 3, 3, 3), {"padding": 3}),  # planes of padding alone
    ((1, 40, 2, 3, 4), (5, 40, 3, 3, 3), {"padding": 1}),
    ((2, 3, 4, 9, 21), (18, 3, 3, 3, 3), {"padding": 1}),  # few results by x
    ((1, 4, 5, 8, 37), (5, 4, 3, 2, 3), {"stride": (2, 3, 2), "padding": (1, 0, 2)}),
    ((1, 2, 1, 4, 16), (3, 2, 3, 3, 3), {"padding": 3}),
    ((1, 4, 3, 8, 17), (6, 2, 2, 3, 3), {"groups": 2, "dilation": (2, 1, 1), "padding": (1, 1, 0)}),
    ((2, 3, 1, 4, 5), (20, 3, 1, 3, 3), {"stride": (3, 1, 1), "padding": ((1, 0), (1, 1), (0, 0))}),
    ((0, 3, 4, 4, 4), (5, 3, 2, 2, 2), {}),
    ((2, 3, 4, 4, 4), (0, 3, 2, 2, 2), {}),
    ((2, 0, 4, 4, 4), (5, 0, 2, 2, 2), {}),
]
# (N, C, D, H, W), (C, OC / groups, KD, KH, KW), options
TRANSPOSED: list[tuple[Shape, Shape, dict[str, Any]]] = [
    ((1, 1, 1, 1, 1), (1, 1, 1, 1, 1), {}),
    ((2, 5, 3, 4, 5), (5, 17, 2, 2, 2), {"stride": 2}),
    (
        (1, 6, 4, 3, 5),
        (6, 4, 3, 3, 3),
        {"stride": (2, 1, 3), "padding": 1, "output_padding": (1, 0, 2)},
    ),
    (
        (1, 4, 3, 4, 5),
        (4, 3, 2, 3, 3),
        {"dilation": (2, 1, 2), "padding": ((1, 0), (0, 1), (2, 2))},
    ),
    ((2, 6, 3, 3, 4), (6, 2, 3, 2, 2), {"groups": 3, "stride": (1, 2, 2)}),
    ((1, 3, 3, 4, 4), (3, 5, 1, 2, 2), {"stride": 3, "output_padding": 2}),  # gaps
    ((2, 6, 3, 5, 6), (6, 18, 3, 2, 2), {"stride": 2, "padding": (1, 0, 0)}),  # one call
    ((1, 3, 4, 3, 3), (3, 5, 3, 1, 1), {"stride": (2, 1, 1), "padding": (1, 0, 0)}),
    # A plane of padding alone.
    (
        (2, 3, 1, 4, 5),
        (3, 20, 1, 3, 3),
        {"stride": (3, 1, 1), "padding": ((1, 0), (1, 1), (0, 0)), "output_padding": (1, 0, 0)},
    ),
    ((0, 3, 2, 2, 2), (3, 5, 2, 2, 2), {}),
    ((2, 18, 3, 4, 9), (18, 3, 3, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),  # few
    ((1, 5, 3, 8, 19), (5, 4, 2, 2, 2), {"stride": (3, 1, 1), "output_padding": (2, 0, 0)}),
]


def check(
    rng: np.random.Generator, op: str, dtype: Any, x: Any, weight: Any, **options: Any
) -> None:
    """Hold forward, with every part of the epilogue, and backward against the reference."""
    label = f"{op} {x.shape} {weight.shape} {options}"
    kernel, ref = getattr(kernels, op), getattr(reference, op)
    got = kernel(x, weight, **options)
    wide, native = ref(*widen(x, weight), **options), ref(x, weight, **options)
    scale = ref(*absolute(x, weight), **options)
    assert got.flags.c_contiguous, label
    if op == "conv3d":
        k = int(np.prod(weight.shape[1:]))
        assert_within(got, wide, dot_bound(k, x.dtype, scale), label)
    assert_close_to_reference(got, wide, native, scale=scale, label=label)
    channels = got.shape[-1 if options["layout"] == "channels_last" else 1]
    bias, residual = normal(rng, dtype, channels), normal(rng, dtype, *got.shape)
    more = {**options, "activation": "relu"}
    got = kernel(x, weight, bias, residual=residual, **more)
    wide = ref(*widen(x, weight, bias), residual=widen(residual), **more)
    native = ref(x, weight, bias, residual=residual, **more)
    scale = ref(*absolute(x, weight, bias), residual=absolute(residual)[0], **more)
    assert_close_to_reference(got, wide, native, scale=scale, label=f"{label} with an epilogue")
    grad = normal(rng, dtype, *got.shape)
    back, ref_back = getattr(kernels, f"{op}_backward"), getattr(reference, f"{op}_backward")
    parts = zip(
        "xwb",
        back(grad, x, weight, **options),
        ref_back(*widen(grad, x, weight), **options),
        ref_back(grad, x, weight, **options),
        ref_back(*absolute(grad, x, weight), **options),
        strict=True,
    )
    for name, g, r, n, s in parts:
        assert g.flags.c_contiguous, label
        assert_close_to_reference(g, r, n, scale=s, label=f"grad_{name} of {label}")


@pytest.mark.parametrize(("x_shape", "w_shape", "options"), CONVOLUTIONS, ids=str)
def test_conv(
    dtype: Any,
    layout: str,
    x_shape: Any,
    w_shape: Any,
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    x, weight = arranged(normal(rng, dtype, *x_shape), layout), normal(rng, dtype, *w_shape)
    check(rng, "conv3d", dtype, x, weight, **options, layout=layout)


@pytest.mark.parametrize(("x_shape", "w_shape", "options"), TRANSPOSED, ids=str)
def test_conv_transpose(
    dtype: Any,
    layout: str,
    x_shape: Any,
    w_shape: Any,
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    x, weight = arranged(normal(rng, dtype, *x_shape), layout), normal(rng, dtype, *w_shape)
    check(rng, "conv_transpose3d", dtype, x, weight, **options, layout=layout)


def test_channels_and_pixels_around_the_register_tile(
    isa: str, dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    tile_m, tile_n = register_tile("conv3d", isa, dtype)
    for i, channels_out in enumerate(sorted({*around(tile_n), *around(tile_m)})):
        width = around(tile_m)[i % 5]
        channels_in = (1, 2, 3, 15, 16, 17)[i % 6]
        x = arranged(normal(rng, dtype, 1, channels_in, 3, 2, width), layout)
        weight = normal(rng, dtype, channels_out, channels_in, 2, 2, 3)
        check(rng, "conv3d", dtype, x, weight, padding=1, layout=layout)


def test_several_strips(layout: str, rng: np.random.Generator) -> None:
    """Planes larger than a strip, small planes of several samples in one, units of channels."""
    dtype = np.dtype("f4")
    for x_shape, w_shape in (
        ((1, 24, 5, 33, 40), (9, 24, 3, 3, 3)),
        ((3, 7, 4, 5, 6), (9, 7, 3, 3, 3)),
        ((1, 130, 2, 4, 4), (35, 130, 3, 3, 3)),
        ((19, 24, 4, 4, 4), (5, 24, 3, 3, 3)),
        ((1, 3, 3, 70, 90), (20, 3, 3, 3, 3)),
    ):
        x, weight = arranged(normal(rng, dtype, *x_shape), layout), normal(rng, dtype, *w_shape)
        check(rng, "conv3d", dtype, x, weight, padding=1, layout=layout)


def test_a_volume_of_one_plane_is_an_image(
    dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    axis = 1 if layout == "channels_last" else 2
    x, weight = arranged(normal(rng, dtype, 2, 6, 7, 8), layout), normal(rng, dtype, 6, 3, 3, 3)
    image = kernels.conv2d(x, weight, None, 2, 1, 1, 2, layout=layout)
    geometry = ((1, 2, 2), (0, 1, 1), 1, 2)
    volume = kernels.conv3d(
        np.expand_dims(x, axis), weight[:, :, None], None, *geometry, layout=layout
    )
    assert_same_bits(volume.squeeze(axis), image)


def test_any_memory(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    x = arranged(normal(rng, dtype, 2, 6, 4, 5, 6), layout)
    weight, bias = normal(rng, dtype, 6, 3, 2, 3, 2), normal(rng, dtype, 6)
    for op, geometry in (
        ("conv3d", ((1, 2, 1), 1, 1, 2)),
        ("conv_transpose3d", ((1, 2, 1), 1, 0, 2)),
    ):
        kernel, back = getattr(kernels, op), getattr(kernels, f"{op}_backward")
        y = kernel(x, weight, bias, *geometry, layout=layout)
        residual = normal(rng, dtype, *y.shape)
        y = kernel(x, weight, bias, *geometry, residual=residual, layout=layout)
        grads = back(residual, x, weight, *geometry, layout=layout)
        for name, (a, w, b, r) in mixed_layouts(x, weight, bias, residual):
            got = kernel(a, w, b, *geometry, residual=r, layout=layout)
            assert_same_bits(got, y, name)
            for part, expected in zip(back(r, a, w, *geometry, layout=layout), grads, strict=True):
                assert_same_bits(part, expected, name)


def test_backward_needs(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    x = arranged(normal(rng, dtype, 1, 4, 3, 4, 5), layout)
    weight = normal(rng, dtype, 4, 4, 2, 2, 2)
    for op in ("conv3d", "conv_transpose3d"):
        grad = normal(rng, dtype, *getattr(kernels, op)(x, weight, layout=layout).shape)
        back = getattr(kernels, f"{op}_backward")
        every = back(grad, x, weight, layout=layout)
        for i, name in enumerate(("x", "weight", "bias")):
            only = back(grad, x, weight, layout=layout, needs=(name,))
            assert [g is not None for g in only] == [j == i for j in range(3)]
            assert_same_bits(only[i], every[i], name)


def test_backward_is_the_derivative(layout: str, rng: np.random.Generator) -> None:
    x = arranged(normal(rng, np.float64, 2, 4, 3, 4, 3), layout)
    weight = normal(rng, np.float64, 4, 2, 2, 3, 2)
    for op, geometry in (
        ("conv3d", ((2, 1, 1), "same", (1, 2, 1), 2)),
        ("conv_transpose3d", ((2, 1, 3), 1, (1, 0, 2), 2)),
    ):
        kernel = getattr(kernels, op)
        grad = normal(rng, np.float64, *kernel(x, weight, None, *geometry, layout=layout).shape)
        arguments = [x, weight, normal(rng, np.float64, 4)]
        gradients = getattr(kernels, f"{op}_backward")(grad, x, weight, *geometry, layout=layout)
        for i, gradient in enumerate(gradients):

            def loss(v: Any, i: int = i, rest: Any = (kernel, geometry, grad, arguments)) -> Any:
                kernel, geometry, grad, arguments = rest
                changed = [*arguments[:i], v, *arguments[i + 1 :]]
                return np.sum(grad * kernel(*changed, *geometry, layout=layout))

            assert_gradient(loss, arguments[i], gradient, rng, label=f"{op}, gradient {i}")


@pytest.mark.parametrize("strided", [False, True])
def test_out_is_filled_and_nothing_beside_it(
    dtype: Any, layout: str, strided: bool, rng: np.random.Generator
) -> None:
    for op, cases in (("conv3d", CONVOLUTIONS[:8]), ("conv_transpose3d", TRANSPOSED[:6])):
        for x_shape, w_shape, options in cases:
            x = arranged(normal(rng, dtype, *x_shape), layout)
            weight = normal(rng, dtype, *w_shape)
            kernel = getattr(kernels, op)
            expected = kernel(x, weight, **options, layout=layout)
            guard = Guarded(expected.shape, dtype, strided=strided)
            assert kernel(x, weight, **options, layout=layout, out=guard.out) is guard.out
            assert_same_bits(guard.out, expected)
            guard.check()


def test_nan_reaches_its_windows_only(dtype: Any, layout: str) -> None:
    x = np.zeros((1, 2, 5, 5, 5), dtype)
    x[0, 1, 2, 2, 2] = np.nan
    weight = np.ones((3, 2, 3, 3, 3), dtype)
    y = kernels.conv3d(arranged(x, layout), weight, padding=1, layout=layout)
    wrong = np.zeros((1, 3, 5, 5, 5), bool)
    wrong[:, :, 1:4, 1:4, 1:4] = True
    np.testing.assert_array_equal(np.isnan(y), arranged(wrong, layout))


def test_same_bits_for_every_thread_count_and_batch(
    dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    cases: list[tuple[str, Shape, Shape, dict[str, Any]]] = [
        ("conv3d", (3, 16, 5, 12, 13), (20, 16, 3, 3, 3), {"padding": 1}),
        ("conv3d", (2, 12, 4, 10, 9), (12, 1, 3, 3, 3), {"groups": 12, "stride": 2}),
        ("conv_transpose3d", (2, 16, 3, 6, 7), (16, 20, 2, 2, 2), {"stride": 2}),
        ("conv3d", (2, 3, 4, 9, 21), (18, 3, 3, 3, 3), {"padding": 1}),
        ("conv_transpose3d", (2, 18, 3, 4, 9), (18, 3, 3, 3, 3), {"stride": 2}),
        ("conv3d", (2, 7, 4, 8, 9), (21, 1, 3, 3, 3), {"groups": 7, "padding": 1}),
    ]
    for op, x_shape, w_shape, more in cases:
        x, weight = arranged(normal(rng, dtype, *x_shape), layout), normal(rng, dtype, *w_shape)
        options = {**more, "layout": layout}
        kernel, back = getattr(kernels, op), getattr(kernels, f"{op}_backward")
        y = kernel(x, weight, activation="silu", **options)
        grad = normal(rng, dtype, *y.shape)
        gradients = back(grad, x, weight, **options)
        for n in thread_counts():
            again = kernel(x, weight, activation="silu", **options)
            assert_same_bits(again, y, f"{n} threads")
            for got, expected in zip(back(grad, x, weight, **options), gradients, strict=True):
                assert_same_bits(got, expected, f"gradient, {n} threads")
            alone = kernel(x[1:2], weight, activation="silu", **options)
            assert_same_bits(alone, y[1:2], "a sample alone")


@given(data=st.data())
def test_property(data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(st.sampled_from([np.float32, np.float64]), "dtype")
    layout = draw(st.sampled_from(["channels_first", "channels_last"]), "layout")
    groups = draw(st.sampled_from([1, 1, 2, 3]), "groups")
    n, ic, oc = (draw(st.integers(*r)) for r in ((0, 2), (1, 6), (1, 12)))
    sizes = [draw(st.integers(1, 7), f"size {i}") for i in range(3)]
    window = [draw(st.integers(1, 3), f"kernel {i}") for i in range(3)]
    pad = st.integers(0, 2)
    pads = st.tuples(*[st.tuples(pad, pad)] * 3)
    transposed = draw(st.booleans(), "transposed")
    options: dict[str, Any] = {
        "stride": tuple(draw(st.integers(1, 3), f"stride {i}") for i in range(3)),
        "padding": draw(
            st.one_of(pad, pads) if transposed else st.one_of(pad, pads, st.just("same")),
            "padding",
        ),
        "dilation": draw(st.integers(1, 2), "dilation"),
        "groups": groups,
        "layout": layout,
    }
    if transposed:
        options["output_padding"] = draw(st.sampled_from([0, (0, 1, 0)]), "output_padding")
    else:
        options["flip_kernel"] = draw(st.booleans(), "flip_kernel")
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), "seed"))
    memory = st.sampled_from(sorted(LAYOUTS))
    x = in_layout(draw(memory), arranged(normal(rng, dtype, n, ic * groups, *sizes), layout))
    rows, columns = (ic * groups, oc) if transposed else (oc * groups, ic)
    weight = in_layout(draw(memory), normal(rng, dtype, rows, columns, *window))
    op = "conv_transpose3d" if transposed else "conv3d"
    try:
        getattr(reference, op)(x, weight, **options)
    except ValueError:
        with pytest.raises(ValueError, match=rf"^\[{op}\]"):
            getattr(kernels, op)(x, weight, **options)
        assume(False)
    check(rng, op, dtype, x, weight, **options)


def test_references_are_torchs(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x, bias = rng.standard_normal((2, 6, 5, 6, 7)), rng.standard_normal(4)
    stride, padding, dilation = (2, 1, 3), (1, 0, 2), (1, 2, 1)
    for op, weight, geometry in (
        ("conv3d", rng.standard_normal((4, 3, 2, 3, 3)), (stride, padding, dilation, 2)),
        (
            "conv_transpose3d",
            rng.standard_normal((6, 2, 2, 3, 3)),
            (stride, padding, (1, 0, 2), 2, dilation),
        ),
    ):
        inputs = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
        expected = getattr(torch.nn.functional, op)(*inputs, *geometry)
        y = getattr(reference, op)(x, weight, bias, *geometry)
        np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-10, atol=1e-12)
        grad = rng.standard_normal(y.shape)
        parts = getattr(reference, f"{op}_backward")(grad, x, weight, *geometry)
        for part, torchs in zip(
            parts, torch.autograd.grad(expected, inputs, torch.from_numpy(grad)), strict=True
        ):
            np.testing.assert_allclose(part, torchs.numpy(), rtol=1e-10, atol=1e-12)
