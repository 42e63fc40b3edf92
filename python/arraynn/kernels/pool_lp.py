"""Lp pooling in one to three dimensions, and over all of them.

    y[n,c,h,w] = (k / t(h, w) · Σ_{i,j} x[n, c, h·s - p + i·d, w·s - p + j·d]^norm)^(1/norm)

over the k taps (i, j) of the window, where x is 0 in the padding; t of them do not lie beyond it:
all, unless ``ceil_mode`` rounds up. Powers are summed by the kernels of the average poolings.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from arraynn import _core

from .pool import Padding, Size

__all__ = [
    "global_lp_pool",
    "global_lp_pool_backward",
    "lp_pool1d",
    "lp_pool1d_backward",
    "lp_pool2d",
    "lp_pool2d_backward",
    "lp_pool3d",
    "lp_pool3d_backward",
]

Array = NDArray[Any]


def lp_pool1d(
    x: Array,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Power mean of every window of a signal, times its size; see :func:`lp_pool2d`.

    Parameters
    ----------
    x : array (n, c, l), or (n, l, c) with ``layout="channels_last"``
        Of a floating dtype.
    norm_type : float
        The p, above 0.
    kernel_size, stride, ceil_mode, padding, dilation, layout, out
        As in :func:`max_pool1d`.

    Returns
    -------
    array (n, c, ol) or (n, ol, c)

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`max_pool1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.lp_pool1d(np.array([[[3.0, 4.0, 6.0, 8.0]]]), 2, 2)
    array([[[ 5., 10.]]])
    """
    return _core.lp_pool1d(
        x, norm_type, kernel_size, stride, ceil_mode, padding, dilation, layout, out
    )


def lp_pool1d_backward(
    grad_out: Array,
    x: Array,
    y: Array,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`lp_pool1d`: ``grad_out * (x / y)**(p - 1)`` to every tap of the window.

    Where a window's result is 0 it gives no gradient (PyTorch gives NaN), unless the norm is 1.

    Parameters
    ----------
    grad_out, y : array, shape of the result
        `y` is the result of the forward call.
    x, norm_type, kernel_size, stride, ceil_mode, padding, dilation, layout
        As in the forward call.
    out : array, optional
        Where the gradient goes. Must not overlap an input.

    Returns
    -------
    grad_x : array, shape of `x`

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`max_pool1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x = np.array([[[3.0, 4.0]]])
    >>> K.lp_pool1d_backward(np.ones((1, 1, 1)), x, np.array([[[5.0]]]), 2, 2)
    array([[[0.6, 0.8]]])
    """
    return _core.lp_pool1d_backward(
        grad_out, x, y, norm_type, kernel_size, stride, ceil_mode, padding, dilation, layout, out
    )


def lp_pool2d(
    x: Array,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Power mean of every window, times the window's size: ``(sum of x**p)**(1 / p)``.

    Padding counts as zeros (ONNX' LpPool); what `ceil_mode` reads beyond it does not count, and the
    sum is scaled to the full window (PyTorch's rule). Powers are of x itself, not of its magnitude:
    as in PyTorch an odd norm of a negative sum is NaN, and norm 1 is the plain sum.

    Parameters
    ----------
    x : array (n, c, h, w), or (n, h, w, c) with ``layout="channels_last"``
        Of a floating dtype.
    norm_type : float
        The p, above 0.
    kernel_size, stride, ceil_mode, padding, dilation, layout, out
        As in :func:`max_pool2d`.

    Returns
    -------
    array (n, c, oh, ow) or (n, oh, ow, c)

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.lp_pool2d(np.ones((1, 1, 2, 4)), 2, 2)
    array([[[[2., 2.]]]])
    >>> K.lp_pool2d(np.array([[[[3.0, 4.0]]]]), 2, 2, padding=((1, 0), (1, 1)))[0, 0]
    array([[3., 4.]])
    """
    return _core.lp_pool2d(
        x, norm_type, kernel_size, stride, ceil_mode, padding, dilation, layout, out
    )


def lp_pool2d_backward(
    grad_out: Array,
    x: Array,
    y: Array,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`lp_pool2d`: ``grad_out * (x / y)**(p - 1)`` to every tap of the window.

    Where a window's result is 0 it gives no gradient (PyTorch gives NaN), unless the norm is 1.

    Parameters
    ----------
    grad_out, y : array, shape of the result
        `y` is the result of the forward call.
    x, norm_type, kernel_size, stride, ceil_mode, padding, dilation, layout
        As in the forward call.
    out : array, optional
        Where the gradient goes. Must not overlap an input.

    Returns
    -------
    grad_x : array, shape of `x`

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x, y = np.ones((1, 1, 2, 2)), np.full((1, 1, 1, 1), 2.0)
    >>> K.lp_pool2d_backward(np.ones_like(y), x, y, 2, 2)[0, 0]
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    return _core.lp_pool2d_backward(
        grad_out, x, y, norm_type, kernel_size, stride, ceil_mode, padding, dilation, layout, out
    )


def lp_pool3d(
    x: Array,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Power mean of every window of a volume, times its size; see :func:`lp_pool2d`.

    Parameters
    ----------
    x : array (n, c, d, h, w), or (n, d, h, w, c) with ``layout="channels_last"``
        Of a floating dtype.
    norm_type : float
        The p, above 0.
    kernel_size, stride, ceil_mode, padding, dilation, layout, out
        As in :func:`max_pool3d`.

    Returns
    -------
    array (n, c, od, oh, ow) or (n, od, oh, ow, c)

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`max_pool3d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.lp_pool3d(np.full((1, 1, 1, 2, 2), 3.0), 2, (1, 2, 2)).ravel()
    array([6.])
    """
    return _core.lp_pool3d(
        x, norm_type, kernel_size, stride, ceil_mode, padding, dilation, layout, out
    )


def lp_pool3d_backward(
    grad_out: Array,
    x: Array,
    y: Array,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`lp_pool3d`: ``grad_out * (x / y)**(p - 1)`` to every tap of the window.

    Where a window's result is 0 it gives no gradient (PyTorch gives NaN), unless the norm is 1.

    Parameters
    ----------
    grad_out, y : array, shape of the result
        `y` is the result of the forward call.
    x, norm_type, kernel_size, stride, ceil_mode, padding, dilation, layout
        As in the forward call.
    out : array, optional
        Where the gradient goes. Must not overlap an input.

    Returns
    -------
    grad_x : array, shape of `x`

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`max_pool3d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x, y = np.full((1, 1, 1, 2, 2), 3.0), np.full((1, 1, 1, 1, 1), 6.0)
    >>> K.lp_pool3d_backward(np.ones_like(y), x, y, 2, (1, 2, 2)).ravel()
    array([0.5, 0.5, 0.5, 0.5])
    """
    return _core.lp_pool3d_backward(
        grad_out, x, y, norm_type, kernel_size, stride, ceil_mode, padding, dilation, layout, out
    )


def global_lp_pool(
    x: Array,
    norm_type: float,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """``(sum of x**p)**(1 / p)`` over all spatial axes, which stay with size 1.

    ONNX' GlobalLpPool, which takes powers of the magnitude: those here are of x itself, as in
    :func:`lp_pool2d`.

    Parameters
    ----------
    x : array (n, c, ...), or (n, ..., c) with ``layout="channels_last"``
        Signals (n, c, l), images (n, c, h, w) or volumes (n, c, d, h, w); of a floating dtype.
    norm_type : float
        The p, above 0.
    out : array, optional
        Where the norms go. Must not overlap `x`.

    Returns
    -------
    array (n, c, 1, ...) or (n, 1, ..., c), as many axes as `x`

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`adaptive_max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.global_lp_pool(np.array([[[3.0, 4.0], [6.0, 8.0]]]), 2).ravel()
    array([ 5., 10.])
    """
    return _core.global_lp_pool(x, norm_type, layout, out)


def global_lp_pool_backward(
    grad_out: Array,
    x: Array,
    y: Array,
    norm_type: float,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`global_lp_pool`: ``grad_out * (x / y)**(p - 1)`` everywhere.

    Where the result is 0 it gives no gradient, unless the norm is 1.

    Parameters
    ----------
    grad_out, y : array, shape of the result
        `y` is the result of the forward call.
    x, norm_type, layout
        As in the forward call.
    out : array, optional
        Where the gradient goes. Must not overlap an input.

    Returns
    -------
    grad_x : array, shape of `x`

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`adaptive_max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x, y = np.array([[[3.0, 4.0]]]), np.array([[[5.0]]])
    >>> K.global_lp_pool_backward(np.ones((1, 1, 1)), x, y, 2)
    array([[[0.6, 0.8]]])
    """
    return _core.global_lp_pool_backward(grad_out, x, y, norm_type, layout, out)
