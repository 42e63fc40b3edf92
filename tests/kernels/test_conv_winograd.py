"""3x3 convolutions by 4x4 tiles: the bound of the transforms, edges of tiles, bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import arraynn.kernels
import arraynn.reference
from memory import LAYOUTS, Guarded, in_layout, mixed_layouts
from tolerances import (
    assert_gradient,
    assert_same_bits,
    assert_within,
    dot_bound,
    widen,
    winograd_bound,
    winograd_scale,
    winograd_weight_scale,
)

from .problems import around, arranged, normal, register_tile, thread_counts

pytestmark = pytest.mark.usefixtures("isa")

# Called with keywords from tables, which `reference` accepts as well.
kernels: Any = arraynn.kernels
reference: Any = arraynn.reference

# (N, C, H, W), (OC, C / groups, 3, 3), options
CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 3, 3), (1, 1, 3, 3), {}),
    ((1, 1, 1, 1), (1, 1, 3, 3), {"padding": 1}),
    ((2, 9, 1, 2), (10, 9, 3, 3), {"padding": 1}),
    ((2, 3, 2, 3), (5, 3, 3, 3), {"padding": "same"}),
    ((2, 3, 1, 1), (5, 3, 3, 3), {"padding": 4}),
    ((2, 3, 7, 10), (5, 3, 3, 3), {"padding": "valid"}),
    ((2, 3, 7, 10), (5, 3, 3, 3), {"padding": "same_lower"}),
    ((2, 8, 6, 5), (9, 8, 3, 3), {"padding": ((0, 3), (2, 0))}),
    ((1, 8, 6, 5), (9, 8, 3, 3), {"padding": ((5, 1), (0, 6))}),
    ((2, 8, 9, 7), (9, 8, 3, 3), {"padding": (2, 0), "flip_kernel": True}),
    ((2, 12, 6, 7), (8, 3, 3, 3), {"groups": 4, "padding": 1}),
    ((1, 6, 9, 8), (6, 1, 3, 3), {"groups": 6, "padding": 1, "flip_kernel": True}),
    ((2, 66, 5, 4), (38, 33, 3, 3), {"groups": 2, "padding": 1}),
    ((1, 2, 1, 40), (9, 2, 3, 3), {"padding": 1}),
    ((1, 2, 40, 1), (9, 2, 3, 3), {"padding": 1}),
    ((0, 3, 8, 8), (5, 3, 3, 3), {"padding": 1}),
    ((2, 3, 8, 8), (0, 3, 3, 3), {"padding": 1}),
    ((2, 0, 8, 8), (5, 0, 3, 3), {"padding": 1}),
    ((2, 3, 0, 8), (5, 3, 3, 3), {"padding": 2}),
]


def planes(x: Any, layout: str) -> Any:
    """View an array of either layout as channels first."""
    return np.moveaxis(x, -1, 1) if layout == "channels_last" else x


def borders(padding: Any) -> Any:
    """Spell the padding of a 3x3 kernel of stride 1 as ((top, bottom), (left, right))."""
    if isinstance(padding, str):
        padding = 0 if padding == "valid" else 1
    pairs = np.broadcast_to(padding, 2) if np.ndim(padding) < 2 else padding
    return [tuple(np.broadcast_to(p, 2)) for p in pairs]


def bordered(x: Any, pads: Any) -> Any:
    """Pad planes with zeros; a negative border is cut off."""
    x = np.pad(x, ((0, 0), (0, 0), *((max(b, 0), max(e, 0)) for b, e in pads)))
    (top, bottom), (left, right) = ((max(-b, 0), max(-e, 0)) for b, e in pads)
    return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]


def by_group(function: Any, groups: int, first: Any, second: Any, axes: tuple[int, int]) -> Any:
    """Join the results for each group of channels of two arrays, split along `axes`."""
    parts = zip(np.split(first, groups, axes[0]), np.split(second, groups, axes[1]), strict=True)
    return [function(a, b) for a, b in parts]


def scale_forward(x: Any, weight: Any, o: dict[str, Any]) -> Any:
    """Return the magnitudes behind conv2d, channels first."""
    if o.get("flip_kernel"):
        weight = weight[:, :, ::-1, ::-1]
    x = bordered(planes(x, o["layout"]), borders(o.get("padding", 0)))
    return np.concatenate(by_group(winograd_scale, o.get("groups", 1), x, weight, (1, 0)), 1)


def scale_by_x(grad: Any, weight: Any, o: dict[str, Any]) -> Any:
    """Return those of its gradient by x: the convolution of grad with the kernel reversed."""

    def one_group(g: Any, w: Any) -> Any:
        w = np.swapaxes(w, 0, 1)
        return winograd_scale(g, w if o.get("flip_kernel") else w[:, :, ::-1, ::-1])

    pads = [(2 - b, 2 - e) for b, e in borders(o.get("padding", 0))]
    grad = bordered(planes(grad, o["layout"]), pads)
    return np.concatenate(by_group(one_group, o.get("groups", 1), grad, weight, (1, 0)), 1)


def scale_by_weight(grad: Any, x: Any, o: dict[str, Any]) -> Any:
    """Return those of its gradient by weight."""
    x = bordered(planes(x, o["layout"]), borders(o.get("padding", 0)))
    parts = by_group(
        winograd_weight_scale, o.get("groups", 1), x, planes(grad, o["layout"]), (1, 1)
    )
    scale = np.concatenate(parts, 0)
    return scale[:, :, ::-1, ::-1] if o.get("flip_kernel") else scale


def tiles_of(grad: Any, layout: str) -> int:
    """Count the 4x4 tiles of a batch."""
    n, _, h, w = planes(grad, layout).shape
    return int(n * -(-h // 4) * -(-w // 4))


def check_forward(x: Any, weight: Any, bias: Any, **options: Any) -> Any:
    """Hold conv2d against the bound and return it."""
    got = kernels.conv2d(x, weight, bias, **options)
    ref = reference.conv2d(*widen(x, weight, bias), **options)
    label = f"conv2d {x.shape} {weight.shape} {options}"
    assert got.flags.c_contiguous, label
    assert got.shape == ref.shape, label
    if got.size:
        scale = scale_forward(x, weight, options)
        if bias is not None:
            scale = scale + np.abs(bias)[:, None, None]
        bound = winograd_bound(weight.shape[1], x.dtype, scale)
        assert_within(planes(got, options["layout"]), planes(ref, options["layout"]), bound, label)
    return got


def check_backward(grad: Any, x: Any, weight: Any, **options: Any) -> None:
    """Hold the three gradients against their bounds."""
    got = kernels.conv2d_backward(grad, x, weight, **options)
    ref = reference.conv2d_backward(*widen(grad, x, weight), **options)
    layout, groups = options["layout"], options.get("groups", 1)
    label = f"of conv2d {x.shape} {weight.shape} {options}"
    for g, r in zip(got, ref, strict=True):
        assert g.flags.c_contiguous, label
        assert g.shape == r.shape, label
    if not grad.size:
        assert not any(np.any(g) for g in got), label
        return
    if x.size:
        bound = winograd_bound(len(weight) // groups, x.dtype, scale_by_x(grad, weight, options))
        assert_within(planes(got[0], layout), planes(ref[0], layout), bound, f"grad_x {label}")
    # Room for the sum over pixels as for the sum over tiles.
    bound = winograd_bound(tiles_of(grad, layout), x.dtype, scale_by_weight(grad, x, options))
    assert_within(got[1], ref[1], bound, f"grad_weight {label}")
    magnitude = np.abs(planes(grad, layout)).sum((0, 2, 3), dtype=np.float64)
    pixels = grad.size // len(weight)
    assert_within(got[2], ref[2], dot_bound(pixels, x.dtype, magnitude), f"grad_bias {label}")


def check_transpose(x: Any, weight: Any, bias: Any, **options: Any) -> None:
    """Hold conv_transpose2d and its gradients against the bounds of those of conv2d."""
    got = kernels.conv_transpose2d(x, weight, bias, **options)
    ref = reference.conv_transpose2d(*widen(x, weight, bias), **options)
    layout, groups = options["layout"], options.get("groups", 1)
    label = f"conv_transpose2d {x.shape} {weight.shape} {options}"
    scale = scale_by_x(x, weight, options) + np.abs(bias)[:, None, None]
    bound = winograd_bound(len(weight) // groups, x.dtype, scale)
    assert_within(planes(got, layout), planes(ref, layout), bound, label)
    grad = in_layout("contiguous", got[::-1])
    parts = kernels.conv_transpose2d_backward(grad, x, weight, **options)
    wide = reference.conv_transpose2d_backward(*widen(grad, x, weight), **options)
    bound = winograd_bound(weight.shape[1], x.dtype, scale_forward(grad, weight, options))
    assert_within(planes(parts[0], layout), planes(wide[0], layout), bound, f"grad_x of {label}")
    bound = winograd_bound(tiles_of(x, layout), x.dtype, scale_by_weight(x, grad, options))
    assert_within(parts[1], wide[1], bound, f"grad_weight of {label}")


def check(
    rng: np.random.Generator, dtype: Any, x: Any, weight: Any, bias: bool = False, **options: Any
) -> None:
    """Check forward and backward by Winograd's algorithm."""
    options["algorithm"] = "winograd"
    got = check_forward(x, weight, normal(rng, dtype, len(weight)) if bias else None, **options)
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
    for bias in (False, True):
        check(rng, dtype, x, weight, bias, **options, layout=layout)


@pytest.mark.parametrize("height", range(1, 10))
def test_sizes_around_the_tile(
    dtype: Any, layout: str, height: int, rng: np.random.Generator
) -> None:
    weight = normal(rng, dtype, 9, 5, 3, 3)
    for width in range(1, 10):
        x = arranged(normal(rng, dtype, 1 + width % 2, 5, height, width), layout)
        for padding in (0, 1, 2):
            if padding == 0 and min(height, width) < 3:
                continue
            check(rng, dtype, x, weight, padding=padding, layout=layout)


def test_channels_and_columns_around_vectors_and_panels(
    isa: str, dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    """Both meet in each role: forward one is summed over, by x the other."""
    tile_n = register_tile("conv2d", isa, dtype)[1]
    sizes = sorted({*around(tile_n // 2), *around(tile_n), 2 * tile_n, 2 * tile_n + 1})
    for i, channels in enumerate(sizes):
        x = arranged(normal(rng, dtype, 1, channels, 5, 6), layout)
        for columns in (sizes[-1 - i], sizes[i]):
            weight = normal(rng, dtype, columns, channels, 3, 3)
            check(rng, dtype, x, weight, True, padding=1, layout=layout)


@pytest.mark.parametrize("channels", [15, 16, 17, 63, 64, 65, 127, 128, 129, 200, 260])
def test_units_of_channels(
    dtype: Any, layout: str, channels: int, rng: np.random.Generator
) -> None:
    """Weights are transformed 16 channels at a time, sums formed by units of at most 64."""
    x = arranged(normal(rng, dtype, 2, channels, 3, 6), layout)
    check(rng, dtype, x, normal(rng, dtype, 3, channels, 3, 3), padding=1, layout=layout)
    x = arranged(normal(rng, dtype, 2, 3, 3, 6), layout)
    check(rng, dtype, x, normal(rng, dtype, channels, 3, 3, 3), padding=1, layout=layout)


def test_tiles_around_the_register_tile(
    isa: str, dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    tile_m = register_tile("conv2d", isa, dtype)[0]
    weight = normal(rng, dtype, 7, 5, 3, 3)
    for tiles in {*around(tile_m), 2 * tile_m, 2 * tile_m + 1}:
        x = arranged(normal(rng, dtype, 1, 5, 4, 4 * tiles), layout)
        check(rng, dtype, x, weight, padding=1, layout=layout)


@pytest.mark.parametrize(
    ("x_shape", "columns", "padding"),
    [
        ((1, 5, 70, 93), 9, 1),  # three rows of 24 tiles a strip
        ((2, 3, 11, 241), 5, 0),  # one row of 60
        ((3, 9, 30, 29), 18, 2),  # strips across samples
        ((9, 8, 5, 6), 7, 1),  # samples within a strip
        ((70, 4, 3, 4), 6, 1),  # many of them, in several strips
        ((1, 560, 26, 30), 2, 1),  # strips cut by their bytes
    ],
    ids=str,
)
def test_strips(
    dtype: Any, layout: str, x_shape: Any, columns: int, padding: int, rng: np.random.Generator
) -> None:
    x = arranged(normal(rng, dtype, *x_shape), layout)
    weight = normal(rng, dtype, columns, x_shape[1], 3, 3)
    check(rng, dtype, x, weight, True, padding=padding, layout=layout)


def test_channels_last_without_a_border_is_read_in_place(
    dtype: Any, rng: np.random.Generator
) -> None:
    """Whole tiles within the image, of one group among others."""
    for groups, channels in ((1, 6), (3, 5), (2, 17)):
        x = normal(rng, dtype, 2, 10, 14, groups * channels)
        weight = normal(rng, dtype, groups * 7, channels, 3, 3)
        check(rng, dtype, x, weight, groups=groups, layout="channels_last")


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((1, 1, 1, 1), (1, 1, 3, 3), {}),
        ((2, 9, 5, 6), (9, 10, 3, 3), {"padding": 1}),
        ((2, 8, 6, 7), (8, 3, 3, 3), {"groups": 4, "padding": ((1, 0), (2, 1))}),
        ((1, 65, 4, 3), (65, 17, 3, 3), {"padding": 2}),
        ((1, 3, 9, 33), (3, 5, 3, 3), {"padding": ((0, 4), (3, 0))}),
    ],
    ids=str,
)
def test_transposed(
    dtype: Any,
    layout: str,
    x_shape: Any,
    w_shape: Any,
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    x, weight = arranged(normal(rng, dtype, *x_shape), layout), normal(rng, dtype, *w_shape)
    bias = normal(rng, dtype, w_shape[1] * options.get("groups", 1))
    check_transpose(x, weight, bias, **options, layout=layout, algorithm="winograd")


@pytest.mark.parametrize("activation", [None, *arraynn.reference.ACTIVATIONS])
def test_epilogues(
    dtype: Any, layout: str, activation: str | None, rng: np.random.Generator
) -> None:
    for op, w_shape in (("conv2d", (19, 6, 3, 3)), ("conv_transpose2d", (6, 19, 3, 3))):
        x = arranged(normal(rng, dtype, 2, 6, 5, 7), layout)
        weight, bias = normal(rng, dtype, *w_shape), normal(rng, dtype, 19)
        residual = arranged(normal(rng, dtype, 2, 19, 5, 7), layout)
        more: dict[str, Any] = {"padding": 1, "layout": layout, "algorithm": "winograd"}
        scales = (scale_forward if op == "conv2d" else scale_by_x)(x, weight, more)
        for b, r in ((None, None), (bias, None), (None, residual), (bias, residual)):
            got = getattr(kernels, op)(x, weight, b, activation=activation, residual=r, **more)
            ref = getattr(reference, op)(
                *widen(x, weight, b), activation=activation, residual=widen(r), **more
            )
            scale = scales + (0 if b is None else np.abs(b)[:, None, None])
            scale = scale + (0 if r is None else np.abs(planes(r, layout)))
            # Slopes of all activations are below 2; their own error is a few ULP.
            bound = 2 * winograd_bound(6, dtype, scale)
            got, ref = planes(got, layout), planes(ref, layout)
            bound = bound + 8 * np.finfo(dtype).eps * np.abs(ref)
            assert_within(got, ref, bound, f"{op} {activation}")


def test_any_memory(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    x = arranged(normal(rng, dtype, 2, 6, 7, 8), layout)
    weight, bias = normal(rng, dtype, 10, 3, 3, 3), normal(rng, dtype, 10)
    residual = arranged(normal(rng, dtype, 2, 10, 7, 8), layout)
    options: dict[str, Any] = {"padding": 1, "groups": 2, "layout": layout}
    options["algorithm"] = "winograd"
    y = kernels.conv2d(x, weight, bias, residual=residual, **options)
    gradients = kernels.conv2d_backward(residual, x, weight, **options)
    for name, (a, w, b, r) in mixed_layouts(x, weight, bias, residual):
        assert_same_bits(kernels.conv2d(a, w, b, residual=r, **options), y, name)
        for got, expected in zip(
            kernels.conv2d_backward(r, a, w, **options), gradients, strict=True
        ):
            assert_same_bits(got, expected, name)


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"), [CASES[i] for i in (0, 1, 3, 5, 7, 10, 12)], ids=str
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
    options = {**options, "layout": layout, "algorithm": "winograd"}
    for activation in (None, "sigmoid"):
        expected = kernels.conv2d(x, weight, activation=activation, **options)
        guard = Guarded(expected.shape, dtype, strided=strided)
        out = kernels.conv2d(x, weight, activation=activation, **options, out=guard.out)
        assert out is guard.out
        assert_same_bits(guard.out, expected)
        guard.check()


@pytest.mark.parametrize(
    ("x_shape", "w_shape"),
    [
        ((5, 16, 20, 20), (40, 16, 3, 3)),  # strips to the team, weights shared
        ((2, 70, 9, 11), (130, 70, 3, 3)),
        ((1, 64, 6, 6), (200, 64, 3, 3)),  # panels to the team, weights packed at use
        ((3, 600, 5, 6), (8, 600, 3, 3)),  # more members than panels
    ],
    ids=str,
)
def test_same_bits_for_every_thread_count_and_batch(
    dtype: Any, layout: str, x_shape: Any, w_shape: Any, rng: np.random.Generator
) -> None:
    x, weight = arranged(normal(rng, dtype, *x_shape), layout), normal(rng, dtype, *w_shape)
    bias = normal(rng, dtype, w_shape[0])
    options: dict[str, Any] = {"padding": 1, "layout": layout, "algorithm": "winograd"}
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
            (alone, _, _) = kernels.conv2d_backward(
                grad[samples], x[samples], weight, **options, needs=("x",)
            )
            assert_same_bits(alone, gradients[0][samples], f"gradient of samples {samples}")


def test_backward_needs(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    x = arranged(normal(rng, dtype, 2, 4, 6, 5), layout)
    weight = normal(rng, dtype, 7, 4, 3, 3)
    grad = arranged(normal(rng, dtype, 2, 7, 4, 3), layout)
    options: dict[str, Any] = {"layout": layout, "algorithm": "winograd"}
    every = kernels.conv2d_backward(grad, x, weight, **options)
    for i, name in enumerate(("x", "weight", "bias")):
        only = kernels.conv2d_backward(grad, x, weight, **options, needs=(name,))
        assert [g is not None for g in only] == [j == i for j in range(3)]
        assert_same_bits(only[i], every[i], name)


@pytest.mark.parametrize(
    "options",
    [{}, {"groups": 2, "padding": ((0, 2), (1, 0)), "flip_kernel": True}],
    ids=str,
)
def test_backward_is_the_derivative(
    layout: str, options: dict[str, Any], rng: np.random.Generator
) -> None:
    x = arranged(normal(rng, np.float64, 2, 4, 7, 6), layout)
    weight = normal(rng, np.float64, 6, 4 // options.get("groups", 1), 3, 3)
    bias = normal(rng, np.float64, 6)
    options = {**options, "layout": layout, "algorithm": "winograd"}
    grad = normal(rng, np.float64, *kernels.conv2d(x, weight, **options).shape)
    gradients = kernels.conv2d_backward(grad, x, weight, **options)
    arguments = [x, weight, bias]
    for i, gradient in enumerate(gradients):

        def loss(v: Any, i: int = i) -> Any:
            changed = [*arguments[:i], v, *arguments[i + 1 :]]
            return np.sum(grad * kernels.conv2d(*changed, **options))

        assert_gradient(loss, arguments[i], gradient, rng, label=f"gradient {i}")


@pytest.mark.parametrize("padding", [0, 1])
def test_nan_and_infinity_stay_within_the_tiles_that_see_them(
    dtype: Any, layout: str, padding: int, rng: np.random.Generator
) -> None:
    clean = normal(rng, dtype, 3, 9, 14, 15)
    for value in (np.nan, np.inf, -np.inf):
        for row, column in ((0, 0), (4, 9), (7, 3), (13, 14)):
            x = clean.copy()
            x[1, 5, row, column] = value
            x, weight = arranged(x, layout), normal(rng, dtype, 10, 9, 3, 3)
            options: dict[str, Any] = {"padding": padding, "layout": layout}
            got = planes(kernels.conv2d(x, weight, **options, algorithm="winograd"), layout)
            ref = planes(reference.conv2d(*widen(x, weight), **options), layout)
            before = planes(
                kernels.conv2d(arranged(clean, layout), weight, **options, algorithm="winograd"),
                layout,
            )
            seen = np.zeros(got.shape, dtype=bool)
            for i, j in np.ndindex(*(-(-n // 4) for n in got.shape[2:])):
                inside = 0 <= row + padding - 4 * i < 6 and 0 <= column + padding - 4 * j < 6
                seen[1, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = inside
            assert not np.any(np.isfinite(got[~np.isfinite(ref)]))
            assert_same_bits(got[~seen], before[~seen], f"{value} at {row}, {column}")


def test_nan_of_a_weight_stays_in_its_column(
    dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    x, weight = arranged(normal(rng, dtype, 2, 9, 6, 7), layout), normal(rng, dtype, 20, 9, 3, 3)
    weight[3, 4, 1, 1] = np.nan
    got = kernels.conv2d(x, weight, padding=1, layout=layout, algorithm="winograd")
    is_nan = np.isnan(planes(got, layout)).all((0, 2, 3))
    assert np.flatnonzero(is_nan).tolist() == [3]
    assert np.isnan(got).sum() == got.size // 20


@given(data=st.data())
def test_property(data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(st.sampled_from([np.float32, np.float64]), "dtype")
    layout = draw(st.sampled_from(["channels_first", "channels_last"]), "layout")
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]), "groups")
    n, h, w = (draw(st.integers(lo, hi)) for lo, hi in ((0, 5), (1, 14), (1, 14)))
    ic, oc = (draw(st.integers(1, 20), name) for name in ("ic", "oc"))
    pairs = [
        draw(st.tuples(st.integers(max(0, 3 - size), 4), st.integers(0, 4)), "padding")
        for size in (h, w)
    ]
    options: dict[str, Any] = {
        "padding": pairs,
        "groups": groups,
        "layout": layout,
        "flip_kernel": draw(st.booleans(), "flip_kernel"),
    }
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), "seed"))
    memory = st.sampled_from(sorted(LAYOUTS))
    x = in_layout(draw(memory), arranged(normal(rng, dtype, n, groups * ic, h, w), layout))
    weight = in_layout(draw(memory), normal(rng, dtype, groups * oc, ic, 3, 3))
    check(rng, dtype, x, weight, draw(st.booleans(), "bias"), **options)


def test_torch_is_a_second_witness(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    for x_shape, w_shape, options in CASES:
        padding = options.get("padding", 0)
        if isinstance(padding, tuple) and isinstance(padding[0], tuple):
            continue  # PyTorch pads both ends alike
        if 0 in x_shape or 0 in w_shape or padding == "same_lower" or "flip_kernel" in options:
            continue
        x, weight = normal(rng, np.float64, *x_shape), normal(rng, np.float64, *w_shape)
        bias = normal(rng, np.float64, w_shape[0])
        leaves = [torch.from_numpy(a.copy()).requires_grad_() for a in (x, weight, bias)]
        expected = torch.nn.functional.conv2d(*leaves, **options)
        got = kernels.conv2d(x, weight, bias, **options, algorithm="winograd")
        np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-11, atol=1e-11)
        grad = normal(rng, np.float64, *got.shape)
        expected.backward(torch.from_numpy(grad))
        parts = kernels.conv2d_backward(grad, x, weight, **options, algorithm="winograd")
        for g, leaf in zip(parts, leaves, strict=True):
            np.testing.assert_allclose(g, leaf.grad.numpy(), rtol=1e-11, atol=1e-11)
