"""Adaptive and global pooling in plain NumPy, written as a loop over the windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._common import FloatArray, from_channels_first, quiet, store, to_channels_first
from .pool import lowered, raised, raised_shape
from .pool_volume import (
    adaptive_avg_pool3d,
    adaptive_avg_pool3d_backward,
    adaptive_max_pool3d,
    adaptive_max_pool3d_backward,
)

OutputSize: TypeAlias = int | Sequence[int | None] | None


def _cuts(size: int, out: int) -> list[slice]:
    """Return the windows [floor(o size / out), ceil((o + 1) size / out)) of one axis."""
    return [slice(o * size // out, -(-(o + 1) * size // out)) for o in range(out)]


def _sizes(shape: Sequence[int], output_size: OutputSize) -> tuple[int, int]:
    """Return the output's height and width for (N, C, H, W); None keeps a size."""
    wanted = output_size if isinstance(output_size, Sequence) else (output_size, output_size)
    height, width = wanted
    if min(shape[2:]) == 0:
        raise ValueError(f"x: expected spatial sizes >= 1, got shape {tuple(shape)}")
    rows, cols = (
        n if w is None else int(w) for n, w in zip(shape[2:], (height, width), strict=True)
    )
    if min(rows, cols) < 0:
        raise ValueError(f"output_size: expected >= 0, got {output_size}")
    return rows, cols


def _windows(
    shape: Sequence[int], output_size: OutputSize
) -> Iterator[tuple[tuple[int, int], tuple[slice, slice]]]:
    """Yield each output pixel with its window of the plane."""
    rows, cols = _sizes(shape, output_size)
    for (i, h), (j, w) in product(
        enumerate(_cuts(shape[2], rows)), enumerate(_cuts(shape[3], cols))
    ):
        yield (i, j), (h, w)


def _size1d(output_size: OutputSize) -> tuple[int, int | None]:
    """Return the output size of an image of height 1."""
    if isinstance(output_size, Sequence):
        (only,) = output_size
        return 1, only
    return 1, output_size


@quiet
def adaptive_max_pool2d(
    x: FloatArray,
    output_size: OutputSize,
    return_indices: bool = False,
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> Any:
    """Maximum of each of `output_size` windows per image axis.

    The first NaN of a window wins, then the first of equal maxima.

    Examples
    --------
    >>> adaptive_max_pool2d(np.arange(9.0).reshape(1, 1, 3, 3), 2)[0, 0]
    array([[4., 5.],
           [7., 8.]])
    """
    planes = to_channels_first(x, layout)
    n, c, height, width = planes.shape
    y = np.empty((n, c, *_sizes(planes.shape, output_size)), dtype=x.dtype)
    where = np.empty(y.shape, dtype=np.int64)
    position = np.arange(height * width).reshape(height, width)
    for (i, j), (h, w) in _windows(planes.shape, output_size):
        taps = planes[:, :, h, w].reshape(n, c, position[h, w].size)
        first = np.where(
            np.isnan(taps).any(axis=2), np.isnan(taps).argmax(axis=2), taps.argmax(axis=2)
        )
        y[:, :, i, j] = np.take_along_axis(taps, first[:, :, None], axis=2)[:, :, 0]
        where[:, :, i, j] = position[h, w].reshape(-1)[first]
    y = store(from_channels_first(y, layout), out)
    return (y, from_channels_first(where, layout)) if return_indices else y


@quiet
def adaptive_max_pool2d_backward(
    grad_out: FloatArray,
    x: FloatArray,
    output_size: OutputSize,
    *,
    layout: str = "channels_first",
    indices: NDArray[np.int64] | None = None,
    out: FloatArray | None = None,
) -> FloatArray:
    """Add each element of `grad_out` to the input position its window chose."""
    if indices is None:
        _, indices = adaptive_max_pool2d(x, output_size, True, layout=layout)
    assert indices is not None
    where, grad = to_channels_first(indices, layout), to_channels_first(grad_out, layout)
    n, c, height, width = to_channels_first(x, layout).shape
    grad_x = np.zeros((n * c, height * width), dtype=grad_out.dtype)
    planes = np.arange(n * c).reshape(n, c, 1, 1)
    np.add.at(grad_x, (np.broadcast_to(planes, where.shape), where), grad)
    return store(from_channels_first(grad_x.reshape(n, c, height, width), layout), out)


@quiet
def adaptive_avg_pool2d(
    x: FloatArray,
    output_size: OutputSize,
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Mean of each of `output_size` windows per image axis.

    Examples
    --------
    >>> adaptive_avg_pool2d(np.arange(9.0).reshape(1, 1, 3, 3), (None, 1))[0, 0].ravel()
    array([1., 4., 7.])
    """
    planes = to_channels_first(x, layout)
    y = np.empty((*planes.shape[:2], *_sizes(planes.shape, output_size)), dtype=x.dtype)
    for (i, j), (h, w) in _windows(planes.shape, output_size):
        y[:, :, i, j] = planes[:, :, h, w].mean(axis=(2, 3))
    return store(from_channels_first(y, layout), out)


@quiet
def adaptive_avg_pool2d_backward(
    grad_out: FloatArray,
    x_shape: tuple[int, ...],
    output_size: OutputSize,
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Spread each element of `grad_out` evenly over its window."""
    grad = to_channels_first(grad_out, layout)
    if layout == "channels_last":
        x_shape = (x_shape[0], x_shape[3], x_shape[1], x_shape[2])
    grad_x = np.zeros(x_shape, dtype=grad.dtype)
    for (i, j), (h, w) in _windows(x_shape, output_size):
        window = grad_x[:, :, h, w]
        window += grad[:, :, i, j, None, None] / grad.dtype.type(
            (h.stop - h.start) * (w.stop - w.start)
        )
    return store(from_channels_first(grad_x, layout), out)


def adaptive_max_pool1d(
    x: FloatArray,
    output_size: OutputSize,
    return_indices: bool = False,
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> Any:
    """Maximum of each of `output_size` windows of signals (N, C, L) or (N, L, C)."""
    y, where = adaptive_max_pool2d(raised(x, layout), _size1d(output_size), True, layout=layout)
    y = store(lowered(y, layout), out)
    return (y, lowered(where, layout)) if return_indices else y


def adaptive_max_pool1d_backward(
    grad_out: FloatArray,
    x: FloatArray,
    output_size: OutputSize,
    *,
    layout: str = "channels_first",
    indices: NDArray[np.int64] | None = None,
    out: FloatArray | None = None,
) -> FloatArray:
    """Add each element of `grad_out` to the input position its window chose."""
    where = None if indices is None else raised(indices, layout)
    grad = adaptive_max_pool2d_backward(
        raised(grad_out, layout),
        raised(x, layout),
        _size1d(output_size),
        layout=layout,
        indices=where,
    )
    return store(lowered(grad, layout), out)


def adaptive_avg_pool1d(
    x: FloatArray,
    output_size: OutputSize,
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Mean of each of `output_size` windows of signals (N, C, L) or (N, L, C)."""
    y = adaptive_avg_pool2d(raised(x, layout), _size1d(output_size), layout=layout)
    return store(lowered(y, layout), out)


def adaptive_avg_pool1d_backward(
    grad_out: FloatArray,
    x_shape: tuple[int, ...],
    output_size: OutputSize,
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Spread each element of `grad_out` evenly over its window."""
    grad = adaptive_avg_pool2d_backward(
        raised(grad_out, layout),
        raised_shape(x_shape, layout),
        _size1d(output_size),
        layout=layout,
    )
    return store(lowered(grad, layout), out)


# By the number of spatial axes, from one.
_MAX: Any = (adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d)
_MAX_BACKWARD: Any = (
    adaptive_max_pool1d_backward,
    adaptive_max_pool2d_backward,
    adaptive_max_pool3d_backward,
)
_AVG: Any = (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)
_AVG_BACKWARD: Any = (
    adaptive_avg_pool1d_backward,
    adaptive_avg_pool2d_backward,
    adaptive_avg_pool3d_backward,
)


def global_max_pool(
    x: FloatArray,
    return_indices: bool = False,
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> Any:
    """Maximum over all spatial axes, which stay with size 1."""
    pool = _MAX[x.ndim - 3]
    return pool(x, 1, return_indices, layout=layout, out=out)


def global_max_pool_backward(
    grad_out: FloatArray,
    x: FloatArray,
    *,
    layout: str = "channels_first",
    indices: NDArray[np.int64] | None = None,
    out: FloatArray | None = None,
) -> FloatArray:
    """Put `grad_out` where the maximum was."""
    pool = _MAX_BACKWARD[x.ndim - 3]
    return np.asarray(pool(grad_out, x, 1, layout=layout, indices=indices, out=out))


def global_avg_pool(
    x: FloatArray, *, layout: str = "channels_first", out: FloatArray | None = None
) -> FloatArray:
    """Mean over all spatial axes, which stay with size 1."""
    pool = _AVG[x.ndim - 3]
    return np.asarray(pool(x, 1, layout=layout, out=out))


def global_avg_pool_backward(
    grad_out: FloatArray,
    x_shape: tuple[int, ...],
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Give every element an equal share of `grad_out`."""
    pool = _AVG_BACKWARD[len(x_shape) - 3]
    return np.asarray(pool(grad_out, x_shape, 1, layout=layout, out=out))
