"""Rotary embedding in plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._common import FloatArray, quiet, store


def _angles(
    x: FloatArray, table: FloatArray, positions: NDArray[Any] | int | None, layout: str
) -> FloatArray:
    """Return the rows of a table that the vectors of `x` take, broadcast over the heads."""
    if layout not in ("bhld", "blhd"):
        raise ValueError(f"layout: expected 'bhld' or 'blhd', got {layout!r}")
    length = x.shape[-2 if layout == "bhld" else -3]
    if table.ndim == 2:
        if positions is None or isinstance(positions, int | np.integer):
            positions = (positions or 0) + np.arange(length)
        table = table[positions]
    # (B, L, R/2) or (L, R/2); one sample has no batch.
    if x.ndim == 3 and table.ndim == 3:
        table = table[0]
    return np.expand_dims(table, -3 if layout == "bhld" else -2)


def _turn(x: FloatArray, cos: FloatArray, sin: FloatArray, interleaved: bool) -> FloatArray:
    """Turn the pairs of the last axis."""
    half = cos.shape[-1]
    if interleaved:
        a, b = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    else:
        a, b = slice(0, half), slice(half, 2 * half)
    y = x.copy()
    y[..., a] = x[..., a] * cos - x[..., b] * sin
    y[..., b] = x[..., b] * cos + x[..., a] * sin
    return y


@quiet
def rope(
    x: FloatArray,
    cos: FloatArray,
    sin: FloatArray,
    positions: NDArray[Any] | int | None = None,
    *,
    interleaved: bool = False,
    layout: str = "bhld",
    out: FloatArray | None = None,
) -> FloatArray:
    """Turn pairs of elements by the angles of their vector's position (Su et al. 2021).

    >>> rope(np.array([[[1.0, 2.0]]]), np.zeros((1, 1)), np.ones((1, 1)))
    array([[[-2.,  1.]]])
    """
    cos, sin = (_angles(x, table, positions, layout) for table in (cos, sin))
    return store(_turn(x, cos, sin, interleaved), out)


@quiet
def rope_backward(
    grad_out: FloatArray,
    cos: FloatArray,
    sin: FloatArray,
    positions: NDArray[Any] | int | None = None,
    *,
    interleaved: bool = False,
    layout: str = "bhld",
    out: FloatArray | None = None,
) -> FloatArray:
    """Turn the gradient back: a rotation's transpose is its inverse."""
    cos, sin = (_angles(grad_out, table, positions, layout) for table in (cos, sin))
    return store(_turn(grad_out, cos, -sin, interleaved), out)
