"""Convolution, activation and pooling in one pass.

    y[n,o,h,w] = pool_{i,j} activation(b[o] + conv(x, W)[n, o, h·s - p + i·d, w·s - p + j·d])

with the maximum or the mean of every window. Rows of the convolution are pooled where they were
formed, in cache: its result, four times the pooled array or more, is never in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from arraynn import _core
from arraynn._core import PackedWeight

__all__ = ["conv2d_pool"]

Array = NDArray[Any]
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]
Size = int | Sequence[int]


def conv2d_pool(
    x: Array,
    weight: Array | PackedWeight,
    bias: Array | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    pool: str = "max",
    pool_size: Size = 2,
    pool_stride: Size | None = None,
    pool_padding: Padding = 0,
    pool_dilation: Size = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    activation: str | None = None,
    layout: str = "channels_first",
    flip_kernel: bool = False,
    algorithm: str = "auto",
    out: Array | None = None,
) -> Array:
    """Pool ``conv2d(x, weight, bias, activation=activation)`` without forming it as a whole.

    Maxima have the bits of :func:`conv2d` followed by :func:`max_pool2d`, and means those of
    :func:`avg_pool2d` in channels last; in channels first their sums may have another order.

    Parameters
    ----------
    x, weight, bias, stride, padding, dilation, groups, activation, layout, flip_kernel, algorithm
        As in :func:`conv2d`; a packed weight is one of `conv2d`.
    pool : {"max", "avg"}
    pool_size, pool_stride, pool_padding, pool_dilation, ceil_mode
        `kernel_size`, `stride`, `padding`, `dilation` and `ceil_mode` of :func:`max_pool2d`.
    count_include_pad, divisor_override
        As in :func:`avg_pool2d`; of no effect on maxima.
    out : array, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array (n, oc, h, w) or (n, h, w, oc), of the pooled size

    Raises
    ------
    ValueError
        For shapes and values that do not fit.
    TypeError
        For arrays of other or of mixed dtypes.
    MemoryError
        For sizes beyond 2**46 bytes.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x = np.arange(25.0).reshape(1, 1, 5, 5)
    >>> K.conv2d_pool(x, np.ones((1, 1, 2, 2)), np.array([-50.0]), activation="relu")
    array([[[[ 0.,  0.],
             [26., 34.]]]])
    """
    return _core.conv2d_pool(
        x,
        weight,
        bias,
        stride,
        padding,
        dilation,
        groups,
        pool,
        pool_size,
        pool_stride,
        pool_padding,
        pool_dilation,
        ceil_mode,
        count_include_pad,
        divisor_override,
        activation,
        layout,
        flip_kernel,
        algorithm,
        out,
    )
