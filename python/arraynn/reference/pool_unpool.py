"""Max unpooling in plain NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ._common import FloatArray, Size, each, from_channels_first, store, to_channels_first


def _max_unpool(
    x: FloatArray,
    indices: NDArray[np.int64],
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    output_size: Size | None,
    layout: str,
    out: FloatArray | None,
) -> FloatArray:
    planes, where = to_channels_first(x, layout), to_channels_first(indices, layout)
    n, c, *sizes = planes.shape
    axes = len(sizes)
    kernels, pads = each(kernel_size, axes), each(padding, axes)
    strides = kernels if stride is None else each(stride, axes)
    usual = [
        (size - 1) * s - 2 * p + k
        for size, k, s, p in zip(sizes, kernels, strides, pads, strict=True)
    ]
    wanted = usual if output_size is None else list(each(output_size, axes))
    for size, usually, s in zip(wanted, usual, strides, strict=True):
        if not usually - s < size < usually + s or size < 1:
            raise ValueError(f"output_size: expected about {usual}, got {wanted}")
    size, count = int(np.prod(wanted)), int(np.prod(sizes))
    if where.size and not (where.min() >= 0 and where.max() < size):
        raise ValueError(f"indices: expected positions in planes of {size} elements")
    y = np.zeros((n, c, size), dtype=x.dtype)
    values, at = planes.reshape(n, c, count), where.reshape(n, c, count)
    for i in range(count):  # in order: of equal indices the last one stays
        np.put_along_axis(y, at[:, :, i, None], values[:, :, i, None], axis=2)
    return store(from_channels_first(y.reshape(n, c, *wanted), layout), out)


def _max_unpool_backward(
    grad_out: FloatArray,
    indices: NDArray[np.int64],
    layout: str,
    out: FloatArray | None,
) -> FloatArray:
    grad, where = to_channels_first(grad_out, layout), to_channels_first(indices, layout)
    n, c = where.shape[:2]
    flat = grad.reshape(n, c, int(np.prod(grad.shape[2:])))
    got = np.take_along_axis(flat, where.reshape(n, c, int(np.prod(where.shape[2:]))), axis=2)
    return store(from_channels_first(got.reshape(where.shape), layout), out)


def max_unpool1d(
    x: FloatArray,
    indices: NDArray[np.int64],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | int | None = None,
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Put every element of a signal where max_pool1d found it, zeros elsewhere.

    Examples
    --------
    >>> max_unpool1d(np.array([[[3.0, 5.0]]]), np.array([[[0, 3]]]), 2)
    array([[[3., 0., 0., 5.]]])
    """
    return _max_unpool(x, indices, kernel_size, stride, padding, output_size, layout, out)


def max_unpool1d_backward(
    grad_out: FloatArray,
    indices: NDArray[np.int64],
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Read `grad_out` at every index."""
    return _max_unpool_backward(grad_out, indices, layout, out)


def max_unpool2d(
    x: FloatArray,
    indices: NDArray[np.int64],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | int | None = None,
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Put every element of an image where max_pool2d found it, zeros elsewhere."""
    return _max_unpool(x, indices, kernel_size, stride, padding, output_size, layout, out)


def max_unpool2d_backward(
    grad_out: FloatArray,
    indices: NDArray[np.int64],
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Read `grad_out` at every index."""
    return _max_unpool_backward(grad_out, indices, layout, out)
