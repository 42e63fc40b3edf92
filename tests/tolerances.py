"""Error bounds that tests derive instead of choosing.

A kernel is held against the reference computed in a wider dtype (:func:`oracle_dtype`). The bounds
are per element and in units of a `scale` that says how large the numbers behind that element were:

* :func:`dot_bound`: what the theory of rounding allows any order of summation;
* :func:`winograd_bound`: the same for a convolution by tiles, whose transforms round as well;
* :func:`assert_close_to_reference`: at most twice the worst error of plain NumPy in the same dtype
  on the same input, plus a floor of a few eps for the case that NumPy happens to be exact.

Arrays of 16 bits are computed in float32 and rounded once, as they are stored: their bounds are
those of float32 (:func:`native` gives NumPy the same numbers) and half a unit of the storage dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, DTypeLike, NDArray

#: What the fixtures know about the running test; printed with every failure.
CONTEXT: dict[str, object] = {}


def is_floating(dtype: DTypeLike) -> bool:
    """Whether these are numbers that round; bfloat16 is no dtype of NumPy's own."""
    dtype = np.dtype(dtype)
    return np.issubdtype(dtype, np.floating) or dtype.name == "bfloat16"


def compute_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype that kernels compute in: float32 for storage of 16 bits."""
    return np.dtype(np.float32) if np.dtype(dtype).itemsize == 2 else np.dtype(dtype)


def oracle_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype to compute the truth in: float64 for float32, long double for float64."""
    return np.dtype(np.float64 if compute_dtype(dtype) == np.float32 else np.longdouble)


def _in_dtype(arrays: tuple[Any, ...], choose: Callable[[Any], np.dtype[Any]]) -> Any:
    """Copy floating arrays to another dtype; everything else passes through."""
    changed = [
        a.astype(choose(a.dtype)) if isinstance(a, np.ndarray) and is_floating(a.dtype) else a
        for a in arrays
    ]
    return changed[0] if len(changed) == 1 else tuple(changed)


def widen(*arrays: Any) -> Any:
    """Copy floating arrays to the dtype of the oracle; everything else passes through."""
    return _in_dtype(arrays, oracle_dtype)


def native(*arrays: Any) -> Any:
    """Copy floating arrays to the dtype that kernels compute in, for plain NumPy to do the same."""
    return _in_dtype(arrays, compute_dtype)


def finfo(dtype: DTypeLike) -> Any:
    """``np.finfo``, also of bfloat16."""
    if np.dtype(dtype).name == "bfloat16":
        return pytest.importorskip("ml_dtypes").finfo("bfloat16")
    return np.finfo(np.dtype(dtype))


def storage_bound(ref: ArrayLike, dtype: DTypeLike) -> NDArray[Any]:
    """Bound the rounding to a storage dtype of 16 bits; 0 for others, which are not rounded."""
    size = np.abs(np.asarray(ref))
    if np.dtype(dtype).itemsize != 2:
        return np.zeros_like(size)
    info = finfo(dtype)
    size = np.where(np.isfinite(size), size, 0)
    return np.asarray(float(info.eps) / 2 * size + float(info.smallest_subnormal) / 2)


def dot_bound(k: int, dtype: DTypeLike, scale: ArrayLike) -> NDArray[Any]:
    """Bound the error of a dot product of length k, whatever the order of summation.

    ``gamma_k * |a| . |b|`` with ``gamma_k = k u / (1 - k u)`` and ``u = eps / 2`` (Higham, Accuracy
    and Stability of Numerical Algorithms, section 3.1), with two more roundings for a bias and a
    residual, and one smallest normal number per term because kernels flush denormals.

    Parameters
    ----------
    k : int
        Length of the sum.
    dtype : dtype of the computation
    scale : array
        ``|a| . |b|`` (plus ``|bias| + |residual|``), per element of the result.
    """
    info = np.finfo(np.dtype(dtype))
    ku = (k + 2) * float(info.eps) / 2
    if ku >= 0.5:
        raise ValueError(f"no useful bound for a sum of {k} terms in {np.dtype(dtype)}")
    return np.asarray(ku / (1 - ku) * np.asarray(scale) + (k + 1) * float(info.tiny))


# Winograd's F(4x4, 3x3) at the points 0, 1, -1, 2, -2 and infinity (Lavin and Gray, Fast Algorithms
# for Convolutional Neural Networks, 2015): y = A' [sum_c (G g G') * (B' d B)] A of a 6x6 tile d.
WINOGRAD_B = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=np.float64,
)
WINOGRAD_G = (
    np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24.0
)
WINOGRAD_A = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    dtype=np.float64,
)


def _tiles(a: NDArray[Any], size: int, rows: int, columns: int) -> NDArray[Any]:
    """View planes (n, c, h, w) as (n, c, rows, columns, size, size) tiles 4 apart, zeros beyond."""
    height, width = 4 * rows - 4 + size, 4 * columns - 4 + size
    more = ((0, 0), (0, 0), (0, height - a.shape[2]), (0, width - a.shape[3]))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(a, more), (size, size), axis=(2, 3))
    return windows[:, :, ::4, ::4]


def winograd_scale(x: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    """Return ``|A'| [sum_c |G||g||G'| * |B'||d||B|] |A|``, tile by tile.

    Parameters
    ----------
    x : array (n, c, h, w)
        With its border: the result is (n, o, h - 2, w - 2), at least one pixel.
    weight : array (o, c, 3, 3), correlated with x
    """
    height, width = x.shape[2] - 2, x.shape[3] - 2
    rows, columns = -(-height // 4), -(-width // 4)
    b, g, a = np.abs(WINOGRAD_B), np.abs(WINOGRAD_G), np.abs(WINOGRAD_A)
    v = b @ _tiles(np.abs(x).astype(np.float64), 6, rows, columns) @ b.T
    u = g @ np.abs(weight).astype(np.float64) @ g.T
    # Point by point a product of (o, c) and (c, n * rows * columns).
    points = np.moveaxis(v, (4, 5, 1), (0, 1, 2))
    count = len(x) * rows * columns
    m = np.moveaxis(u, (2, 3), (0, 1)) @ points.reshape(6, 6, x.shape[1], count)
    m = np.moveaxis(m.reshape(6, 6, len(weight), len(x), rows, columns), (0, 1, 2), (4, 5, 1))
    y = np.moveaxis(a @ m @ a.T, 4, 3)  # (n, o, rows, 4, columns, 4)
    return y.reshape(*y.shape[:2], 4 * rows, 4 * columns)[:, :, :height, :width]


def winograd_weight_scale(x: NDArray[Any], grad: NDArray[Any]) -> NDArray[Any]:
    """Return ``|G'| [sum_tiles |B'||d||B| * |A'|'|y||A'|] |G|``, that of the gradient by weight.

    Parameters
    ----------
    x : array (n, c, h, w), with its border
    grad : array (n, o, h - 2, w - 2)
    """
    rows, columns = -(-grad.shape[2] // 4), -(-grad.shape[3] // 4)
    b, g, a = np.abs(WINOGRAD_B), np.abs(WINOGRAD_G), np.abs(WINOGRAD_A)
    v = b @ _tiles(np.abs(x).astype(np.float64), 6, rows, columns) @ b.T
    u = a.T @ _tiles(np.abs(grad).astype(np.float64), 4, rows, columns) @ a
    return np.asarray(g.T @ np.einsum("nohwij,nchwij->ocij", u, v, optimize=True) @ g)


def winograd_bound(k: int, dtype: DTypeLike, scale: ArrayLike) -> NDArray[Any]:
    """Bound the error of a convolution by F(4x4, 3x3), or of its gradient by weight.

    Every matrix is applied without cancellation between the coefficients of one operand, so the
    error is at most ``gamma_r`` times the magnitudes (:func:`winograd_scale`), where r counts the
    roundings between an operand and the result. With products and sums rounded apart, as at
    `generic`, a coefficient that is no power of two rounded as well, and each matrix twice:

    * B: ``4 d0 - 5 d2 + d4`` is a product and two sums, 3; twice 6;
    * G: ``-(g0 + g2) / 6`` is a sum, a constant and a product, one more sum 4; twice 8;
    * a sum over k channels of products, in any order: k;
    * A: ``m0 + (m1 + m2) + (m3 + m4)`` is three sums, 3; twice 6;
    * bias and residual: 2, which :func:`dot_bound` adds.

    The gradient by weight has B (6), sums of up to four pixels with powers of two (3; 6), k tiles,
    and G transposed: a sum, a constant, a product and up to two more sums (5; 10).

    Parameters
    ----------
    k : int
        Channels; tiles for the gradient by weight.
    dtype : dtype of the computation
    scale : array
        :func:`winograd_scale` or :func:`winograd_weight_scale` (plus ``|bias| + |residual|``).
    """
    return dot_bound(k + 20, dtype, scale)


def _describe(label: str, index: tuple[int, ...], rows: dict[str, object]) -> str:
    lines = [f"{label}: worst at index {index}"]
    lines += [f"  {name:<9} {value}" for name, value in {**rows, **CONTEXT}.items()]
    return "\n".join(lines)


def _assert_same_shape_and_specials(
    got: NDArray[Any], expected: NDArray[Any], label: str
) -> NDArray[np.bool_]:
    """Check shape and every NaN and infinity; return where both are finite."""
    assert got.shape == expected.shape, f"{label}: shape {got.shape}, expected {expected.shape}"
    with np.errstate(over="ignore"):
        rounded = expected.astype(got.dtype)
    finite = np.isfinite(rounded)
    wrong = ~finite & ~((got == rounded) | (np.isnan(got) & np.isnan(rounded)))
    wrong |= finite & ~np.isfinite(got)
    if np.any(wrong):
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            _describe(
                f"{label}: NaN or infinity differs in {int(wrong.sum())} places",
                index,
                {"expected": expected[index], "actual": got[index], "shape": got.shape},
            )
        )
    return np.asarray(finite)


def assert_within(
    got: NDArray[Any], expected: NDArray[Any], allowed: ArrayLike, label: str = "result"
) -> None:
    """Assert ``|got - expected| <= allowed`` element by element; NaN and infinities must match."""
    finite = _assert_same_shape_and_specials(got, expected, label)
    if got.size == 0:
        return
    wide = np.result_type(expected.dtype, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.where(finite, np.abs(got.astype(wide) - expected.astype(wide)), 0)
    limit = np.broadcast_to(np.asarray(allowed, dtype=wide), got.shape)
    excess = np.where(error > 0, error / np.maximum(limit, np.finfo(np.float64).tiny), 0)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(excess)), got.shape))
    if not excess[index] <= 1:
        raise AssertionError(
            _describe(
                f"{label}: {int((excess > 1).sum())} of {got.size} elements are off",
                index,
                {
                    "expected": expected[index],
                    "actual": got[index],
                    "error": float(error[index]),
                    "allowed": float(limit[index]),
                    "shape": got.shape,
                    "dtype": got.dtype,
                },
            )
        )


def assert_close_to_reference(
    got: Any,
    ref: Any,
    native: Any,
    *,
    scale: ArrayLike | None = None,
    floor: float = 4.0,
    label: str = "result",
) -> None:
    """Assert that the error is at most twice NumPy's plus ``floor * eps * scale``.

    Errors are measured per element in units of `scale`; "NumPy's" is the worst of the array.

    Parameters
    ----------
    got : array from the kernel
    ref : array from the reference in the oracle's dtype
    native : array from the reference in the dtype that `got` was computed in
    scale : array broadcastable to got, optional
        The magnitude that rounding errors are relative to; ``|ref|`` when not given.
    floor : float
        In eps of the dtype of `native`.
    """
    got, ref, native = np.asarray(got), np.asarray(ref), np.asarray(native)
    expected = compute_dtype(got.dtype)
    assert native.dtype == expected, f"{label}: dtype {native.dtype} for {got.dtype}"
    if got.shape != ref.shape or got.size == 0:
        _assert_same_shape_and_specials(got, ref, label)
        return
    info = np.finfo(native.dtype)
    unit = np.abs(ref) if scale is None else np.broadcast_to(np.abs(np.asarray(scale)), ref.shape)
    unit = np.where(np.isfinite(unit), unit, 0)
    with np.errstate(all="ignore"):
        relative = np.abs(native.astype(ref.dtype) - ref) / unit
    # Below the normal range NumPy's relative error says nothing about ours: that is flushed.
    usable = np.isfinite(relative) & (np.abs(ref) > float(info.tiny)) & np.isfinite(native)
    numpy_error = float(relative[usable].max()) if np.any(usable) else 0.0
    allowed = (2 * numpy_error + floor * float(info.eps)) * unit + 4 * float(info.tiny)
    # What is rounded once more is the number that was computed.
    allowed = allowed + storage_bound(np.abs(ref) + allowed, got.dtype)
    assert_within(got, ref, allowed, label)


def assert_same_bits(got: Any, expected: Any, label: str = "result") -> None:
    """Assert equality of shape, dtype and every bit, the sign of zero and NaN payloads included."""
    got, expected = np.ascontiguousarray(got), np.ascontiguousarray(expected)
    assert got.dtype == expected.dtype, f"{label}: dtype {got.dtype}, expected {expected.dtype}"
    assert got.shape == expected.shape, f"{label}: shape {got.shape}, expected {expected.shape}"
    if got.tobytes() == expected.tobytes():
        return
    unsigned = np.dtype(f"u{got.dtype.itemsize}")
    differs = got.reshape(-1).view(unsigned) != expected.reshape(-1).view(unsigned)
    flat = int(np.argmax(differs))
    index = tuple(int(i) for i in np.unravel_index(flat, got.shape))
    raise AssertionError(
        _describe(
            f"{label}: {int(differs.sum())} of {got.size} elements differ in bits",
            index,
            {"expected": expected[index], "actual": got[index], "shape": got.shape},
        )
    )


def directional_derivative(
    function: Any, point: NDArray[Any], direction: NDArray[Any], step: float = 1e-5
) -> float:
    """Central difference of a scalar function along `direction`, error O(step**2)."""
    ahead, behind = function(point + step * direction), function(point - step * direction)
    return float((ahead - behind) / (2 * step))


def assert_gradient(
    function: Any,
    point: NDArray[Any],
    gradient: NDArray[Any],
    rng: np.random.Generator,
    *,
    rtol: float = 1e-6,
    step: float = 1e-5,
    label: str = "gradient",
) -> None:
    """Hold a float64 gradient against directional finite differences of `function`.

    Three random directions of unit length. With a step of 1e-5 truncation is ~1e-10 of the third
    derivative and rounding ~1e-11 of the value, so that rtol 1e-6 of the gradient's norm detects
    any wrong term.
    """
    assert point.dtype == np.float64, "finite differences want float64"
    assert gradient.shape == point.shape, f"{label}: {gradient.shape}, expected {point.shape}"
    if point.size == 0:
        return
    for _ in range(3):
        direction = rng.standard_normal(point.shape)
        direction /= np.linalg.norm(direction)
        expected = directional_derivative(function, point, direction, step)
        actual = float(np.sum(gradient * direction))
        allowed = rtol * max(1.0, float(np.linalg.norm(gradient)))
        if not abs(actual - expected) <= allowed:
            raise AssertionError(
                _describe(
                    f"{label} differs from the finite difference",
                    (),
                    {"expected": expected, "actual": actual, "allowed": allowed},
                )
            )
