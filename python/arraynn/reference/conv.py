"""Convolution and transposed convolution, over lengths and images, in plain NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from ._common import (
    Axis,
    FloatArray,
    Padding,
    Size,
    axes_of,
    crop_planes,
    from_channels_first,
    pad_planes,
    pair,
    pairs_of,
    quiet,
    store,
    to_channels_first,
)
from .elementwise import epilogue


def _windows(x: FloatArray, rows: Axis, cols: Axis) -> Any:
    """View the padded input as patches (N, C, OH, OW, KH, KW)."""
    view = np.lib.stride_tricks.sliding_window_view(
        pad_planes(x, rows, cols), (rows.span, cols.span), axis=(2, 3)
    )
    strided = view[:, :, :: rows.stride, :: cols.stride, :: rows.dilation, :: cols.dilation]
    return strided[:, :, : rows.out, : cols.out]  # fewer than fit after an output padding


def _flip(weight: FloatArray, flip_kernel: bool) -> FloatArray:
    return weight[:, :, ::-1, ::-1] if flip_kernel else weight


def _groups(op: str, channels: int, weight: FloatArray, groups: int) -> list[tuple[slice, slice]]:
    """Return the (input channels, output channels) of each group."""
    oc, ic_per_group = weight.shape[:2]
    if groups < 1 or oc % groups or channels != ic_per_group * groups:
        raise ValueError(
            f"[{op}] weight: expected {channels} input channels in {groups} groups that divide "
            f"{oc} output channels, got {ic_per_group} per group"
        )
    oc_per_group = oc // groups
    return [
        (
            slice(g * ic_per_group, (g + 1) * ic_per_group),
            slice(g * oc_per_group, (g + 1) * oc_per_group),
        )
        for g in range(groups)
    ]


def _gather(x: FloatArray, kernel: FloatArray, axes: tuple[Axis, Axis], groups: Any) -> FloatArray:
    """Sum over what each output position reads: (N, C, H, W) -> (N, OC, OH, OW)."""
    patches = _windows(x, *axes)
    y = np.empty((x.shape[0], kernel.shape[0], axes[0].out, axes[1].out), dtype=x.dtype)
    for ic, oc in groups:
        # (N, C, OH, OW, KH, KW) . (OC, C, KH, KW) over C, KH, KW
        y[:, oc] = np.moveaxis(
            np.tensordot(patches[:, ic], kernel[oc], axes=((1, 4, 5), (1, 2, 3))), -1, 1
        )
    return y


def _scatter(y: FloatArray, kernel: FloatArray, axes: tuple[Axis, Axis], groups: Any) -> FloatArray:
    """Add every output position to what it reads: (N, OC, OH, OW) -> (N, C, H, W)."""
    rows, cols = axes
    channels = sum(ic.stop - ic.start for ic, _ in groups)
    padded = np.zeros((y.shape[0], channels, rows.padded, cols.padded), dtype=y.dtype)
    for ic, oc in groups:
        for i, j in product(range(rows.kernel), range(cols.kernel)):
            # (N, OC, OH, OW) . (OC, C) over OC
            contribution = np.tensordot(y[:, oc], kernel[oc, :, i, j], axes=((1,), (0,)))
            padded[:, ic, rows.tap(i), cols.tap(j)] += np.moveaxis(contribution, -1, 1)
    return crop_planes(padded, rows, cols)


def _correlate(x: FloatArray, y: FloatArray, axes: tuple[Axis, Axis], groups: Any) -> FloatArray:
    """Return the gradient of ``sum(y * _gather(x, kernel))`` by the kernel."""
    patches = _windows(x, *axes)
    per_group = x.shape[1] // len(groups)
    grad = np.empty((y.shape[1], per_group, axes[0].kernel, axes[1].kernel), dtype=x.dtype)
    for ic, oc in groups:
        # (N, OC, OH, OW) . (N, C, OH, OW, KH, KW) over N, OH, OW
        grad[oc] = np.tensordot(y[:, oc], patches[:, ic], axes=((0, 2, 3), (0, 2, 3)))
    return grad


@quiet
def conv2d(
    x: FloatArray,
    weight: FloatArray,
    bias: FloatArray | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: FloatArray | None = None,
    layout: str = "channels_first",
    flip_kernel: bool = False,
    algorithm: str = "auto",  # noqa: ARG001
    out: FloatArray | None = None,
) -> FloatArray:
    r"""Cross-correlation of x with weight, then ``activation(. + bias + residual)``.

    .. math:: y_{n,o,p,q} = \sum_{c,i,j} w_{o,c,i,j}\;
              x_{n,\,c,\;p s_h + i d_h - b_h,\;q s_w + j d_w - b_w}

    with stride s, dilation d and padding b (zeros) at the beginning of each axis; with groups, the
    sum runs over the input channels of o's group. `flip_kernel` turns the kernel by 180 degrees.

    Parameters
    ----------
    x : array (N, C, H, W), or (N, H, W, C) for ``layout="channels_last"``
    weight : array (OC, C / groups, KH, KW) in both layouts
    bias : array (OC,), optional
    stride, dilation : int or (int, int)
    padding : int, (int, int), ((top, bottom), (left, right)), "valid", "same" or "same_lower"
    groups : int
    activation, residual, out : see :func:`arraynn.reference.linear`; residual and out have the
        result's shape
    algorithm : str
        Accepted and ignored, here and below: the equation is summed as it stands.

    Examples
    --------
    >>> conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)))[0, 0]
    array([[4., 4.],
           [4., 4.]])
    """
    planes = to_channels_first(x, layout)
    axes = axes_of(planes.shape, weight.shape[2:], stride, dilation, padding)
    channels = _groups("conv2d", planes.shape[1], weight, groups)
    y = _gather(planes, _flip(weight, flip_kernel), axes, channels)
    if bias is not None:
        y = y + bias[:, None, None]
    return store(epilogue(from_channels_first(y, layout), None, residual, activation), out)


@quiet
def conv2d_backward(
    grad_out: FloatArray,
    x: FloatArray,
    weight: FloatArray,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    layout: str = "channels_first",
    flip_kernel: bool = False,
    algorithm: str = "auto",  # noqa: ARG001
    needs: Sequence[str] = ("x", "weight", "bias"),
) -> tuple[FloatArray | None, FloatArray | None, FloatArray | None]:
    """Gradients of ``sum(grad_out * conv2d(x, weight, bias, ...))``.

    grad_x scatters: every tap (i, j) adds ``grad_out . weight[:, :, i, j]`` to the input positions
    it read. grad_weight correlates the input patches with grad_out. grad_bias sums grad_out.

    Returns
    -------
    grad_x (as x), grad_weight (as weight), grad_bias (OC,)
        None for what `needs` does not name.
    """
    planes = to_channels_first(x, layout)
    grad = to_channels_first(grad_out, layout)
    axes = axes_of(planes.shape, weight.shape[2:], stride, dilation, padding)
    channels = _groups("conv2d_backward", planes.shape[1], weight, groups)
    grad_x = grad_weight = grad_bias = None
    if "x" in needs:
        scattered = _scatter(grad, _flip(weight, flip_kernel), axes, channels)
        grad_x = from_channels_first(scattered, layout)
    if "weight" in needs:
        by_taps = _correlate(planes, grad, axes, channels)
        grad_weight = np.ascontiguousarray(_flip(by_taps, flip_kernel))
    if "bias" in needs:
        grad_bias = grad.sum(axis=(0, 2, 3))
    return grad_x, grad_weight, grad_bias


def _transposed_axes(
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Size,
    padding: Padding,
    output_padding: Size,
    dilation: Size,
) -> tuple[Axis, Axis]:
    r"""Resolve the axes of the convolution whose output is a (N, C, H, W) `shape`.

    .. math:: size = (in - 1)\, stride - begin - end + span + output\_padding

    with 0 <= output_padding < max(stride, dilation).
    """
    if isinstance(padding, str):
        raise ValueError(f"padding: expected ints or pairs, got {padding!r}")
    pads, strides, dilations = pairs_of(padding), pair(stride), pair(dilation)
    axes = []
    for i, more in enumerate(pair(output_padding)):
        begin, end = pads[i]
        if min(shape[2 + i], kernel[i], strides[i], dilations[i]) < 1 or min(begin, end) < 0:
            raise ValueError("x, kernel, stride, dilation: expected >= 1, and padding >= 0")
        if not 0 <= more < max(strides[i], dilations[i]):
            raise ValueError(f"output_padding: expected below stride or dilation, got {more}")
        span = (kernel[i] - 1) * dilations[i] + 1
        size = (shape[2 + i] - 1) * strides[i] - begin - end + span + more
        if size < 1:
            raise ValueError(f"padding: expected less than the result, got {begin} + {end}")
        axes.append(Axis(size, kernel[i], strides[i], dilations[i], begin, end, shape[2 + i]))
    return axes[0], axes[1]


@quiet
def conv_transpose2d(
    x: FloatArray,
    weight: FloatArray,
    bias: FloatArray | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    activation: str | None = None,
    residual: FloatArray | None = None,
    layout: str = "channels_first",
    algorithm: str = "auto",  # noqa: ARG001
    out: FloatArray | None = None,
) -> FloatArray:
    r"""Scatter x through weight, then ``activation(. + bias + residual)``.

    .. math:: y_{n,\,o,\;p s_h + i d_h - b_h,\;q s_w + j d_w - b_w}
              \mathrel{+}= x_{n,c,p,q}\; w_{c,o,i,j}

    over all pixels (p, q) of x and taps (i, j) that land inside the result: the gradient by its
    input of :func:`conv2d` with the same stride s, dilation d and padding b.

    Parameters
    ----------
    x : array (N, C, H, W), or (N, H, W, C) for ``layout="channels_last"``
    weight : array (C, OC / groups, KH, KW) in both layouts
    bias : array (OC,), optional
    stride, dilation : int or (int, int)
    padding : int, (int, int) or ((top, bottom), (left, right))
        Taken off the result.
    output_padding : int or (int, int)
        Added to the result at the end of each axis.
    groups : int
    activation, residual, out : see :func:`arraynn.reference.linear`; residual and out have the
        result's shape
    algorithm : see :func:`conv2d`

    Examples
    --------
    >>> conv_transpose2d(np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2)))[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    planes = to_channels_first(x, layout)
    axes = _transposed_axes(
        planes.shape, weight.shape[2:], stride, padding, output_padding, dilation
    )
    channels = _transposed_groups("conv_transpose2d", planes, weight, groups)
    y = _scatter(planes, weight, axes, channels)
    if bias is not None:
        y = y + bias[:, None, None]
    return store(epilogue(from_channels_first(y, layout), None, residual, activation), out)


def _transposed_groups(
    op: str, planes: FloatArray, weight: FloatArray, groups: int
) -> list[tuple[slice, slice]]:
    if weight.shape[0] != planes.shape[1]:
        raise ValueError(
            f"[{op}] weight: expected {planes.shape[1]} input channels, got {weight.shape[0]}"
        )
    return _groups(op, weight.shape[1] * groups, weight, groups)


@quiet
def conv_transpose2d_backward(
    grad_out: FloatArray,
    x: FloatArray,
    weight: FloatArray,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    layout: str = "channels_first",
    algorithm: str = "auto",  # noqa: ARG001
    needs: Sequence[str] = ("x", "weight", "bias"),
) -> tuple[FloatArray | None, FloatArray | None, FloatArray | None]:
    """Gradients of ``sum(grad_out * conv_transpose2d(x, weight, bias, ...))``.

    grad_x gathers: the convolution of grad_out with weight. grad_weight correlates the patches of
    grad_out with x. grad_bias sums grad_out.

    Returns
    -------
    grad_x (as x), grad_weight (as weight), grad_bias (OC,)
        None for what `needs` does not name.
    """
    planes = to_channels_first(x, layout)
    grad = to_channels_first(grad_out, layout)
    axes = _transposed_axes(
        planes.shape, weight.shape[2:], stride, padding, output_padding, dilation
    )
    channels = _transposed_groups("conv_transpose2d_backward", planes, weight, groups)
    grad_x = grad_weight = grad_bias = None
    if "x" in needs:
        grad_x = from_channels_first(_gather(grad, weight, axes, channels), layout)
    if "weight" in needs:
        grad_weight = _correlate(grad, planes, axes, channels)
    if "bias" in needs:
        grad_bias = grad.sum(axis=(0, 2, 3))
    return grad_x, grad_weight, grad_bias


def _row(x: Any, layout: str) -> Any:
    """View sequences (N, C, L) or (N, L, C) as images of height 1; None passes through."""
    return None if x is None else np.expand_dims(x, 1 if layout == "channels_last" else 2)


def _unrow(x: Any, layout: str) -> Any:
    """Undo `_row`."""
    return None if x is None else np.squeeze(x, 1 if layout == "channels_last" else 2)


def _along(value: Size, unit: int) -> tuple[int, int]:
    """Spell a stride (unit 1) or an output padding (unit 0) of one axis for an image's two."""
    if isinstance(value, int | np.integer):
        return unit, int(value)
    (along,) = value
    return unit, int(along)


def _padding_along(padding: Padding) -> Padding:
    if isinstance(padding, str):
        return padding
    if isinstance(padding, int | np.integer):
        return (0, 0), (int(padding), int(padding))
    (entry,) = padding
    return (0, 0), pair(entry)


@quiet
def conv1d(
    x: FloatArray,
    weight: FloatArray,
    bias: FloatArray | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: FloatArray | None = None,
    layout: str = "channels_first",
    flip_kernel: bool = False,
    algorithm: str = "auto",  # noqa: ARG001
    out: FloatArray | None = None,
) -> FloatArray:
    r"""Cross-correlation along one axis, then ``activation(. + bias + residual)``.

    .. math:: y_{n,o,p} = \sum_{c,i} w_{o,c,i}\; x_{n,\,c,\;p s + i d - b}

    :func:`conv2d` of images of height 1.

    Parameters
    ----------
    x : array (N, C, L), or (N, L, C) for ``layout="channels_last"``
    weight : array (OC, C / groups, K) in both layouts
    bias : array (OC,), optional
    stride, dilation : int
    padding : int, ((begin, end),), "valid", "same" or "same_lower"
    groups, activation, residual, flip_kernel, algorithm, out : see :func:`conv2d`

    Examples
    --------
    >>> conv1d(np.array([[[1.0, 2.0, 3.0]]]), np.array([[[1.0, 10.0]]]))
    array([[[21., 32.]]])
    """
    y = conv2d(
        _row(x, layout),
        weight[:, :, None],
        bias,
        _along(stride, 1),
        _padding_along(padding),
        _along(dilation, 1),
        groups,
        activation=activation,
        residual=_row(residual, layout),
        layout=layout,
        flip_kernel=flip_kernel,
    )
    return store(_unrow(y, layout), out)


def conv1d_backward(
    grad_out: FloatArray,
    x: FloatArray,
    weight: FloatArray,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    layout: str = "channels_first",
    flip_kernel: bool = False,
    algorithm: str = "auto",  # noqa: ARG001
    needs: Sequence[str] = ("x", "weight", "bias"),
) -> tuple[FloatArray | None, FloatArray | None, FloatArray | None]:
    """Gradients of ``sum(grad_out * conv1d(x, weight, bias, ...))``.

    Returns
    -------
    grad_x (as x), grad_weight (as weight), grad_bias (OC,)
        None for what `needs` does not name.
    """
    grad_x, grad_weight, grad_bias = conv2d_backward(
        _row(grad_out, layout),
        _row(x, layout),
        weight[:, :, None],
        _along(stride, 1),
        _padding_along(padding),
        _along(dilation, 1),
        groups,
        layout=layout,
        flip_kernel=flip_kernel,
        needs=needs,
    )
    return _unrow(grad_x, layout), _unrow(grad_weight, "channels_first"), grad_bias


@quiet
def conv_transpose1d(
    x: FloatArray,
    weight: FloatArray,
    bias: FloatArray | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    activation: str | None = None,
    residual: FloatArray | None = None,
    layout: str = "channels_first",
    algorithm: str = "auto",  # noqa: ARG001
    out: FloatArray | None = None,
) -> FloatArray:
    r"""Scatter x through weight along one axis, then ``activation(. + bias + residual)``.

    .. math:: y_{n,\,o,\;p s + i d - b} \mathrel{+}= x_{n,c,p}\; w_{c,o,i}

    :func:`conv_transpose2d` of images of height 1.

    Parameters
    ----------
    x : array (N, C, L), or (N, L, C) for ``layout="channels_last"``
    weight : array (C, OC / groups, K) in both layouts
    bias : array (OC,), optional
    stride, dilation, output_padding : int
    padding : int or ((begin, end),)
    groups, activation, residual, algorithm, out : see :func:`conv_transpose2d`

    Examples
    --------
    >>> conv_transpose1d(np.array([[[1.0, 2.0]]]), np.array([[[1.0, 10.0]]]), stride=2)
    array([[[ 1., 10.,  2., 20.]]])
    """
    y = conv_transpose2d(
        _row(x, layout),
        weight[:, :, None],
        bias,
        _along(stride, 1),
        _padding_along(padding),
        _along(output_padding, 0),
        groups,
        _along(dilation, 1),
        activation=activation,
        residual=_row(residual, layout),
        layout=layout,
    )
    return store(_unrow(y, layout), out)


def conv_transpose1d_backward(
    grad_out: FloatArray,
    x: FloatArray,
    weight: FloatArray,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    layout: str = "channels_first",
    algorithm: str = "auto",  # noqa: ARG001
    needs: Sequence[str] = ("x", "weight", "bias"),
) -> tuple[FloatArray | None, FloatArray | None, FloatArray | None]:
    """Gradients of ``sum(grad_out * conv_transpose1d(x, weight, bias, ...))``.

    Returns
    -------
    grad_x (as x), grad_weight (as weight), grad_bias (OC,)
        None for what `needs` does not name.
    """
    grad_x, grad_weight, grad_bias = conv_transpose2d_backward(
        _row(grad_out, layout),
        _row(x, layout),
        weight[:, :, None],
        _along(stride, 1),
        _padding_along(padding),
        _along(output_padding, 0),
        groups,
        _along(dilation, 1),
        layout=layout,
        needs=needs,
    )
    return _unrow(grad_x, layout), _unrow(grad_weight, "channels_first"), grad_bias
