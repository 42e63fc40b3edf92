"""Convolution, then pooling, in plain NumPy."""

from __future__ import annotations

from ._common import FloatArray, Padding, Size, store
from .conv import conv2d
from .pool import avg_pool2d, max_pool2d


def conv2d_pool(
    x: FloatArray,
    weight: FloatArray,
    bias: FloatArray | None = None,
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
    out: FloatArray | None = None,
) -> FloatArray:
    """Maximum or mean over windows of ``activation(conv2d(x, weight) + bias)``.

    Parameters
    ----------
    x, weight, bias, stride, padding, dilation, groups, activation, flip_kernel, algorithm
        See :func:`conv2d`.
    pool : {"max", "avg"}
    pool_size, pool_stride, pool_padding, pool_dilation, ceil_mode
        See :func:`max_pool2d`.
    count_include_pad, divisor_override
        See :func:`avg_pool2d`.

    Examples
    --------
    >>> conv2d_pool(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)))
    array([[[[4.]]]])
    """
    y = conv2d(
        x,
        weight,
        bias,
        stride,
        padding,
        dilation,
        groups,
        activation=activation,
        layout=layout,
        flip_kernel=flip_kernel,
        algorithm=algorithm,
    )
    window = (pool_size, pool_stride, pool_padding)
    if pool == "max":
        pooled = max_pool2d(y, *window, pool_dilation, ceil_mode, layout=layout)
    elif pool == "avg":
        means = (ceil_mode, count_include_pad, divisor_override)
        pooled = avg_pool2d(y, *window, *means, dilation=pool_dilation, layout=layout)
    else:
        raise ValueError(f"[conv2d_pool] pool: expected 'max' or 'avg', got {pool!r}")
    return store(pooled, out)
