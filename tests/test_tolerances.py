"""The assertions of the other tests fail when they should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tolerances
from memory import LAYOUTS, Guarded, in_layout

EPS = float(np.finfo(np.float32).eps)


def product(rng: np.random.Generator, k: int) -> tuple[Any, Any, Any, Any]:
    """Return a matrix product in float32, float64, its scale, and the first operand."""
    a, b = rng.standard_normal((2, 9, k)).astype(np.float32)
    wide = a.astype(np.float64) @ b.T.astype(np.float64)
    return a @ b.T, wide, np.abs(a.astype(np.float64)) @ np.abs(b.T), a


@pytest.mark.parametrize("k", [1, 17, 600])
def test_a_lost_term_and_a_float16_product_are_found(k: int, rng: np.random.Generator) -> None:
    native, wide, scale, a = product(rng, k)
    tolerances.assert_close_to_reference(native, wide, native, scale=scale)
    tolerances.assert_within(native, wide, tolerances.dot_bound(k, np.float32, scale))
    for wrong in (native + 0.01 * a[:, :1] ** 2, native.astype(np.float16).astype(np.float32)):
        with pytest.raises(AssertionError, match="elements are off"):
            tolerances.assert_close_to_reference(wrong, wide, native, scale=scale)
    lost = native + np.float32(0.05)
    with pytest.raises(AssertionError, match="elements are off"):
        tolerances.assert_within(lost, wide, tolerances.dot_bound(k, np.float32, scale))


def test_the_report_names_place_values_and_circumstances(rng: np.random.Generator) -> None:
    tolerances.CONTEXT["isa"] = "avx2"
    wide = np.ones((3, 4))
    got = wide.astype(np.float32)
    got[1, 2] += 16 * EPS
    with pytest.raises(AssertionError) as caught:
        tolerances.assert_close_to_reference(got, wide, wide.astype(np.float32), label="op")
    text = str(caught.value)
    for word in ("op: 1 of 12", "(1, 2)", "expected  1.0", "(3, 4)", "isa       avx2", "seed"):
        assert word in text
    del rng


def test_special_values_shape_and_dtype_must_match() -> None:
    wide = np.array([1.0, np.nan, np.inf, 1e300])
    with np.errstate(over="ignore"):
        native = wide.astype(np.float32)
    tolerances.assert_close_to_reference(native, wide, native)
    for i, value in enumerate((np.nan, 1.0, -np.inf, 1e30)):
        wrong = native.copy()
        wrong[i] = value
        with pytest.raises(AssertionError, match="NaN or infinity"):
            tolerances.assert_close_to_reference(wrong, wide, native)
    with pytest.raises(AssertionError, match="shape"):
        tolerances.assert_close_to_reference(native[:2], wide, native)
    with pytest.raises(AssertionError, match="dtype"):
        tolerances.assert_close_to_reference(wide, wide, native)


def test_a_wrong_gradient_is_found(rng: np.random.Generator) -> None:
    point = rng.standard_normal(20)
    tolerances.assert_gradient(lambda v: np.sum(v**3), point, 3 * point**2, rng)
    wrong = 3 * point**2
    wrong[7] += 1e-3
    with pytest.raises(AssertionError, match="finite difference"):
        tolerances.assert_gradient(lambda v: np.sum(v**3), point, wrong, rng)


def test_bits_differ_in_the_sign_of_zero() -> None:
    tolerances.assert_same_bits(np.array([0.0, np.nan]), np.array([0.0, np.nan]))
    with pytest.raises(AssertionError, match="differ in bits"):
        tolerances.assert_same_bits(np.array([0.0]), np.array([-0.0]))


@pytest.mark.parametrize("strided", [False, True])
def test_guards_see_every_byte_around_the_array(strided: bool) -> None:
    guard = Guarded((3, 4), np.float32, strided=strided)
    guard.out[...] = 1
    guard.check()
    own = np.zeros(guard._raw.size, dtype=bool)
    start = guard.out.__array_interface__["data"][0] - guard._raw.__array_interface__["data"][0]
    for index in np.ndindex(guard.out.shape):
        at = start + int(np.dot(index, guard.out.strides))
        own[at : at + 4] = True
    for byte in np.flatnonzero(~own):
        guard._raw[byte] ^= 0xFF
        with pytest.raises(AssertionError, match="guard bytes"):
            guard.check()
        guard._raw[byte] ^= 0xFF


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_layouts_keep_values_and_differ_in_memory(name: str) -> None:
    a = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    view = in_layout(name, a)
    np.testing.assert_array_equal(view, a)
    assert view.flags.writeable == (name != "read_only")
    plain = view.flags.c_contiguous and view.flags.aligned
    assert plain == (name in ("contiguous", "read_only"))
