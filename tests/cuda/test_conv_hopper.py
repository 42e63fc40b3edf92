"""Convolutions of 16 bits on a Hopper: patches by maps of images, wgmma (conv/cuda_hopper.hpp)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from device_conv import arranged, axes_of, check, normal
from tolerances import assert_close_to_reference, assert_same_bits, widen

Case = tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]

#: x, weight, options. Places with a stage, a part of one, and both; one tile of pixels and more;
#: every axis, side and group; maps of one to three axes.
CASES: list[Case] = [
    ((2, 64, 9, 8), (40, 64, 3, 3), {"padding": 1}),
    ((1, 48, 7, 8), (32, 48, 3, 2), {"dilation": 2, "padding": 2, "flip_kernel": True}),
    ((2, 80, 7, 12), (72, 80, 2, 3), {"stride": (2, 3), "padding": "same"}),
    ((1, 16, 6, 5), (16, 16, 3, 3), {"padding": ((0, 3), (2, 0))}),
    ((2, 96, 5, 4), (64, 48, 3, 3), {"groups": 2, "padding": 1}),
    ((1, 64, 6, 7), (32, 32, 2, 2), {"groups": 2, "dilation": (1, 3), "padding": "same_lower"}),
    ((3, 16, 37), (24, 16, 5), {"stride": 2, "padding": 2}),
    ((2, 32, 70), (16, 32, 3), {"dilation": 9, "padding": 9}),
    ((1, 32, 4, 5, 6), (16, 32, 2, 3, 2), {"padding": 1}),
    ((2, 16, 3, 4, 5), (32, 8, 3, 1, 2), {"groups": 2, "stride": (1, 2, 1), "padding": (2, 0, 1)}),
    ((2, 24, 6, 8), (40, 24, 1, 1), {}),
    ((3, 32, 5, 5), (16, 32, 1, 1), {"stride": 2}),
    ((1, 16, 40, 2), (16, 16, 2, 1), {"padding": ((0, 0), (0, 0)), "dilation": (30, 1)}),
]
#: What goes the portable way: no whole 16 channels, beyond the corners and steps of a map.
OTHERS: list[Case] = [
    ((1, 20, 6, 6), (12, 20, 3, 3), {"padding": 1}),
    ((1, 16, 4, 3), (16, 16, 2, 2), {"padding": ((130, 0), (0, 0))}),
    ((1, 16, 20, 18), (16, 16, 2, 2), {"stride": 9}),
    ((1, 16, 2, 3, 3), (16, 16, 2, 2, 2), {"padding": ((17, 0), (0, 0), (1, 1))}),
]
TRANSPOSED: list[Case] = [
    ((2, 32, 5, 6), (32, 48, 3, 3), {}),
    ((1, 32, 5, 4), (32, 16, 3, 2), {"padding": 1, "dilation": 2, "groups": 2}),
    ((1, 16, 5, 6), (16, 16, 2, 2), {"stride": 2}),
]


def results(device: Any, name: str, layout: str, case: Case, *given: Any) -> list[Any]:
    """Return result and gradients by x and weight of (grad, x, weight), in channels_last."""
    options = {**case[2], "layout": layout}
    grad, x = (device.put(arranged(v, layout)) for v in given[:2])
    weight = device.put(given[2])
    y = getattr(kernels, name)(x, weight, **options)
    backward = getattr(kernels, f"{name}_backward")
    dx, dw, _ = backward(grad, x, weight, **options, needs=("x", "weight"))
    if layout == "channels_last":
        return [device.get(v) for v in (y, dx, dw)]
    return [*(arranged(device.get(v), "channels_last") for v in (y, dx)), device.get(dw)]


@pytest.mark.parametrize(
    ("transposed", "case"),
    [(False, c) for c in CASES + OTHERS] + [(True, c) for c in TRANSPOSED],
    ids=str,
)
def test_bits_are_those_of_the_portable_kernel(
    half: Any, transposed: bool, case: Case, hopper: Any, rng: np.random.Generator
) -> None:
    """In channels_last, whose order channels_first takes as well where it does not go that way.

    Sums of 16 products round alike there, which tensor cores of two kinds need not.
    """
    hopper.copies()
    name = f"conv{'_transpose' if transposed else ''}{axes_of(case[0])}d"
    x, weight = normal(rng, half, *case[0]), normal(rng, half, *case[1])
    shape = getattr(reference, name)(*widen(x, weight), **case[2]).shape
    given = [normal(rng, half, *shape), x, weight]
    layouts = ("channels_last", "channels_first")
    last, first = (results(hopper, name, layout, case, *given) for layout in layouts)
    hopper.module.set_capability(8, 0)
    expected, other = (results(hopper, name, layout, case, *given) for layout in layouts)
    for i, which in enumerate(("y", "dx", "dw")):
        assert_same_bits(last[i], expected[i], f"{which} of {case}")
        matches = [np.array_equal(first[i], of[i]) for of in (expected, other)]
        assert any(matches), f"{which} of {case}, channels_first"


@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
@pytest.mark.parametrize("case", [*CASES[:6], *OTHERS[:1]], ids=str)
def test_beside_the_reference(
    half: Any, layout: str, case: Case, hopper: Any, rng: np.random.Generator
) -> None:
    x, weight = normal(rng, half, *case[0]), normal(rng, half, *case[1])
    name = f"conv{axes_of(case[0])}d"
    options = {**case[2], "layout": layout}
    check(hopper, name, arranged(x, layout), weight, normal(rng, half, len(weight)), options, rng)


def test_what_is_copied(half: Any, hopper: Any, rng: np.random.Generator) -> None:
    """Of 80 channels two stages a place; by weight two boxes a place, and one of dy a stage."""
    x, grad = normal(rng, half, 1, 12, 12, 80), normal(rng, half, 1, 12, 12, 16)
    weight = normal(rng, half, 16, 80, 3, 3)
    dx, dgrad, dweight = hopper.put(x), hopper.put(grad), hopper.put(weight)
    options: dict[str, Any] = {"padding": 1, "layout": "channels_last"}

    def copies(call: Any) -> int:
        before = hopper.copies()
        call()
        return int(hopper.copies() - before)

    # 144 pixels are two tiles.
    assert copies(lambda: kernels.conv2d(dx, dweight, **options)) == 2 * 9 * 2 * 2
    backward = kernels.conv2d_backward
    # 80 channels of x in one tile of 128 columns, or two of 64.
    by_x = copies(lambda: backward(dgrad, dx, dweight, **options, needs=("x",)))
    assert by_x in (2 * 9 * 2, 2 * 2 * 9 * 2)
    # 18 boxes in tiles of 1, 2 or 4; two boxes of dy a stage, three stages of pixels.
    by_weight = copies(lambda: backward(dgrad, dx, dweight, **options, needs=("weight",)))
    assert by_weight in [tiles * 3 * (2 + boxes) for tiles, boxes in ((18, 1), (9, 2), (5, 4))]
    x = np.ascontiguousarray(np.moveaxis(x, -1, 1)[..., :12])
    # Channels first, 1 x 1: 80 x 144 of one sample, two stages and two boxes.
    point = hopper.put(normal(rng, half, 64, 80, 1, 1))
    first = hopper.put(x)
    assert copies(lambda: kernels.conv2d(first, point)) <= 2 * 3 * 3


@pytest.mark.parametrize("case", [CASES[0], CASES[4], CASES[8]], ids=str)
def test_a_sample_alone_is_one_of_a_batch(
    half: Any, case: Case, hopper: Any, rng: np.random.Generator
) -> None:
    x, weight = normal(rng, half, 3, *case[0][1:]), normal(rng, half, *case[1])
    name = f"conv{axes_of(case[0])}d"
    x, options = arranged(x, "channels_last"), {**case[2], "layout": "channels_last"}
    call = getattr(kernels, name)
    together = hopper.get(call(hopper.put(x), hopper.put(weight), **options))
    alone = hopper.get(call(hopper.put(x[1:2]), hopper.put(weight), **options))
    assert_same_bits(alone, together[1:2])


def test_integers_are_exact_at_every_schedule(
    half: Any, hopper: Any, rng: np.random.Generator
) -> None:
    x = rng.integers(-1, 2, (1, 80, 12, 11)).astype(half)
    weight = rng.integers(-1, 2, (16, 80, 3, 3)).astype(half)
    grad = rng.integers(-1, 2, (1, 16, 12, 11)).astype(half)
    case: Case = (x.shape, weight.shape, {"padding": 1})
    expected: list[Any] = [reference.conv2d(widen(x), widen(weight), padding=1)]
    by = reference.conv2d_backward(widen(grad), widen(x), widen(weight), padding=1)
    expected += by[:2]
    for schedule in hopper.schedules():
        got = results(hopper, "conv2d", "channels_last", case, grad, x, weight)
        for a, layout, b in zip(got, ("last", "last", "first"), expected, strict=True):
            wide = arranged(b.astype(half), f"channels_{layout}")
            assert_same_bits(a + 0, wide + 0, schedule)


def test_nan_and_infinity_stay_in_their_group(
    half: Any, hopper: Any, rng: np.random.Generator
) -> None:
    """The last stage of a group's channels holds those of the next group as well."""
    x, weight = normal(rng, half, 1, 5, 5, 96), normal(rng, half, 32, 48, 3, 3)
    grad = normal(rng, half, 1, 5, 5, 32)
    x[..., 48:], grad[..., 16:] = np.nan, np.inf
    given = [hopper.put(v) for v in (grad, x, weight)]
    options: dict[str, Any] = {"groups": 2, "padding": 1, "layout": "channels_last"}
    y = hopper.get(kernels.conv2d(*given[1:], **options))
    dx, dw, _ = kernels.conv2d_backward(*given, **options)
    assert np.isfinite(y[..., :16].astype(float)).all()
    assert np.isnan(y[..., 16:].astype(float)).all()
    assert np.isfinite(hopper.get(dx)[..., :48].astype(float)).all()
    assert np.isfinite(hopper.get(dw)[:16].astype(float)).all()


@pytest.mark.parametrize("activation", [None, *reference.ACTIVATIONS])
def test_epilogues(
    half: Any, activation: str | None, hopper: Any, rng: np.random.Generator
) -> None:
    """Groups have their own bias and columns; rows of 40 are no whole packs of a group of 20."""
    for channels, groups in ((24, 1), (40, 2)):
        x, weight = normal(rng, half, 1, 5, 6, 32), normal(rng, half, channels, 32 // groups, 2, 2)
        bias, residual = normal(rng, half, channels), normal(rng, half, 1, 4, 5, channels)
        options: dict[str, Any] = {"groups": groups, "layout": "channels_last"}
        magnitudes = [np.abs(widen(v)) for v in (x, weight)]
        scale = reference.conv2d(*magnitudes, **options) + 8
        given: list[Any] = [hopper.put(v) for v in (x, weight, bias)]
        options["activation"] = activation
        got = hopper.get(kernels.conv2d(*given, residual=hopper.put(residual), **options))
        wide: list[Any] = [widen(v) for v in (x, weight, bias, residual)]
        ref = reference.conv2d(*wide[:3], residual=wide[3], **options)
        single: list[Any] = [v.astype(np.float32) for v in wide]
        near = reference.conv2d(*single[:3], residual=single[3], **options)
        assert_close_to_reference(got, ref, near, scale=scale, label=f"{channels} {activation}")
