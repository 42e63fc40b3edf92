"""Products of bfloat16 on a CPU that multiplies it: level avx512_bf16.

Products are exact there and sums float32, two products of neighbours along k to a lane, so results
are within the bounds of any order of summation, not the bits of the float32 kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import _core, kernels, reference
from memory import Guarded
from tolerances import assert_same_bits, assert_within, dot_bound, storage_bound, widen

from .bf16 import BF16, LEVEL, numbers
from .problems import absolute, around, check_out, normal, register_tile, thread_counts

pytestmark = pytest.mark.usefixtures("avx512_bf16")

#: Pairs around a vector and around a block of k, and lengths that no pair fills.
DEPTHS = [0, 1, 2, 3, 31, 32, 33, 64, 65, 1023, 1024, 1025, 1026, 2081]


def check_matmul(a: Any, b: Any, got: Any) -> None:
    wide = widen(a) @ widen(b)
    bound = dot_bound(a.shape[-1], np.float32, np.matmul(*absolute(a, b)))
    assert_within(got, wide, bound + storage_bound(np.abs(wide) + bound, BF16), "matmul")


@pytest.mark.parametrize("k", DEPTHS)
def test_depths(k: int, rng: np.random.Generator) -> None:
    for m, n in ((3, 33), (17, 70)):
        a, b = numbers(rng, m, k), numbers(rng, k, n)
        for left in (a, a.T.copy().T):
            for right in (b, b.T.copy().T):
                got = kernels.matmul(left, right)
                assert got.dtype == BF16
                check_matmul(a, b, got)


def test_sizes_around_the_tile(rng: np.random.Generator) -> None:
    rows, columns = register_tile("matmul", LEVEL, BF16)
    for m in (*around(rows), 24 * rows + 1, 500):
        for n in around(columns):
            a, b = numbers(rng, m, 50), numbers(rng, n, 50).T
            check_matmul(a, b, kernels.matmul(a, b))


@pytest.mark.parametrize("k", [37, 64, 1100])
def test_bits_of_teams_batches_and_packed_weights(k: int, rng: np.random.Generator) -> None:
    x, weight, bias = numbers(rng, 400, k), numbers(rng, 150, k), numbers(rng, 150)
    residual = numbers(rng, 400, 150)
    packed = kernels.pack(weight, "linear")
    assert packed.dtype == BF16
    call = {"activation": "gelu", "residual": residual}
    expected = kernels.linear(x, weight, bias, **call)
    for _ in thread_counts():
        assert_same_bits(kernels.linear(x, weight, bias, **call), expected)
        assert_same_bits(kernels.linear(x, packed, bias, **call), expected)
    for rows in (slice(0, 1), slice(7, 22), slice(399, 400)):
        few = {"activation": "gelu", "residual": residual[rows]}
        assert_same_bits(kernels.linear(x[rows], weight, bias, **few), expected[rows])
    far = np.zeros((400, k + 1), BF16)[:, 1:]  # rows that begin between pairs
    far[...] = x
    assert_same_bits(kernels.matmul(far, weight.T), kernels.matmul(x, weight.T))


def test_linear_and_its_gradients(rng: np.random.Generator) -> None:
    x, weight, bias = numbers(rng, 5, 9, 45), numbers(rng, 70, 45), numbers(rng, 70)
    residual, grad = numbers(rng, 5, 9, 70), numbers(rng, 5, 9, 70)
    for activation in (None, "relu", "gelu"):
        got = kernels.linear(x, weight, bias, activation=activation, residual=residual)
        expected = reference.linear(
            *widen(x, weight, bias), activation=activation, residual=widen(residual)
        )
        scale = reference.linear(*absolute(x, weight, bias), residual=absolute(residual)[0])
        bound = 2 * dot_bound(50, np.float32, scale)
        assert_within(got, expected, bound + storage_bound(np.abs(expected) + bound, BF16))
    found = kernels.linear_backward(grad, x, weight)
    wide = reference.linear_backward(*widen(grad, x, weight))
    sizes = reference.linear_backward(*absolute(grad, x, weight))
    for got, expected, scale in zip(found, wide, sizes, strict=True):
        bound = dot_bound(70, np.float32, scale)
        assert got.dtype == BF16
        assert_within(got, expected, bound + storage_bound(np.abs(expected) + bound, BF16))
    with ann.threads(3):
        for got, expected in zip(kernels.linear_backward(grad, x, weight), found, strict=True):
            assert_same_bits(got, expected)


def test_batches_broadcast(rng: np.random.Generator) -> None:
    for a_shape, b_shape in (((2, 1, 4, 5), (3, 5, 6)), ((7,), (3, 7, 2)), ((3, 0, 5), (5, 7))):
        a, b = numbers(rng, *a_shape), numbers(rng, *b_shape)
        expected = widen(a) @ widen(b)
        assert_within(kernels.matmul(a, b), expected, 1e-5 + storage_bound(expected, BF16) * 1.01)


@pytest.mark.parametrize("strided", [False, True])
def test_out(strided: bool, rng: np.random.Generator) -> None:
    x, weight = numbers(rng, 19, 67), numbers(rng, 45, 67)
    check_out(lambda **out: kernels.linear(x, weight, **out), strided)
    wide = numbers(rng, 4, 1200)
    check_out(lambda **out: kernels.matmul(wide, wide.T, **out), strided)


def test_infinity_and_nan_stay_where_they_are(rng: np.random.Generator) -> None:
    x, weight = numbers(rng, 40, 33), numbers(rng, 50, 33)
    clean = kernels.linear(x, weight)
    x[3, 32], x[7, 0] = np.inf, np.nan
    got = kernels.linear(x, weight).astype(np.float32)
    assert np.isnan(got[7]).all()
    assert np.isinf(got[3]).all()
    others = [i for i in range(40) if i not in (3, 7)]
    assert_same_bits(kernels.linear(x, weight)[others], clean[others])


def test_a_packed_weight_outlives_the_level(rng: np.random.Generator) -> None:
    x, weight = numbers(rng, 9, 40), numbers(rng, 30, 40)
    for first, then in ((LEVEL, "avx512"), ("avx512", LEVEL)):
        _core.set_isa(first)
        packed = kernels.pack(weight, "linear")
        kernels.linear(x, packed)
        _core.set_isa(then)
        got = kernels.linear(x, packed).astype(np.float32)
        expected = widen(x) @ widen(weight).T
        np.testing.assert_allclose(got, expected, rtol=2**-8, atol=1e-4)
        _core.set_isa("avx512")
        assert_same_bits(kernels.linear(x, packed), kernels.linear(x, weight))
        _core.set_isa(LEVEL)


def test_float16_is_widened(rng: np.random.Generator) -> None:
    x, weight = normal(rng, np.float16, 9, 40), normal(rng, np.float16, 30, 40)
    got = kernels.linear(x, weight)
    expected = kernels.linear(x.astype(np.float32), weight.astype(np.float32))
    assert_same_bits(got, expected.astype(np.float16))


def test_an_output_of_its_own(rng: np.random.Generator) -> None:
    """Partial tiles and blocks of k write nothing beside the result."""
    a, b = numbers(rng, 15, 1030), numbers(rng, 1030, 33)
    guard = Guarded((15, 33), BF16)
    kernels.matmul(a, b, out=guard.out)
    guard.check()
    check_matmul(a, b, guard.out)
