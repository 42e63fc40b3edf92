"""embedding and its backward against the reference, at every ISA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from memory import Guarded, mixed_layouts
from tolerances import assert_gradient, assert_same_bits, assert_within, dot_bound, widen

from .problems import LENGTHS, normal, thread_counts

pytestmark = pytest.mark.usefixtures("isa")


@pytest.mark.parametrize("columns", LENGTHS)
def test_values(dtype: Any, columns: int, rng: np.random.Generator) -> None:
    weight = normal(rng, dtype, 13, columns)
    for shape in ((), (7,), (3, 1, 40), (0,), (2, 0)):
        for kind in (np.int64, np.int32):
            indices = np.asarray(rng.integers(0, 13, shape), kind)
            assert_same_bits(kernels.embedding(indices, weight), weight[indices])
            assert_same_bits(kernels.embedding(indices, weight, -1), weight[indices])
            grad = normal(rng, dtype, *shape, columns)
            for padding in (None, 3, -2):
                got = kernels.embedding_backward(grad, indices, 13, padding)
                expected = reference.embedding_backward(widen(grad), indices, 13, padding)
                size = reference.embedding_backward(np.abs(widen(grad)), indices, 13)
                assert_within(got, expected, dot_bound(max(indices.size, 1), dtype, size))


def test_an_empty_table(dtype: Any) -> None:
    none = np.zeros((0, 3), np.int64)
    assert kernels.embedding(none, np.zeros((0, 5), dtype)).shape == (0, 3, 5)
    assert kernels.embedding_backward(np.zeros((0, 3, 5), dtype), none, 0).shape == (0, 5)
    got = kernels.embedding_backward(np.zeros((0, 3, 5), dtype), none, 4)
    assert_same_bits(got, np.zeros((4, 5), dtype))


def test_only_moves_numbers(dtype: Any) -> None:
    tiny = np.finfo(dtype).smallest_subnormal
    weight = np.array([[np.nan, np.inf, -0.0, tiny, -np.inf]], dtype)
    assert_same_bits(kernels.embedding(np.zeros(3, np.int64), weight), weight.repeat(3, 0))


def test_any_memory(dtype: Any, rng: np.random.Generator) -> None:
    weight, indices = normal(rng, dtype, 9, 19), rng.integers(0, 9, (4, 6))
    grad = normal(rng, dtype, 4, 6, 19)
    y, dw = kernels.embedding(indices, weight), kernels.embedding_backward(grad, indices, 9)
    for memory, (i, w, g) in mixed_layouts(indices, weight, grad):
        assert_same_bits(kernels.embedding(i, w), y, memory)
        assert_same_bits(kernels.embedding_backward(g, i, 9), dw, memory)


@pytest.mark.parametrize("strided", [False, True])
def test_out_is_filled_and_nothing_beside_it(
    dtype: Any, strided: bool, rng: np.random.Generator
) -> None:
    weight, indices = normal(rng, dtype, 9, 19), rng.integers(0, 9, (4, 6))
    guard = Guarded((4, 6, 19), dtype, strided=strided)
    assert kernels.embedding(indices, weight, out=guard.out) is guard.out
    assert_same_bits(guard.out, weight[indices])
    guard.check()
    grad = normal(rng, dtype, 4, 6, 19)
    guard = Guarded((9, 19), dtype, strided=strided)
    assert kernels.embedding_backward(grad, indices, 9, out=guard.out) is guard.out
    assert_same_bits(guard.out, kernels.embedding_backward(grad, indices, 9))
    guard.check()


def test_same_bits_for_every_thread_count(dtype: Any, rng: np.random.Generator) -> None:
    for rows, columns, count in ((50, 700, 900), (30_000, 7, 40_000), (3, 40, 20_000)):
        weight, indices = normal(rng, dtype, rows, columns), rng.integers(0, rows, count)
        grad = normal(rng, dtype, count, columns)
        y = kernels.embedding(indices, weight)
        dw = kernels.embedding_backward(grad, indices, rows)
        for n in thread_counts():
            assert_same_bits(kernels.embedding(indices, weight), y, f"{n} threads")
            again = kernels.embedding_backward(grad, indices, rows)
            assert_same_bits(again, dw, f"{n} threads")


def test_backward_is_the_derivative(rng: np.random.Generator) -> None:
    weight, indices = rng.standard_normal((5, 7)), np.array([[0, 4, 4], [1, 0, 4]])
    grad = rng.standard_normal((2, 3, 7))
    gradient = kernels.embedding_backward(grad, indices, 5)
    assert_gradient(lambda w: np.sum(grad * kernels.embedding(indices, w)), weight, gradient, rng)
