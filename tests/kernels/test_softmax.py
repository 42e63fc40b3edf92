"""softmax, log_softmax and cross_entropy against the reference, at every ISA."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from memory import Guarded, mixed_layouts
from softmax_checks import LOGITS, check, check_cross_entropy
from tolerances import assert_gradient, assert_same_bits, widen

from .problems import LENGTHS, normal, thread_counts

pytestmark = pytest.mark.usefixtures("isa")


@pytest.mark.parametrize("classes", [*LENGTHS, 4097])
def test_rows_around_the_vector_width(dtype: Any, classes: int, rng: np.random.Generator) -> None:
    for spread in (1.0, 30.0):
        x, grad = (spread * normal(rng, dtype, 5, classes) for _ in range(2))
        check(kernels, x, grad, -1)


# More than 256 KiB, which stays in cache: blocks of 4,096, the last one short.
LONG = 17 * 4096 + 37


def test_long_rows(dtype: Any, rng: np.random.Generator) -> None:
    for rows, columns in ((1, LONG), (3, LONG), (2, LONG // 2)):
        x, grad = (9 * normal(rng, dtype, rows, columns) for _ in range(2))
        check(kernels, x, grad, -1)
        target = rng.integers(0, columns, rows)
        loss = kernels.cross_entropy(x, target, reduction="none")
        p = -reference.log_softmax(widen(x))[np.arange(rows), target]
        np.testing.assert_allclose(loss, p, rtol=64 * np.finfo(dtype).eps)
        one = np.ones(rows, dtype)
        got = kernels.cross_entropy_backward(one, x, target, reduction="none")
        np.put_along_axis(got, target[:, None], got[np.arange(rows), target][:, None] + 1, 1)
        expected = reference.softmax(widen(x))
        np.testing.assert_allclose(got, expected, rtol=128 * np.finfo(dtype).eps, atol=1e-7)

        x[:, 4096:8192] = -np.inf
        for name in ("softmax", "log_softmax"):
            got = getattr(kernels, name)(x)
            expected = getattr(reference, name)(widen(x))
            np.testing.assert_allclose(got, expected, rtol=128 * np.finfo(dtype).eps)
            for n in thread_counts():
                assert_same_bits(getattr(kernels, name)(x), got, f"{name}, {n} threads")


@pytest.mark.parametrize("axis", [0, 1, 2, -3])
@pytest.mark.parametrize("shape", [(3, 5, 7), (17, 1, 33), (2, 16, 15), (1, 1, 1), (70, 2, 3)])
def test_any_axis(dtype: Any, shape: tuple[int, ...], axis: int, rng: np.random.Generator) -> None:
    check(kernels, normal(rng, dtype, *shape), normal(rng, dtype, *shape), axis)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_nothing_in_nothing_out(dtype: Any, shape: tuple[int, ...]) -> None:
    x = np.zeros(shape, dtype)
    for axis in range(len(shape)):
        for name in ("softmax", "log_softmax"):
            assert getattr(kernels, name)(x, axis).shape == shape
            assert getattr(kernels, f"{name}_backward")(x, x, axis).shape == shape


def test_large_logits(dtype: Any, rng: np.random.Generator) -> None:
    big = float(np.finfo(dtype).max) / 4
    for offset in (0.0, 1e4, -1e4, big):
        x = normal(rng, dtype, 4, 37) + dtype.type(offset)
        check(kernels, x, normal(rng, dtype, 4, 37), -1)
    x = np.array([[big, -big, 0], [-big, -big, -big]], dtype)
    np.testing.assert_allclose(kernels.softmax(x), [[1, 0, 0], [1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(kernels.softmax(x * 3.9 / 2), [[1, 0, 0], [1 / 3] * 3], rtol=1e-6)


def test_infinities_and_nan(dtype: Any) -> None:
    inf, nan = np.inf, np.nan
    for width in (1, 5, 40):
        rows = np.zeros((6, 4, width), dtype)
        rows[0, 1] = -inf
        rows[1, :3] = -inf
        rows[2] = -inf
        rows[3, 2] = inf
        rows[4, 0] = nan
        rows[5, 0], rows[5, 1] = -inf, nan
        for x in (np.ascontiguousarray(np.swapaxes(rows, 1, 2)), rows):
            axis = -1 if x is not rows else 1
            for name in ("softmax", "log_softmax"):
                got = getattr(kernels, name)(x, axis)
                expected = getattr(reference, name)(x, axis)
                np.testing.assert_allclose(got, expected, rtol=1e-6, err_msg=name)


def test_probabilities_sum_to_one(dtype: Any, rng: np.random.Generator) -> None:
    y = kernels.softmax(5 * normal(rng, dtype, 200, 1009))
    assert (y >= 0).all()
    np.testing.assert_allclose(widen(y).sum(axis=-1), 1, rtol=20 * np.finfo(dtype).eps)


def test_any_memory(dtype: Any, rng: np.random.Generator) -> None:
    x, grad = normal(rng, dtype, 6, 5, 19), normal(rng, dtype, 6, 5, 19)
    for name, axis in itertools.product(("softmax", "log_softmax"), (0, 1, 2)):
        forward, backward = getattr(kernels, name), getattr(kernels, f"{name}_backward")
        y = forward(x, axis)
        dx = backward(grad, y, axis)
        for memory, (a, g, b) in mixed_layouts(x, grad, y):
            assert_same_bits(forward(a, axis), y, memory)
            assert_same_bits(backward(g, b, axis), dx, memory)


@pytest.mark.parametrize("strided", [False, True])
def test_out_is_filled_and_nothing_beside_it(
    dtype: Any, strided: bool, rng: np.random.Generator
) -> None:
    for shape, axis in (((3, 17), -1), ((17, 5), 0), ((2, 9, 16), 1), ((1, 1), 0)):
        x, grad = normal(rng, dtype, *shape), normal(rng, dtype, *shape)
        for name in ("softmax", "log_softmax"):
            forward, backward = getattr(kernels, name), getattr(kernels, f"{name}_backward")
            guard = Guarded(shape, dtype, strided=strided)
            assert forward(x, axis, out=guard.out) is guard.out
            y = forward(x, axis)
            assert_same_bits(guard.out, y)
            guard.check()
            assert backward(grad, y, axis, out=guard.out) is guard.out
            assert_same_bits(guard.out, backward(grad, y, axis))
            guard.check()


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [0, -1])
def test_backward_is_the_derivative(name: str, axis: int, rng: np.random.Generator) -> None:
    forward, backward = getattr(kernels, name), getattr(kernels, f"{name}_backward")
    x, grad = rng.standard_normal((2, 6, 19))
    gradient = backward(grad, forward(x, axis), axis)
    assert_gradient(lambda v: np.sum(grad * forward(v, axis)), x, gradient, rng)


def test_same_bits_for_every_thread_count_and_batch(dtype: Any, rng: np.random.Generator) -> None:
    for shape, axis in (((500, 333), -1), ((333, 500), 0), ((40, 10, 400), 1), ((2, 70_001), -1)):
        x, grad = normal(rng, dtype, *shape), normal(rng, dtype, *shape)
        for name in ("softmax", "log_softmax"):
            forward, backward = getattr(kernels, name), getattr(kernels, f"{name}_backward")
            y = forward(x, axis)
            dx = backward(grad, y, axis)
            for n in thread_counts():
                assert_same_bits(forward(x, axis), y, f"{name}, {n} threads")
                assert_same_bits(backward(grad, y, axis), dx, f"{name}_backward, {n} threads")
            if axis != 0:
                assert_same_bits(forward(x[1:2], axis), y[1:2], f"{name} of one row")


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("shape", LOGITS, ids=str)
def test_cross_entropy(
    dtype: Any, shape: tuple[int, ...], reduction: str, rng: np.random.Generator
) -> None:
    check_cross_entropy(kernels, dtype, shape, reduction, rng)


def test_cross_entropy_extremes(dtype: Any) -> None:
    inf = np.inf
    logits = np.array([[0, -inf, 0], [1e4, -1e4, 0], [3e4, 3e4, 3e4]], dtype)
    for target in ([0, 0, 2], [2, 1, 1], [1, 2, 0]):
        indices = np.array(target)
        for reduction in ("none", "sum", "mean"):
            got = kernels.cross_entropy(logits, indices, reduction=reduction)
            expected = reference.cross_entropy(logits, indices, reduction=reduction)
            np.testing.assert_allclose(got, expected, rtol=1e-6)
    got = kernels.cross_entropy_backward(np.ones((), dtype), logits, np.array([0, 0, 2]))
    expected = reference.cross_entropy_backward(1.0, logits, np.array([0, 0, 2]))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


def test_cross_entropy_of_nothing(dtype: Any) -> None:
    logits, target = np.zeros((0, 3), dtype), np.zeros(0, np.int64)
    assert kernels.cross_entropy(logits, target, reduction="none").shape == (0,)
    assert kernels.cross_entropy(logits, target, reduction="sum") == 0
    assert np.isnan(kernels.cross_entropy(logits, target))
    one = np.ones((), dtype)
    assert kernels.cross_entropy_backward(one, logits, target).shape == (0, 3)
    ignored = np.full(4, -100)
    logits = np.ones((4, 3), dtype)
    assert np.isnan(kernels.cross_entropy(logits, ignored))
    assert kernels.cross_entropy(logits, ignored, reduction="sum") == 0
    for reduction in ("sum", "mean"):
        got = kernels.cross_entropy_backward(one, logits, ignored, reduction=reduction)
        np.testing.assert_array_equal(got, np.zeros_like(logits))


def test_cross_entropy_any_memory_and_threads(dtype: Any, rng: np.random.Generator) -> None:
    logits, target = normal(rng, dtype, 400, 30, 6), rng.integers(0, 30, (400, 6))
    soft, weight = reference.softmax(logits[::-1], 1), rng.random(30).astype(dtype)
    grad = np.array(0.7, dtype)
    for t in (target, soft):
        loss = kernels.cross_entropy(logits, t, weight=weight)
        terms = kernels.cross_entropy(logits, t, weight=weight, reduction="none")
        dx = kernels.cross_entropy_backward(grad, logits, t, weight=weight)
        for n in thread_counts():
            again = kernels.cross_entropy(logits, t, weight=weight)
            assert_same_bits(again, loss, f"{n} threads")
            again = kernels.cross_entropy_backward(grad, logits, t, weight=weight)
            assert_same_bits(again, dx, f"{n} threads")
        for memory, (a, b, w) in mixed_layouts(logits, t, weight):
            assert_same_bits(kernels.cross_entropy(a, b, weight=w), loss, memory)
            again = kernels.cross_entropy(a, b, weight=w, reduction="none")
            assert_same_bits(again, terms, memory)
            assert_same_bits(kernels.cross_entropy_backward(grad, a, b, weight=w), dx, memory)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_cross_entropy_backward_is_the_derivative(reduction: str, rng: np.random.Generator) -> None:
    logits = rng.standard_normal((4, 6, 3))
    for target in (rng.integers(0, 6, (4, 3)), reference.softmax(logits[::-1], 1)):
        options: dict[str, Any] = {
            "weight": rng.random(6),
            "label_smoothing": 0.2,
            "reduction": reduction,
        }
        loss = kernels.cross_entropy(logits, target, **options)
        grad = np.asarray(rng.standard_normal(loss.shape))
        gradient = kernels.cross_entropy_backward(grad, logits, target, **options)

        def total(v: Any, grad: Any = grad, target: Any = target, options: Any = options) -> Any:
            return np.sum(grad * kernels.cross_entropy(v, target, **options))

        assert_gradient(total, logits, gradient, rng)
