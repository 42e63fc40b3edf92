"""Pooling as functions; :mod:`arraynn.nn.functional` has them under the same names.

Every function takes a batch (N, C, ...) or one sample (C, ...), in either layout.
"""

from __future__ import annotations

from typing import Any

from arraynn import kernels as K
from arraynn.autograd import pool
from arraynn.autograd.tape import Variable, array_of

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
]


def _max(
    op: str, axes: int, input: Any, window: tuple[Any, ...], indices: bool, **options: Any
) -> Any:
    if getattr(input, "ndim", 0) == axes + 1:
        result = _max(op, axes, input[None], window, indices, **options)
        return tuple(r[0] for r in result) if indices else result[0]
    if isinstance(input, Variable):
        return pool.max_pool(op, input, window, indices, options)  # type: ignore[arg-type]
    return getattr(K, op)(input, *window, return_indices=indices, **options)


def _avg(op: str, axes: int, input: Any, window: tuple[Any, ...], **options: Any) -> Any:
    if getattr(input, "ndim", 0) == axes + 1:
        return _avg(op, axes, input[None], window, **options)[0]
    if isinstance(input, Variable):
        return pool.avg_pool(op, input, window, options)  # type: ignore[arg-type]
    return getattr(K, op)(input, *window, **options)


def _lp(op: str, axes: int, input: Any, window: tuple[Any, ...], **options: Any) -> Any:
    if getattr(input, "ndim", 0) == axes + 1:
        return _lp(op, axes, input[None], window, **options)[0]
    if isinstance(input, Variable):
        return pool.lp_pool(op, input, window, options)  # type: ignore[arg-type]
    return getattr(K, op)(input, *window, **options)


def _unpool(
    op: str, axes: int, input: Any, indices: Any, window: tuple[Any, ...], size: Any, layout: str
) -> Any:
    if isinstance(size, tuple | list) and len(size) == axes + 2:  # of a whole batch
        size = size[1:-1] if layout == "channels_last" else size[2:]
    if getattr(input, "ndim", 0) == axes + 1:
        return _unpool(op, axes, input[None], indices[None], window, size, layout)[0]
    if isinstance(input, Variable):
        options = {"layout": layout}
        return pool.max_unpool(op, input, indices, (*window, size), options)  # type: ignore[arg-type]
    return getattr(K, op)(input, array_of(indices), *window, size, layout=layout)


def max_pool1d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    layout: str = "channels_first",
) -> Any:
    """Return the largest element of each window of a signal; see :func:`max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> max_pool1d(np.array([[3.0, 1.0, 2.0, 5.0]]), 2)
    array([[3., 5.]])
    """
    window = (kernel_size, stride, padding, dilation, ceil_mode)
    return _max("max_pool1d", 1, input, window, return_indices, layout=layout)


def max_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    layout: str = "channels_first",
) -> Any:
    """Return the largest element of each window; ``stride`` None means the kernel's size.

    The gradient goes to the first of equal elements. With ``return_indices`` the result is
    (output, indices), an int64 position ``h * W + w`` in the input plane for each output.

    Examples
    --------
    >>> import numpy as np
    >>> max_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    """
    window = (kernel_size, stride, padding, dilation, ceil_mode)
    return _max("max_pool2d", 2, input, window, return_indices, layout=layout)


def avg_pool1d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Any = 1,
    layout: str = "channels_first",
) -> Any:
    """Return the mean of each window of a signal; ``stride`` None means the kernel's size.

    Examples
    --------
    >>> import numpy as np
    >>> avg_pool1d(np.array([[3.0, 1.0, 2.0, 5.0]]), 2)
    array([[2. , 3.5]])
    """
    window = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _avg("avg_pool1d", 1, input, window, dilation=dilation, layout=layout)


def avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Any = 1,
    layout: str = "channels_first",
) -> Any:
    """Return the mean of each window; ``stride`` None means the kernel's size.

    Examples
    --------
    >>> import numpy as np
    >>> avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    window = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _avg("avg_pool2d", 2, input, window, dilation=dilation, layout=layout)


def adaptive_max_pool1d(
    input: Any,
    output_size: Any,
    return_indices: bool = False,
    *,
    layout: str = "channels_first",
) -> Any:
    """Return the largest element of each of ``output_size`` windows of a signal.

    Examples
    --------
    >>> import numpy as np
    >>> adaptive_max_pool1d(np.array([[3.0, 1.0, 2.0, 5.0, 4.0]]), 3)
    array([[3., 5., 5.]])
    """
    return _max("adaptive_max_pool1d", 1, input, (output_size,), return_indices, layout=layout)


def adaptive_max_pool2d(
    input: Any,
    output_size: Any,
    return_indices: bool = False,
    *,
    layout: str = "channels_first",
) -> Any:
    """Return the largest element of each of ``output_size`` windows; None keeps a size.

    Examples
    --------
    >>> import numpy as np
    >>> adaptive_max_pool2d(np.arange(9.0).reshape(1, 1, 3, 3), 2)[0, 0]
    array([[4., 5.],
           [7., 8.]])
    """
    return _max("adaptive_max_pool2d", 2, input, (output_size,), return_indices, layout=layout)


def adaptive_avg_pool1d(input: Any, output_size: Any, *, layout: str = "channels_first") -> Any:
    """Return the mean of each of ``output_size`` windows of a signal.

    Examples
    --------
    >>> import numpy as np
    >>> adaptive_avg_pool1d(np.array([[3.0, 1.0, 2.0]]), 2)
    array([[2. , 1.5]])
    """
    return _avg("adaptive_avg_pool1d", 1, input, (output_size,), layout=layout)


def adaptive_avg_pool2d(input: Any, output_size: Any, *, layout: str = "channels_first") -> Any:
    """Return the mean of each of ``output_size`` windows; None keeps a size.

    Examples
    --------
    >>> import numpy as np
    >>> adaptive_avg_pool2d(np.arange(4.0).reshape(1, 1, 2, 2), 1)[0, 0]
    array([[1.5]])
    """
    return _avg("adaptive_avg_pool2d", 2, input, (output_size,), layout=layout)


def lp_pool1d(
    input: Any,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
    *,
    padding: Any = 0,
    dilation: Any = 1,
    layout: str = "channels_first",
) -> Any:
    """Return ``(sum of x**p)**(1 / p)`` over each window of a signal, p = ``norm_type``.

    Examples
    --------
    >>> import numpy as np
    >>> lp_pool1d(np.array([[3.0, 4.0, 6.0, 8.0]]), 2, 2)
    array([[ 5., 10.]])
    """
    window = (norm_type, kernel_size, stride, ceil_mode)
    options = {"padding": padding, "dilation": dilation, "layout": layout}
    return _lp("lp_pool1d", 1, input, window, **options)


def max_unpool1d(
    input: Any,
    indices: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
    *,
    layout: str = "channels_first",
) -> Any:
    """Put every element of a signal where :func:`max_pool1d` found it, zeros elsewhere.

    ``output_size`` is that of the spatial axes, or of the whole batch.

    Examples
    --------
    >>> import numpy as np
    >>> max_unpool1d(np.array([[3.0, 5.0]]), np.array([[0, 3]]), 2)
    array([[3., 0., 0., 5.]])
    """
    window = (kernel_size, stride, padding)
    return _unpool("max_unpool1d", 1, input, indices, window, output_size, layout)


def lp_pool2d(
    input: Any,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
    *,
    padding: Any = 0,
    dilation: Any = 1,
    layout: str = "channels_first",
) -> Any:
    """Return ``(sum of x**p)**(1 / p)`` over each window of an image, p = ``norm_type``.

    ``padding`` counts as zeros; PyTorch has neither that nor ``dilation``.

    Examples
    --------
    >>> import numpy as np
    >>> lp_pool2d(np.ones((1, 1, 2, 4)), 2, 2)
    array([[[[2., 2.]]]])
    """
    window = (norm_type, kernel_size, stride, ceil_mode)
    options = {"padding": padding, "dilation": dilation, "layout": layout}
    return _lp("lp_pool2d", 2, input, window, **options)


def max_unpool2d(
    input: Any,
    indices: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
    *,
    layout: str = "channels_first",
) -> Any:
    """Put every element of an image where :func:`max_pool2d` found it, zeros elsewhere.

    ``output_size`` is that of the spatial axes, or of the whole batch.

    Examples
    --------
    >>> import numpy as np
    >>> y, indices = max_pool2d(np.arange(4.0).reshape(1, 1, 2, 2), 2, return_indices=True)
    >>> max_unpool2d(y, indices, 2)[0, 0]
    array([[0., 0.],
           [0., 3.]])
    """
    window = (kernel_size, stride, padding)
    return _unpool("max_unpool2d", 2, input, indices, window, output_size, layout)


def max_pool3d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    layout: str = "channels_first",
) -> Any:
    """Return the largest element of each window of a volume; see :func:`max_pool2d`.

    Indices are positions ``(d * H + h) * W + w`` in the input volume.

    Examples
    --------
    >>> import numpy as np
    >>> max_pool3d(np.arange(8.0).reshape(1, 1, 2, 2, 2), 2)
    array([[[[[7.]]]]])
    """
    window = (kernel_size, stride, padding, dilation, ceil_mode)
    return _max("max_pool3d", 3, input, window, return_indices, layout=layout)


def avg_pool3d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Any = 1,
    layout: str = "channels_first",
) -> Any:
    """Return the mean of each window of a volume; ``stride`` None means the kernel's size.

    Examples
    --------
    >>> import numpy as np
    >>> avg_pool3d(np.arange(8.0).reshape(1, 1, 2, 2, 2), 2)
    array([[[[[3.5]]]]])
    """
    window = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _avg("avg_pool3d", 3, input, window, dilation=dilation, layout=layout)


def adaptive_max_pool3d(
    input: Any,
    output_size: Any,
    return_indices: bool = False,
    *,
    layout: str = "channels_first",
) -> Any:
    """Return the largest element of each of ``output_size`` windows; None keeps a size.

    Examples
    --------
    >>> import numpy as np
    >>> adaptive_max_pool3d(np.arange(8.0).reshape(1, 1, 2, 2, 2), (1, 1, None))
    array([[[[[6., 7.]]]]])
    """
    return _max("adaptive_max_pool3d", 3, input, (output_size,), return_indices, layout=layout)


def adaptive_avg_pool3d(input: Any, output_size: Any, *, layout: str = "channels_first") -> Any:
    """Return the mean of each of ``output_size`` windows; None keeps a size.

    Examples
    --------
    >>> import numpy as np
    >>> adaptive_avg_pool3d(np.arange(8.0).reshape(1, 1, 2, 2, 2), 1)
    array([[[[[3.5]]]]])
    """
    return _avg("adaptive_avg_pool3d", 3, input, (output_size,), layout=layout)


def lp_pool3d(
    input: Any,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
    *,
    padding: Any = 0,
    dilation: Any = 1,
    layout: str = "channels_first",
) -> Any:
    """Return ``(sum of x**p)**(1 / p)`` over each window of a volume, p = ``norm_type``.

    Examples
    --------
    >>> import numpy as np
    >>> lp_pool3d(np.full((1, 1, 1, 2, 2), 3.0), 2, (1, 2, 2))
    array([[[[[6.]]]]])
    """
    window = (norm_type, kernel_size, stride, ceil_mode)
    options = {"padding": padding, "dilation": dilation, "layout": layout}
    return _lp("lp_pool3d", 3, input, window, **options)


def max_unpool3d(
    input: Any,
    indices: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
    *,
    layout: str = "channels_first",
) -> Any:
    """Put every element of a volume where :func:`max_pool3d` found it, zeros elsewhere.

    ``output_size`` is that of the spatial axes, or of the whole batch.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(4.0).reshape(1, 1, 1, 2, 2)
    >>> y, indices = max_pool3d(x, (1, 2, 2), return_indices=True)
    >>> max_unpool3d(y, indices, (1, 2, 2))
    array([[[[[0., 0.],
              [0., 3.]]]]])
    """
    window = (kernel_size, stride, padding)
    return _unpool("max_unpool3d", 3, input, indices, window, output_size, layout)
