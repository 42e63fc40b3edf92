"""Pooling in three dimensions in plain NumPy, written as a loop over the windows of a volume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._common import (
    Axis,
    FloatArray,
    Padding,
    Size,
    axis_of,
    each,
    from_channels_first,
    lowest,
    pair,
    quiet,
    store,
    to_channels_first,
)
from .pool_unpool import _max_unpool, _max_unpool_backward

OutputSize: TypeAlias = int | Sequence[int | None] | None
#: The input positions of each output position of one axis.
Taps: TypeAlias = list[NDArray[np.int64]]


def _axes(
    shape: Sequence[int],
    kernel_size: Size,
    stride: Size | None,
    padding: Padding,
    dilation: Size,
    ceil_mode: bool,
) -> list[Axis]:
    kernels, dilations = each(kernel_size, 3), each(dilation, 3)
    strides = kernels if stride is None else each(stride, 3)
    spelled: Any = padding
    if isinstance(padding, str | int | np.integer):
        spelled = (padding,) * 3
    pads = [p if isinstance(p, str) else pair(p) for p in spelled]
    return [
        axis_of(*sizes, ceil_mode)
        for sizes in zip(shape[2:], kernels, strides, dilations, pads, strict=True)
    ]


def _window_taps(axis: Axis) -> Taps:
    """Return the taps inside the input."""
    taps = []
    for o in range(axis.out):
        at = o * axis.stride - axis.begin + np.arange(axis.kernel) * axis.dilation
        taps.append(at[(at >= 0) & (at < axis.size)])
    return taps


def _adaptive_taps(shape: Sequence[int], output_size: OutputSize) -> list[Taps]:
    wanted = output_size if isinstance(output_size, Sequence) else (output_size,) * 3
    if min(shape[2:]) == 0:
        raise ValueError(f"x: expected spatial sizes >= 1, got shape {tuple(shape)}")
    outs = [n if w is None else int(w) for n, w in zip(shape[2:], wanted, strict=True)]
    if min(outs) < 0:
        raise ValueError(f"output_size: expected >= 0, got {output_size}")
    return [
        [np.arange(o * n // out, -(-(o + 1) * n // out)) for o in range(out)]
        for n, out in zip(shape[2:], outs, strict=True)
    ]


def _windows(taps: list[Taps]) -> Iterator[tuple[Any, Any]]:
    """Yield what indexes each output position and its window."""
    for at in product(*(range(len(axis)) for axis in taps)):
        box = np.ix_(*(axis[o] for axis, o in zip(taps, at, strict=True)))
        yield (slice(None), slice(None), *at), (slice(None), slice(None), *box)


def _out_shape(x: FloatArray, taps: list[Taps]) -> tuple[int, ...]:
    return (*x.shape[:2], *(len(axis) for axis in taps))


def _maxima(x: FloatArray, taps: list[Taps]) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return the maxima and their flat positions; -inf and -1 for an empty window."""
    y = np.full(_out_shape(x, taps), lowest(x.dtype), dtype=x.dtype)
    where = np.full(y.shape, -1, dtype=np.int64)
    position = np.arange(int(np.prod(x.shape[2:]))).reshape(x.shape[2:])
    for at, box in _windows(taps):
        index = position[box[2:]].ravel()
        if index.size == 0:
            continue
        values = x[box].reshape(*x.shape[:2], index.size)
        nan = np.isnan(values)
        first = np.where(nan.any(axis=2), nan.argmax(axis=2), values.argmax(axis=2))
        y[at] = np.take_along_axis(values, first[..., None], axis=2)[..., 0]
        where[at] = index[first]
    return y, where


def _scatter(
    grad: FloatArray,
    where: NDArray[np.int64],
    shape: tuple[int, ...],
    layout: str,
    out: FloatArray | None,
) -> FloatArray:
    n, c = shape[:2]
    grad_x = np.zeros((n * c, int(np.prod(shape[2:]))), dtype=grad.dtype)
    volumes = np.broadcast_to(np.arange(n * c).reshape(n, c, 1, 1, 1), where.shape)
    chosen = where >= 0
    np.add.at(grad_x, (volumes[chosen], where[chosen]), grad[chosen])
    return store(from_channels_first(grad_x.reshape(shape), layout), out)


def _sums(x: FloatArray, taps: list[Taps]) -> FloatArray:
    total = np.zeros(_out_shape(x, taps), dtype=x.dtype)
    for at, box in _windows(taps):
        total[at] = x[box].sum(axis=(2, 3, 4))
    return total


def _spread(share: FloatArray, shape: tuple[int, ...], taps: list[Taps]) -> FloatArray:
    grad_x = np.zeros(shape, dtype=share.dtype)
    for at, box in _windows(taps):
        grad_x[box] += share[at][..., None, None, None]
    return grad_x


def _box_counts(counts: list[Any]) -> NDArray[Any]:
    depth, height, width = (np.asarray(c, dtype=np.int64) for c in counts)
    # An empty window sums to 0 and stays 0.
    return np.asarray(np.maximum(depth[:, None, None] * height[:, None] * width, 1))


def _divisor(axes: list[Axis], count_include_pad: bool, divisor_override: int | None) -> Any:
    """Padding counts with `count_include_pad`; what ceil_mode reads beyond it never does."""
    if divisor_override is not None:
        if divisor_override == 0:
            raise ValueError("[avg_pool3d] divisor_override: expected a non-zero int, got 0")
        return np.int64(divisor_override)
    counts = []
    for a in axes:
        at = (np.arange(a.out) * a.stride - a.begin)[:, None] + np.arange(a.kernel) * a.dilation
        counted = at < a.size + a.end if count_include_pad else (at >= 0) & (at < a.size)
        counts.append(counted.sum(axis=1))
    return _box_counts(counts)


def _last_to_first(shape: Sequence[int], layout: str) -> tuple[int, ...]:
    """Return the channels-first shape."""
    n, *rest = shape
    return (n, rest[-1], *rest[:-1]) if layout == "channels_last" else (n, *rest)


@quiet
def max_pool3d(
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
    """Maximum of every window; the first NaN wins, then the first of equal maxima.

    Examples
    --------
    >>> max_pool3d(np.arange(16.0).reshape(1, 1, 2, 2, 4), 2).ravel()
    array([13., 15.])
    """
    volumes = to_channels_first(x, layout)
    axes = _axes(volumes.shape, kernel_size, stride, padding, dilation, ceil_mode)
    best, where = _maxima(volumes, [_window_taps(a) for a in axes])
    y = store(from_channels_first(best, layout), out)
    return (y, from_channels_first(where, layout)) if return_indices else y


@quiet
def max_pool3d_backward(
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
    if indices is None:
        args = (kernel_size, stride, padding, dilation, ceil_mode, True)
        _, indices = max_pool3d(x, *args, layout=layout)
    assert indices is not None
    grad, where = to_channels_first(grad_out, layout), to_channels_first(indices, layout)
    return _scatter(grad, where, _last_to_first(x.shape, layout), layout, out)


@quiet
def avg_pool3d(
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
    """Sum of every window over its divisor; the divisor as in two dimensions."""
    volumes = to_channels_first(x, layout)
    axes = _axes(volumes.shape, kernel_size, stride, padding, dilation, ceil_mode)
    divisor = _divisor(axes, count_include_pad, divisor_override).astype(x.dtype)
    total = _sums(volumes, [_window_taps(a) for a in axes])
    return store(from_channels_first(total / divisor, layout), out)


@quiet
def avg_pool3d_backward(
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
    grad, shape = to_channels_first(grad_out, layout), _last_to_first(x_shape, layout)
    axes = _axes(shape, kernel_size, stride, padding, dilation, ceil_mode)
    divisor = _divisor(axes, count_include_pad, divisor_override).astype(grad.dtype)
    grad_x = _spread(grad / divisor, shape, [_window_taps(a) for a in axes])
    return store(from_channels_first(grad_x, layout), out)


@quiet
def adaptive_max_pool3d(
    x: FloatArray,
    output_size: OutputSize,
    return_indices: bool = False,
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> Any:
    """Maximum of each of `output_size` windows per axis of a volume."""
    volumes = to_channels_first(x, layout)
    best, where = _maxima(volumes, _adaptive_taps(volumes.shape, output_size))
    y = store(from_channels_first(best, layout), out)
    return (y, from_channels_first(where, layout)) if return_indices else y


@quiet
def adaptive_max_pool3d_backward(
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
        _, indices = adaptive_max_pool3d(x, output_size, True, layout=layout)
    assert indices is not None
    grad, where = to_channels_first(grad_out, layout), to_channels_first(indices, layout)
    return _scatter(grad, where, _last_to_first(x.shape, layout), layout, out)


@quiet
def adaptive_avg_pool3d(
    x: FloatArray,
    output_size: OutputSize,
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Mean of each of `output_size` windows per axis of a volume."""
    volumes = to_channels_first(x, layout)
    taps = _adaptive_taps(volumes.shape, output_size)
    counts = _box_counts([[len(t) for t in axis] for axis in taps]).astype(x.dtype)
    return store(from_channels_first(_sums(volumes, taps) / counts, layout), out)


@quiet
def adaptive_avg_pool3d_backward(
    grad_out: FloatArray,
    x_shape: tuple[int, ...],
    output_size: OutputSize,
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Spread each element of `grad_out` evenly over its window."""
    grad, shape = to_channels_first(grad_out, layout), _last_to_first(x_shape, layout)
    taps = _adaptive_taps(shape, output_size)
    counts = _box_counts([[len(t) for t in axis] for axis in taps]).astype(grad.dtype)
    return store(from_channels_first(_spread(grad / counts, shape, taps), layout), out)


def max_unpool3d(
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
    """Put every element of a volume where max_pool3d found it, zeros elsewhere."""
    return _max_unpool(x, indices, kernel_size, stride, padding, output_size, layout, out)


def max_unpool3d_backward(
    grad_out: FloatArray,
    indices: NDArray[np.int64],
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Read `grad_out` at every index."""
    return _max_unpool_backward(grad_out, indices, layout, out)
