"""Max and average pooling in plain NumPy, written as loops over the taps of the window."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._common import (
    Axis,
    FloatArray,
    Padding,
    Size,
    axes_of,
    crop_planes,
    from_channels_first,
    lowest,
    pad_planes,
    pair,
    quiet,
    store,
    to_channels_first,
)


def raised(x: NDArray[Any], layout: str) -> NDArray[Any]:
    """View signals (N, C, L) as images (N, C, 1, L), or (N, L, C) as (N, 1, L, C)."""
    return x[:, None] if layout == "channels_last" else x[:, :, None]


def lowered(y: Any, layout: str) -> Any:
    """Undo `raised`."""
    return y[:, 0] if layout == "channels_last" else y[:, :, 0]


def raised_shape(shape: Sequence[int], layout: str) -> tuple[int, ...]:
    """Return the shape of `raised`."""
    n, *rest = shape
    return (n, 1, *rest) if layout == "channels_last" else (n, rest[0], 1, *rest[1:])


def _one(value: Size) -> int:
    if isinstance(value, int | np.integer):
        return int(value)
    (only,) = value
    return int(only)


class Window1d(NamedTuple):
    """The window of an image of height 1 from that of a signal."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: Any
    dilation: tuple[int, int]


def _window1d(kernel_size: Size, stride: Size | None, padding: Padding, dilation: Size) -> Window1d:
    stride = kernel_size if stride is None else stride
    if not isinstance(padding, str):
        entry: Any = padding if isinstance(padding, int | np.integer) else padding[0]
        padding = ((0, 0), pair(entry))
    return Window1d((1, _one(kernel_size)), (1, _one(stride)), padding, (1, _one(dilation)))


def _max_and_argmax(
    planes: FloatArray, rows: Axis, cols: Axis
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return the maxima and their flat positions h * W + w, both (N, C, OH, OW).

    A window that holds no input element at all (dilation can make one) gives -inf and -1.
    """
    padded = pad_planes(planes, rows, cols)
    # Where each padded element came from; -1 marks padding, which is never chosen.
    origin = np.full((rows.padded, cols.padded), -1, dtype=np.int64)
    crop_planes(origin[None, None], rows, cols)[...] = np.arange(rows.size * cols.size).reshape(
        rows.size, cols.size
    )
    best = np.full((*planes.shape[:2], rows.out, cols.out), lowest(planes.dtype), planes.dtype)
    where = np.full(best.shape, -1, dtype=np.int64)
    for i, j in product(range(rows.kernel), range(cols.kernel)):
        value = padded[:, :, rows.tap(i), cols.tap(j)]
        position = origin[rows.tap(i), cols.tap(j)]
        wins = (where < 0) | (value > best) | (np.isnan(value) & ~np.isnan(best))
        wins &= position >= 0
        best = np.where(wins, value, best)
        where = np.where(wins, position, where)
    return best, where


@quiet
def max_pool2d(
    x: FloatArray,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> Any:
    """Maximum of every window.

    NaN propagates (the first NaN of a window wins); of equal maxima the first is taken, in
    row-major order; padding is never chosen.

    Parameters
    ----------
    x : array (N, C, H, W), or (N, H, W, C) for ``layout="channels_last"``
    kernel_size, stride, dilation : int or (int, int); stride defaults to kernel_size
    padding : int, (int, int), ((top, bottom), (left, right)), "valid", "same" or "same_lower"
    ceil_mode : bool
        Round the output size up; a last window may not start in the padding at the end.
    return_indices : bool
        Also return int64 positions ``h * W + w`` in the input plane.

    Examples
    --------
    >>> max_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    """
    planes = to_channels_first(x, layout)
    stride = kernel_size if stride is None else stride
    rows, cols = axes_of(planes.shape, kernel_size, stride, dilation, padding, ceil_mode)
    best, where = _max_and_argmax(planes, rows, cols)
    y = store(from_channels_first(best, layout), out)
    return (y, from_channels_first(where, layout)) if return_indices else y


@quiet
def max_pool2d_backward(
    grad_out: FloatArray,
    x: FloatArray,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    layout: str = "channels_first",
    indices: NDArray[np.int64] | None = None,
    out: FloatArray | None = None,
) -> FloatArray:
    """Add each element of `grad_out` to the input position its window chose.

    `indices` are those of the forward; without them they are found again from `x`.
    """
    planes = to_channels_first(x, layout)
    grad = to_channels_first(grad_out, layout)
    stride = kernel_size if stride is None else stride
    rows, cols = axes_of(planes.shape, kernel_size, stride, dilation, padding, ceil_mode)
    where = (
        _max_and_argmax(planes, rows, cols)[1]
        if indices is None
        else to_channels_first(indices, layout)
    )
    n, c, h, w = planes.shape
    grad_x = np.zeros((n, c, h * w), dtype=grad_out.dtype)
    sample, channel = np.indices((n, c))
    chosen = where >= 0
    np.add.at(
        grad_x,
        (
            np.broadcast_to(sample[:, :, None, None], where.shape)[chosen],
            np.broadcast_to(channel[:, :, None, None], where.shape)[chosen],
            where[chosen],
        ),
        grad[chosen],
    )
    return store(from_channels_first(grad_x.reshape(n, c, h, w), layout), out)


def _axis_counts(axis: Axis, count_include_pad: bool) -> NDArray[np.int64]:
    """Return how many taps of each window count in the divisor, along one axis.

    Padding counts with `count_include_pad`; what ceil_mode reads beyond the padding never does.
    """
    first = np.arange(axis.out) * axis.stride - axis.begin
    position = first[:, None] + np.arange(axis.kernel) * axis.dilation
    if count_include_pad:
        return np.asarray((position < axis.size + axis.end).sum(axis=1))
    return np.asarray(((position >= 0) & (position < axis.size)).sum(axis=1))


def _divisor(
    rows: Axis, cols: Axis, count_include_pad: bool, divisor_override: int | None
) -> NDArray[np.int64]:
    if divisor_override is not None:
        if divisor_override == 0:
            raise ValueError("[avg_pool2d] divisor_override: expected a non-zero int, got 0")
        return np.full((rows.out, cols.out), divisor_override, dtype=np.int64)
    count = np.outer(_axis_counts(rows, count_include_pad), _axis_counts(cols, count_include_pad))
    return np.maximum(count, 1)  # an empty window sums to 0 and stays 0


@quiet
def avg_pool2d(
    x: FloatArray,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Sum of every window over its divisor.

    The divisor is the number of taps inside the padded input (`count_include_pad`), or inside the
    input alone, or `divisor_override`. An empty window gives 0. The other parameters are those of
    :func:`max_pool2d`.

    Examples
    --------
    >>> avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    planes = to_channels_first(x, layout)
    stride = kernel_size if stride is None else stride
    rows, cols = axes_of(planes.shape, kernel_size, stride, dilation, padding, ceil_mode)
    padded = pad_planes(planes, rows, cols)
    total = np.zeros((*planes.shape[:2], rows.out, cols.out), dtype=x.dtype)
    for i, j in product(range(rows.kernel), range(cols.kernel)):
        total += padded[:, :, rows.tap(i), cols.tap(j)]
    divisor = _divisor(rows, cols, count_include_pad, divisor_override).astype(x.dtype)
    return store(from_channels_first(total / divisor, layout), out)


@quiet
def avg_pool2d_backward(
    grad_out: FloatArray,
    x_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Spread ``grad_out / divisor`` evenly over the input elements of each window."""
    grad = to_channels_first(grad_out, layout)
    if layout == "channels_last":
        x_shape = (x_shape[0], x_shape[3], x_shape[1], x_shape[2])
    stride = kernel_size if stride is None else stride
    rows, cols = axes_of(x_shape, kernel_size, stride, dilation, padding, ceil_mode)
    divisor = _divisor(rows, cols, count_include_pad, divisor_override).astype(grad.dtype)
    share = grad / divisor
    padded = np.zeros((*x_shape[:2], rows.padded, cols.padded), dtype=grad.dtype)
    for i, j in product(range(rows.kernel), range(cols.kernel)):
        padded[:, :, rows.tap(i), cols.tap(j)] += share
    return store(from_channels_first(crop_planes(padded, rows, cols), layout), out)


def max_pool1d(
    x: FloatArray,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> Any:
    """Maximum of every window of signals (N, C, L) or (N, L, C): images of height 1.

    Examples
    --------
    >>> max_pool1d(np.array([[[3.0, 1.0, 2.0, 5.0]]]), 2)
    array([[[3., 5.]]])
    """
    window = _window1d(kernel_size, stride, padding, dilation)
    y, where = max_pool2d(raised(x, layout), *window, ceil_mode, True, layout=layout)
    y = store(lowered(y, layout), out)
    return (y, lowered(where, layout)) if return_indices else y


def max_pool1d_backward(
    grad_out: FloatArray,
    x: FloatArray,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    layout: str = "channels_first",
    indices: NDArray[np.int64] | None = None,
    out: FloatArray | None = None,
) -> FloatArray:
    """Add each element of `grad_out` to the input position its window chose."""
    grad = max_pool2d_backward(
        raised(grad_out, layout),
        raised(x, layout),
        *_window1d(kernel_size, stride, padding, dilation),
        ceil_mode,
        layout=layout,
        indices=None if indices is None else raised(indices, layout),
    )
    return store(lowered(grad, layout), out)


def avg_pool1d(
    x: FloatArray,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Sum of every window of signals over its divisor: images of height 1.

    Examples
    --------
    >>> avg_pool1d(np.array([[[3.0, 1.0, 2.0, 5.0]]]), 2)
    array([[[2. , 3.5]]])
    """
    window = _window1d(kernel_size, stride, padding, dilation)
    y = avg_pool2d(
        raised(x, layout),
        *window[:3],
        ceil_mode,
        count_include_pad,
        divisor_override,
        dilation=window.dilation,
        layout=layout,
    )
    return store(lowered(y, layout), out)


def avg_pool1d_backward(
    grad_out: FloatArray,
    x_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Spread ``grad_out / divisor`` evenly over the input elements of each window."""
    window = _window1d(kernel_size, stride, padding, dilation)
    grad = avg_pool2d_backward(
        raised(grad_out, layout),
        raised_shape(x_shape, layout),
        *window[:3],
        ceil_mode,
        count_include_pad,
        divisor_override,
        dilation=window.dilation,
        layout=layout,
    )
    return store(lowered(grad, layout), out)
