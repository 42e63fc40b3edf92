"""Convolution layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from arraynn.nn import functional as F
from arraynn.nn.linear import reset_weight_and_bias
from arraynn.nn.module import Module, Parameter, check_floating, check_positive, pair_of

__all__ = ["Conv2d"]

_NAMED_PADDINGS = ("valid", "same", "same_lower")


def check_layout(op: str, layout: str) -> str:
    """Return the layout; raise unless it is one of the two."""
    if layout not in ("channels_first", "channels_last"):
        raise ValueError(f"[{op}] layout: expected channels_first or channels_last, got {layout!r}")
    return layout


class Conv2d(Module):
    """Cross-correlation of images with learned kernels, plus a bias.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or pair
    stride, dilation : int or pair
    padding : int, pair, ((top, bottom), (left, right)), "valid", "same" or "same_lower"
        Rows and columns of zeros around the image.
    groups : int
        Divides both channel counts; each group sees its own input channels only.
    bias : bool
    padding_mode : {"zeros"}
    dtype : dtype, optional
        float32 (default) or float64.
    layout : {"channels_first", "channels_last"}
        (N, C, H, W), or (N, H, W, C), of input and output. The weight's shape is the same in both.

    Attributes
    ----------
    weight : Parameter, (out_channels, in_channels / groups, kernel height, kernel width)
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
    >>> conv = ann.nn.Conv2d(3, 8, 3, padding=1)
    >>> conv
    Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    >>> conv(ann.Tensor(np.zeros((2, 3, 5, 5), np.float32))).shape
    (2, 8, 5, 5)
    """

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
        super().__init__()
        check_positive("Conv2d", in_channels=in_channels, out_channels=out_channels, groups=groups)
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(
                    f"[Conv2d] {name}: expected a multiple of groups ({groups}), got {channels}"
                )
        if padding_mode != "zeros":
            raise NotImplementedError(
                f"[Conv2d] padding_mode: only 'zeros' is supported, got {padding_mode!r}"
            )
        kind = check_floating("Conv2d", dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = pair_of("Conv2d", "kernel_size", kernel_size, 1)
        self.stride = pair_of("Conv2d", "stride", stride, 1)
        self.padding = self._padding(padding)
        self.dilation = pair_of("Conv2d", "dilation", dilation, 1)
        self.groups = groups
        self.padding_mode = padding_mode
        self.layout = check_layout("Conv2d", layout)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = Parameter(np.empty(shape, kind))
        self.bias = Parameter(np.empty(out_channels, kind)) if bias else None
        self.reset_parameters()

    @staticmethod
    def _padding(padding: Any) -> Any:
        if isinstance(padding, str):
            if padding not in _NAMED_PADDINGS:
                raise ValueError(
                    f"[Conv2d] padding: expected ints or one of {' '.join(_NAMED_PADDINGS)}, "
                    f"got {padding!r}"
                )
            return padding
        if isinstance(padding, tuple | list) and any(isinstance(p, tuple | list) for p in padding):
            if len(padding) != 2:
                raise ValueError(
                    f"[Conv2d] padding: expected ((top, bottom), (left, right)), got {padding!r}"
                )
            return tuple(pair_of("Conv2d", "padding", p, 0) for p in padding)
        return pair_of("Conv2d", "padding", padding, 0)

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        reset_weight_and_bias(self.weight, self.bias)

    def forward(self, input: Any) -> Any:
        """Apply the layer."""
        return F.conv2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            layout=self.layout,
        )

    def forward_with(self, input: Any, activation: str) -> Any:
        """Apply the layer and an activation in one pass."""
        return F.conv2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            activation=activation,
            layout=self.layout,
        )

    def extra_repr(self) -> str:
        """Return what differs from the defaults, as PyTorch does."""
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
        if self.padding != (0, 0):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.layout != "channels_first":
            text += f", layout={self.layout}"
        return text
