"""The 16-bit loads and stores of csrc/simd/storage.hpp: exact, and rounded to nearest even."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import _core
from halves import assert_same_numbers, rounded

pytestmark = pytest.mark.usefixtures("isa")


def convert(x: Any, to: Any, flush: bool) -> Any:
    return _core.elementwise_convert(x, np.empty(x.shape, to), flush)


def every_value(half: Any) -> Any:
    return np.arange(1 << 16, dtype=np.uint16).view(half)


@pytest.mark.parametrize("flush", [False, True])
def test_every_value_is_widened(half: Any, flush: bool) -> None:
    x = every_value(half)
    wide = convert(x, np.float32, flush)
    with np.errstate(invalid="ignore"):
        expected = x.astype(np.float32)
    assert_same_numbers(wide, expected)
    np.testing.assert_array_equal(np.signbit(wide), x.view(np.uint16) >> 15)
    assert_same_numbers(convert(wide, half, flush), x)  # and back


@pytest.mark.parametrize("flush", [False, True])
def test_rounding_is_to_nearest_even(half: Any, flush: bool) -> None:
    """Between every two neighbours: just below the tie, the tie, and just above it."""
    with np.errstate(invalid="ignore"):
        low = every_value(half).astype(np.float32)
    high = np.roll(low, -1)
    finite = np.isfinite(low) & np.isfinite(high) & (np.signbit(low) == np.signbit(high))
    tie = ((low[finite].astype(np.float64) + high[finite]) / 2).astype(np.float32)
    assert tie.size > 60000
    bits = tie.view(np.int32)
    for step in (-1, 0, 1):
        x = (bits + step).view(np.float32)
        assert_same_numbers(convert(x, half, flush), rounded(x, half), str(step))


@pytest.mark.parametrize("flush", [False, True])
def test_every_float32_exponent_is_rounded(
    half: Any, flush: bool, rng: np.random.Generator
) -> None:
    x = rng.integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    edges = np.arange(0, 1 << 32, 1 << 12, dtype=np.uint64).astype(np.uint32)
    for values in (x, edges, edges + 1, edges - 1):
        wide = values.astype(np.uint32).view(np.float32)
        got = convert(wide, half, flush)
        assert_same_numbers(got, rounded(wide, half))
        np.testing.assert_array_equal(got.view(np.uint16) >> 15, values >> 31)


def test_lengths_touch_nothing_else(half: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal(80).astype(half)
    wide = x.astype(np.float32)
    for n in range(71):
        for start in (0, 1, 7):
            for source, to in ((x, np.float32), (wide, half)):
                room = np.full(90, 7, to)
                _core.elementwise_convert(source[start : start + n], room[5 : 5 + n], False)
                expected = np.full(90, 7, to)
                expected[5 : 5 + n] = source[start : start + n].astype(to)
                assert_same_numbers(room, expected)
