"""Two-dimensional convolution in plain NumPy."""

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
    return view[:, :, :: rows.stride, :: cols.stride, :: rows.dilation, :: cols.dilation]


def _flip(weight: FloatArray, flip_kernel: bool) -> FloatArray:
    return weight[:, :, ::-1, ::-1] if flip_kernel else weight


def _groups(channels: int, weight: FloatArray, groups: int) -> list[tuple[slice, slice]]:
    """Return the (input channels, output channels) of each group."""
    oc, ic_per_group = weight.shape[:2]
    if groups < 1 or oc % groups or channels != ic_per_group * groups:
        raise ValueError(
            f"[conv2d] weight: expected {channels} input channels in {groups} groups that divide "
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

    Examples
    --------
    >>> conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)))[0, 0]
    array([[4., 4.],
           [4., 4.]])
    """
    planes = to_channels_first(x, layout)
    kernel = _flip(weight, flip_kernel)
    rows, cols = axes_of(planes.shape, weight.shape[2:], stride, dilation, padding)
    patches = _windows(planes, rows, cols)
    y = np.empty((planes.shape[0], weight.shape[0], rows.out, cols.out), dtype=x.dtype)
    for ic, oc in _groups(planes.shape[1], weight, groups):
        # (N, C, OH, OW, KH, KW) . (OC, C, KH, KW) over C, KH, KW
        y[:, oc] = np.moveaxis(
            np.tensordot(patches[:, ic], kernel[oc], axes=((1, 4, 5), (1, 2, 3))), -1, 1
        )
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
    kernel = _flip(weight, flip_kernel)
    rows, cols = axes_of(planes.shape, weight.shape[2:], stride, dilation, padding)
    grad_x = grad_weight = grad_bias = None

    if "x" in needs:
        padded = np.zeros((*planes.shape[:2], rows.padded, cols.padded), dtype=x.dtype)
        for ic, oc in _groups(planes.shape[1], weight, groups):
            for i, j in product(range(rows.kernel), range(cols.kernel)):
                # (N, OC, OH, OW) . (OC, C) over OC
                contribution = np.tensordot(grad[:, oc], kernel[oc, :, i, j], axes=((1,), (0,)))
                padded[:, ic, rows.tap(i), cols.tap(j)] += np.moveaxis(contribution, -1, 1)
        grad_x = from_channels_first(crop_planes(padded, rows, cols), layout)

    if "weight" in needs:
        grad_weight = np.empty(weight.shape, dtype=x.dtype)
        patches = _windows(planes, rows, cols)
        for ic, oc in _groups(planes.shape[1], weight, groups):
            # (N, OC, OH, OW) . (N, C, OH, OW, KH, KW) over N, OH, OW
            grad_weight[oc] = np.tensordot(grad[:, oc], patches[:, ic], axes=((0, 2, 3), (0, 2, 3)))
        grad_weight = np.ascontiguousarray(_flip(grad_weight, flip_kernel))

    if "bias" in needs:
        grad_bias = grad.sum(axis=(0, 2, 3))
    return grad_x, grad_weight, grad_bias
