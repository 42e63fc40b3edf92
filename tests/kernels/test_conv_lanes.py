"""Kernels whose lanes are planes or columns: depthwise in channels first, few results by x."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arraynn.kernels
import arraynn.reference
from memory import Guarded, in_layout
from tolerances import (
    assert_close_to_reference,
    assert_gradient,
    assert_same_bits,
    assert_within,
    dot_bound,
    widen,
)

from .problems import absolute, arranged, normal, register_tile, thread_counts

pytestmark = pytest.mark.usefixtures("isa")

# Called with keywords from tables.
kernels: Any = arraynn.kernels
reference: Any = arraynn.reference


def first(a: Any) -> Any:
    """Return a channels-last array with its channels first."""
    return np.ascontiguousarray(np.moveaxis(a, -1, 1))


def check_gradients(grad: Any, x: Any, weight: Any, **options: Any) -> Any:
    """Hold the three gradients against the reference's and return them."""
    got = kernels.conv2d_backward(grad, x, weight, **options)
    ref = reference.conv2d_backward(*widen(grad, x, weight), **options)
    native = reference.conv2d_backward(grad, x, weight, **options)
    scales = reference.conv2d_backward(*absolute(grad, x, weight), **options)
    for name, g, r, n, scale in zip("xwb", got, ref, native, scales, strict=True):
        label = f"grad_{name} {x.shape} {weight.shape} {options}"
        assert_close_to_reference(g, r, n, scale=scale, label=label)
    return got


#: Kernel and geometry of depthwise convolutions.
STENCILS: list[tuple[tuple[int, int], dict[str, Any]]] = [
    ((3, 3), {"padding": 1}),
    ((3, 3), {"padding": 1, "stride": 2}),
    ((3, 3), {"stride": 2}),
    ((5, 5), {"padding": 2}),
    ((5, 3), {"padding": (2, 1), "stride": (1, 2)}),
    ((7, 7), {"padding": 3}),
    ((2, 3), {"padding": ((0, 1), (2, 0)), "stride": (3, 1)}),
    ((3, 3), {"padding": 2, "dilation": 2}),
    ((3, 2), {"padding": 3, "dilation": (2, 3), "stride": 2}),
    ((1, 1), {"stride": 2}),  # positions that no tap reaches
    ((2, 2), {"stride": 3, "padding": 1}),
    ((3, 3), {"padding": 1, "flip_kernel": True}),
    ((9, 9), {"padding": 8}),
]


@pytest.mark.parametrize(("kernel", "options"), STENCILS, ids=str)
def test_depthwise_has_the_bits_of_channels_last(
    isa: str, dtype: Any, kernel: Any, options: dict[str, Any], rng: np.random.Generator
) -> None:
    """Planes become lanes of the same stencil: results and gradients, for any number of them."""
    lanes = register_tile("conv2d", isa, dtype)[1] // 2
    for i, channels in enumerate((lanes // 2, lanes - 1, lanes, 2 * lanes + 3)):
        height, width = ((9, 8), (7, 19), (5, 33), (11, 7))[i]
        x = normal(rng, dtype, 2, channels, height, width)
        weight, bias = normal(rng, dtype, channels, 1, *kernel), normal(rng, dtype, channels)
        how = {**options, "groups": channels}
        y = kernels.conv2d(x, weight, bias, **how)
        scale = reference.conv2d(*absolute(x, weight, bias), **how)
        bound = dot_bound(weight[0].size, dtype, scale)
        assert_within(y, reference.conv2d(*widen(x, weight, bias), **how), bound)
        grad = normal(rng, dtype, *y.shape)
        gradients = check_gradients(grad, x, weight, **how)
        last = [arranged(a, "channels_last") for a in (x, grad)]
        how["layout"] = "channels_last"
        assert_same_bits(y, first(kernels.conv2d(last[0], weight, bias, **how)))
        twin = check_gradients(last[1], last[0], weight, **how)
        assert_same_bits(gradients[0], first(twin[0]))
        if kernel != (3, 3) or options.get("dilation"):  # whose lanes are columns
            assert_same_bits(gradients[1], twin[1])


#: Kernel and geometry of depthwise convolutions of volumes.
VOLUMES: list[tuple[tuple[int, int, int], dict[str, Any]]] = [
    ((3, 3, 3), {"padding": 1}),
    ((3, 3, 3), {"padding": 1, "stride": 2}),
    ((3, 5, 5), {"padding": (1, 2, 2), "stride": (2, 1, 1)}),
    ((1, 3, 3), {"padding": (0, 1, 1)}),
    ((1, 3, 3), {"padding": 1}),  # planes at both ends that see padding alone
    ((2, 3, 2), {"padding": ((3, 2), (0, 1), (2, 0)), "stride": (1, 2, 3)}),
    ((3, 2, 3), {"padding": (4, 1, 1), "dilation": (2, 1, 2), "stride": (3, 1, 1)}),
    ((4, 1, 3), {"padding": (2, 0, 1), "stride": (3, 2, 1)}),
    ((2, 2, 2), {"stride": 3, "padding": 1}),  # positions that no tap reaches
    ((3, 3, 3), {"padding": 1, "flip_kernel": True}),
    ((7, 7, 3), {"padding": (3, 3, 1)}),
    ((2, 3, 3), {"padding": ((1, 0), (1, 1), (1, 1)), "stride": (2, 1, 1)}),  # one of 2
]


@pytest.mark.parametrize(("kernel", "options"), VOLUMES, ids=str)
def test_depthwise_volumes(
    isa: str, dtype: Any, kernel: Any, options: dict[str, Any], rng: np.random.Generator
) -> None:
    """A stencil in both layouts, whose source planes stay in a band from one to the next."""
    lanes = register_tile("conv2d", isa, dtype)[1] // 2
    for i, channels in enumerate((1, lanes, lanes + 3)):
        size = ((5, 6, 9), (1, 7, 6), (7, 4, 7))[i]
        x = normal(rng, dtype, 2, channels, *size)
        weight, bias = normal(rng, dtype, channels, 1, *kernel), normal(rng, dtype, channels)
        how = {**options, "groups": channels}
        y = kernels.conv3d(x, weight, bias, **how)
        scale = reference.conv3d(*absolute(x, weight, bias), **how)
        bound = dot_bound(weight[0].size, dtype, scale)
        assert_within(y, reference.conv3d(*widen(x, weight, bias), **how), bound)
        grad, residual = normal(rng, dtype, *y.shape), normal(rng, dtype, *y.shape)
        added = kernels.conv3d(x, weight, bias, residual=residual, **how)
        assert_same_bits(added, y + residual)
        gradients = kernels.conv3d_backward(grad, x, weight, **how)
        ref = reference.conv3d_backward(*widen(grad, x, weight), **how)
        native = reference.conv3d_backward(grad, x, weight, **how)
        scales = reference.conv3d_backward(*absolute(grad, x, weight), **how)
        last = [arranged(a, "channels_last") for a in (x, grad)]
        how["layout"] = "channels_last"
        assert_same_bits(y, first(kernels.conv3d(last[0], weight, bias, **how)))
        twin = kernels.conv3d_backward(last[1], last[0], weight, **how)
        assert_same_bits(gradients[0], first(twin[0]))
        for found in (gradients[1:], twin[1:]):
            parts = zip("wb", found, ref[1:], native[1:], scales[1:], strict=True)
            for name, g, r, n, s in parts:
                assert_close_to_reference(g, r, n, scale=s, label=f"grad_{name} {channels} {how}")
        assert_close_to_reference(gradients[0], ref[0], native[0], scale=scales[0], label="grad_x")


def test_depthwise_volumes_of_several_strips(dtype: Any, rng: np.random.Generator) -> None:
    """Planes that fill a band by themselves; any team, a sample alone, nothing else written."""
    for stride in (1, 2):
        x, weight = normal(rng, dtype, 2, 20, 5, 41, 37), normal(rng, dtype, 20, 1, 3, 3, 3)
        how: dict[str, Any] = {"padding": 1, "stride": stride, "groups": 20}
        bias = normal(rng, dtype, 20)
        y = kernels.conv3d(x, weight, bias, activation="relu", **how)
        expected = reference.conv3d(*widen(x, weight, bias), activation="relu", **how)
        scale = reference.conv3d(*absolute(x, weight, bias), **how)
        assert_within(y, expected, dot_bound(28, dtype, scale))
        grad = normal(rng, dtype, *y.shape)
        gradients = kernels.conv3d_backward(grad, x, weight, **how)
        ref = reference.conv3d_backward(*widen(grad, x, weight), **how)
        scales = reference.conv3d_backward(*absolute(grad, x, weight), **how)
        assert_within(gradients[0], ref[0], dot_bound(27, dtype, scales[0]))
        assert_within(gradients[1], ref[1], dot_bound(grad[:, 0].size, dtype, scales[1]))
        guarded = Guarded(y.shape, dtype)
        for n in thread_counts():
            kernels.conv3d(x, weight, bias, activation="relu", **how, out=guarded.out)
            assert_same_bits(guarded.out, y, f"{n} threads")
            again = kernels.conv3d_backward(grad, x, weight, **how)
            for got, once in zip(again, gradients, strict=True):
                assert_same_bits(got, once, f"{n} threads")
        guarded.check()
        alone = kernels.conv3d(x[1:], weight, bias, activation="relu", **how)
        assert_same_bits(alone, y[1:])


def test_depthwise_strips_epilogues_teams_and_memory(dtype: Any, rng: np.random.Generator) -> None:
    """Planes of several strips; any team, a sample alone, any memory, nothing else written."""
    for stride in (1, 2):
        x, weight = normal(rng, dtype, 2, 18, 61, 53), normal(rng, dtype, 18, 1, 3, 3)
        how: dict[str, Any] = {"padding": 1, "stride": stride, "groups": 18}
        bias = normal(rng, dtype, 18)
        grad = normal(rng, dtype, *kernels.conv2d(x, weight, **how).shape)
        residual = normal(rng, dtype, *grad.shape)
        more = {**how, "activation": "hardswish"}
        y = kernels.conv2d(x, weight, bias, residual=residual, **more)
        ref = reference.conv2d(*widen(x, weight, bias), residual=widen(residual), **more)
        scale = 2 * reference.conv2d(
            *absolute(x, weight, bias), residual=absolute(residual)[0], **how
        )
        assert_within(y, ref, dot_bound(11, dtype, scale + 1))
        up = {**how, "activation": "relu"}
        wide = normal(rng, dtype, *kernels.conv_transpose2d(grad, weight, **how).shape)
        z = kernels.conv_transpose2d(grad, weight, bias, residual=wide, **up)
        ref = reference.conv_transpose2d(*widen(grad, weight, bias), residual=widen(wide), **up)
        scale = reference.conv_transpose2d(
            *absolute(grad, weight, bias), residual=absolute(wide)[0], **how
        )
        assert_within(z, ref, dot_bound(11, dtype, scale))
        gradients = kernels.conv2d_backward(grad, x, weight, **how)
        for n in thread_counts():
            label = f"{n} threads"
            assert_same_bits(kernels.conv2d(x, weight, bias, residual=residual, **more), y, label)
            again = kernels.conv_transpose2d(grad, weight, bias, residual=wide, **up)
            assert_same_bits(again, z, label)
            for got, expected in zip(
                kernels.conv2d_backward(grad, x, weight, **how), gradients, strict=True
            ):
                assert_same_bits(got, expected, label)
        alone = kernels.conv2d(x[1:2], weight, bias, residual=residual[1:2], **more)
        assert_same_bits(alone, y[1:2])
        for memory in ("window", "reversed", "unaligned"):
            a, w, b, r = (in_layout(memory, v) for v in (x, weight, bias, residual))
            assert_same_bits(kernels.conv2d(a, w, b, residual=r, **more), y, memory)
        guarded = Guarded(y.shape, dtype)
        guarded.out[...] = np.nan
        kernels.conv2d(x, weight, bias, residual=residual, **more, out=guarded.out)
        assert_same_bits(guarded.out, y)
        guarded.check()


def test_depthwise_keeps_what_is_not_finite_in_its_plane(
    dtype: Any, rng: np.random.Generator
) -> None:
    weight = np.abs(normal(rng, dtype, 20, 1, 3, 3))
    for value in (np.nan, np.inf):
        x = normal(rng, dtype, 2, 20, 9, 12)
        x[1, 17, 4, 5] = value
        y = kernels.conv2d(x, weight, padding=1, groups=20)
        expected = reference.conv2d(x, weight, padding=1, groups=20)
        assert np.array_equal(np.isfinite(y), np.isfinite(expected))
        assert (~np.isfinite(y)).sum() == 9


@pytest.mark.parametrize("multiplier", [1, 2])
def test_rows_of_every_length_by_three(
    dtype: Any, multiplier: int, rng: np.random.Generator
) -> None:
    """Rows in place: whatever part of a vector they fill, and any border, which is never read."""
    for width in (*range(1, 37), 63, 64, 65, 66, 67, 129, 131):
        before, after = ((0, 2), (1, 1), (2, 0), (1, 2), (5, 3))[width % 5]
        for stride in (1, 2):
            channels = 3 * multiplier
            x = normal(rng, dtype, 2, 3, 1 + width % 11, width)
            weight = normal(rng, dtype, channels, 1, 3, 3)
            bias = normal(rng, dtype, channels)
            how: dict[str, Any] = {"padding": ((1, 2), (before, after)), "groups": 3}
            how["stride"] = stride
            if width + before + after < 3:
                continue
            y = kernels.conv2d(x, weight, bias, **how)
            scale = reference.conv2d(*absolute(x, weight, bias), **how)
            expected = reference.conv2d(*widen(x, weight, bias), **how)
            assert_within(y, expected, dot_bound(10, dtype, scale))
            residual = normal(rng, dtype, *y.shape)
            guarded = Guarded(y.shape, dtype)
            kernels.conv2d(x, weight, bias, residual=residual, **how, out=guarded.out)
            assert_same_bits(guarded.out, y + residual)
            guarded.check()


def test_gradients_of_rows_of_any_length_by_three(dtype: Any, rng: np.random.Generator) -> None:
    """Whatever part of a vector they fill, and any border; x of an odd and an even number."""
    for width in (1, 2, 3, 6, 7, 8, 9, 14, 15, 16, 17, 18, 20, 31, 33, 34, 35, 49, 64, 67, 98):
        before, after = ((0, 2), (1, 1), (2, 0), (1, 2), (2, 2))[width % 5]
        above, below = ((1, 2), (0, 1), (2, 0), (1, 1))[width % 4]
        if width + before + after < 3:
            continue
        for stride in (1, 2):
            how: dict[str, Any] = {"padding": ((above, below), (before, after)), "groups": 3}
            how["stride"] = stride
            x = normal(rng, dtype, 2, 3, 3 + width % 11, width)
            weight = normal(rng, dtype, 3, 1, 3, 3)
            grad = normal(rng, dtype, *kernels.conv2d(x, weight, **how).shape)
            dx = check_gradients(grad, x, weight, **how)[0]
            sizes = x.shape[2] + above + below, width + before + after
            up = {**how, "output_padding": tuple((size - 3) % stride for size in sizes)}
            bias, residual = normal(rng, dtype, 3), normal(rng, dtype, *x.shape)
            guarded = Guarded(x.shape, dtype)
            kernels.conv_transpose2d(grad, weight, bias, **up, residual=residual, out=guarded.out)
            assert_same_bits(guarded.out, dx + bias[:, None, None] + residual)
            guarded.check()


def test_weight_gradient_keeps_what_is_not_finite_to_its_taps(
    dtype: Any, rng: np.random.Generator
) -> None:
    """What no tap of a result reads, beside the last column of a row, adds nothing to a sum."""
    for stride, width in ((1, 21), (2, 18), (2, 34), (2, 20)):
        x = normal(rng, dtype, 2, 5, 9, width)
        weight, how = normal(rng, dtype, 5, 1, 3, 3), {"stride": stride, "groups": 5}
        grad = normal(rng, dtype, *kernels.conv2d(x, weight, **how).shape)
        x[1, 3, 4, width - 1] = np.inf
        x[0, 1, 8, width - 2] = np.nan
        got = kernels.conv2d_backward(grad, x, weight, **how)[1]
        expected = reference.conv2d_backward(grad, x, weight, **how)[1]
        assert np.array_equal(np.isfinite(got), np.isfinite(expected)), (stride, width)


#: Source channels, kernel and geometry of depthwise convolutions with several results a channel.
MULTIPLIED: list[tuple[int, tuple[int, ...], dict[str, Any]]] = [
    (11, (3, 3), {"padding": 1}),
    (5, (3, 3), {"padding": 1, "stride": 2}),
    (9, (5, 4), {"padding": (2, 1), "stride": (1, 2)}),
    (2, (1, 3), {"dilation": 2}),
    (11, (3, 3, 3), {"padding": 1}),
    (3, (3, 2, 3), {"padding": 2, "stride": (1, 2, 2)}),
    (2, (1, 3, 3), {"padding": (1, 0, 1), "dilation": (1, 2, 1)}),
]


@pytest.mark.parametrize(("channels", "kernel", "options"), MULTIPLIED, ids=str)
def test_several_results_of_a_channel(
    dtype: Any,
    layout: str,
    channels: int,
    kernel: tuple[int, ...],
    options: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    """Results as lanes, a channel repeated for those that read it; any team, a sample alone."""
    op = f"conv{len(kernel)}d"
    forward, backward = getattr(kernels, op), getattr(kernels, f"{op}_backward")
    for multiplier, size in ((2, (5, 9, 13)), (3, (4, 8, 7)), (9, (3, 7, 10))):
        shape = (2, channels, *size[-len(kernel) :])
        x = arranged(normal(rng, dtype, *shape), layout)
        weight = normal(rng, dtype, channels * multiplier, 1, *kernel)
        bias = normal(rng, dtype, channels * multiplier)
        how: dict[str, Any] = {**options, "groups": channels, "layout": layout}
        assert kernels.plan(op, x, weight, **how).algorithm == "depthwise"
        y = forward(x, weight, bias, **how)
        scale = getattr(reference, op)(*absolute(x, weight, bias), **how)
        expected = getattr(reference, op)(*widen(x, weight, bias), **how)
        assert_within(y, expected, dot_bound(weight[0].size + 1, dtype, scale))
        grad = normal(rng, dtype, *y.shape)
        got = backward(grad, x, weight, **how)
        back = getattr(reference, f"{op}_backward")
        parts = (*widen(grad, x, weight),), (grad, x, weight), (*absolute(grad, x, weight),)
        for name, g, r, n, s in zip(
            "xwb", got, *(back(*part, **how) for part in parts), strict=True
        ):
            assert_close_to_reference(g, r, n, scale=s, label=f"grad_{name} {multiplier} {how}")
        residual = normal(rng, dtype, *y.shape)
        guarded = Guarded(y.shape, dtype)
        for n in thread_counts():
            forward(x, weight, bias, residual=residual, **how, out=guarded.out)
            assert_same_bits(guarded.out, y + residual, f"{n} threads")
            for again, once in zip(backward(grad, x, weight, **how), got, strict=True):
                assert_same_bits(again, once, f"{n} threads")
        guarded.check()
        assert_same_bits(forward(x[1:], weight, bias, **how), y[1:])
        for memory in ("window", "reversed", "unaligned"):
            a, w, b = (in_layout(memory, v) for v in (x, weight, bias))
            assert_same_bits(forward(a, w, b, **how), y, memory)


def test_few_channels_last_of_images_cut_in_strips(dtype: Any, rng: np.random.Generator) -> None:
    """Pixels of less than a vector: several strips, pooled or not, nothing else written."""
    for channels in (1, 2, 3):
        x = normal(rng, dtype, 2, 97, 101, channels)
        weight, bias = normal(rng, dtype, channels, 1, 5, 5), normal(rng, dtype, channels)
        how: dict[str, Any] = {"padding": 2, "groups": channels}
        turned = np.ascontiguousarray(np.moveaxis(x, -1, 1))
        y = kernels.conv2d(turned, weight, bias, **how)
        guarded = Guarded((2, 97, 101, channels), dtype)
        for n in thread_counts():
            kernels.conv2d(x, weight, bias, **how, layout="channels_last", out=guarded.out)
            assert_same_bits(first(guarded.out), y, f"{n} threads")
        guarded.check()
        pooled = kernels.conv2d_pool(
            x, weight, bias, **how, pool="max", pool_size=3, pool_stride=2, layout="channels_last"
        )
        assert_same_bits(first(pooled), kernels.max_pool2d(y, 3, 2))


#: Kernel and geometry of layers whose gradient by x has few channels.
FIRST: list[tuple[tuple[int, int], dict[str, Any]]] = [
    ((3, 3), {"padding": 1}),
    ((7, 7), {"padding": 3, "stride": 2}),
    ((3, 3), {"padding": 1, "stride": 2}),
    ((4, 4), {"padding": 1, "stride": 2}),
    ((11, 11), {"padding": 2, "stride": 4}),
    ((3, 2), {"padding": ((0, 1), (2, 0)), "stride": (1, 3)}),
    ((3, 4), {"padding": 4, "dilation": (2, 3)}),
    ((2, 2), {"stride": 3}),  # positions that no tap reaches
    ((1, 9), {"padding": (0, 4)}),
    ((3, 3), {"padding": 1, "flip_kernel": True}),
]


@pytest.mark.parametrize(("kernel", "options"), FIRST, ids=str)
def test_gradient_of_a_first_layer(
    dtype: Any, layout: str, kernel: Any, options: dict[str, Any], rng: np.random.Generator
) -> None:
    for channels, columns, width in ((1, 5, 24), (2, 16, 67), (3, 17, 90), (4, 40, 33)):
        x = arranged(normal(rng, dtype, 1, channels, 13, width), layout)
        weight = normal(rng, dtype, columns, channels, *kernel)
        how = {**options, "layout": layout, "algorithm": "direct"}
        grad = normal(rng, dtype, *kernels.conv2d(x, weight, **how).shape)
        check_gradients(grad, x, weight, **how)


def test_transposed_to_few_channels(dtype: Any, layout: str, rng: np.random.Generator) -> None:
    """Groups, epilogues, several blocks and strips; any team, a sample alone, any memory."""
    for groups, columns, size, options in (
        (1, 3, (7, 600), {"stride": 2, "padding": 1}),
        (2, 4, (9, 37), {"padding": 1}),
        (3, 1, (6, 35), {"stride": (3, 2), "output_padding": (2, 1)}),
    ):
        x = arranged(normal(rng, dtype, 2, 18 * groups, *size), layout)
        weight = normal(rng, dtype, 18 * groups, columns, 4, 4)
        bias = normal(rng, dtype, columns * groups)
        how: dict[str, Any] = {**options, "groups": groups, "layout": layout}
        shape = kernels.conv_transpose2d(x, weight, **how).shape
        residual = normal(rng, dtype, *shape)
        args = (x, weight, bias)
        plain = kernels.conv_transpose2d(*args, **how)
        ref = reference.conv_transpose2d(*widen(*args), **how)
        scale = reference.conv_transpose2d(*absolute(*args), **how)
        assert_within(plain, ref, dot_bound(18 * 16 + 1, dtype, scale))
        more = {**how, "activation": "silu", "residual": residual}
        y = kernels.conv_transpose2d(*args, **more)
        more_wide = {**more, "residual": widen(residual)}
        ref = reference.conv_transpose2d(*widen(*args), **more_wide)
        scale = 2 * reference.conv_transpose2d(*absolute(*args), **how) + np.abs(residual) + 1
        assert_within(y, ref, dot_bound(18 * 16 + 8, dtype, scale))
        for n in thread_counts():
            assert_same_bits(kernels.conv_transpose2d(*args, **more), y, f"{n} threads")
        one = {**more, "residual": residual[1:]}
        assert_same_bits(kernels.conv_transpose2d(x[1:], weight, bias, **one), y[1:])
        for memory in ("window", "reversed", "unaligned"):
            arrays = [in_layout(memory, a) for a in args]
            assert_same_bits(kernels.conv_transpose2d(*arrays, **more), y, memory)
        packed = kernels.pack(weight, "conv_transpose2d")
        assert_same_bits(kernels.conv_transpose2d(x, packed, bias, **more), y)
        guarded = Guarded(y.shape, dtype)
        guarded.out[...] = np.nan
        kernels.conv_transpose2d(*args, **more, out=guarded.out)
        assert_same_bits(guarded.out, y)
        guarded.check()


@pytest.mark.parametrize("w_shape", [(6, 3, 3, 3), (10, 1, 3, 3)], ids=str)
def test_gradients_are_the_derivative(
    layout: str, w_shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    groups = 10 if w_shape[1] == 1 else 1
    how: dict[str, Any] = {"padding": 1, "stride": 2, "groups": groups, "layout": layout}
    x = arranged(normal(rng, np.float64, 2, w_shape[1] * groups, 9, 20), layout)
    weight, bias = normal(rng, np.float64, *w_shape), normal(rng, np.float64, w_shape[0])
    grad = normal(rng, np.float64, *kernels.conv2d(x, weight, bias, **how).shape)
    arguments = [x, weight, bias]
    for i, gradient in enumerate(kernels.conv2d_backward(grad, x, weight, **how)):

        def loss(v: Any, i: int = i) -> Any:
            changed = [*arguments[:i], v, *arguments[i + 1 :]]
            return np.sum(grad * kernels.conv2d(*changed, **how))

        assert_gradient(loss, arguments[i], gradient, rng, label=f"gradient {i}")
