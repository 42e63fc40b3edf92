"""Results large enough to be stored past the caches have the bits of parts that are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from arraynn import kernels
from memory import Guarded
from tolerances import assert_same_bits

from .problems import arranged, normal, thread_counts

pytestmark = pytest.mark.usefixtures("isa")

LARGE = 8 << 20  # kStreamBytes of csrc/core/stream.hpp
Call = Callable[..., Any]


def rows_of(n: int, dtype: Any) -> int:
    """Return how many rows of `n` make a large result."""
    return LARGE // (n * np.dtype(dtype).itemsize) + 1


def row_calls(n: int, weight: Any) -> dict[str, Call]:
    """Return functions of (x, grad) whose rows do not see each other."""

    def of_norm(name: str) -> Call:
        def backward(x: Any, grad: Any) -> Any:
            return getattr(kernels, f"{name}_backward")(grad, x, n, weight)[0]

        return backward

    return {
        "layer_norm": lambda x, _, **out: kernels.layer_norm(x, n, weight, weight, **out),
        "rms_norm": lambda x, _, **out: kernels.rms_norm(x, n, weight, **out),
        "silu": lambda x, _, **out: kernels.layer_norm(x, n, weight, activation="silu", **out),
        "softmax": lambda x, _, **out: kernels.softmax(x, **out),
        "log_softmax": lambda x, _, **out: kernels.log_softmax(x, **out),
        "softmax_backward": lambda x, grad, **out: kernels.softmax_backward(grad, x, **out),
        "layer_norm_backward": of_norm("layer_norm"),
        "rms_norm_backward": of_norm("rms_norm"),
    }


# Rows that begin anywhere in a vector, and rows of whole vectors.
@pytest.mark.parametrize("n", [64, 2051])
def test_rows(n: int, dtype: Any, rng: np.random.Generator) -> None:
    shape = (rows_of(n, dtype), n)
    x, grad, weight = normal(rng, dtype, *shape), normal(rng, dtype, *shape), normal(rng, dtype, n)
    for name, call in row_calls(n, weight).items():
        half = shape[0] // 2
        expected = np.concatenate([call(x[part], grad[part]) for part in np.s_[:half, half:]])
        for threads in thread_counts():
            assert_same_bits(call(x, grad), expected, f"{name}, {threads} threads")
        if "norm_backward" not in name:
            guard = Guarded(shape, dtype)  # begins where the allocator's lines do not
            call(x, grad, out=guard.out)
            assert_same_bits(guard.out, expected, f"{name} into out")
            guard.check()


def test_log_likelihoods(dtype: Any, rng: np.random.Generator) -> None:
    shape = (rows_of(2051, dtype), 2051)
    x, target = normal(rng, dtype, *shape), rng.integers(0, shape[1], shape[0])
    expected = np.zeros(shape, dtype)
    expected[np.arange(shape[0]), target] = -1
    for threads in thread_counts():
        got = kernels.nll_loss_backward(1.0, x, target, reduction="sum")
        assert_same_bits(got, expected, f"{threads} threads")


# Rows and pixels of whole vectors, and of any length.
@pytest.mark.parametrize(("channels", "size"), [(32, 128), (31, 130)])
def test_pools(channels: int, size: int, layout: str, dtype: Any, rng: np.random.Generator) -> None:
    how: Any = {"layout": layout}
    samples = rows_of(channels * size * size, dtype)
    shape = (samples, channels, size, size)
    large, small = ((samples, channels, s, s) for s in (2 * size, size // 2))
    x = arranged(normal(rng, dtype, *large), layout)
    y, grad = (arranged(normal(rng, dtype, *s), layout) for s in (shape, small))
    calls: dict[str, tuple[Call, tuple[Any, ...]]] = {
        "max": (lambda x: kernels.max_pool2d(x, 2, **how), (x,)),
        "avg": (lambda x: kernels.avg_pool2d(x, 2, **how), (x,)),
        "max_backward": (lambda g, y: kernels.max_pool2d_backward(g, y, 2, **how), (grad, y)),
        "avg_backward": (
            lambda g, y: kernels.avg_pool2d_backward(g, y.shape, 2, **how),
            (grad, y),
        ),
    }
    for name, (call, arrays) in calls.items():
        parts = [call(*(a[i : i + 1] for a in arrays)) for i in range(samples)]
        expected = np.concatenate(parts)
        for threads in thread_counts():
            assert_same_bits(call(*arrays), expected, f"{name}, {threads} threads")


# Planes of whole vectors and of any length; the channels of a position likewise.
@pytest.mark.parametrize(("channels", "size"), [(32, 128), (31, 131)])
def test_channels(
    channels: int, size: int, layout: str, dtype: Any, rng: np.random.Generator
) -> None:
    samples = rows_of(channels * size * size, dtype)
    shape = (samples, channels, size, size)
    x, grad = (arranged(normal(rng, dtype, *shape), layout) for _ in range(2))
    w, mean = normal(rng, dtype, channels), normal(rng, dtype, channels)
    var = 1 + mean**2
    groups = 4 if channels == 32 else 31
    fixed: Any = (mean, var, w)
    how: Any = {"layout": layout}

    def group_backward(x: Any, grad: Any) -> Any:
        return kernels.group_norm_backward(grad, x, groups, w, **how)[0]

    def fixed_backward(x: Any, grad: Any) -> Any:
        return kernels.batch_norm_backward(grad, x, *fixed, False, **how)[0]

    calls: dict[str, Call] = {
        "batch_norm": lambda x, _: kernels.batch_norm(x, *fixed, w, False, **how),
        "group_norm": lambda x, _: kernels.group_norm(x, groups, w, w, activation="relu", **how),
        "batch_norm_backward": fixed_backward,
        "group_norm_backward": group_backward,
    }
    for name, call in calls.items():
        expected = np.concatenate([call(x[i : i + 1], grad[i : i + 1]) for i in range(samples)])
        for threads in thread_counts():
            assert_same_bits(call(x, grad), expected, f"{name}, {threads} threads")
