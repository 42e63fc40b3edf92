"""Convolutions of bfloat16 on a CPU that multiplies it: level avx512_bf16.

Products are exact and sums float32, two neighbouring channels to a lane, so results are within the
bounds of any order of summation, rounded once, and not the bits of the float32 kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import _core, kernels, reference
from memory import Guarded
from tolerances import assert_same_bits, assert_within, dot_bound, storage_bound, widen

from .bf16 import BF16, LEVEL, numbers
from .problems import absolute, check_out, normal, thread_counts

pytestmark = pytest.mark.usefixtures("avx512_bf16")
LAYOUTS = ["channels_first", "channels_last"]

#: (x, weight, options), channels first: 1x1, of small planes, of a stride; odd channels; borders
#: that share a strip; a stride, a dilation, groups; channels that are cut into units.
CASES = {
    "1x1": ((2, 18, 9, 10), (35, 18, 1, 1), {}),
    "1x1 odd": ((2, 17, 9, 10), (7, 17, 1, 1), {}),
    "1x1 of few pixels": ((3, 33, 5, 5), (40, 33, 1, 1), {}),
    "1x1 of a stride": ((2, 40, 19, 17), (33, 40, 1, 1), {"stride": 2}),
    "3x3": ((2, 32, 11, 13), (34, 32, 3, 3), {"padding": 1}),
    "3x3 odd": ((3, 19, 8, 7), (5, 19, 3, 3), {"padding": 1}),
    "3x3 of a stride": ((2, 16, 12, 11), (33, 16, 3, 3), {"padding": 1, "stride": 2}),
    "wide": ((1, 16, 3, 700), (3, 16, 1, 5), {"padding": (0, 2)}),
    "units": ((2, 520, 4, 4), (33, 520, 3, 3), {"padding": 1}),
    "many products": ((1, 150, 20, 20), (6, 150, 3, 3), {"padding": 1}),
    "dilation": ((1, 20, 10, 9), (4, 20, 3, 2), {"dilation": (2, 3), "padding": 2}),
    "groups": ((2, 51, 6, 6), (9, 17, 3, 3), {"groups": 3, "padding": 1}),
    "even groups": ((2, 36, 6, 6), (8, 18, 2, 2), {"groups": 2}),
    "flipped": ((1, 16, 6, 6), (5, 16, 3, 3), {"flip_kernel": True}),
    "no pixel": ((0, 16, 6, 6), (5, 16, 3, 3), {}),
    "a length": ((2, 21, 40), (6, 21, 5), {"padding": 2}),
    "a volume": ((2, 18, 5, 6, 7), (5, 18, 3, 3, 2), {"padding": 1}),
    "a volume without height": ((1, 18, 5, 3, 4), (5, 18, 3, 1, 1), {"padding": (1, 0, 0)}),
}


def last(a: Any) -> Any:
    return np.ascontiguousarray(np.moveaxis(a, 1, -1))


def call_of(module: Any, name: str, x: Any) -> Any:
    return getattr(module, name.format(x.ndim - 2))


def check(got: Any, expected: Any, terms: int, scale: Any) -> None:
    assert got.dtype == BF16
    bound = dot_bound(terms, np.float32, scale)
    assert_within(got, expected, bound + storage_bound(np.abs(expected) + bound, BF16))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward(case: str, layout: str, rng: np.random.Generator) -> None:
    shape, kernel, how = CASES[case]
    x, weight, bias = numbers(rng, *shape), numbers(rng, *kernel), numbers(rng, kernel[0])
    expected = call_of(reference, "conv{}d", x)(*widen(x, weight, bias), **how)
    scale = call_of(reference, "conv{}d", x)(*absolute(x, weight, bias), **how)
    if layout == "channels_last":
        x, expected, scale = last(x), last(expected), last(scale)
    function = call_of(kernels, "conv{}d", x)
    check(
        function(x, weight, bias, layout=layout, **how),
        expected,
        int(np.prod(kernel[1:])) + 1,
        scale,
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients(case: str, layout: str, rng: np.random.Generator) -> None:
    shape, kernel, how = CASES[case]
    if "flip_kernel" in how:
        return
    # What is summed by x are the channels of the result.
    kernel = (16 * how.get("groups", 1) + kernel[0], *kernel[1:])
    kernel = (kernel[0] - kernel[0] % how.get("groups", 1), *kernel[1:])
    x, weight = numbers(rng, *shape), numbers(rng, *kernel)
    y = call_of(reference, "conv{}d", x)(*widen(x, weight), **how)
    grad = numbers(rng, *y.shape)
    name = "conv{}d_backward"
    expected = call_of(reference, name, x)(*widen(grad, x, weight), **how)
    scales = call_of(reference, name, x)(*absolute(grad, x, weight), **how)
    if layout == "channels_last":
        x, grad = last(x), last(grad)
        expected, scales = (last(expected[0]), *expected[1:]), (last(scales[0]), *scales[1:])
    call = call_of(kernels, name, x)
    # By weight it is the float32 kernel; by tiles its bound would be another.
    how = {"layout": layout, "algorithm": "direct", **how}
    got = call(grad, x, weight, **how)
    terms = max(kernel[0] * int(np.prod(kernel[2:])), grad.size // max(1, kernel[0]))
    for one, want, scale in zip(got, expected, scales, strict=True):
        check(one, want, terms, scale)
    assert_same_bits(call(grad, x, weight, needs=("x",), **how)[0], got[0])
    for _ in thread_counts():
        for one, again in zip(got, call(grad, x, weight, **how), strict=True):
            assert_same_bits(one, again)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "kernel", "how"),
    [
        ((2, 18, 9, 10), (18, 35, 1, 1), {}),
        ((2, 34, 5, 6), (34, 8, 4, 4), {"stride": 2, "padding": 1}),
        ((2, 38, 5, 6), (38, 7, 3, 3), {"stride": 2, "groups": 2, "output_padding": 1}),
        ((2, 17, 9), (17, 6, 3), {"stride": 4}),
    ],
)
def test_transposed(
    layout: str, shape: Any, kernel: Any, how: dict[str, Any], rng: np.random.Generator
) -> None:
    x, weight = numbers(rng, *shape), numbers(rng, *kernel)
    bias = numbers(rng, kernel[1] * how.get("groups", 1))
    name = "conv_transpose{}d"
    expected = call_of(reference, name, x)(*widen(x, weight, bias), **how)
    scale = call_of(reference, name, x)(*absolute(x, weight, bias), **how)
    grad = numbers(rng, *expected.shape)
    wanted = call_of(reference, f"{name}_backward", x)(*widen(grad, x, weight), **how)
    scales = call_of(reference, f"{name}_backward", x)(*absolute(grad, x, weight), **how)
    if layout == "channels_last":
        x, grad, expected, scale = last(x), last(grad), last(expected), last(scale)
        wanted, scales = (last(wanted[0]), *wanted[1:]), (last(scales[0]), *scales[1:])
    function = call_of(kernels, name, x)
    got = function(x, weight, bias, layout=layout, **how)
    terms = int(np.prod(kernel[2:])) * max(kernel[:2]) + 1
    check(got, expected, terms, scale)
    packed = kernels.pack(weight, name.format(x.ndim - 2))
    assert_same_bits(function(x, packed, bias, layout=layout, **how), got)
    found = call_of(kernels, f"{name}_backward", x)(grad, x, weight, layout=layout, **how)
    terms = max(terms, grad.size)
    for one, want, scale in zip(found, wanted, scales, strict=True):
        check(one, want, terms, scale)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bits_of_teams_batches_and_packed_weights(
    case: str, layout: str, rng: np.random.Generator
) -> None:
    shape, kernel, how = CASES[case]
    x = numbers(rng, 5, *shape[1:])
    if layout == "channels_last":
        x = last(x)
    weight, bias = numbers(rng, *kernel), numbers(rng, kernel[0])
    function = call_of(kernels, "conv{}d", x)
    name = f"conv{x.ndim - 2}d"

    def call(x: Any, w: Any, **more: Any) -> Any:
        return function(x, w, bias, activation="gelu", layout=layout, **how, **more)

    expected = call(x, weight)
    packed = kernels.pack(weight, name)
    for _ in thread_counts():
        assert_same_bits(call(x, weight), expected)
        assert_same_bits(call(x, packed), expected)
    for i in (0, 4):
        assert_same_bits(call(x[i : i + 1], weight), expected[i : i + 1])
    far = np.zeros((x.size + 1), BF16)[1:].reshape(x.shape)  # begins between pairs
    far[...] = x
    assert_same_bits(call(far, weight), expected)
    check_out(lambda **out: call(x, weight, **out), True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [1, 3])
def test_epilogue(size: int, layout: str, rng: np.random.Generator) -> None:
    x, weight, bias = numbers(rng, 2, 24, 12, 9), numbers(rng, 37, 24, size, size), numbers(rng, 37)
    residual = numbers(rng, 2, 37, 12, 9)
    how: dict[str, Any] = {"padding": size // 2}
    scale = reference.conv2d(*absolute(x, weight, bias), residual=absolute(residual)[0], **how)
    for activation in (None, "relu", "tanh"):
        more = {"activation": activation, **how}
        expected = reference.conv2d(*widen(x, weight, bias), residual=widen(residual), **more)
        if layout == "channels_last":
            args = (last(x), weight, bias)
            got = kernels.conv2d(*args, residual=last(residual), layout=layout, **more)
            got = np.moveaxis(got, -1, 1)
        else:
            got = kernels.conv2d(x, weight, bias, residual=residual, **more)
        check(got, expected, 2 * 24 * size**2, scale)


@pytest.mark.parametrize("size", [1, 3])
def test_infinity_and_nan_stay_where_they_are(size: int, rng: np.random.Generator) -> None:
    x, weight = numbers(rng, 3, 17, 9, 9), numbers(rng, 21, 17, size, size)
    clean = kernels.conv2d(x, weight, padding=size // 2)
    x[0, 16, 4, 4], x[2, 3, 0, 0] = np.inf, np.nan
    got = kernels.conv2d(x, weight, padding=size // 2)
    reach = size // 2
    touched = np.zeros((3, 9, 9), bool)
    touched[0, 4 - reach : 5 + reach, 4 - reach : 5 + reach] = True
    touched[2, : 1 + reach, : 1 + reach] = True
    wide = got.astype(np.float32)
    assert np.isinf(wide[0, :, 4, 4]).all()
    assert np.isnan(wide[2, :, 0, 0]).all()
    rows, kept = np.moveaxis(got, 1, -1)[~touched], np.moveaxis(clean, 1, -1)[~touched]
    assert_same_bits(rows, kept)


def test_a_packed_weight_outlives_the_level(rng: np.random.Generator) -> None:
    x = numbers(rng, 2, 20, 9, 9)
    for size in (1, 3):
        weight = numbers(rng, 6, 20, size, size)
        for first, then in ((LEVEL, "avx512"), ("avx512", LEVEL)):
            _core.set_isa(first)
            packed = kernels.pack(weight, "conv2d")
            assert packed.dtype == BF16
            assert_same_bits(kernels.conv2d(x, packed), kernels.conv2d(x, weight))
            _core.set_isa(then)
            assert_same_bits(kernels.conv2d(x, packed), kernels.conv2d(x, weight))
            _core.set_isa(LEVEL)


def test_what_is_not_paired_has_the_bits_of_float32(rng: np.random.Generator) -> None:
    """First layers, stencils, the algorithm of tiles, and float16."""
    for x_shape, w_shape, dtype, how in (
        ((2, 3, 30, 30), (16, 3, 3, 3), BF16, {}),
        ((2, 32, 9, 9), (32, 1, 3, 3), BF16, {"groups": 32}),
        ((2, 32, 9, 9), (32, 32, 3, 3), BF16, {"algorithm": "winograd"}),
        ((1, 32, 18, 18), (33, 32, 3, 3), BF16, {}),
        ((2, 32, 9, 9), (32, 32, 3, 3), np.float16, {"algorithm": "direct"}),
    ):
        x, weight = normal(rng, dtype, *x_shape), normal(rng, dtype, *w_shape)
        wide = kernels.conv2d(x.astype(np.float32), weight.astype(np.float32), **how)
        assert_same_bits(kernels.conv2d(x, weight, **how), wide.astype(dtype))


def test_plans_tell_of_pairs(rng: np.random.Generator) -> None:
    x, weight = numbers(rng, 1, 32, 9, 9), numbers(rng, 32, 32, 3, 3)
    plan = kernels.plan("conv2d", x, weight)
    assert plan.algorithm == "direct"
    assert kernels.plan("conv2d", x, numbers(rng, 32, 32, 1, 1)).algorithm == "gemm"
    _core.set_isa("avx512")
    widened = kernels.plan("conv2d", x, weight, algorithm="direct")
    assert kernels.plan("conv2d", x, weight).algorithm == "winograd"
    _core.set_isa(LEVEL)
    # Of x and the weight there are copies, of half the bytes; those of an even number of channels
    # that are last are read where they lie.
    assert plan.scratch_bytes < widened.scratch_bytes
    flat = kernels.plan("conv2d", last(x), weight, layout="channels_last")
    assert flat.scratch_bytes + 2 * x.size < plan.scratch_bytes
    grad = numbers(rng, 1, 32, 7, 7)
    assert kernels.plan("conv2d_backward", grad, x, weight)[0].algorithm == "direct"
    _core.set_isa("avx512")
    assert kernels.plan("conv2d_backward", grad, x, weight)[0].algorithm == "winograd"


def test_an_output_of_its_own(rng: np.random.Generator) -> None:
    """Partial panels write nothing beside the result."""
    x, weight = numbers(rng, 2, 20, 7, 7), numbers(rng, 33, 20, 3, 3)
    guard = Guarded((2, 33, 5, 5), BF16)
    kernels.conv2d(x, weight, out=guard.out)
    guard.check()
