"""Convolution (cross-correlation) and transposed convolution with a fused epilogue.

    y[n,o,h,w] = activation(b[o] + residual[n,o,h,w]
                 + Σ_{c,i,j} x[n, c, h·s - p + i·d, w·s - p + j·d] W[o, c, i, j])

within each group of channels, and the same along one axis. The input is staged strip by strip with
its zero border and walked in place by the matrix microkernel, so no patch matrix is built, and a
sample's result depends neither on the number of threads nor on the rest of the batch.

The transposed convolution takes gradient to input: it is the gradient of a convolution by x, with
an epilogue of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from arraynn import _core
from arraynn._core import PackedWeight

__all__ = [
    "conv1d",
    "conv1d_backward",
    "conv2d",
    "conv2d_backward",
    "conv_transpose1d",
    "conv_transpose1d_backward",
    "conv_transpose2d",
    "conv_transpose2d_backward",
]

Array = NDArray[Any]
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]
PairPadding = int | Sequence[int] | Sequence[Sequence[int]]
Size = int | Sequence[int]


def conv1d(
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
    """Convolve a batch of sequences and apply bias, residual and activation in the same pass.

    The kernel of :func:`conv2d` on images of height 1; nothing is copied for it.

    Parameters
    ----------
    x : array (n, ic, l), or (n, l, ic) with ``layout="channels_last"``; of a floating dtype
    weight : array or PackedWeight (oc, ic / groups, k), in both layouts
    bias : array (oc,), optional
    stride, dilation : int
        At least 1.
    padding : int, ((begin, end),), "valid", "same" or "same_lower"
        As in :func:`conv2d`.
    groups : int
        Divides both channel counts.
    activation, residual, flip_kernel, algorithm, out
        As in :func:`conv2d`.

    Returns
    -------
    array (n, oc, ol) or (n, ol, oc)

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x = np.arange(5.0).reshape(1, 1, 5)
    >>> K.conv1d(x, np.array([[[1.0, 10.0]]]), padding=((1, 0),))
    array([[[ 0., 10., 21., 32., 43.]]])
    """
    return _core.conv1d(
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


def conv1d_backward(
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
    """Gradients of :func:`conv1d` by its input, weight and bias.

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
        As :func:`conv1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x, w = np.arange(5.0).reshape(1, 1, 5), np.array([[[1.0, 10.0]]])
    >>> K.conv1d_backward(np.ones((1, 1, 4)), x, w, needs=("x",))[0]
    array([[[ 1., 11., 11., 11., 10.]]])
    """
    return _core.conv1d_backward(
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


def conv2d(
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
    """Convolve a batch of images and apply bias, residual and activation in the same pass.

    Parameters
    ----------
    x : array (n, ic, h, w), or (n, h, w, ic) with ``layout="channels_last"``; of a floating dtype
    weight : array or PackedWeight (oc, ic / groups, kh, kw), in both layouts
    bias : array (oc,), optional
    stride, dilation : int or (int, int)
        At least 1.
    padding : int, (int, int), ((top, bottom), (left, right)), "valid", "same" or "same_lower"
        ``"same"`` gives ``ceil(size / stride)`` outputs for any stride (the rule of TensorFlow and
        of ONNX' SAME_UPPER); an odd total puts the extra zero at the end, ``"same_lower"`` at the
        beginning.
    groups : int
        Divides both channel counts.
    activation : str, optional
        One of the activations of :func:`arraynn.kernels.linear`.
    residual : array, shape of the result, optional
        Added before the activation.
    flip_kernel : bool
        ``True`` is the textbook convolution, with the kernel reversed.
    algorithm : {"auto", "direct", "winograd"}
        ``"winograd"`` forms a 3 x 3 convolution of stride and dilation 1 by tiles of 4 x 4 results
        with a quarter of the products (F(4x4, 3x3), Lavin and Gray 2015). Its rounding errors are
        about ten times the direct sum's, and a value that is not finite spreads over its tile.
        ``"auto"`` takes it for float32 where it is faster; by the shape of a sample, never by its
        values or the batch.
    out : array, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array (n, oc, oh, ow) or (n, oh, ow, oc)

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
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> K.conv2d(x, np.ones((1, 1, 2, 2)))
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    return _core.conv2d(
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


def conv2d_backward(
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
    """Gradients of :func:`conv2d` by its input, weight and bias.

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
        ``None`` where not needed. Sums are formed in a fixed order: the same bits on every run and
        for every number of threads.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x, w = np.arange(9.0).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2))
    >>> K.conv2d_backward(np.ones((1, 1, 2, 2)), x, w, needs=("weight",))[1]
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    return _core.conv2d_backward(
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


def conv_transpose1d(
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
    """Transposed convolution of a batch of sequences, with bias, residual and activation.

    The kernel of :func:`conv_transpose2d` on images of height 1; nothing is copied for it.

    Parameters
    ----------
    x : array (n, ic, l), or (n, l, ic) with ``layout="channels_last"``; of a floating dtype
        At least one element long.
    weight : array or PackedWeight (ic, oc / groups, k), in both layouts
    bias : array (oc,), optional
    stride, dilation, output_padding : int
        As in :func:`conv_transpose2d`.
    padding : int or ((begin, end),)
        As in :func:`conv_transpose2d`.
    groups : int
        Divides both channel counts.
    activation, residual, algorithm, out
        As in :func:`conv2d`.

    Returns
    -------
    array (n, oc, ol) or (n, ol, oc)

    Raises
    ------
    ValueError, TypeError, MemoryError
        As :func:`conv_transpose2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.conv_transpose1d(np.array([[[1.0, 2.0, 3.0]]]), np.array([[[1.0, 10.0]]]))
    array([[[ 1., 12., 23., 30.]]])
    """
    return _core.conv_transpose1d(
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


def conv_transpose1d_backward(
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
    """Gradients of :func:`conv_transpose1d` by its input, weight and bias.

    By x it is :func:`conv1d` of grad_out; by weight that of :func:`conv1d` with x and grad_out
    exchanged.

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
        As :func:`conv_transpose1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x, w = np.array([[[1.0, 2.0, 3.0]]]), np.array([[[1.0, 10.0]]])
    >>> K.conv_transpose1d_backward(np.ones((1, 1, 4)), x, w, needs=("x", "weight"))[:2]
    (array([[[11., 11., 11.]]]), array([[[6., 6.]]]))
    """
    return _core.conv_transpose1d_backward(
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


def conv_transpose2d(
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
    """Transposed convolution of a batch of images, with bias, residual and activation.

    Every input pixel adds its value times the kernel to the output: the gradient of
    :func:`conv2d` by its input, and in shape its inverse.

        y[n, o, h·s - p + i·d, w·s - p + j·d] += x[n, c, h, w] W[c, o, i, j]
        y = activation(y + b[o] + residual)

    along each axis ``size = (in - 1)·s - begin - end + (k - 1)·d + 1 + output_padding``.
    The definition is that of Dumoulin and Visin, *A guide to convolution arithmetic for deep
    learning* (2016), and of PyTorch. No zeros are inserted: each residue of the output position
    modulo the stride is a convolution with the taps that reach it.

    Parameters
    ----------
    x : array (n, ic, h, w), or (n, h, w, ic) with ``layout="channels_last"``; of a floating dtype
        At least one pixel high and wide.
    weight : array or PackedWeight (ic, oc / groups, kh, kw), in both layouts
    bias : array (oc,), optional
    stride, dilation : int or (int, int)
        At least 1.
    padding : int, (int, int) or ((top, bottom), (left, right))
        What the result is cut by: the padding of the convolution that this one inverts.
    output_padding : int or (int, int)
        What the result is longer by at the bottom and at the right, below the larger of stride
        and dilation. A convolution with a stride takes several sizes to one; this chooses.
    groups : int
        Divides both channel counts.
    activation, residual, algorithm, out
        As in :func:`conv2d`.

    Returns
    -------
    array (n, oc, oh, ow) or (n, oh, ow, oc)

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
    >>> x = np.array([[[[1.0, 2.0]]]])
    >>> K.conv_transpose2d(x, np.ones((1, 1, 2, 3)), stride=2)
    array([[[[1., 1., 3., 2., 2.],
             [1., 1., 3., 2., 2.]]]])
    """
    return _core.conv_transpose2d(
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


def conv_transpose2d_backward(
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
    """Gradients of :func:`conv_transpose2d` by its input, weight and bias.

    By x it is :func:`conv2d` of grad_out; by weight that of :func:`conv2d` with x and grad_out
    exchanged.

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
        As :func:`conv_transpose2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x, w = np.array([[[[1.0, 2.0]]]]), np.ones((1, 1, 2, 3))
    >>> K.conv_transpose2d_backward(np.ones((1, 1, 2, 5)), x, w, 2, needs=("x", "bias"))
    (array([[[[6., 6.]]]]), None, array([10.]))
    """
    return _core.conv_transpose2d_backward(
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
