"""Convolutions as functions, for :mod:`arraynn.nn.functional`."""

from __future__ import annotations

from typing import Any

from arraynn import kernels as K
from arraynn.autograd import conv
from arraynn.autograd.tape import Variable

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "fold",
    "unfold",
]


def _conv(
    op: str,
    axes: int,
    input: Any,
    weight: Any,
    bias: Any,
    geometry: tuple[Any, ...],
    activation: str | None,
    residual: Any,
    options: dict[str, Any],
) -> Any:
    if getattr(input, "ndim", None) == axes + 1:  # one sample
        batch = input.reshape((1, *input.shape))
        if residual is not None:
            residual = residual.reshape((1, *residual.shape))
        y = _conv(op, axes, batch, weight, bias, geometry, activation, residual, options)
        return y.reshape(y.shape[1:])
    if any(isinstance(value, Variable) for value in (input, weight, bias, residual)):
        return conv.conv(op, input, weight, bias, geometry, activation, residual, **options)
    kernel = getattr(K, op)
    return kernel(
        input, weight, bias, *geometry, activation=activation, residual=residual, **options
    )


def conv1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: Any = None,
    layout: str = "channels_first",
    flip_kernel: bool = False,
) -> Any:
    """Return ``activation(conv1d(input, weight) + bias + residual)``.

    Parameters
    ----------
    input : Tensor or array, (N, C, L), or (N, L, C) with ``layout="channels_last"``
        One sample without N is taken as well, and gives one without N.
    weight : Tensor or array, (out_channels, C / groups, k) in both layouts
    bias : Tensor or array, (out_channels,), optional
    stride, dilation : int
    padding : int, ((begin, end),), "valid", "same" or "same_lower"
    groups : int
    activation, residual
        As in :func:`arraynn.nn.functional.linear`.
    layout : {"channels_first", "channels_last"}
    flip_kernel : bool
        True is the convolution of mathematics, False the cross-correlation of every framework.

    Returns
    -------
    Tensor or array
        In the input's layout.

    Raises
    ------
    ValueError
        If shapes or parameters do not fit.
    TypeError
        If dtypes differ.

    Examples
    --------
    >>> import numpy as np
    >>> conv1d(np.ones((1, 1, 4)), np.ones((1, 1, 2)))
    array([[[2., 2., 2.]]])
    """
    geometry = (stride, padding, dilation, groups)
    options = {"layout": layout, "flip_kernel": flip_kernel}
    return _conv("conv1d", 1, input, weight, bias, geometry, activation, residual, options)


def conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: Any = None,
    layout: str = "channels_first",
    flip_kernel: bool = False,
) -> Any:
    """Return ``activation(conv2d(input, weight) + bias + residual)``.

    Parameters
    ----------
    input : Tensor or array, (N, C, H, W), or (N, H, W, C) with ``layout="channels_last"``
        One sample without N is taken as well, and gives one without N.
    weight : Tensor or array, (out_channels, C / groups, kh, kw) in both layouts
    bias : Tensor or array, (out_channels,), optional
    stride, dilation : int or pair
    padding : int, pair, ((top, bottom), (left, right)), "valid", "same" or "same_lower"
    groups : int
    activation, residual
        As in :func:`arraynn.nn.functional.linear`.
    layout : {"channels_first", "channels_last"}
    flip_kernel : bool
        True is the convolution of mathematics, False the cross-correlation of every framework.

    Returns
    -------
    Tensor or array
        In the input's layout.

    Raises
    ------
    ValueError
        If shapes or parameters do not fit.
    TypeError
        If dtypes differ.

    Examples
    --------
    >>> import numpy as np
    >>> conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)))[0, 0]
    array([[4., 4.],
           [4., 4.]])
    """
    geometry = (stride, padding, dilation, groups)
    options = {"layout": layout, "flip_kernel": flip_kernel}
    return _conv("conv2d", 2, input, weight, bias, geometry, activation, residual, options)


def conv_transpose1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    activation: str | None = None,
    residual: Any = None,
    layout: str = "channels_first",
) -> Any:
    """Return ``activation(conv_transpose1d(input, weight) + bias + residual)``.

    Parameters
    ----------
    input : Tensor or array, (N, C, L), or (N, L, C) with ``layout="channels_last"``
        One sample without N is taken as well, and gives one without N.
    weight : Tensor or array, (C, out_channels / groups, k) in both layouts
    bias : Tensor or array, (out_channels,), optional
    stride, dilation : int
    padding : int or ((begin, end),)
        Taken off the result.
    output_padding : int
        Added to the result at the end of an axis; below the larger of stride and dilation.
    groups : int
    activation, residual
        As in :func:`arraynn.nn.functional.linear`.
    layout : {"channels_first", "channels_last"}

    Returns
    -------
    Tensor or array
        In the input's layout.

    Raises
    ------
    ValueError
        If shapes or parameters do not fit.
    TypeError
        If dtypes differ.

    Examples
    --------
    >>> import numpy as np
    >>> conv_transpose1d(np.ones((1, 1, 3)), np.ones((1, 1, 2)))
    array([[[1., 2., 2., 1.]]])
    """
    geometry = (stride, padding, output_padding, groups, dilation)
    return _conv(
        "conv_transpose1d",
        1,
        input,
        weight,
        bias,
        geometry,
        activation,
        residual,
        {"layout": layout},
    )


def conv_transpose2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    activation: str | None = None,
    residual: Any = None,
    layout: str = "channels_first",
) -> Any:
    """Return ``activation(conv_transpose2d(input, weight) + bias + residual)``.

    Parameters
    ----------
    input : Tensor or array, (N, C, H, W), or (N, H, W, C) with ``layout="channels_last"``
        One sample without N is taken as well, and gives one without N.
    weight : Tensor or array, (C, out_channels / groups, kh, kw) in both layouts
    bias : Tensor or array, (out_channels,), optional
    stride, dilation : int or pair
    padding : int, pair or ((top, bottom), (left, right))
        Taken off the result.
    output_padding : int or pair
        Added to the result at the end of an axis; below the larger of stride and dilation.
    groups : int
    activation, residual
        As in :func:`arraynn.nn.functional.linear`.
    layout : {"channels_first", "channels_last"}

    Returns
    -------
    Tensor or array
        In the input's layout.

    Raises
    ------
    ValueError
        If shapes or parameters do not fit.
    TypeError
        If dtypes differ.

    Examples
    --------
    >>> import numpy as np
    >>> conv_transpose2d(np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2)))[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    geometry = (stride, padding, output_padding, groups, dilation)
    return _conv(
        "conv_transpose2d",
        2,
        input,
        weight,
        bias,
        geometry,
        activation,
        residual,
        {"layout": layout},
    )


def conv3d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: Any = None,
    layout: str = "channels_first",
    flip_kernel: bool = False,
) -> Any:
    """Return ``activation(conv3d(input, weight) + bias + residual)``.

    Parameters
    ----------
    input : Tensor or array, (N, C, D, H, W), or (N, D, H, W, C) with ``layout="channels_last"``
        One sample without N is taken as well, and gives one without N.
    weight : Tensor or array, (out_channels, C / groups, kd, kh, kw) in both layouts
    bias : Tensor or array, (out_channels,), optional
    stride, dilation : int or three ints
    padding : int, three ints, three pairs, "valid", "same" or "same_lower"
    groups : int
    activation, residual
        As in :func:`arraynn.nn.functional.linear`.
    layout : {"channels_first", "channels_last"}
    flip_kernel : bool
        True is the convolution of mathematics, False the cross-correlation of every framework.

    Returns
    -------
    Tensor or array
        In the input's layout.

    Raises
    ------
    ValueError
        If shapes or parameters do not fit.
    TypeError
        If dtypes differ.

    Examples
    --------
    >>> import numpy as np
    >>> conv3d(np.ones((1, 1, 2, 2, 3)), np.ones((1, 1, 2, 2, 2)))
    array([[[[[8., 8.]]]]])
    """
    geometry = (stride, padding, dilation, groups)
    options = {"layout": layout, "flip_kernel": flip_kernel}
    return _conv("conv3d", 3, input, weight, bias, geometry, activation, residual, options)


def conv_transpose3d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    activation: str | None = None,
    residual: Any = None,
    layout: str = "channels_first",
) -> Any:
    """Return ``activation(conv_transpose3d(input, weight) + bias + residual)``.

    Parameters
    ----------
    input : Tensor or array, (N, C, D, H, W), or (N, D, H, W, C) with ``layout="channels_last"``
        One sample without N is taken as well, and gives one without N.
    weight : Tensor or array, (C, out_channels / groups, kd, kh, kw) in both layouts
    bias : Tensor or array, (out_channels,), optional
    stride, dilation : int or three ints
    padding : int, three ints or three pairs
        Taken off the result.
    output_padding : int or three ints
        Added to the result at the end of an axis; below the larger of stride and dilation.
    groups : int
    activation, residual
        As in :func:`arraynn.nn.functional.linear`.
    layout : {"channels_first", "channels_last"}

    Returns
    -------
    Tensor or array
        In the input's layout.

    Raises
    ------
    ValueError
        If shapes or parameters do not fit.
    TypeError
        If dtypes differ.

    Examples
    --------
    >>> import numpy as np
    >>> conv_transpose3d(np.ones((1, 1, 1, 1, 2)), np.ones((1, 1, 1, 1, 2)))
    array([[[[[1., 2., 1.]]]]])
    """
    geometry = (stride, padding, output_padding, groups, dilation)
    return _conv(
        "conv_transpose3d",
        3,
        input,
        weight,
        bias,
        geometry,
        activation,
        residual,
        {"layout": layout},
    )


def unfold(
    input: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Any:
    """Return the windows of images (N, C, H, W), or of one (C, H, W), side by side as columns.

    Examples
    --------
    >>> import numpy as np
    >>> unfold(np.arange(6.0).reshape(1, 1, 2, 3), 2)[0, 0]
    array([0., 1.])
    """
    window = (kernel_size, dilation, padding, stride)
    if getattr(input, "ndim", None) == 3:
        return unfold(input[None], *window)[0]
    if isinstance(input, Variable):
        return conv.unfold(input, window)  # type: ignore[arg-type]
    return K.unfold(input, *window)


def fold(
    input: Any,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Any:
    """Return columns (N, C kh kw, windows), or those of one image, added to images.

    Examples
    --------
    >>> import numpy as np
    >>> fold(np.ones((1, 4, 2)), (2, 3), 2)[0, 0]
    array([[1., 2., 1.],
           [1., 2., 1.]])
    """
    window = (kernel_size, dilation, padding, stride)
    if getattr(input, "ndim", None) == 2:
        return fold(input[None], output_size, *window)[0]
    if isinstance(input, Variable):
        return conv.fold(input, output_size, window)  # type: ignore[arg-type]
    return K.fold(input, output_size, *window)
