"""Which algorithm a convolution takes, told by its bits, and the error of what is taken unasked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arraynn.kernels
import arraynn.reference
from tolerances import assert_same_bits, assert_within, dot_bound, widen

from .problems import arranged, normal

pytestmark = pytest.mark.usefixtures("isa")

# Called with keywords from tables, which `reference` accepts as well.
kernels: Any = arraynn.kernels
reference: Any = arraynn.reference


def choice(x: Any, weight: Any, op: str = "conv2d", **options: Any) -> str:
    """Return which algorithm "auto" has the bits of."""

    def run(algorithm: str) -> Any:
        return getattr(kernels, op)(x, weight, **options, algorithm=algorithm)

    auto, direct, winograd = run("auto"), run("direct"), run("winograd")
    assert direct.tobytes() != winograd.tobytes(), "nothing to tell them apart by"
    name = "winograd" if auto.tobytes() == winograd.tobytes() else "direct"
    assert_same_bits(auto, direct if name == "direct" else winograd)
    assert_same_bits(getattr(kernels, op)(x, weight, **options), auto)
    return name


@pytest.mark.parametrize(
    ("x_shape", "columns", "options", "expected"),
    [
        ((12, 8, 8), 12, {"padding": 1}, "winograd"),
        ((12, 8, 8), 12, {"padding": 1, "flip_kernel": True}, "winograd"),
        ((11, 8, 8), 12, {"padding": 1}, "direct"),
        ((12, 8, 8), 11, {"padding": 1}, "direct"),
        ((24, 8, 8), 24, {"padding": 1, "groups": 2}, "winograd"),  # 12 of each group
        ((24, 8, 8), 24, {"padding": 1, "groups": 4}, "direct"),
        ((12, 6, 6), 12, {"padding": 1}, "winograd"),  # 36 pixels of 4 tiles
        ((12, 5, 6), 12, {"padding": 1}, "direct"),  # 30 of 4
        ((12, 2, 4), 12, {"padding": 1}, "winograd"),  # half a tile
        ((12, 2, 3), 12, {"padding": 1}, "direct"),
        ((12, 1, 64), 12, {"padding": 1}, "direct"),  # a quarter of each
        ((256, 4, 4), 256, {"padding": 1}, "winograd"),  # 2**16 weights of 1 tile
        ((256, 4, 4), 257, {"padding": 1}, "direct"),
        ((256, 4, 12), 257, {"padding": 1}, "direct"),
        ((256, 4, 16), 257, {"padding": 1}, "winograd"),  # 4 tiles
        ((12, 10, 6), 12, {}, "winograd"),  # the result's size decides
        ((12, 7, 7), 12, {}, "direct"),
    ],
    ids=str,
)
def test_what_auto_takes(
    layout: str,
    x_shape: tuple[int, ...],
    columns: int,
    options: dict[str, Any],
    expected: str,
    rng: np.random.Generator,
) -> None:
    """By the shape of one sample, whatever the batch; float64 stays with the direct sum."""
    groups = options.get("groups", 1)
    weight = normal(rng, np.float32, columns, x_shape[0] // groups, 3, 3)
    for n in (1, 3):
        x = arranged(normal(rng, np.float32, n, *x_shape), layout)
        assert choice(x, weight, **options, layout=layout) == expected
    wide = [a.astype(np.float64) for a in (x, weight)]
    assert choice(*wide, **options, layout=layout) == "direct"


def test_what_auto_takes_by_x_and_transposed(layout: str, rng: np.random.Generator) -> None:
    """Columns and pixels are those of the gradient."""
    for ic, oc, size, padding, expected in (
        (12, 13, 6, 1, "winograd"),
        (11, 13, 6, 1, "direct"),
        (13, 11, 6, 1, "direct"),
        (12, 12, 5, 1, "direct"),
        (12, 12, 8, 0, "winograd"),  # 8x8 from 6x6
    ):
        weight = normal(rng, np.float32, oc, ic, 3, 3)
        x = arranged(normal(rng, np.float32, 2, ic, size, size), layout)
        out = size - 2 + 2 * padding
        grad = arranged(normal(rng, np.float32, 2, oc, out, out), layout)
        options: dict[str, Any] = {"padding": padding, "layout": layout}
        got = choice(grad, weight, op="conv_transpose2d", **options)
        assert got == expected
        (by_x, _, _) = kernels.conv2d_backward(grad, x, weight, **options, needs=("x",))
        assert_same_bits(by_x, kernels.conv_transpose2d(grad, weight, **options))


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ((3, 3), {"stride": 2}),
        ((3, 3), {"stride": (1, 2)}),
        ((3, 3), {"dilation": 2}),
        ((3, 3), {"dilation": (2, 1)}),
        ((3, 5), {}),
        ((1, 3), {}),
        ((2, 3), {}),
        ((1, 1), {}),
        ((6, 6), {"stride": 2}),  # three taps in a row for each residue
    ],
    ids=str,
)
def test_other_convolutions_are_direct(
    layout: str, kernel: Any, options: dict[str, Any], rng: np.random.Generator
) -> None:
    x = arranged(normal(rng, np.float32, 2, 16, 13, 14), layout)
    weight = normal(rng, np.float32, 16, 16, *kernel)
    y = kernels.conv2d(x, weight, **options, layout=layout)
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("conv2d", (x, weight)),
        ("conv2d_backward", (y, x, weight)),
        ("conv_transpose2d", (y, weight)),
        ("conv_transpose2d_backward", (x, y, weight)),
    ]
    for op, args in calls[:3]:
        how: dict[str, Any] = {**options, "layout": layout}
        got = getattr(kernels, op)(*args, **how)
        direct = getattr(kernels, op)(*args, **how, algorithm="direct")
        for a, b in zip(got, direct, strict=True):
            assert_same_bits(a, b, op)
    for op, args in calls:
        with pytest.raises(ValueError, match=rf"\[{op}\] algorithm: expected 'auto' or 'direct' "):
            getattr(kernels, op)(*args, **options, layout=layout, algorithm="winograd")


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 3, 3), (2, 3, 3)], ids=str)
def test_volumes_are_direct(layout: str, kernel: tuple[int, ...], rng: np.random.Generator) -> None:
    """Planes with more than enough channels and pixels for Winograd's, under any depth."""
    x = arranged(normal(rng, np.float32, 2, 16, 3, 12, 12), layout)
    weight = normal(rng, np.float32, 16, 16, *kernel)
    y = kernels.conv3d(x, weight, layout=layout)
    for op, args in (
        ("conv3d", (x, weight)),
        ("conv3d_backward", (y, x, weight)),
        ("conv_transpose3d", (y, weight)),
    ):
        got = getattr(kernels, op)(*args, layout=layout)
        direct = getattr(kernels, op)(*args, layout=layout, algorithm="direct")
        for a, b in zip(got, direct, strict=True):
            assert_same_bits(a, b, op)


@pytest.mark.parametrize("channels", [12, 13, 16, 31, 64, 130])
def test_error_of_auto_within_twice_the_bound_of_a_sum(
    layout: str, channels: int, rng: np.random.Generator
) -> None:
    """Of normal numbers. Worst at few channels in a corner, whose bound is that of four taps."""
    for samples, height, width in ((4, 14, 15), (16, 4, 4), (4, 8, 8)):
        x = arranged(normal(rng, np.float32, samples, channels, height, width), layout)
        weight = normal(rng, np.float32, 24, channels, 3, 3)
        options: dict[str, Any] = {"padding": 1, "layout": layout}
        assert choice(x, weight, **options) == "winograd"
        for op in ("conv2d", "conv_transpose2d"):
            if op == "conv_transpose2d":
                weight = np.ascontiguousarray(np.swapaxes(weight, 0, 1))
            got = getattr(kernels, op)(x, weight, **options)
            ref = getattr(reference, op)(*widen(x, weight), **options)
            scale = getattr(reference, op)(*(np.abs(a) for a in widen(x, weight)), **options)
            assert_within(got, ref, 2 * dot_bound(9 * channels, np.float32, scale), op)
