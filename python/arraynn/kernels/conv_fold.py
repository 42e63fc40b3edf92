"""Windows of images as columns, and back.

    unfold   y[n, (c·kh + i)·kw + j, oh·OW + ow] = x[n, c, oh·s - p + i·d, ow·s - p + j·d]
    fold     the sum, at every position, of the elements of y that unfold reads there

with zeros outside of the image. Each is the gradient of the other. Convolutions here need neither;
they are for operations on patches that no layer covers. `channels_first` alone, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from arraynn import _core

__all__ = ["fold", "unfold"]

Array = NDArray[Any]
Padding = int | Sequence[int] | Sequence[Sequence[int]]
Size = int | Sequence[int]


def unfold(
    x: Array,
    kernel_size: Size,
    dilation: Size = 1,
    padding: Padding = 0,
    stride: Size = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Lay the windows of a batch of images side by side as columns.

    Parameters
    ----------
    x : array (n, c, h, w); of a floating dtype
    kernel_size, dilation, stride : int or (int, int)
        At least 1.
    padding : int, (int, int) or ((top, bottom), (left, right))
        Zeros around the image.
    out : array, optional
        Where the result goes. Must not overlap `x`.

    Returns
    -------
    array (n, c * kh * kw, oh * ow)
        Row-major windows; in a column the channels, then the rows of the window.

    Raises
    ------
    ValueError
        For shapes and values that do not fit.
    TypeError
        For arrays of other dtypes and arguments of other types.
    MemoryError
        For sizes beyond 2**46 bytes.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.unfold(np.arange(6.0).reshape(1, 1, 2, 3), 2)[0]
    array([[0., 1.],
           [1., 2.],
           [3., 4.],
           [4., 5.]])
    """
    return _core.unfold(x, kernel_size, dilation, padding, stride, out)


def fold(
    x: Array,
    output_size: Size,
    kernel_size: Size,
    dilation: Size = 1,
    padding: Padding = 0,
    stride: Size = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Add the columns of :func:`unfold` to the images they came from.

    Parameters
    ----------
    x : array (n, c * kh * kw, oh * ow); of a floating dtype
    output_size : int or (int, int)
        Height and width of the images.
    kernel_size, dilation, padding, stride, out
        As in :func:`unfold`.

    Returns
    -------
    array (n, c, h, w)
        Where windows overlap, sums in the order of the window's positions.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`unfold`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.fold(np.ones((1, 4, 2)), (2, 3), 2)[0, 0]
    array([[1., 2., 1.],
           [1., 2., 1.]])
    """
    return _core.fold(x, output_size, kernel_size, dilation, padding, stride, out)
