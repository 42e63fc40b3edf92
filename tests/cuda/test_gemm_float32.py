"""Products of float32 on tensor cores: in two parts, as exact as multiply-adds, and in tf32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import kernels
from tolerances import assert_same_bits, assert_within, dot_bound

#: Fewer of k are left to multiply-adds.
LEAST_DEPTH = 32


@pytest.fixture
def tf32() -> Iterator[None]:
    """Round operands to tf32."""
    ann.set_float32_precision("tf32")
    try:
        yield
    finally:
        ann.set_float32_precision("highest")


def chain(a: Any, b: Any) -> Any:
    """Add the products one after the other by multiply-adds in float32."""
    total = np.zeros((len(a), b.shape[1]), np.float32)
    with np.errstate(all="ignore"):
        for x, y in zip(a.T.astype(np.float64), b.astype(np.float64), strict=True):
            total = (np.multiply.outer(x, y) + total).astype(np.float32)
    return total


def multiply(device: Any, a: Any, b: Any) -> Any:
    return device.get(kernels.matmul(device.put(a), device.put(b)))


class TestTwoParts:
    @pytest.mark.parametrize("k", [LEAST_DEPTH, 33, 64, 250, 1000])
    @pytest.mark.parametrize("positive", [False, True])
    def test_error_is_at_most_that_of_multiply_adds(
        self, k: int, positive: bool, device: Any, rng: np.random.Generator
    ) -> None:
        """By its bound, and on average."""
        a, b = (rng.standard_normal(s).astype(np.float32) for s in ((33, k), (k, 40)))
        if positive:
            a, b = np.abs(a), np.abs(b)
        exact, scale = a.astype(float) @ b, np.abs(a).astype(float) @ np.abs(b)
        got = multiply(device, a, b)
        units = 11 + -(-k // 8)
        assert units <= k
        assert_within(got, exact, units * 2.0**-24 * scale, "bound")
        ours, theirs = (np.abs(v - exact).mean() for v in (got, chain(a, b)))
        if k >= 64:
            assert ours <= theirs

    def test_bits_that_only_small_parts_have(self, device: Any) -> None:
        """1 + 2**-12 and its like: exact where the sum has room for every part."""
        i = np.arange(40, dtype=np.float64)
        a = (1 + i[None, :] * 2.0**-17).astype(np.float32) * np.ones((5, 1), np.float32)
        b = np.zeros((40, 7), np.float32)
        b[3::11] = 2.0
        assert_same_bits(multiply(device, a, b), (a.astype(float) @ b).astype(np.float32))
        assert_same_bits(multiply(device, b.T, a.T), (a.astype(float) @ b).T.astype(np.float32))

    def test_few_products_are_multiply_adds(self, device: Any, rng: np.random.Generator) -> None:
        a, b = (rng.standard_normal(s).astype(np.float32) for s in ((9, 31), (31, 40)))
        assert_same_bits(multiply(device, a, b), chain(a, b))

    @pytest.mark.parametrize(
        ("x", "y"),
        [
            (np.inf, 1.0),  # the small part of 1 is 0
            (-np.inf, 1.1),
            (np.inf, np.inf),
            (np.inf, -3e38),
            (np.inf, 0.0),
            (np.nan, 0.0),
            (np.nan, 2.0),
            (np.finfo("f").max, 0.25),  # its big part is infinite
            (np.finfo("f").max, -0.25),
            (-np.finfo("f").max, 1.5),
            (1.9e38, 4097.3),  # big and small parts overflow with opposite signs
            (3.1e19, 3.3e19),
            (1e-30, 1e-30),
        ],
    )
    def test_what_is_not_finite_is_that_of_multiply_adds(
        self, x: float, y: float, device: Any, rng: np.random.Generator
    ) -> None:
        """In its row and column, and not a bit changes beside them."""
        a, b = (rng.standard_normal(s).astype(np.float32) for s in ((70, 40), (40, 67)))
        a[:, 17], b[17] = 0, 0
        plain = multiply(device, a, b)
        a[5, 17], b[17, 66] = x, y
        b[17, 3] = 1
        got, expected = multiply(device, a, b), chain(a, b)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(expected))
        infinite = np.isinf(expected)
        np.testing.assert_array_equal(got[infinite], expected[infinite])
        kept = np.ones(got.shape, bool)
        kept[:, 66] = np.isfinite(y)  # beside 0 otherwise
        kept[5] = False
        assert_same_bits(got[kept], plain[kept])
        close = np.isfinite(expected)
        np.testing.assert_allclose(got[close], expected[close], rtol=1e-4, atol=1e-4)

    def test_every_nan(self, device: Any, rng: np.random.Generator) -> None:
        """Those too whose bits carry into the sign as they are rounded."""
        a, b = (rng.standard_normal(s).astype(np.float32) for s in ((8, 40), (40, 9)))
        bits = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF800001, 0x7FC00000], np.uint32)
        a[np.arange(5), np.arange(5)] = bits.view(np.float32)
        got = multiply(device, a, b)
        assert np.isnan(got[:5]).all()
        assert np.isfinite(got[5:]).all()

    def test_small_numbers(self, device: Any, rng: np.random.Generator) -> None:
        """Down to 2**-112 the small part keeps its bits; denormals keep their leading ones."""
        a, b = (rng.standard_normal(s).astype(np.float32) for s in ((17, 48), (48, 9)))
        a = (a * np.float32(2.0**-110)).astype(np.float32)
        scale = np.abs(a).astype(float) @ np.abs(b)
        assert_within(multiply(device, a, b), a.astype(float) @ b, 17 * 2.0**-24 * scale, "small")
        a = (a * np.float32(2.0**-20)).astype(np.float32)  # denormal
        scale = np.abs(a).astype(float) @ np.abs(b)
        allowed = 2.0**-10 * scale + 48 * 2.0**-136
        assert_within(multiply(device, a, b), a.astype(float) @ b, allowed, "denormal")


class TestTf32:
    """``ann.set_float32_precision("tf32")``."""

    @staticmethod
    def rounded(x: Any) -> Any:
        """Round to 11 bits, ties away from zero."""
        bits = np.ascontiguousarray(x).view(np.uint32) + np.uint32(0x1000)
        return (bits & np.uint32(0xFFFFE000)).view(np.float32)

    @pytest.mark.usefixtures("tf32")
    @pytest.mark.parametrize(("m", "k", "n"), [(33, 40, 31), (131, 64, 127), (5, 300, 70)])
    def test_products_of_rounded_operands(
        self, m: int, k: int, n: int, device: Any, rng: np.random.Generator
    ) -> None:
        a, b = (rng.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n)))
        ra, rb = self.rounded(a).astype(float), self.rounded(b).astype(float)
        first = multiply(device, a, b)
        bound = dot_bound(k, np.float32, np.abs(ra) @ np.abs(rb))
        assert_within(first, ra @ rb, bound, "tf32")
        assert np.abs(first - a.astype(float) @ b).max() > bound.max()
        turned_a, turned_b = (device.put(np.ascontiguousarray(v.T)).T for v in (a, b))
        for x in (device.put(a), turned_a):
            for y in (device.put(b), turned_b):
                for schedule in device.schedules():
                    assert_same_bits(device.get(kernels.matmul(x, y)), first, schedule)

    @pytest.mark.usefixtures("tf32")
    def test_nan_and_infinity(self, device: Any, rng: np.random.Generator) -> None:
        a, b = (rng.standard_normal(s).astype(np.float32) for s in ((35, 40), (40, 9)))
        a[3, 7], a[4, 8], a[5, 9] = np.inf, -np.inf, np.nan
        a[6, 10] = np.array(0x7FFFFFFF, np.uint32).view(np.float32)
        got = multiply(device, a, b)
        np.testing.assert_array_equal(got[3], np.inf * np.sign(b[7]))
        np.testing.assert_array_equal(got[4], -np.inf * np.sign(b[8]))
        assert np.isnan(got[5:7]).all()
        assert np.isfinite(np.delete(got, [3, 4, 5, 6], 0)).all()

    def test_it_is_for_many_products_of_float32(
        self, device: Any, rng: np.random.Generator
    ) -> None:
        """Not for few products, nor for float64; and it can be turned off again."""
        for dtype, k, same in ((np.float32, 31, True), (np.float32, 32, False), (float, 64, True)):
            a, b = (rng.standard_normal(s).astype(dtype) for s in ((9, k), (k, 8)))
            before = multiply(device, a, b)
            ann.set_float32_precision("tf32")
            try:
                got = multiply(device, a, b)
            finally:
                ann.set_float32_precision("highest")
            assert (got.tobytes() == before.tobytes()) == same
            assert_same_bits(multiply(device, a, b), before)
