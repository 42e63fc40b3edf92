"""What the references share: array types, ``out=`` and the geometry of sliding windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.floating[Any]]
_T = TypeVar("_T", bound=np.generic)
Size: TypeAlias = int | Sequence[int]
Padding: TypeAlias = int | str | Sequence[int] | Sequence[Sequence[int]]

# Infinities, NaN and overflow are ordinary inputs: they propagate without a warning.
quiet = np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")


def store(result: Any, out: FloatArray | None) -> FloatArray:
    """Return `result` as an array, or write it into `out` and return `out`."""
    if out is None:
        return np.asarray(result)
    if out.shape != np.shape(result):
        raise ValueError(f"out: expected shape {np.shape(result)}, got {out.shape}")
    out[...] = result
    return out


def lowest(dtype: Any) -> Any:
    """Return what no element of the dtype is below."""
    kind = np.dtype(dtype)
    return np.iinfo(kind).min if kind.kind in "iu" else -np.inf


def pair(value: Size) -> tuple[int, int]:
    """Return `value` for both spatial axes."""
    if isinstance(value, int | np.integer):
        return int(value), int(value)
    height, width = value
    return int(height), int(width)


def each(value: Size, axes: int) -> tuple[int, ...]:
    """Return `value` for every spatial axis."""
    if isinstance(value, int | np.integer):
        return (int(value),) * axes
    if len(value) != axes:
        raise ValueError(f"expected an int or {axes} ints, got {value}")
    return tuple(int(v) for v in value)


def to_channels_first(x: NDArray[_T], layout: str) -> NDArray[_T]:
    """View (N, H, W, C) as (N, C, H, W); channels-first arrays pass through."""
    if layout not in ("channels_first", "channels_last"):
        raise ValueError(f"layout: expected 'channels_first' or 'channels_last', got {layout!r}")
    return np.moveaxis(x, -1, 1) if layout == "channels_last" else x


def from_channels_first(y: Any, layout: str) -> Any:
    """Undo `to_channels_first`; the result is C-contiguous."""
    return np.ascontiguousarray(np.moveaxis(y, 1, -1) if layout == "channels_last" else y)


class Axis(NamedTuple):
    """One spatial axis of a sliding window, all sizes in elements.

    Output position ``o`` reads input position ``o * stride + tap * dilation - begin`` for every
    ``tap`` in ``range(kernel)``.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int
    out: int

    @property
    def span(self) -> int:
        """Input elements from the first tap to the last, both included."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def padded(self) -> int:
        """Length that holds every window: padding and what ceil_mode reads beyond it included."""
        return max(self.begin + self.size + self.end, (self.out - 1) * self.stride + self.span)

    def tap(self, index: int) -> slice:
        """Return the slice of the padded axis that tap `index` of every output reads."""
        start = index * self.dilation
        return slice(start, start + (self.out - 1) * self.stride + 1, self.stride)


def pairs_of(padding: Padding) -> list[tuple[int, int]]:
    """Spell an int, one int per axis or one (begin, end) pair per axis as two pairs."""
    entries = [padding, padding] if isinstance(padding, int | np.integer) else list(padding)
    if len(entries) != 2 or isinstance(padding, str):
        raise ValueError(
            "padding: expected an int, one int or (begin, end) pair per spatial axis, 'valid', "
            f"'same' or 'same_lower', got {padding!r}"
        )
    return [pair(entry) for entry in entries]  # type: ignore[arg-type]


def axis_of(
    size: int,
    kernel: int,
    stride: int,
    dilation: int,
    padding: str | tuple[int, int],
    ceil_mode: bool = False,
) -> Axis:
    r"""Resolve one spatial axis.

    .. math:: out = \lfloor (size + begin + end - span) / stride \rfloor + 1

    ``"same"`` makes out = ceil(size / stride) and puts the odd element of padding at the end
    (TensorFlow's and ONNX' SAME_UPPER), ``"same_lower"`` at the beginning. `ceil_mode` rounds up,
    then drops a last window that would start in the padding at the end (PyTorch's rule).
    """
    if min(kernel, stride, dilation) < 1:
        raise ValueError(
            f"kernel, stride, dilation: expected >= 1, got {kernel}, {stride}, {dilation}"
        )
    span = (kernel - 1) * dilation + 1
    if padding == "valid":
        begin = end = 0
    elif padding in ("same", "same_lower"):
        total = max((-(-size // stride) - 1) * stride + span - size, 0)
        begin, end = total // 2, total - total // 2
        if padding == "same_lower":
            begin, end = end, begin
    elif isinstance(padding, str):
        raise ValueError(f"padding: expected 'valid', 'same' or 'same_lower', got {padding!r}")
    else:
        begin, end = padding
    if min(begin, end) < 0:
        raise ValueError(f"padding: expected >= 0, got {padding!r}")
    room = size + begin + end - span
    if room < 0:
        raise ValueError(f"window: spans {span} elements, the padded input has {room + span}")
    out = (math.ceil(room / stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (out - 1) * stride >= size + begin:
        out -= 1
    return Axis(size, kernel, stride, dilation, begin, end, out)


def axes_of(
    shape: Sequence[int],
    kernel: Size,
    stride: Size,
    dilation: Size,
    padding: Padding,
    ceil_mode: bool = False,
) -> tuple[Axis, Axis]:
    """Resolve the two spatial axes of a (N, C, H, W) `shape`."""
    spelled = [padding] * 2 if isinstance(padding, str) else pairs_of(padding)
    sizes = shape[2:]
    kernels, strides, dilations = pair(kernel), pair(stride), pair(dilation)
    rows, cols = (
        axis_of(sizes[i], kernels[i], strides[i], dilations[i], spelled[i], ceil_mode)
        for i in range(2)
    )
    return rows, cols


def pad_planes(x: FloatArray, rows: Axis, cols: Axis, value: float = 0.0) -> FloatArray:
    """Return (N, C, H, W) surrounded by `value`, large enough for every window."""
    return np.pad(
        x,
        (
            (0, 0),
            (0, 0),
            (rows.begin, rows.padded - rows.begin - rows.size),
            (cols.begin, cols.padded - cols.begin - cols.size),
        ),
        constant_values=value,
    )


def crop_planes(x: NDArray[_T], rows: Axis, cols: Axis) -> NDArray[_T]:
    """Undo `pad_planes`."""
    return x[:, :, rows.begin : rows.begin + rows.size, cols.begin : cols.begin + cols.size]
