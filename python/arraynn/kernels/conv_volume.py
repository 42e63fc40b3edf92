"""Convolution and transposed convolution of volumes with a fused epilogue.

    y[n,o,d,h,w] = activation(b[o] + residual[n,o,d,h,w]
                   + Σ_{c,k,i,j} x[n, c, d·s-p+k·e, h·s-p+i·e, w·s-p+j·e] W[o, c, k, i, j])

within each group of channels, each axis with its own stride s, padding p and dilation e. A plane of
the result is an image whose strip holds the strips of all planes that the kernel's depth reaches,
so the kernel of two dimensions forms the whole sum at once; no patch matrix is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from arraynn import _core
from arraynn._core import PackedWeight

__all__ = ["conv3d", "conv3d_backward", "conv_transpose3d", "conv_transpose3d_backward"]

Array = NDArray[Any]
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]
PairPadding = int | Sequence[int] | Sequence[Sequence[int]]
Size = int | Sequence[int]


def conv3d(
    x: Array,
    weight: Array | PackedWeight,
    bias: Array | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: Array | None = None,
    layout: str = "channels_first",
    flip_kernel: bool = False,
    algorithm: str = "auto",
    out: Array | None = None,
) -> Array:
    """Convolve a batch of volumes and apply bias, residual and activation in the same pass.

    Parameters
    ----------
    x : array (n, ic, d, h, w), or (n, d, h, w, ic) with ``layout="channels_last"``
        Of a floating dtype.
    weight : array or PackedWeight (oc, ic / groups, kd, kh, kw), in both layouts
    bias : array (oc,), optional
    stride, dilation : int or (int, int, int)
        At least 1.
    padding : int, (int, int, int), three pairs, "valid", "same" or "same_lower"
        As in :func:`conv2d`.
    groups : int
        Divides both channel counts.
    activation, residual, flip_kernel, out
        As in :func:`conv2d`.
    algorithm : {"auto", "direct"}
        Both are the direct sum; volumes that are images, one plane under a kernel of one, may go
        as those by ``"auto"``.

    Returns
    -------
    array (n, oc, od, oh, ow) or (n, od, oh, ow, oc)

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.conv3d(np.arange(12.0).reshape(1, 1, 3, 2, 2), np.ones((1, 1, 2, 2, 2))).ravel()
    array([28., 60.])
    """
    return _core.conv3d(
        x,
        weight,
        bias,
        stride,
        padding,
        dilation,
        groups,
        activation,
        residual,
        layout,
        flip_kernel,
        algorithm,
        out,
    )


def conv3d_backward(
    grad_out: Array,
    x: Array,
    weight: Array,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    layout: str = "channels_first",
    flip_kernel: bool = False,
    algorithm: str = "auto",
    needs: Sequence[str] = ("x", "weight", "bias"),
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of :func:`conv3d` by its input, weight and bias.

    Parameters
    ----------
    grad_out : array, shape of the result
        The gradient before the activation.
    x, weight, stride, padding, dilation, groups, layout, flip_kernel, algorithm
        As in the forward call.
    needs : sequence of {"x", "weight", "bias"}
        The gradients to compute.

    Returns
    -------
    (grad_x, grad_weight, grad_bias)
        ``None`` where not needed.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`conv3d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x, w = np.arange(12.0).reshape(1, 1, 3, 2, 2), np.ones((1, 1, 2, 2, 2))
    >>> K.conv3d_backward(np.ones((1, 1, 2, 1, 1)), x, w, needs=("weight",))[1].ravel()
    array([ 4.,  6.,  8., 10., 12., 14., 16., 18.])
    """
    return _core.conv3d_backward(
        grad_out,
        x,
        weight,
        stride,
        padding,
        dilation,
        groups,
        layout,
        flip_kernel,
        algorithm,
        needs,
    )


def conv_transpose3d(
    x: Array,
    weight: Array | PackedWeight,
    bias: Array | None = None,
    stride: Size = 1,
    padding: PairPadding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    activation: str | None = None,
    residual: Array | None = None,
    layout: str = "channels_first",
    algorithm: str = "auto",
    out: Array | None = None,
) -> Array:
    """Transposed convolution of a batch of volumes, with bias, residual and activation.

    The gradient of :func:`conv3d` by its input, and in shape its inverse; see
    :func:`conv_transpose2d`.

    Parameters
    ----------
    x : array (n, ic, d, h, w), or (n, d, h, w, ic) with ``layout="channels_last"``
        Of a floating dtype; every axis at least 1 long.
    weight : array or PackedWeight (ic, oc / groups, kd, kh, kw), in both layouts
    bias : array (oc,), optional
    stride, dilation : int or (int, int, int)
        At least 1.
    padding : int, (int, int, int) or three pairs
        What the result is cut by: the padding of the convolution that this one inverts.
    output_padding : int or (int, int, int)
        What the result is longer by at the end of each axis, below the larger of stride and
        dilation.
    groups : int
        Divides both channel counts.
    activation, residual, out
        As in :func:`conv2d`.
    algorithm : {"auto", "direct"}
        As in :func:`conv3d`.

    Returns
    -------
    array (n, oc, od, oh, ow) or (n, od, oh, ow, oc)

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`conv_transpose2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x = np.array([1.0, 2.0]).reshape(1, 1, 2, 1, 1)
    >>> K.conv_transpose3d(x, np.ones((1, 1, 2, 1, 2))).ravel()
    array([1., 1., 3., 3., 2., 2.])
    """
    return _core.conv_transpose3d(
        x,
        weight,
        bias,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        activation,
        residual,
        layout,
        algorithm,
        out,
    )


def conv_transpose3d_backward(
    grad_out: Array,
    x: Array,
    weight: Array,
    stride: Size = 1,
    padding: PairPadding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    layout: str = "channels_first",
    algorithm: str = "auto",
    needs: Sequence[str] = ("x", "weight", "bias"),
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of :func:`conv_transpose3d` by its input, weight and bias.

    Parameters
    ----------
    grad_out : array, shape of the result
        The gradient before the activation.
    x, weight, stride, padding, output_padding, groups, dilation, layout, algorithm
        As in the forward call.
    needs : sequence of {"x", "weight", "bias"}
        The gradients to compute.

    Returns
    -------
    (grad_x, grad_weight, grad_bias)
        ``None`` where not needed.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`conv_transpose3d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x, w = np.array([1.0, 2.0]).reshape(1, 1, 2, 1, 1), np.ones((1, 1, 2, 1, 2))
    >>> K.conv_transpose3d_backward(np.ones((1, 1, 3, 1, 2)), x, w, needs=("x",))[0].ravel()
    array([4., 4.])
    """
    return _core.conv_transpose3d_backward(
        grad_out,
        x,
        weight,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        layout,
        algorithm,
        needs,
    )
