"""Pooling whose windows follow from the size of the result: adaptive and global.

Output o of an axis that takes `size` positions to `out` reads the window

    [floor(o·size / out), ceil((o + 1)·size / out))

so that every position is read and ``out = 1`` is the whole axis. Where out divides size the windows
are those of ordinary pooling with kernel = stride = size / out, and so are the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from arraynn import _core

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool1d_backward",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "global_avg_pool",
    "global_avg_pool_backward",
    "global_max_pool",
    "global_max_pool_backward",
]

Array = NDArray[Any]
OutputSize = int | Sequence[int | None] | None


def adaptive_max_pool1d(
    x: Array,
    output_size: OutputSize,
    return_indices: bool = False,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Any:
    """Maximum of each of `output_size` windows of a signal.

    Parameters
    ----------
    x : array (n, c, l), or (n, l, c) with ``layout="channels_last"``
        Of a dtype of :func:`max_pool2d`.
    output_size : int, (int,) or None
        At least 0; None keeps the size of `x`.
    return_indices : bool
        Return the positions of the maxima as well.
    out : array, optional
        Where the maxima go. Must not overlap `x`.

    Returns
    -------
    y : array (n, c, ol) or (n, ol, c)
    indices : int64 array of the same shape, with `return_indices`
        Positions in the signal.

    Raises
    ------
    ValueError
        For shapes and values that do not fit, and where `x` has a length of 0.
    TypeError
        For arrays of other dtypes and arguments of other types.
    MemoryError
        For sizes beyond 2**46 bytes.
    NotImplementedError
        As :func:`~arraynn.kernels.max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.adaptive_max_pool1d(np.array([[[3.0, 1.0, 2.0, 5.0, 4.0]]]), 3)
    array([[[3., 5., 5.]]])
    """
    return _core.adaptive_max_pool1d(x, output_size, return_indices, layout, out)


def adaptive_max_pool1d_backward(
    grad_out: Array,
    x: Array,
    output_size: OutputSize,
    *,
    layout: str = "channels_first",
    indices: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`adaptive_max_pool1d`: added where each window's maximum was.

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
    >>> K.adaptive_max_pool1d_backward(np.ones((1, 1, 2)), np.array([[[3.0, 1.0, 2.0]]]), 2)
    array([[[1., 0., 1.]]])
    """
    return _core.adaptive_max_pool1d_backward(grad_out, x, output_size, layout, indices, out)


def adaptive_avg_pool1d(
    x: Array,
    output_size: OutputSize,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Mean of each of `output_size` windows of a signal.

    Parameters
    ----------
    x, output_size, layout, out
        As in :func:`adaptive_max_pool1d`.

    Returns
    -------
    array (n, c, ol) or (n, ol, c)

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`adaptive_max_pool1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.adaptive_avg_pool1d(np.array([[[3.0, 1.0, 2.0]]]), 2)
    array([[[2. , 1.5]]])
    """
    return _core.adaptive_avg_pool1d(x, output_size, layout, out)


def adaptive_avg_pool1d_backward(
    grad_out: Array,
    x_shape: Sequence[int],
    output_size: OutputSize,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`adaptive_avg_pool1d`: an equal share to every element of the window.

    Parameters
    ----------
    grad_out : array, shape of the result; of a floating dtype
    x_shape : sequence of 3 ints
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
        As :func:`adaptive_max_pool1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.adaptive_avg_pool1d_backward(np.ones((1, 1, 2)), (1, 1, 3), 2)
    array([[[0.5, 1. , 0.5]]])
    """
    return _core.adaptive_avg_pool1d_backward(grad_out, x_shape, output_size, layout, out)


def adaptive_max_pool2d(
    x: Array,
    output_size: OutputSize,
    return_indices: bool = False,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Any:
    """Maximum of each of `output_size` windows per image axis.

    Parameters
    ----------
    x : array (n, c, h, w), or (n, h, w, c) with ``layout="channels_last"``
        Of a dtype of :func:`max_pool2d`.
    output_size : int, (int or None, int or None) or None
        At least 0; None keeps the size of `x`.
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
        For shapes and values that do not fit, and where `x` has a height or width of 0.
    TypeError
        For arrays of other dtypes and arguments of other types.
    MemoryError
        For sizes beyond 2**46 bytes.
    NotImplementedError
        As :func:`~arraynn.kernels.max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.adaptive_max_pool2d(np.arange(9.0).reshape(1, 1, 3, 3), 2)[0, 0]
    array([[4., 5.],
           [7., 8.]])
    """
    return _core.adaptive_max_pool2d(x, output_size, return_indices, layout, out)


def adaptive_max_pool2d_backward(
    grad_out: Array,
    x: Array,
    output_size: OutputSize,
    *,
    layout: str = "channels_first",
    indices: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`adaptive_max_pool2d`: added where each window's maximum was.

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
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> K.adaptive_max_pool2d_backward(np.ones((1, 1, 1, 2)), x, (1, 2))[0, 0, 2]
    array([0., 1., 1.])
    """
    return _core.adaptive_max_pool2d_backward(grad_out, x, output_size, layout, indices, out)


def adaptive_avg_pool2d(
    x: Array,
    output_size: OutputSize,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Mean of each of `output_size` windows per image axis.

    Parameters
    ----------
    x, output_size, layout, out
        As in :func:`adaptive_max_pool2d`.

    Returns
    -------
    array (n, c, oh, ow) or (n, oh, ow, c)

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`adaptive_max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.adaptive_avg_pool2d(np.arange(9.0).reshape(1, 1, 3, 3), (None, 1))[0, 0].ravel()
    array([1., 4., 7.])
    """
    return _core.adaptive_avg_pool2d(x, output_size, layout, out)


def adaptive_avg_pool2d_backward(
    grad_out: Array,
    x_shape: Sequence[int],
    output_size: OutputSize,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`adaptive_avg_pool2d`: an equal share to every element of the window.

    Parameters
    ----------
    grad_out : array, shape of the result; of a floating dtype
    x_shape : sequence of 4 ints
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
        As :func:`adaptive_max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.adaptive_avg_pool2d_backward(np.ones((1, 1, 2, 1)), (1, 1, 3, 2), (2, 1))[0, 0, :, 0]
    array([0.25, 0.5 , 0.25])
    """
    return _core.adaptive_avg_pool2d_backward(grad_out, x_shape, output_size, layout, out)


def global_max_pool(
    x: Array,
    return_indices: bool = False,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Any:
    """Maximum over all spatial axes, which stay with size 1 (ONNX' GlobalMaxPool).

    Parameters
    ----------
    x : array (n, c, ...), or (n, ..., c) with ``layout="channels_last"``
        Signals (n, c, l), images (n, c, h, w) or volumes (n, c, d, h, w).
        Of a dtype of :func:`max_pool2d`.
    return_indices : bool
        Return the positions of the maxima in their planes as well.
    out : array, optional
        Where the maxima go. Must not overlap `x`.

    Returns
    -------
    y : array (n, c, 1, ...) or (n, 1, ..., c), as many axes as `x`
    indices : int64 array of the same shape, with `return_indices`

    Raises
    ------
    ValueError, TypeError, MemoryError, NotImplementedError
        As :func:`adaptive_max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.global_max_pool(np.arange(8.0).reshape(1, 2, 2, 2)).ravel()
    array([3., 7.])
    """
    return _core.global_max_pool(x, return_indices, layout, out)


def global_max_pool_backward(
    grad_out: Array,
    x: Array,
    *,
    layout: str = "channels_first",
    indices: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`global_max_pool`: `grad_out` where the maximum was.

    Parameters
    ----------
    grad_out : array, shape of the result
    x, layout
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
        As :func:`adaptive_max_pool2d_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.global_max_pool_backward(np.ones((1, 1, 1)), np.array([[[1.0, 5.0, 2.0]]]))
    array([[[0., 1., 0.]]])
    """
    return _core.global_max_pool_backward(grad_out, x, layout, indices, out)


def global_avg_pool(
    x: Array,
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Mean over all spatial axes, which stay with size 1 (ONNX' GlobalAveragePool).

    Parameters
    ----------
    x, layout, out
        As in :func:`global_max_pool`.

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
    >>> K.global_avg_pool(np.arange(8.0).reshape(1, 2, 2, 2)).ravel()
    array([1.5, 5.5])
    """
    return _core.global_avg_pool(x, layout, out)


def global_avg_pool_backward(
    grad_out: Array,
    x_shape: Sequence[int],
    *,
    layout: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`global_avg_pool`: an equal share of `grad_out` everywhere.

    Parameters
    ----------
    grad_out : array, shape of the result; of a floating dtype
    x_shape : sequence of 3 or 4 ints
        The shape of the forward call's `x`, in its layout.
    out : array, optional
        Where the gradient goes. Must not overlap an input.

    Returns
    -------
    grad_x : array of shape `x_shape`

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`adaptive_max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.global_avg_pool_backward(np.ones((1, 1, 1)), (1, 1, 4))
    array([[[0.25, 0.25, 0.25, 0.25]]])
    """
    return _core.global_avg_pool_backward(grad_out, x_shape, layout, out)
