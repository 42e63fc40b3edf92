"""Max unpooling: elements back to where max pooling found them.

    y[n, c, index[n,c,i]] = x[n, c, i], 0 elsewhere

It moves numbers and does no arithmetic. A thread owns whole planes or blocks of channels, so the
result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from arraynn import _core

__all__ = ["max_unpool1d", "max_unpool1d_backward", "max_unpool2d", "max_unpool2d_backward"]

Array = NDArray[Any]
Size = int | Sequence[int]


def max_unpool1d(
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
    """Put every element where :func:`max_pool1d` found it, zeros elsewhere.

    Of elements with the same index the last one stays.

    Parameters
    ----------
    x : array (n, c, l), or (n, l, c) with ``layout="channels_last"``
        Of a floating dtype.
    indices : int64 array, shape of `x`
        Positions in the signal.
    kernel_size, stride, padding : int or (int,)
        Of the pooling. They decide the size of the result: (size - 1) stride - 2 padding + kernel.
    output_size : int or (int,), optional
        Another size of the result, less than `stride` away from that.
    out : array, optional
        Where the result goes. Must not overlap `x` or `indices`.

    Returns
    -------
    array (n, c, ol) or (n, ol, c)

    Raises
    ------
    ValueError
        For shapes and values that do not fit, and for an index outside of its plane (on a GPU it
        moves nothing).
    TypeError
        For arrays of other dtypes and arguments of other types.
    MemoryError
        For sizes beyond 2**46 bytes.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.max_unpool1d(np.array([[[3.0, 5.0]]]), np.array([[[0, 3]]]), 2)
    array([[[3., 0., 0., 5.]]])
    """
    return _core.max_unpool1d(x, indices, kernel_size, stride, padding, output_size, layout, out)


def max_unpool1d_backward(
    grad_out: Array,
    indices: Array,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`max_unpool1d`: the element of `grad_out` at every index.

    Where an index stands twice, both elements get the gradient, as in PyTorch.

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
        As :func:`max_unpool1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.max_unpool1d_backward(np.array([[[1.0, 2.0, 3.0, 4.0]]]), np.array([[[0, 3]]]))
    array([[[1., 4.]]])
    """
    return _core.max_unpool1d_backward(grad_out, indices, layout, out)


def max_unpool2d(
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
    """Put every element where :func:`max_pool2d` found it, zeros elsewhere.

    Of elements with the same index the last one stays.

    Parameters
    ----------
    x : array (n, c, h, w), or (n, h, w, c) with ``layout="channels_last"``
        Of a floating dtype.
    indices : int64 array, shape of `x`
        Flat positions ``h * W + w`` in the plane of the result.
    kernel_size, stride, padding : int or (int, int)
        Of the pooling. They decide the size of the result: (size - 1) stride - 2 padding + kernel.
    output_size : int or (int, int), optional
        Another size of the result, less than `stride` away from that.
    out : array, optional
        Where the result goes. Must not overlap `x` or `indices`.

    Returns
    -------
    array (n, c, oh, ow) or (n, oh, ow, c)

    Raises
    ------
    ValueError
        For shapes and values that do not fit, and for an index outside of its plane (on a GPU it
        moves nothing).
    TypeError
        For arrays of other dtypes and arguments of other types.
    MemoryError
        For sizes beyond 2**46 bytes.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> y, indices = K.max_pool2d(np.arange(4.0).reshape(1, 1, 2, 2), 2, return_indices=True)
    >>> K.max_unpool2d(y, indices, 2)[0, 0]
    array([[0., 0.],
           [0., 3.]])
    """
    return _core.max_unpool2d(x, indices, kernel_size, stride, padding, output_size, layout, out)


def max_unpool2d_backward(
    grad_out: Array,
    indices: Array,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`max_unpool2d`: the element of `grad_out` at every index.

    Where an index stands twice, both elements get the gradient, as in PyTorch.

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
        As :func:`max_unpool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> grad = np.arange(4.0).reshape(1, 1, 2, 2)
    >>> K.max_unpool2d_backward(grad, np.array([[[[2]]]]))
    array([[[[2.]]]])
    """
    return _core.max_unpool2d_backward(grad_out, indices, layout, out)
