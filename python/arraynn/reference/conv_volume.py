"""Convolution and transposed convolution of volumes in plain NumPy, written over the taps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from ._common import (
    Axis,
    FloatArray,
    Padding,
    Size,
    axis_of,
    from_channels_first,
    pair,
    quiet,
    store,
    to_channels_first,
)
from .conv import _groups
from .elementwise import epilogue


def _triple(value: Size) -> tuple[int, int, int]:
    if isinstance(value, int | np.integer):
        return (int(value),) * 3
    depth, height, width = value
    return int(depth), int(height), int(width)


def _pads(padding: Padding) -> list[Any]:
    if isinstance(padding, str):
        return [padding] * 3
    entries: Any = (padding,) * 3 if isinstance(padding, int | np.integer) else padding
    if len(entries) != 3:
        raise ValueError(f"padding: expected an int, three or three pairs, got {padding!r}")
    return [pair(entry) for entry in entries]


def _axes(
    shape: Sequence[int], kernel: Sequence[int], stride: Size, dilation: Size, padding: Padding
) -> list[Axis]:
    rows = zip(shape[2:], kernel, _triple(stride), _triple(dilation), _pads(padding), strict=True)
    return [axis_of(*row) for row in rows]


def _transposed_axes(
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Size,
    padding: Padding,
    output_padding: Size,
    dilation: Size,
) -> list[Axis]:
    """Resolve the axes of the convolution whose output is a (N, C, D, H, W) `shape`."""
    if isinstance(padding, str):
        raise ValueError(f"padding: expected ints or pairs, got {padding!r}")
    axes = []
    for out, k, s, d, (begin, end), more in zip(
        shape[2:],
        kernel,
        _triple(stride),
        _triple(dilation),
        _pads(padding),
        _triple(output_padding),
        strict=True,
    ):
        if min(out, k, s, d) < 1 or min(begin, end) < 0 or not 0 <= more < max(s, d):
            raise ValueError("x, kernel, stride, dilation, padding, output_padding: out of range")
        size = (out - 1) * s - begin - end + (k - 1) * d + 1 + more
        if size < 1:
            raise ValueError(f"padding: expected less than the result, got {begin} + {end}")
        axes.append(Axis(size, k, s, d, begin, end, out))
    return axes


def _padded(x: FloatArray, axes: list[Axis]) -> FloatArray:
    sides = [(a.begin, max(0, a.padded - a.begin - a.size)) for a in axes]
    return np.pad(x, ((0, 0), (0, 0), *sides))


def _taps(axes: list[Axis]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Yield each position of the kernel with what it reads of the padded volume."""
    for tap in product(*(range(a.kernel) for a in axes)):
        yield tap, tuple(a.tap(t) for a, t in zip(axes, tap, strict=True))


def _flip(weight: FloatArray, flip_kernel: bool) -> FloatArray:
    return weight[:, :, ::-1, ::-1, ::-1] if flip_kernel else weight


def _gather(x: FloatArray, kernel: FloatArray, axes: list[Axis], groups: Any) -> FloatArray:
    """Sum over what each output position reads: (N, C, D, H, W) -> (N, OC, OD, OH, OW)."""
    padded = _padded(x, axes)
    y = np.zeros((x.shape[0], kernel.shape[0], *(a.out for a in axes)), dtype=x.dtype)
    for ic, oc in groups:
        for tap, read in _taps(axes):
            columns = kernel[(oc, slice(None), *tap)]  # (OC, C)
            part = np.tensordot(padded[(slice(None), ic, *read)], columns, axes=((1,), (1,)))
            y[:, oc] += np.moveaxis(part, -1, 1)
    return y


def _scatter(y: FloatArray, kernel: FloatArray, axes: list[Axis], groups: Any) -> FloatArray:
    """Add every output position to what it reads: (N, OC, OD, OH, OW) -> (N, C, D, H, W)."""
    channels = sum(ic.stop - ic.start for ic, _ in groups)
    lengths = [max(a.padded, a.begin + a.size) for a in axes]
    padded = np.zeros((y.shape[0], channels, *lengths), dtype=y.dtype)
    for ic, oc in groups:
        for tap, read in _taps(axes):
            part = np.tensordot(y[:, oc], kernel[(oc, slice(None), *tap)], axes=((1,), (0,)))
            padded[(slice(None), ic, *read)] += np.moveaxis(part, -1, 1)
    inside = tuple(slice(a.begin, a.begin + a.size) for a in axes)
    return padded[(slice(None), slice(None), *inside)]


def _correlate(x: FloatArray, y: FloatArray, axes: list[Axis], groups: Any) -> FloatArray:
    """Return the gradient of ``sum(y * _gather(x, kernel))`` by the kernel."""
    padded = _padded(x, axes)
    per_group = x.shape[1] // len(groups)
    grad = np.empty((y.shape[1], per_group, *(a.kernel for a in axes)), dtype=x.dtype)
    every = (0, 2, 3, 4)
    for ic, oc in groups:
        for tap, read in _taps(axes):
            part = np.tensordot(y[:, oc], padded[(slice(None), ic, *read)], axes=(every, every))
            grad[(oc, slice(None), *tap)] = part
    return grad


@quiet
def conv3d(
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
    """Cross-correlation of volumes (N, C, D, H, W) or (N, D, H, W, C) with weight.

    As conv2d with one more axis, in front of the others.
    """
    volumes = to_channels_first(x, layout)
    axes = _axes(volumes.shape, weight.shape[2:], stride, dilation, padding)
    channels = _groups("conv3d", volumes.shape[1], weight, groups)
    y = _gather(volumes, _flip(weight, flip_kernel), axes, channels)
    if bias is not None:
        y = y + bias[:, None, None, None]
    return store(epilogue(from_channels_first(y, layout), None, residual, activation), out)


@quiet
def conv3d_backward(
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
    """Gradients of ``sum(grad_out * conv3d(x, weight, bias, ...))``."""
    volumes, grad = to_channels_first(x, layout), to_channels_first(grad_out, layout)
    axes = _axes(volumes.shape, weight.shape[2:], stride, dilation, padding)
    channels = _groups("conv3d_backward", volumes.shape[1], weight, groups)
    grad_x = grad_weight = grad_bias = None
    if "x" in needs:
        scattered = _scatter(grad, _flip(weight, flip_kernel), axes, channels)
        grad_x = from_channels_first(scattered, layout)
    if "weight" in needs:
        by_taps = _correlate(volumes, grad, axes, channels)
        grad_weight = np.ascontiguousarray(_flip(by_taps, flip_kernel))
    if "bias" in needs:
        grad_bias = grad.sum(axis=(0, 2, 3, 4))
    return grad_x, grad_weight, grad_bias


def _transposed_groups(op: str, channels: int, weight: FloatArray, groups: int) -> Any:
    """Return the (output channels, input channels) of each group of the transposed one."""
    if groups < 1 or weight.shape[0] != channels or channels % groups:
        raise ValueError(
            f"[{op}] weight: expected {channels} input channels in {groups} groups, "
            f"got {weight.shape[0]}"
        )
    return _groups(op, weight.shape[1] * groups, weight, groups)


@quiet
def conv_transpose3d(
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
    """Add every input position times the kernel to the output; see conv_transpose2d."""
    volumes = to_channels_first(x, layout)
    kernel = weight.shape[2:]
    axes = _transposed_axes(volumes.shape, kernel, stride, padding, output_padding, dilation)
    channels = _transposed_groups("conv_transpose3d", volumes.shape[1], weight, groups)
    y = _scatter(volumes, weight, axes, channels)
    if bias is not None:
        y = y + bias[:, None, None, None]
    return store(epilogue(from_channels_first(y, layout), None, residual, activation), out)


@quiet
def conv_transpose3d_backward(
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
    """Gradients of ``sum(grad_out * conv_transpose3d(x, weight, bias, ...))``."""
    volumes, grad = to_channels_first(x, layout), to_channels_first(grad_out, layout)
    kernel = weight.shape[2:]
    axes = _transposed_axes(volumes.shape, kernel, stride, padding, output_padding, dilation)
    channels = _transposed_groups("conv_transpose3d_backward", volumes.shape[1], weight, groups)
    grad_x = grad_weight = grad_bias = None
    if "x" in needs:
        grad_x = from_channels_first(_gather(grad, weight, axes, channels), layout)
    if "weight" in needs:
        grad_weight = _correlate(grad, volumes, axes, channels)
    if "bias" in needs:
        grad_bias = grad.sum(axis=(0, 2, 3, 4))
    return grad_x, grad_weight, grad_bias
