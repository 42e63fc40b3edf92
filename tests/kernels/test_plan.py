"""`kernels.plan`: the algorithm that a call takes, told without running it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import kernels

pytestmark = pytest.mark.usefixtures("isa")


def arrays(x: tuple[int, ...], weight: tuple[int, ...], dtype: Any = np.float32) -> Any:
    return np.ones(x, dtype), np.ones(weight, dtype)


@pytest.mark.parametrize(
    ("x", "weight", "options", "algorithm"),
    [
        ((1, 64, 28, 28), (64, 64, 3, 3), {"padding": 1}, "winograd"),
        ((1, 64, 28, 28), (64, 64, 3, 3), {"padding": 1, "algorithm": "direct"}, "direct"),
        ((1, 64, 28, 28), (64, 64, 3, 3), {"stride": 2}, "direct"),
        ((1, 64, 28, 28), (32, 64, 1, 1), {}, "gemm"),
        ((3, 64, 28, 28), (32, 64, 1, 1), {}, "gemm"),
        ((1, 28, 28, 64), (32, 64, 1, 1), {"layout": "channels_last"}, "gemm"),
        ((1, 64, 28, 28), (64, 1, 3, 3), {"groups": 64}, "depthwise"),
        ((1, 8, 9, 9), (4, 4, 3, 3), {"groups": 2}, "direct"),
        ((0, 64, 28, 28), (64, 64, 3, 3), {"padding": 1}, "none"),
    ],
    ids=str,
)
def test_algorithm_of_conv2d(x: Any, weight: Any, options: dict[str, Any], algorithm: str) -> None:
    got = kernels.plan("conv2d", *arrays(x, weight), **options)
    assert got.algorithm == algorithm
    assert got.op == "conv2d"
    assert got.reason
    assert (got.scratch_bytes == 0) == (algorithm == "none")
    assert str(got).startswith(f"conv2d: {algorithm} (")


def test_other_axes_and_float64() -> None:
    assert kernels.plan("conv1d", *arrays((1, 8, 30), (8, 8, 3))).algorithm == "direct"
    assert kernels.plan("conv3d", *arrays((1, 8, 9, 9, 9), (8, 8, 3, 3, 3))).algorithm == "direct"
    wide = arrays((1, 64, 28, 28), (64, 64, 3, 3), np.float64)
    assert kernels.plan("conv2d", *wide, padding=1).algorithm == "direct"


def test_scratch_of_other_algorithms_is_bounded() -> None:
    """Under 8 MiB for a team of two, at 1x1 and strided 3x3 shapes of ResNet-50."""
    with ann.threads(2):
        for n in (1, 8):
            for ic, oc, kernel, stride, size in (
                (64, 256, 1, 1, 56),
                (256, 512, 1, 2, 56),
                (128, 128, 3, 2, 56),
                (512, 128, 1, 1, 28),
                (256, 256, 3, 2, 28),
                (1024, 256, 1, 1, 14),
            ):
                pair = arrays((n, ic, size, size), (oc, ic, kernel, kernel))
                got = kernels.plan("conv2d", *pair, stride=stride, padding=kernel // 2)
                assert got.algorithm != "winograd"
                assert got.scratch_bytes < 8 << 20, got


def test_threads_are_those_of_the_limit() -> None:
    pair = arrays((8, 64, 56, 56), (64, 64, 3, 3))
    for count in (1, 2):
        with ann.threads(count):
            assert kernels.plan("conv2d", *pair, padding=1).threads == count


def test_errors_are_those_of_the_call() -> None:
    x, weight = arrays((1, 6, 8, 8), (4, 3, 3, 3))
    with pytest.raises(ValueError, match=r"\[conv2d\] weight: expected 6 input channels"):
        kernels.plan("conv2d", x, weight)
    with pytest.raises(NotImplementedError, match=r"\[plan\] op: expected one of 'conv1d'"):
        kernels.plan("relu", x)
