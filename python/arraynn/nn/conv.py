"""Convolution layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from arraynn.autograd.conv import conv_pool, pad
from arraynn.nn import functional as F
from arraynn.nn.linear import reset_weight_and_bias
from arraynn.nn.module import Parameter, check_floating, check_positive
from arraynn.nn.packing import PackableLayer

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
]

_NAMED_PADDINGS = ("valid", "same", "same_lower")
_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def check_layout(op: str, layout: str) -> str:
    """Return the layout; raise unless it is one of the two."""
    if layout not in ("channels_first", "channels_last"):
        raise ValueError(f"[{op}] layout: expected channels_first or channels_last, got {layout!r}")
    return layout


class _Conv(PackableLayer):
    """What the layers share; a subclass names its kernel and its spatial axes."""

    _axes: ClassVar[int]
    padding: Any
    output_padding: tuple[int, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        dilation: Any,
        groups: int,
        padding_mode: str,
        layout: str,
    ) -> None:
        super().__init__()
        op = type(self).__name__
        check_positive(op, in_channels=in_channels, out_channels=out_channels, groups=groups)
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(
                    f"[{op}] {name}: expected a multiple of groups ({groups}), got {channels}"
                )
        if padding_mode not in _PADDING_MODES:
            raise ValueError(
                f"[{op}] padding_mode: expected one of {' '.join(_PADDING_MODES)}, "
                f"got {padding_mode!r}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = self._sizes("kernel_size", kernel_size, 1)
        self.stride = self._sizes("stride", stride, 1)
        self.dilation = self._sizes("dilation", dilation, 1)
        self.groups = groups
        self.padding_mode = padding_mode
        self.layout = check_layout(op, layout)

    def _sizes(self, name: str, value: Any, minimum: int) -> tuple[int, ...]:
        """Return an int, or an int per axis, as a tuple of ints of at least ``minimum``."""
        one = isinstance(value, int | np.integer)
        found = (value,) * self._axes if one else tuple(value) if _is_sequence(value) else ()
        op = type(self).__name__
        if len(found) != self._axes or not all(isinstance(v, int | np.integer) for v in found):
            several = "a pair of ints" if self._axes == 2 else f"a tuple of {self._axes}"
            raise ValueError(f"[{op}] {name}: expected an int or {several}, got {value!r}")
        if min(found) < minimum:
            raise ValueError(f"[{op}] {name}: expected at least {minimum}, got {value!r}")
        return tuple(int(v) for v in found)

    def _padding(self, padding: Any) -> Any:
        if not (_is_sequence(padding) and any(_is_sequence(p) for p in padding)):
            return self._sizes("padding", padding, 0)
        pairs = all(
            _is_sequence(p) and len(p) == 2 and all(isinstance(v, int | np.integer) for v in p)
            for p in padding
        )
        if len(padding) != self._axes or not pairs:
            form = ("((begin, end),)", "((top, bottom), (left, right))", "three pairs")[
                self._axes - 1
            ]
            raise ValueError(
                f"[{type(self).__name__}] padding: expected ints or {form}, got {padding!r}"
            )
        if min(min(p) for p in padding) < 0:
            raise ValueError(
                f"[{type(self).__name__}] padding: expected at least 0, got {padding!r}"
            )
        return tuple((int(begin), int(end)) for begin, end in padding)

    def _make_parameters(self, rows: int, columns: int, bias: bool, dtype: Any) -> None:
        kind = check_floating(type(self).__name__, dtype)
        self.weight = Parameter(np.empty((rows, columns, *self.kernel_size), kind))
        self.bias = Parameter(np.empty(self.out_channels, kind)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        reset_weight_and_bias(self.weight, self.bias)

    def _sizes_of(self, input: Any) -> Sequence[int]:
        """Spatial sizes of an input, batched or not."""
        shape: Sequence[int] = input.shape
        return (
            shape[-self._axes - 1 : -1] if self.layout == "channels_last" else shape[-self._axes :]
        )

    def _pairs(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Return the padding of each axis for an input of those sizes."""
        if not isinstance(self.padding, str):
            return [p if isinstance(p, tuple) else (p, p) for p in self.padding]
        if self.padding == "valid":
            return [(0, 0)] * self._axes
        pairs = []
        for size, kernel, stride, dilation in zip(
            sizes, self.kernel_size, self.stride, self.dilation, strict=True
        ):
            reach = (kernel - 1) * dilation + 1
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
            small, large = total // 2, total - total // 2
            pairs.append((small, large) if self.padding == "same" else (large, small))
        return pairs

    def extra_repr(self) -> str:
        """Return what differs from the defaults, as PyTorch does."""
        zeros, ones = (0,) * self._axes, (1,) * self._axes
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
        if self.padding != zeros:
            text += f", padding={self.padding}"
        if self.dilation != ones:
            text += f", dilation={self.dilation}"
        if getattr(self, "output_padding", zeros) != zeros:
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        if self.layout != "channels_first":
            text += f", layout={self.layout}"
        return text


def _is_sequence(value: Any) -> bool:
    return isinstance(value, tuple | list)


class _Forward(_Conv):
    """A convolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: Any = None,
        layout: str = "channels_first",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, dilation, groups, padding_mode, layout
        )
        if isinstance(padding, str) and padding not in _NAMED_PADDINGS:
            raise ValueError(
                f"[{type(self).__name__}] padding: expected ints or one of "
                f"{' '.join(_NAMED_PADDINGS)}, got {padding!r}"
            )
        self.padding = padding if isinstance(padding, str) else self._padding(padding)
        self._make_parameters(out_channels, in_channels // groups, bias, dtype)

    def forward(self, input: Any) -> Any:
        """Apply the layer."""
        return self.forward_with(input, None)

    def forward_with(self, input: Any, activation: str | None) -> Any:
        """Apply the layer and an activation in one pass."""
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = self._bordered(input), 0
        return getattr(F, self._op)(
            input,
            self.packed_weight(),
            self.bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            activation=activation,
            layout=self.layout,
        )

    def _bordered(self, input: Any) -> Any:
        """Surround the input by its own pixels."""
        if input.ndim not in (self._axes + 1, self._axes + 2):
            return input  # the kernel says what it expects
        pairs = self._pairs(self._sizes_of(input))
        first = input.ndim - self._axes - (self.layout == "channels_last")
        pads = {first + i: p for i, p in enumerate(pairs) if p != (0, 0)}
        return pad(type(self).__name__, input, pads, self.padding_mode) if pads else input


class Conv1d(_Forward):
    """Cross-correlation of sequences with learned kernels, plus a bias.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, dilation : int
    padding : int, ((begin, end),), "valid", "same" or "same_lower"
    groups : int
        Divides both channel counts; each group sees its own input channels only.
    bias : bool
    padding_mode, dtype
        As in :class:`Conv2d`.
    layout : {"channels_first", "channels_last"}
        (N, C, L), or (N, L, C), of input and output, with or without N. The weight's shape is the
        same in both.

    Attributes
    ----------
    weight : Parameter, (out_channels, in_channels / groups, kernel_size)
    bias : Parameter, (out_channels,), or None

    Raises
    ------
    ValueError, TypeError
        If a size, a mode, the layout or the dtype is not supported.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> conv = ann.nn.Conv1d(3, 8, 5, stride=2)
    >>> conv
    Conv1d(3, 8, kernel_size=(5,), stride=(2,))
    >>> conv(ann.Tensor(np.zeros((2, 3, 11), np.float32))).shape
    (2, 8, 4)
    """

    _op = "conv1d"
    _axes = 1


class Conv2d(_Forward):
    """Cross-correlation of images with learned kernels, plus a bias.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or pair
    stride, dilation : int or pair
    padding : int, pair, ((top, bottom), (left, right)), "valid", "same" or "same_lower"
        Rows and columns around the image.
    groups : int
        Divides both channel counts; each group sees its own input channels only.
    bias : bool
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
        What the padding holds. All but zeros copy the input.
    dtype : dtype, optional
        float32 (default), float64, float16 or bfloat16.
    layout : {"channels_first", "channels_last"}
        (N, C, H, W), or (N, H, W, C), of input and output, with or without N. The weight's shape
        is the same in both.

    Attributes
    ----------
    weight : Parameter, (out_channels, in_channels / groups, kernel height, kernel width)
    bias : Parameter, (out_channels,), or None

    Raises
    ------
    ValueError, TypeError
        If a size, a mode, the layout or the dtype is not supported.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> conv = ann.nn.Conv2d(3, 8, 3, padding=1)
    >>> conv
    Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    >>> conv(ann.Tensor(np.zeros((2, 3, 5, 5), np.float32))).shape
    (2, 8, 5, 5)
    """

    _op = "conv2d"
    _axes = 2

    def forward_pooled(self, input: Any, activation: str | None, window: tuple[Any, ...]) -> Any:
        """Apply the layer, an activation and ``max_pool2d(., *window)``, in one pass if it may."""
        if getattr(input, "ndim", None) == 3:  # one sample
            batch = self.forward_pooled(input.reshape((1, *input.shape)), activation, window)
            return batch.reshape(batch.shape[1:])
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = self._bordered(input), 0
        geometry = (self.stride, padding, self.dilation, self.groups)
        return conv_pool(
            input, self.packed_weight(), self.bias, geometry, activation, window, self.layout
        )


class _Transposed(_Conv):
    """A transposed convolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        *,
        dtype: Any = None,
        layout: str = "channels_first",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, dilation, groups, padding_mode, layout
        )
        op = type(self).__name__
        if padding_mode != "zeros":
            raise NotImplementedError(
                f"[{op}] padding_mode: only 'zeros' is supported, got {padding_mode!r}"
            )
        self.padding = self._padding(padding)
        self.output_padding = self._sizes("output_padding", output_padding, 0)
        for more, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True):
            if more >= max(s, d):
                raise ValueError(
                    f"[{op}] output_padding: expected less than stride or dilation, got {more}"
                )
        self._make_parameters(in_channels, out_channels // groups, bias, dtype)

    def forward(self, input: Any, output_size: Sequence[int] | None = None) -> Any:
        """Apply the layer; ``output_size``, the spatial sizes, chooses the output padding."""
        more = self.output_padding
        if output_size is not None:
            more = self._padding_for(self._sizes_of(input), tuple(output_size)[-self._axes :])
        return self._run(input, more, None)

    def forward_with(self, input: Any, activation: str) -> Any:
        """Apply the layer and an activation in one pass."""
        return self._run(input, self.output_padding, activation)

    def _run(self, input: Any, more: tuple[int, ...], activation: str | None) -> Any:
        return getattr(F, self._op)(
            input,
            self.packed_weight(),
            self.bias,
            self.stride,
            self.padding,
            more,
            self.groups,
            self.dilation,
            activation=activation,
            layout=self.layout,
        )

    def _padding_for(self, sizes: Sequence[int], wanted: tuple[int, ...]) -> tuple[int, ...]:
        pairs = self._pairs(sizes)
        least = tuple(
            (size - 1) * stride - sum(pair) + (kernel - 1) * dilation + 1
            for size, stride, pair, kernel, dilation in zip(
                sizes, self.stride, pairs, self.kernel_size, self.dilation, strict=True
            )
        )
        most = tuple(low + stride - 1 for low, stride in zip(least, self.stride, strict=True))
        if len(wanted) != self._axes or not all(
            low <= size <= high for low, size, high in zip(least, wanted, most, strict=True)
        ):
            raise ValueError(
                f"[{type(self).__name__}] output_size: expected from {least} to {most} for an "
                f"input of {tuple(sizes)}, got {wanted}"
            )
        return tuple(size - low for size, low in zip(wanted, least, strict=True))


class ConvTranspose1d(_Transposed):
    """Transposed convolution of sequences, plus a bias.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, output_padding, dilation : int
    padding : int or ((begin, end),)
    groups, bias, padding_mode, dtype
        As in :class:`ConvTranspose2d`.
    layout : {"channels_first", "channels_last"}
        (N, C, L), or (N, L, C), of input and output, with or without N.

    Attributes
    ----------
    weight : Parameter, (in_channels, out_channels / groups, kernel_size)
    bias : Parameter, (out_channels,), or None

    Raises
    ------
    ValueError, TypeError
        If a size, the layout or the dtype is not supported.
    NotImplementedError
        If ``padding_mode`` is not "zeros".

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> up = ann.nn.ConvTranspose1d(3, 8, 4, stride=2, padding=1)
    >>> up(ann.Tensor(np.zeros((2, 3, 10), np.float32))).shape
    (2, 8, 20)
    """

    _op = "conv_transpose1d"
    _axes = 1


class ConvTranspose2d(_Transposed):
    """Transposed convolution of images, plus a bias: the gradient of a convolution by its input.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, dilation : int or pair
    padding : int, pair or ((top, bottom), (left, right))
        The padding of the convolution that this one inverts: taken off the result.
    output_padding : int or pair
        Added to the result at the bottom and right; below the larger of stride and dilation.
    groups : int
        Divides both channel counts.
    bias : bool
    padding_mode : {"zeros"}
    dtype : dtype, optional
        float32 (default), float64, float16 or bfloat16.
    layout : {"channels_first", "channels_last"}
        (N, C, H, W), or (N, H, W, C), of input and output, with or without N. The weight's shape
        is the same in both.

    Attributes
    ----------
    weight : Parameter, (in_channels, out_channels / groups, kernel height, kernel width)
    bias : Parameter, (out_channels,), or None

    Raises
    ------
    ValueError, TypeError
        If a size, the layout or the dtype is not supported.
    NotImplementedError
        If ``padding_mode`` is not "zeros".

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> up = ann.nn.ConvTranspose2d(3, 8, 2, stride=2)
    >>> up
    ConvTranspose2d(3, 8, kernel_size=(2, 2), stride=(2, 2))
    >>> x = ann.Tensor(np.zeros((2, 3, 5, 5), np.float32))
    >>> up(x).shape, up(x, output_size=(11, 10)).shape
    ((2, 8, 10, 10), (2, 8, 11, 10))
    """

    _op = "conv_transpose2d"
    _axes = 2


class Conv3d(_Forward):
    """Cross-correlation of volumes with learned kernels, plus a bias.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, dilation : int or (int, int, int)
    padding : int, (int, int, int), three pairs, "valid", "same" or "same_lower"
    groups, bias, padding_mode, dtype
        As in :class:`Conv2d`.
    layout : {"channels_first", "channels_last"}
        (N, C, D, H, W), or (N, D, H, W, C), of input and output, with or without N.

    Attributes
    ----------
    weight : Parameter, (out_channels, in_channels / groups, kernel depth, height, width)
    bias : Parameter, (out_channels,), or None

    Raises
    ------
    ValueError, TypeError
        If a size, a mode, the layout or the dtype is not supported.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> conv = ann.nn.Conv3d(3, 8, (1, 3, 3), padding=(0, 1, 1))
    >>> conv(ann.Tensor(np.zeros((2, 3, 4, 5, 6), np.float32))).shape
    (2, 8, 4, 5, 6)
    """

    _op = "conv3d"
    _axes = 3


class ConvTranspose3d(_Transposed):
    """Transposed convolution of volumes, plus a bias.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, output_padding, dilation : int or (int, int, int)
    padding : int, (int, int, int) or three pairs
    groups, bias, padding_mode, dtype
        As in :class:`ConvTranspose2d`.
    layout : {"channels_first", "channels_last"}
        (N, C, D, H, W), or (N, D, H, W, C), of input and output, with or without N.

    Attributes
    ----------
    weight : Parameter, (in_channels, out_channels / groups, kernel depth, height, width)
    bias : Parameter, (out_channels,), or None

    Raises
    ------
    ValueError, TypeError
        If a size, the layout or the dtype is not supported.
    NotImplementedError
        If ``padding_mode`` is not "zeros".

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> up = ann.nn.ConvTranspose3d(3, 8, 2, stride=2)
    >>> up(ann.Tensor(np.zeros((2, 3, 2, 3, 4), np.float32))).shape
    (2, 8, 4, 6, 8)
    """

    _op = "conv_transpose3d"
    _axes = 3
