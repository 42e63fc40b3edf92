"""embedding on a device: rows by index, and gradients that are sorted and added in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import kernels, reference
from kernels.problems import normal
from tolerances import assert_same_bits, assert_within, dot_bound, widen

#: (rows, columns, indices): one digit and several, around a pack, a chunk of 32 and a tile of 2048.
PROBLEMS = [
    *((13, 1, 7), (13, 4, 31), (13, 8, 32), (1, 5, 33), (255, 16, 300), (256, 3, 64)),
    *((300, 8, 2047), (300, 17, 2048), (70_000, 3, 2049), (5, 2, 5000), (40, 600, 100)),
    *((4, 0, 9), (7, 5, 0), (0, 5, 0)),
]


@pytest.mark.parametrize("kind", [np.int64, np.int32])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_values(
    problem: tuple[int, int, int], kind: Any, dtype: Any, device: Any, rng: np.random.Generator
) -> None:
    rows, columns, count = problem
    weight, grad = normal(rng, dtype, rows, columns), normal(rng, dtype, count, columns)
    indices = rng.integers(0, max(rows, 1), count).astype(kind)
    there, dgrad = device.put(indices), device.put(grad)
    got = device.get(kernels.embedding(there, device.put(weight)))
    assert_same_bits(got, weight[indices])
    for padding in (None, -1) if rows else (None,):
        got = device.get(kernels.embedding_backward(dgrad, there, rows, padding))
        expected = reference.embedding_backward(widen(grad), indices, rows, padding)
        size = reference.embedding_backward(np.abs(widen(grad)), indices, rows)
        assert_within(got, expected, dot_bound(max(count, 1), dtype, size))


def test_shapes_and_strides(dtype: Any, device: Any, rng: np.random.Generator) -> None:
    weight = normal(rng, dtype, 9, 19)
    for shape in ((), (3, 1, 4), (2, 0)):
        indices = rng.integers(0, 9, shape)
        got = kernels.embedding(device.put(indices), device.put(weight))
        assert_same_bits(device.get(got), weight[indices])
        grad = normal(rng, dtype, *shape, 19)
        got = kernels.embedding_backward(device.put(grad), device.put(indices), 9)
        expected = reference.embedding_backward(widen(grad), indices, 9)
        size = reference.embedding_backward(np.abs(widen(grad)), indices, 9)
        assert_within(device.get(got), expected, dot_bound(12, dtype, size))
    indices = rng.integers(0, 9, (4, 6))
    dweight, dindices = device.put(weight), device.put(indices)
    got = kernels.embedding(dindices[::2, ::-1], dweight[:, 3:])
    assert_same_bits(device.get(got), weight[:, 3:][indices[::2, ::-1]])
    hole = device.put(np.full((4, 6, 30), 7, dtype))
    inside = hole[..., 1:20]
    assert kernels.embedding(dindices, dweight, out=inside) is inside
    expected = np.full((4, 6, 30), 7, dtype)
    expected[..., 1:20] = weight[indices]
    assert_same_bits(device.get(hole), expected)


def test_only_moves_numbers(storage: Any, device: Any) -> None:
    bits = np.array([[1, 2, 0x7C, 0x80] * 8], np.uint8).view(storage)  # NaNs and denormals, too
    got = kernels.embedding(device.put(np.zeros(3, np.int64)), device.put(bits))
    assert_same_bits(device.get(got), bits.repeat(3, 0))


def skewed(rng: np.random.Generator, rows: int, count: int) -> Any:
    """Draw indices as words come: some of them all the time."""
    return np.minimum(rng.zipf(1.3, count) - 1, rows - 1)


def test_same_bits_at_every_schedule(storage: Any, device: Any, rng: np.random.Generator) -> None:
    rows, columns, count = 400, 9, 3000
    indices = skewed(rng, rows, count)
    grad = rng.standard_normal((count, columns)).astype(storage)
    there, dgrad = device.put(indices), device.put(grad)
    first = None
    for schedule in device.schedules():
        got = device.get(kernels.embedding_backward(dgrad, there, rows, 2))
        first = got if first is None else first
        assert_same_bits(got, first, schedule)
    assert first is not None
    wide = grad.astype(np.float64)
    expected = reference.embedding_backward(wide, indices, rows, 2)
    size = reference.embedding_backward(np.abs(wide), indices, rows)
    bound = dot_bound(count, np.float64 if storage == np.float64 else np.float32, size)
    if np.dtype(storage).itemsize == 2:
        bound = bound + np.abs(expected) * 2.0 ** (-11 if storage == np.float16 else -8) * 1.01
        bound = bound + 2.0**-25
    assert_within(first.astype(np.float64), expected, bound)


def test_an_index_outside_the_table(dtype: Any, device: Any, rng: np.random.Generator) -> None:
    """NaN in the lookup and no gradient, as nothing is read back; under debug(True) an error."""
    indices = np.array([1, 5, -1, 4, 2**40])
    weight, grad = normal(rng, dtype, 5, 6), normal(rng, dtype, 5, 6)
    there, dweight, dgrad = device.put(indices), device.put(weight), device.put(grad)
    y = device.get(kernels.embedding(there, dweight))
    assert_same_bits(y[[0, 3]], weight[[1, 4]])
    assert np.isnan(y[[1, 2, 4]]).all()
    expected = np.zeros((5, 6), dtype)
    expected[[1, 4]] = grad[[0, 3]]
    assert_same_bits(device.get(kernels.embedding_backward(dgrad, there, 5)), expected)
    set_debug = ann.cuda.debug if device.name == "cupy" else device.module.set_debug
    set_debug(True)
    try:
        message = r"indices: expected rows in \[0, 5\), got 5"
        with pytest.raises(ValueError, match=rf"\[embedding\] {message}"):
            kernels.embedding(there, dweight)
        with pytest.raises(ValueError, match=rf"\[embedding_backward\] {message}"):
            kernels.embedding_backward(dgrad, there, 5)
    finally:
        set_debug(False)


def test_wrong_calls(device: Any) -> None:
    indices, weight = device.put(np.zeros(3, np.int64)), device.put(np.ones((4, 2), np.float32))
    with pytest.raises(TypeError, match=r"\[embedding\] indices: expected int64 or int32, got flo"):
        kernels.embedding(weight, weight)
    with pytest.raises(TypeError, match=r"\[embedding\] weight: expected an array on the GPU"):
        kernels.embedding(indices, np.ones((4, 2), np.float32))
    with pytest.raises(ValueError, match=r"\[embedding_backward\] grad_out: expected the shape of"):
        kernels.embedding_backward(weight, indices, 4)
