"""Lp pooling in plain NumPy: average pooling of powers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._common import FloatArray, Padding, Size, each, quiet, store
from .pool import avg_pool1d, avg_pool1d_backward, avg_pool2d, avg_pool2d_backward
from .pool_volume import avg_pool3d, avg_pool3d_backward

# By the number of spatial axes, from one.
_MEAN: Any = (avg_pool1d, avg_pool2d, avg_pool3d)
_MEAN_BACKWARD: Any = (avg_pool1d_backward, avg_pool2d_backward, avg_pool3d_backward)


def _sizes(x: FloatArray, layout: str) -> tuple[int, ...]:
    """Return the spatial sizes: the window of a global pooling."""
    return x.shape[1:-1] if layout == "channels_last" else x.shape[2:]


def _lp_pool(
    x: FloatArray,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None,
    ceil_mode: bool,
    padding: Padding,
    dilation: Size,
    layout: str,
    out: FloatArray | None,
) -> FloatArray:
    """Padding counts as zeros; what ceil_mode reads beyond it does not count, as in a mean."""
    if not 0 < norm_type < np.inf:
        raise ValueError(f"norm_type: expected a finite value > 0, got {norm_type}")
    taps = x.dtype.type(np.prod(each(kernel_size, x.ndim - 2)))
    norm = x.dtype.type(norm_type)
    mean = _MEAN[x.ndim - 3](
        x**norm, kernel_size, stride, padding, ceil_mode, dilation=dilation, layout=layout
    )
    return store((mean * taps) ** (x.dtype.type(1) / norm), out)


def _lp_pool_backward(
    grad_out: FloatArray,
    x: FloatArray,
    y: FloatArray,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None,
    ceil_mode: bool,
    padding: Padding,
    dilation: Size,
    layout: str,
    out: FloatArray | None,
) -> FloatArray:
    taps = x.dtype.type(np.prod(each(kernel_size, x.ndim - 2)))
    slope = x.dtype.type(norm_type) - x.dtype.type(1)
    share = grad_out * taps * y**-slope
    if norm_type != 1:
        share = np.where(y == 0, x.dtype.type(0), share)
    grad = _MEAN_BACKWARD[x.ndim - 3](
        share, x.shape, kernel_size, stride, padding, ceil_mode, dilation=dilation, layout=layout
    )
    return store(grad * x**slope, out)


@quiet
def lp_pool1d(
    x: FloatArray,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Power mean of every window times the window's size: ``(sum of x**p)**(1 / p)``."""
    window = (kernel_size, stride, ceil_mode, padding, dilation)
    return _lp_pool(x, norm_type, *window, layout, out)


@quiet
def lp_pool1d_backward(
    grad_out: FloatArray,
    x: FloatArray,
    y: FloatArray,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Give every tap ``grad_out * (x / y)**(p - 1)``; 0 where the result is, unless p = 1."""
    window = (kernel_size, stride, ceil_mode, padding, dilation)
    return _lp_pool_backward(grad_out, x, y, norm_type, *window, layout, out)


@quiet
def lp_pool2d(
    x: FloatArray,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Power mean of every window times the window's size: ``(sum of x**p)**(1 / p)``."""
    window = (kernel_size, stride, ceil_mode, padding, dilation)
    return _lp_pool(x, norm_type, *window, layout, out)


@quiet
def lp_pool2d_backward(
    grad_out: FloatArray,
    x: FloatArray,
    y: FloatArray,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Give every tap ``grad_out * (x / y)**(p - 1)``; 0 where the result is, unless p = 1."""
    window = (kernel_size, stride, ceil_mode, padding, dilation)
    return _lp_pool_backward(grad_out, x, y, norm_type, *window, layout, out)


@quiet
def lp_pool3d(
    x: FloatArray,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Power mean of every window times the window's size: ``(sum of x**p)**(1 / p)``."""
    window = (kernel_size, stride, ceil_mode, padding, dilation)
    return _lp_pool(x, norm_type, *window, layout, out)


@quiet
def lp_pool3d_backward(
    grad_out: FloatArray,
    x: FloatArray,
    y: FloatArray,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Give every tap ``grad_out * (x / y)**(p - 1)``; 0 where the result is, unless p = 1."""
    window = (kernel_size, stride, ceil_mode, padding, dilation)
    return _lp_pool_backward(grad_out, x, y, norm_type, *window, layout, out)


@quiet
def global_lp_pool(
    x: FloatArray,
    norm_type: float,
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """``(sum of x**p)**(1 / p)`` over all spatial axes, which stay with size 1."""
    return _lp_pool(x, norm_type, _sizes(x, layout), None, False, 0, 1, layout, out)


@quiet
def global_lp_pool_backward(
    grad_out: FloatArray,
    x: FloatArray,
    y: FloatArray,
    norm_type: float,
    *,
    layout: str = "channels_first",
    out: FloatArray | None = None,
) -> FloatArray:
    """Give every element ``grad_out * (x / y)**(p - 1)``; 0 where the result is, unless p = 1."""
    window = (_sizes(x, layout), None, False, 0, 1)
    return _lp_pool_backward(grad_out, x, y, norm_type, *window, layout, out)
