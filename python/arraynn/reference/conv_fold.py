"""Windows of images as columns, and back, in plain NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from ._common import Axis, FloatArray, Padding, Size, axes_of, pad_planes, pair, quiet, store


def _axes(
    sizes: tuple[int, ...], kernel_size: Size, dilation: Size, padding: Padding, stride: Size
) -> tuple[Axis, Axis]:
    if isinstance(padding, str):
        raise ValueError(f"padding: expected ints or pairs, got {padding!r}")
    return axes_of((0, 0, *sizes), kernel_size, stride, dilation, padding)


def _taps(axes: tuple[Axis, Axis]) -> Iterator[tuple[int, Any]]:
    """Yield the number of each position of the window with what it reads of the padded image."""
    rows, cols = axes
    for tap, (i, j) in enumerate(product(range(rows.kernel), range(cols.kernel))):
        yield tap, (slice(None), slice(None), rows.tap(i), cols.tap(j))


def unfold(
    x: FloatArray,
    kernel_size: Size,
    dilation: Size = 1,
    padding: Padding = 0,
    stride: Size = 1,
    *,
    out: FloatArray | None = None,
) -> FloatArray:
    """Lay the windows of images (N, C, H, W) side by side: (N, C kh kw, oh ow).

    Examples
    --------
    >>> unfold(np.arange(6.0).reshape(1, 1, 2, 3), 2)[0, 0]
    array([0., 1.])
    """
    axes = rows, cols = _axes(x.shape[2:], kernel_size, dilation, padding, stride)
    n, c = x.shape[:2]
    padded = pad_planes(x, rows, cols)
    y = np.empty((n, c, rows.kernel * cols.kernel, rows.out, cols.out), dtype=x.dtype)
    for tap, read in _taps(axes):
        y[:, :, tap] = padded[read]
    return store(y.reshape(n, c * rows.kernel * cols.kernel, rows.out * cols.out), out)


@quiet
def fold(
    x: FloatArray,
    output_size: Size,
    kernel_size: Size,
    dilation: Size = 1,
    padding: Padding = 0,
    stride: Size = 1,
    *,
    out: FloatArray | None = None,
) -> FloatArray:
    """Add columns (N, C kh kw, oh ow) to the images (N, C, H, W) that unfold takes them from."""
    height, width = pair(output_size)
    axes = rows, cols = _axes((height, width), kernel_size, dilation, padding, stride)
    taps, windows = rows.kernel * cols.kernel, rows.out * cols.out
    if min(height, width) < 1 or x.shape[1] % taps or x.shape[2] != windows:
        raise ValueError(f"x: expected (N, C * {taps}, {windows}), got {x.shape}")
    n, c = x.shape[0], x.shape[1] // taps
    columns = x.reshape(n, c, taps, rows.out, cols.out)
    padded = np.zeros((n, c, rows.padded, cols.padded), dtype=x.dtype)
    for tap, read in _taps(axes):
        padded[read] += columns[:, :, tap]
    inside = padded[:, :, rows.begin : rows.begin + height, cols.begin : cols.begin + width]
    return store(inside, out)
