"""Few input channels in channels first: the kernel of first layers, against its channels-last twin.

Both sum in one order, so that results have the same bits; test_conv.py holds both to the bounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arraynn.kernels
import arraynn.reference
from memory import Guarded, in_layout
from tolerances import assert_same_bits, assert_within, dot_bound, widen

from .problems import around, arranged, normal, register_tile, thread_counts

pytestmark = pytest.mark.usefixtures("isa")

# Called with keywords from tables.
kernels: Any = arraynn.kernels
reference: Any = arraynn.reference


def both(op: str, x: Any, weight: Any, bias: Any = None, residual: Any = None, **how: Any) -> Any:
    """Return the result, checked against channels last and the reference."""
    run = getattr(kernels, op)
    got = run(x, weight, bias, **how, residual=residual)
    last = None if residual is None else arranged(residual, "channels_last")
    twin = run(
        arranged(x, "channels_last"), weight, bias, **how, residual=last, layout="channels_last"
    )
    label = f"{op} {x.shape} {weight.shape} {how}"
    assert_same_bits(got, np.ascontiguousarray(np.moveaxis(twin, -1, 1)), label)
    if "activation" not in how and residual is None:
        ref = getattr(reference, op)(*widen(x, weight, bias), **how)
        wide = [None if a is None else np.abs(widen(a)) for a in (x, weight, bias)]
        scale = getattr(reference, op)(*wide, **how)
        products = weight.size // weight.shape[0 if op == "conv2d" else 1] + 1
        assert_within(got, ref, dot_bound(products, x.dtype, scale), label)
    return got


def is_first(x: Any, weight: Any, **how: Any) -> bool:
    """Whether the kernel under test is the one that is called."""
    return bool(kernels.plan("conv2d", x, weight, **how).algorithm == "first")


@pytest.mark.parametrize(
    ("channels", "kernel", "options"),
    [
        (3, (7, 7), {"stride": 2, "padding": 3}),
        (3, (3, 3), {"padding": 1}),
        (3, (3, 3), {"stride": 2, "padding": "same"}),
        (1, (3, 3), {"padding": 1}),
        (1, (1, 9), {"padding": (0, 4)}),
        (4, (3, 2), {"stride": (2, 1), "padding": ((0, 1), (3, 0))}),
        (3, (5, 5), {"stride": 3, "padding": 6}),
        (2, (11, 8), {"stride": (1, 5), "padding": 2}),
        (2, (2, 3), {"stride": 8, "padding": 1}),
        (3, (3, 4), {"dilation": (2, 3), "padding": 4}),
        (2, (3, 3), {"dilation": 2, "stride": 2}),
        (4, (1, 1), {"stride": 2}),
        (3, (3, 3), {"padding": 1, "flip_kernel": True}),
        (6, (3, 3), {"padding": 1, "groups": 2}),
        (3, (9, 3), {"padding": ((9, 9), (1, 1))}),  # rows that see nothing
    ],
    ids=str,
)
def test_same_bits_as_channels_last(
    dtype: Any, channels: int, kernel: Any, options: dict[str, Any], rng: np.random.Generator
) -> None:
    columns = 14
    per_group = channels // options.get("groups", 1)
    weight, bias = normal(rng, dtype, columns, per_group, *kernel), normal(rng, dtype, columns)
    step = int(np.broadcast_to(options.get("stride", 1), 2)[1])
    for width in (24 * step + 12, 33 * step + 20):
        x = normal(rng, dtype, 2, channels, 13, width)
        assert is_first(x, weight, **options)
        y = both("conv2d", x, weight, bias, **options)
        both("conv2d", x, weight, **options)
        residual = normal(rng, dtype, *y.shape)
        for activation in ("relu", "gelu"):
            both("conv2d", x, weight, bias, residual, **options, activation=activation)
            both("conv2d", x, weight, bias, **options, activation=activation)


def test_planes_of_short_rows(isa: str, dtype: Any, rng: np.random.Generator) -> None:
    """Rows of stride 1 one after the other, cut in strips; any team, a sample alone."""
    rows = register_tile("conv2d", isa, dtype)[0]
    for i, (size, kernel, options) in enumerate(
        (
            ((8, 8), (3, 3), {"padding": 1}),
            ((28, 1), (5, 1), {"padding": (2, 0)}),
            ((9, 5), (3, 3), {"padding": ((0, 2), (2, 3))}),
            ((11, 23), (5, 2), {"padding": (4, 0)}),
            ((16, 17), (3, 3), {"dilation": (2, 3), "padding": (2, 3)}),
            ((9, 9), (9, 3), {"padding": ((9, 9), (1, 1))}),  # rows that see nothing
            ((6, 6), (3, 3), {"padding": 1, "flip_kernel": True}),
            ((1301, 19), (3, 3), {"padding": 1}),
        )
    ):
        channels, columns = 1 + i % 4, (19, rows - 1, rows, rows + 1, 33)[i % 5]
        x = normal(rng, dtype, 2, channels, *size)
        weight, bias = normal(rng, dtype, columns, channels, *kernel), normal(rng, dtype, columns)
        assert is_first(x, weight, **options)
        y = both("conv2d", x, weight, bias, **options)
        residual = normal(rng, dtype, *y.shape)
        both("conv2d", x, weight, bias, residual, **options, activation="gelu")
        guarded = Guarded(y.shape, dtype)
        for n in thread_counts():
            kernels.conv2d(x, weight, bias, **options, out=guarded.out)
            assert_same_bits(guarded.out, y, f"{n} threads")
            assert_same_bits(kernels.conv2d(x[1:], weight, bias, **options), y[1:], f"{n} threads")
        guarded.check()
        assert_same_bits(kernels.conv2d_pool(x, weight, bias, **options, pool_size=1), y)


@pytest.mark.parametrize("stride", [1, 2])
def test_channels_and_columns_around_the_tile(
    isa: str, dtype: Any, stride: int, rng: np.random.Generator
) -> None:
    rows, lanes = register_tile("conv2d", isa, dtype)
    counts = sorted({24, 25, *(n for n in (lanes - 1, lanes, lanes + 1, 67) if n >= 24)})
    for i, columns in enumerate(around(rows)):
        width = counts[i % len(counts)] * stride
        x = normal(rng, dtype, 1, 3, 4, width)
        weight = normal(rng, dtype, columns, 3, 3, 3)
        options: dict[str, Any] = {"stride": stride, "padding": 1}
        assert is_first(x, weight, **options)
        both("conv2d", x, weight, normal(rng, dtype, columns), **options)


def test_strips_teams_batches_and_memory(dtype: Any, rng: np.random.Generator) -> None:
    """Several strips; any team, a sample alone, operands anywhere, nothing else written."""
    x, weight = normal(rng, dtype, 3, 3, 90, 300), normal(rng, dtype, 17, 3, 5, 5)
    bias = normal(rng, dtype, 17)
    options: dict[str, Any] = {"stride": 2, "padding": 2, "activation": "silu"}
    assert is_first(x, weight, stride=2, padding=2)
    y = both("conv2d", x, weight, bias, **options)
    for n in thread_counts():
        assert_same_bits(kernels.conv2d(x, weight, bias, **options), y, f"{n} threads")
        assert_same_bits(kernels.conv2d(x[1:2], weight, bias, **options), y[1:2], f"{n} threads")
    for memory in ("window", "reversed", "unaligned"):
        arrays = [in_layout(memory, a) for a in (x, weight, bias)]
        assert_same_bits(kernels.conv2d(*arrays, **options), y, memory)
    assert_same_bits(kernels.conv2d(x, kernels.pack(weight, "conv2d"), bias, **options), y)
    guarded = Guarded(y.shape, dtype)
    guarded.out[...] = np.nan
    kernels.conv2d(x, weight, bias, **options, out=guarded.out)
    assert_same_bits(guarded.out, y)
    guarded.check()


def test_pooled_and_transposed(dtype: Any, rng: np.random.Generator) -> None:
    """The pooled convolution sums as this kernel does; by x of few channels it is this kernel."""
    x, weight = normal(rng, dtype, 2, 3, 21, 40), normal(rng, dtype, 19, 3, 3, 3)
    y = kernels.conv2d(x, weight, padding=1)
    assert_same_bits(kernels.conv2d_pool(x, weight, padding=1, pool_size=1), y)
    spread = np.ascontiguousarray(np.swapaxes(weight, 0, 1))
    for padding in (0, 1, 2):
        both("conv_transpose2d", x, spread, normal(rng, dtype, 19), padding=padding)


def test_values_that_are_not_finite(dtype: Any, rng: np.random.Generator) -> None:
    weight = np.abs(normal(rng, dtype, 5, 3, 3, 3))
    for value in (np.nan, np.inf, -np.inf):
        x = normal(rng, dtype, 1, 3, 9, 40)
        x[0, 1, 4, 20] = value
        y = kernels.conv2d(x, weight, padding=1)
        assert np.array_equal(np.isfinite(y), np.isfinite(reference.conv2d(x, weight, padding=1)))
        assert (~np.isfinite(y)).sum() == 5 * 9


def test_what_is_left_to_others(rng: np.random.Generator) -> None:
    for shape, kernel, options in (
        ((1, 3, 40, 46), (3, 3), {"padding": 1, "stride": 2}),  # narrow
        ((1, 3, 3, 7), (3, 3), {"padding": 1}),  # small
        ((1, 5, 9, 40), (3, 3), {}),  # five channels
        ((1, 3, 40, 400), (3, 3), {"stride": 9}),
        ((1, 4, 40, 40), (12, 12), {}),  # 576 products: more than a block
    ):
        x = normal(rng, np.float32, *shape)
        assert not is_first(x, normal(rng, np.float32, 8, shape[1], *kernel), **options)
    x = normal(rng, np.float32, 1, 9, 40, 3)
    weight = normal(rng, np.float32, 8, 3, 3, 3)
    assert not is_first(x, weight, layout="channels_last")
