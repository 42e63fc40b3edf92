"""Two-dimensional convolution (cross-correlation) with a fused epilogue.

    y[n,o,h,w] = activation(b[o] + residual[n,o,h,w]
                 + Σ_{c,i,j} x[n, c, h·s - p + i·d, w·s - p + j·d] W[o, c, i, j])

within each group of channels. The input is staged strip by strip with its zero border and walked in
place by the matrix microkernel, so no patch matrix is built, and a sample's result depends neither
on the number of threads nor on the rest of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from arraynn import _core

__all__ = ["conv2d", "conv2d_backward"]

Array = NDArray[Any]
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]
Size = int | Sequence[int]


def conv2d(
    x: Array,
    weight: Array,
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
    out: Array | None = None,
) -> Array:
    """Convolve a batch of images and apply bias, residual and activation in the same pass.

    Parameters
    ----------
    x : array (n, ic, h, w), or (n, h, w, ic) with ``layout="channels_last"``; float32 or float64
    weight : array (oc, ic / groups, kh, kw), in both layouts
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
    needs: Sequence[str] = ("x", "weight", "bias"),
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of :func:`conv2d` by its input, weight and bias.

    Parameters
    ----------
    grad_out : array, shape of the result
        The gradient before the activation.
    x, weight, stride, padding, dilation, groups, layout, flip_kernel
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
        grad_out, x, weight, stride, padding, dilation, groups, layout, flip_kernel, needs
    )
