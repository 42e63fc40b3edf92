"""Pooling in three dimensions: over the depth, height and width of volumes.

    max   y[n,c,d,h,w] = max_{k,i,j} x[n, c, d·s - p + k·e, h·s - p + i·e, w·s - p + j·e]
    avg   y[n,c,d,h,w] = Σ_{k,i,j} x[n, c, ...] / divisor(d, h, w)
    lp    y[n,c,d,h,w] = (Σ_{k,i,j} x[n, c, d·s + k, h·s + i, w·s + j]^p)^(1/p)

over the taps of the window that lie inside the input, each axis with its own stride s, padding p
and dilation e. A window is a box, so planes are reduced first, by the kernels of two dimensions,
and their results over the depth while they are in cache: every plane is read once, however deep
the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from arraynn import _core

__all__ = [
    "adaptive_avg_pool3d",
    "adaptive_avg_pool3d_backward",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_backward",
    "avg_pool3d",
    "avg_pool3d_backward",
    "max_pool3d",
    "max_pool3d_backward",
    "max_unpool3d",
    "max_unpool3d_backward",
]

Array = NDArray[Any]
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]
Size = int | Sequence[int]
OutputSize = int | Sequence[int | None] | None


def max_pool3d(
    x: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Any:
    """Maximum of every window of a volume; NaN and equal maxima as in :func:`max_pool2d`.

    Parameters
    ----------
    x : array (n, c, d, h, w), or (n, d, h, w, c) with ``layout="channels_last"``
        Of a dtype of :func:`max_pool2d`.
    kernel_size, stride, dilation : int or (int, int, int)
        At least 1; `stride` is `kernel_size` when not given.
    padding : int, (int, int, int), three pairs, "valid", "same" or "same_lower"
        Numbers are less than the reach of the dilated window.
    ceil_mode, return_indices, out
        As in :func:`max_pool2d`.

    Returns
    -------
    y : array (n, c, od, oh, ow) or (n, od, oh, ow, c)
    indices : int64 array of the same shape, with `return_indices`
        Flat positions ``(d * H + h) * W + w`` in the input volume.

    Raises
    ------
    ValueError, TypeError, MemoryError, NotImplementedError
        As :func:`max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x = np.arange(16.0).reshape(1, 1, 2, 2, 4)
    >>> y, indices = K.max_pool3d(x, 2, return_indices=True)
    >>> y.ravel(), indices.ravel()
    (array([13., 15.]), array([13, 15]))
    """
    return _core.max_pool3d(
        x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, layout, out
    )


def max_pool3d_backward(
    grad_out: Array,
    x: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    layout: str = "channels_first",
    indices: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`max_pool3d`: every element of `grad_out` added where its maximum was.

    Parameters
    ----------
    grad_out : array, shape of the result
    x, kernel_size, stride, padding, dilation, ceil_mode, layout
        As in the forward call.
    indices : int64 array, shape of the result, optional
        Those of the forward call; found again in `x` without them.
    out : array, optional
        Where the gradient goes. Must not overlap an input.

    Returns
    -------
    grad_x : array, shape of `x`

    Raises
    ------
    ValueError, TypeError, MemoryError, NotImplementedError
        As :func:`max_pool3d`; ValueError also for an index outside of its plane. On a GPU
        an index outside of its window moves nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x = np.arange(8.0).reshape(1, 1, 2, 2, 2)
    >>> K.max_pool3d_backward(np.ones((1, 1, 1, 1, 1)), x, 2).ravel()
    array([0., 0., 0., 0., 0., 0., 0., 1.])
    """
    return _core.max_pool3d_backward(
        grad_out, x, kernel_size, stride, padding, dilation, ceil_mode, layout, indices, out
    )


def avg_pool3d(
    x: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Sum of every window of a volume over its divisor.

    Parameters
    ----------
    x, kernel_size, stride, padding, ceil_mode, dilation, layout, out
        As in :func:`max_pool3d`.
    count_include_pad, divisor_override
        As in :func:`avg_pool2d`.

    Returns
    -------
    array (n, c, od, oh, ow) or (n, od, oh, ow, c)
        0 where a window holds no input element.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`max_pool3d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.avg_pool3d(np.arange(16.0).reshape(1, 1, 2, 2, 4), 2).ravel()
    array([6.5, 8.5])
    """
    return _core.avg_pool3d(
        x,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
        dilation,
        layout,
        out,
    )


def avg_pool3d_backward(
    grad_out: Array,
    x_shape: Sequence[int],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`avg_pool3d`: ``grad_out / divisor`` to every tap of the window.

    Parameters
    ----------
    grad_out : array, shape of the result; of a floating dtype
    x_shape : sequence of 5 ints
        The shape of the forward call's `x`, in its layout.
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, dilation, layout
        As in the forward call.
    out : array, optional
        Where the gradient goes. Must not overlap an input.

    Returns
    -------
    grad_x : array of shape `x_shape`

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`max_pool3d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.avg_pool3d_backward(np.full((1, 1, 1, 1, 1), 4.0), (1, 1, 2, 2, 2), 2).ravel()
    array([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    """
    return _core.avg_pool3d_backward(
        grad_out,
        x_shape,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
        dilation,
        layout,
        out,
    )


def adaptive_max_pool3d(
    x: Array,
    output_size: OutputSize,
    return_indices: bool = False,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Any:
    """Maximum of each of `output_size` windows per axis of a volume.

    Parameters
    ----------
    x : array (n, c, d, h, w), or (n, d, h, w, c) with ``layout="channels_last"``
        Of a dtype of :func:`max_pool2d`.
    output_size : int, three of int or None, or None
        At least 0; None keeps the size of `x`.
    return_indices, out
        As in :func:`adaptive_max_pool2d`.

    Returns
    -------
    y : array (n, c, od, oh, ow) or (n, od, oh, ow, c)
    indices : int64 array of the same shape, with `return_indices`
        Flat positions ``(d * H + h) * W + w`` in the input volume.

    Raises
    ------
    ValueError, TypeError, MemoryError, NotImplementedError
        As :func:`adaptive_max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.adaptive_max_pool3d(np.arange(27.0).reshape(1, 1, 3, 3, 3), (1, 1, 2)).ravel()
    array([25., 26.])
    """
    return _core.adaptive_max_pool3d(x, output_size, return_indices, layout, out)


def adaptive_max_pool3d_backward(
    grad_out: Array,
    x: Array,
    output_size: OutputSize,
    *,
    layout: str = "channels_first",
    indices: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`adaptive_max_pool3d`: added where each window's maximum was.

    Parameters
    ----------
    grad_out : array, shape of the result
    x, output_size, layout
        As in the forward call.
    indices : int64 array, shape of the result, optional
        Those of the forward call; found again in `x` without them.
    out : array, optional
        Where the gradient goes. Must not overlap an input.

    Returns
    -------
    grad_x : array, shape of `x`

    Raises
    ------
    ValueError, TypeError, MemoryError, NotImplementedError
        As the forward call; ValueError also for an index outside of its plane. On a GPU
        an index outside of its window moves nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x = np.arange(8.0).reshape(1, 1, 2, 2, 2)
    >>> K.adaptive_max_pool3d_backward(np.ones((1, 1, 1, 1, 2)), x, (1, 1, 2)).ravel()
    array([0., 0., 0., 0., 0., 0., 1., 1.])
    """
    return _core.adaptive_max_pool3d_backward(grad_out, x, output_size, layout, indices, out)


def adaptive_avg_pool3d(
    x: Array,
    output_size: OutputSize,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Mean of each of `output_size` windows per axis of a volume.

    Parameters
    ----------
    x, output_size, layout, out
        As in :func:`adaptive_max_pool3d`.

    Returns
    -------
    array (n, c, od, oh, ow) or (n, od, oh, ow, c)

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`adaptive_max_pool3d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.adaptive_avg_pool3d(np.arange(27.0).reshape(1, 1, 3, 3, 3), (1, 1, 3)).ravel()
    array([12., 13., 14.])
    """
    return _core.adaptive_avg_pool3d(x, output_size, layout, out)


def adaptive_avg_pool3d_backward(
    grad_out: Array,
    x_shape: Sequence[int],
    output_size: OutputSize,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`adaptive_avg_pool3d`: an equal share to every element of the window.

    Parameters
    ----------
    grad_out : array, shape of the result; of a floating dtype
    x_shape : sequence of 5 ints
        The shape of the forward call's `x`, in its layout.
    output_size, layout
        As in the forward call.
    out : array, optional
        Where the gradient goes. Must not overlap an input.

    Returns
    -------
    grad_x : array of shape `x_shape`

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`adaptive_max_pool3d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> grad = np.array([4.0, 8.0]).reshape(1, 1, 1, 1, 2)
    >>> K.adaptive_avg_pool3d_backward(grad, (1, 1, 2, 2, 2), (1, 1, 2)).ravel()
    array([1., 2., 1., 2., 1., 2., 1., 2.])
    """
    return _core.adaptive_avg_pool3d_backward(grad_out, x_shape, output_size, layout, out)


def max_unpool3d(
    x: Array,
    indices: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | int | None = None,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Put every element where :func:`max_pool3d` found it, zeros elsewhere.

    Of elements with the same index the last one stays.

    Parameters
    ----------
    x : array (n, c, d, h, w), or (n, d, h, w, c) with ``layout="channels_last"``
        Of a floating dtype.
    indices : int64 array, shape of `x`
        Flat positions ``(d * H + h) * W + w`` in the volume of the result.
    kernel_size, stride, padding : int or (int, int, int)
        Of the pooling. They decide the size of the result: (size - 1) stride - 2 padding + kernel.
    output_size : int or (int, int, int), optional
        Another size of the result, less than `stride` away from that.
    out : array, optional
        Where the result goes. Must not overlap `x` or `indices`.

    Returns
    -------
    array (n, c, od, oh, ow) or (n, od, oh, ow, c)

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`max_unpool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.max_unpool3d(np.full((1, 1, 1, 1, 1), 5.0), np.full((1, 1, 1, 1, 1), 3), (1, 2, 2))
    array([[[[[0., 0.],
              [0., 5.]]]]])
    """
    return _core.max_unpool3d(x, indices, kernel_size, stride, padding, output_size, layout, out)


def max_unpool3d_backward(
    grad_out: Array,
    indices: Array,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`max_unpool3d`: the element of `grad_out` at every index.

    Parameters
    ----------
    grad_out : array, shape of the result; of a floating dtype
    indices, layout
        As in the forward call.
    out : array, optional
        Where the gradient goes. Must not overlap an input.

    Returns
    -------
    grad_x : array, shape of `indices`

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`max_unpool3d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> grad = np.arange(8.0).reshape(1, 1, 2, 2, 2)
    >>> K.max_unpool3d_backward(grad, np.full((1, 1, 1, 1, 1), 6))
    array([[[[[6.]]]]])
    """
    return _core.max_unpool3d_backward(grad_out, indices, layout, out)
