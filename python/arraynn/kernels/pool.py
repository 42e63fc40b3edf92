"""Max and average pooling in one and two dimensions.

    max   y[n,c,h,w] = max_{i,j} x[n, c, h·s - p + i·d, w·s - p + j·d]
    avg   y[n,c,h,w] = Σ_{i,j} x[n, c, h·s - p + i·d, w·s - p + j·d] / divisor(h, w)

over the taps (i, j) of the window that lie inside the input. Both are bound by memory: every array
is read or written once, in vectors over the channels (channels_last) or over the output row
(channels_first). Sums have one order for every number of threads. A signal (n, c, l) is pooled as
an image of height 1, by the same kernels, without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from arraynn import _core

__all__ = [
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool2d",
    "max_pool2d_backward",
]

Array = NDArray[Any]
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]
Size = int | Sequence[int]


def max_pool2d(
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
    """Maximum of every window.

    NaN propagates: the first NaN of a window wins. Of equal maxima the first is taken, in row-major
    order. Padding is never chosen; a window without any input element (dilation can make one) gives
    -inf, or the least integer, at index -1.

    Parameters
    ----------
    x : array (n, c, h, w), or (n, h, w, c) with ``layout="channels_last"``
        Of a floating dtype, uint8, int8, int16, int32 or int64. The gradient is that of floats.
    kernel_size : int or (int, int)
        At least 1.
    stride : int or (int, int), optional
        At least 1; `kernel_size` when not given.
    padding : int, (int, int), ((top, bottom), (left, right)), "valid", "same" or "same_lower"
        Numbers are less than the reach of the dilated window. ``"same"`` gives
        ``ceil(size / stride)`` outputs for any stride, with the odd element of padding at the end,
        ``"same_lower"`` at the beginning.
    dilation : int or (int, int)
        Distance between the taps of a window, at least 1.
    ceil_mode : bool
        Round the output size up; a last window may not start in the padding at the end (PyTorch's
        rule).
    return_indices : bool
        Return the positions of the maxima as well.
    out : array, optional
        Where the maxima go. Must not overlap `x`.

    Returns
    -------
    y : array (n, c, oh, ow) or (n, oh, ow, c)
    indices : int64 array of the same shape, with `return_indices`
        Flat positions ``h * W + w`` in the input plane.

    Raises
    ------
    ValueError
        For shapes and values that do not fit.
    TypeError
        For arrays of other dtypes and arguments of other types.
    MemoryError
        For sizes beyond 2**46 bytes.
    NotImplementedError
        For indices in float32 windows that span 2**31 or more elements of a plane.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> y, indices = K.max_pool2d(x, 2, return_indices=True)
    >>> y[0, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    >>> indices[0, 0]
    array([[ 5,  7],
           [13, 15]])
    """
    return _core.max_pool2d(
        x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, layout, out
    )


def max_pool2d_backward(
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
    """Gradient of :func:`max_pool2d`: every element of `grad_out` added where its window's max was.

    Parameters
    ----------
    grad_out : array, shape of the result
    x, kernel_size, stride, padding, dilation, ceil_mode, layout
        As in the forward call.
    indices : int64 array, shape of the result, optional
        Those of the forward call. Without them the maxima are found again in `x`, which reads less
        memory.
    out : array, optional
        Where the gradient goes. Must not overlap an input.

    Returns
    -------
    grad_x : array, shape of `x`

    Raises
    ------
    ValueError, TypeError, MemoryError, NotImplementedError
        As :func:`max_pool2d`; ValueError also for an index outside of its plane. On a GPU
        an index outside of its window moves nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> K.max_pool2d_backward(np.ones((1, 1, 2, 2)), x, 2)[0, 0]
    array([[0., 0., 0., 0.],
           [0., 1., 0., 1.],
           [0., 0., 0., 0.],
           [0., 1., 0., 1.]])
    """
    return _core.max_pool2d_backward(
        grad_out, x, kernel_size, stride, padding, dilation, ceil_mode, layout, indices, out
    )


def avg_pool2d(
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
    """Sum of every window over its divisor.

    Parameters
    ----------
    x, kernel_size, stride, padding, ceil_mode, dilation, layout, out
        As in :func:`max_pool2d`.
    count_include_pad : bool
        Whether padding counts in the divisor. What `ceil_mode` reads beyond the padding never does.
    divisor_override : int, optional
        Divide by this instead of by the number of taps. Not 0.

    Returns
    -------
    array (n, c, oh, ow) or (n, oh, ow, c)
        0 where a window holds no input element.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    return _core.avg_pool2d(
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


def avg_pool2d_backward(
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
    """Gradient of :func:`avg_pool2d`: ``grad_out / divisor`` to every tap of the window.

    Parameters
    ----------
    grad_out : array, shape of the result; of a floating dtype
    x_shape : sequence of 4 ints
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
        As :func:`max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.avg_pool2d_backward(np.ones((1, 1, 1, 2)), (1, 1, 2, 4), 2)[0, 0]
    array([[0.25, 0.25, 0.25, 0.25],
           [0.25, 0.25, 0.25, 0.25]])
    """
    return _core.avg_pool2d_backward(
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


def max_pool1d(
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
    """Maximum of every window of a signal; see :func:`max_pool2d`.

    Parameters
    ----------
    x : array (n, c, l), or (n, l, c) with ``layout="channels_last"``
        Of a dtype of :func:`max_pool2d`.
    kernel_size, stride, dilation : int or (int,)
    padding : int, (int,), ((begin, end),), "valid", "same" or "same_lower"
    ceil_mode, return_indices, out
        As in :func:`max_pool2d`.

    Returns
    -------
    y : array (n, c, ol) or (n, ol, c)
    indices : int64 array of the same shape, with `return_indices`
        Positions in the signal.

    Raises
    ------
    ValueError, TypeError, MemoryError, NotImplementedError
        As :func:`max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.max_pool1d(np.array([[[3.0, 1.0, 2.0, 5.0]]]), 2)
    array([[[3., 5.]]])
    """
    return _core.max_pool1d(
        x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, layout, out
    )


def max_pool1d_backward(
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
    """Gradient of :func:`max_pool1d`; see :func:`max_pool2d_backward`.

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
        As :func:`max_pool2d_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.max_pool1d_backward(np.ones((1, 1, 2)), np.array([[[3.0, 1.0, 2.0, 5.0]]]), 2)
    array([[[1., 0., 0., 1.]]])
    """
    return _core.max_pool1d_backward(
        grad_out, x, kernel_size, stride, padding, dilation, ceil_mode, layout, indices, out
    )


def avg_pool1d(
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
    """Sum of every window of a signal over its divisor; see :func:`avg_pool2d`.

    Parameters
    ----------
    x, kernel_size, stride, padding, ceil_mode, dilation, layout, out
        As in :func:`max_pool1d`.
    count_include_pad, divisor_override
        As in :func:`avg_pool2d`.

    Returns
    -------
    array (n, c, ol) or (n, ol, c)

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.avg_pool1d(np.array([[[3.0, 1.0, 2.0, 5.0]]]), 2)
    array([[[2. , 3.5]]])
    """
    return _core.avg_pool1d(
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


def avg_pool1d_backward(
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
    """Gradient of :func:`avg_pool1d`: ``grad_out / divisor`` to every tap of the window.

    Parameters
    ----------
    grad_out : array, shape of the result; of a floating dtype
    x_shape : sequence of 3 ints
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
        As :func:`max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.avg_pool1d_backward(np.array([[[1.0, 3.0]]]), (1, 1, 4), 2)
    array([[[0.5, 0.5, 1.5, 1.5]]])
    """
    return _core.avg_pool1d_backward(
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
