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


def winograd(x: Any, weight: Any, dtype: Any, g: Any = tolerances.WINOGRAD_G) -> Any:
    """Convolve one 6x6 tile (c, 6, 6) by the transforms, every matrix product in `dtype`."""
    b, g, a = (m.astype(dtype) for m in (tolerances.WINOGRAD_B, g, tolerances.WINOGRAD_A))
    v, u = b @ x.astype(dtype) @ b.T, g @ weight.astype(dtype) @ g.T
    return a @ np.sum(u * v, axis=1, dtype=dtype) @ a.T


@pytest.mark.parametrize("channels", [1, 16, 100])
def test_a_convolution_by_tiles_and_a_wrong_one(channels: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, channels, 6, 6)).astype(np.float32)
    weight = rng.standard_normal((3, channels, 3, 3)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(x[0].astype(np.float64), (3, 3), (1, 2))
    wide = np.einsum("chwij,ocij->ohw", windows, weight.astype(np.float64))
    # The matrices are those of a convolution.
    np.testing.assert_allclose(winograd(x, weight, np.float64), wide, rtol=1e-12, atol=1e-12)
    scale = tolerances.winograd_scale(x, weight)[0]
    assert np.all(scale >= np.einsum("chwij,ocij->ohw", np.abs(windows), np.abs(weight)))
    bound = tolerances.winograd_bound(channels, np.float32, scale)
    native = winograd(x, weight, np.float32)
    tolerances.assert_within(native, wide, bound)
    tenth = tolerances.WINOGRAD_G.copy()
    tenth[3, 1] = 0.1  # for a twelfth
    lost = wide - x[0, 0, 1:5, 1:5] * weight[0, 0, 1, 1]  # a tap of a channel
    for wrong in (winograd(x, weight, np.float32, tenth), lost.astype(np.float32)):
        with pytest.raises(AssertionError, match="elements are off"):
            tolerances.assert_within(wrong, wide, bound)


def test_the_magnitudes_of_the_gradient_by_weight(rng: np.random.Generator) -> None:
    """Of one tile they are the sums of the transposed transforms; tiles add up."""
    x, grad = rng.standard_normal((2, 3, 9, 8)), rng.standard_normal((2, 4, 7, 6))
    windows = np.lib.stride_tricks.sliding_window_view(np.abs(x), (7, 6), (2, 3))
    direct = np.einsum("ncijhw,nohw->ocij", windows, np.abs(grad))
    scale = tolerances.winograd_weight_scale(x, grad)
    assert scale.shape == direct.shape
    assert np.all(scale >= direct)
    tiles = [
        (x[i : i + 1, :, 4 * r : 4 * r + 6, 4 * c : 4 * c + 6], grad[i : i + 1, :, rows, columns])
        for i, r, c in np.ndindex(2, 2, 2)
        for rows, columns in [(slice(4 * r, 4 * r + 4), slice(4 * c, 4 * c + 4))]
    ]
    parts = [tolerances.winograd_weight_scale(a, b) for a, b in tiles]
    np.testing.assert_allclose(np.sum(parts, axis=0), scale, rtol=1e-12)


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
