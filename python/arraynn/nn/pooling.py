"""Pooling layers."""

from __future__ import annotations

from typing import Any

from arraynn.nn import functional as F
from arraynn.nn.conv import check_layout
from arraynn.nn.module import Module, pair_of

__all__ = ["AvgPool2d", "MaxPool2d"]


def _check_window(op: str, kernel_size: Any, stride: Any) -> None:
    pair_of(op, "kernel_size", kernel_size, 1)
    if stride is not None:
        pair_of(op, "stride", stride, 1)


class MaxPool2d(Module):
    """Largest element of each window.

    Parameters
    ----------
    kernel_size : int or pair
    stride : int or pair, optional
        The kernel's size when None.
    padding, dilation : int or pair
        Padding is never chosen; at most half the dilated kernel.
    return_indices : bool
        Return positions in the input plane, too.
    ceil_mode : bool
        Round the output's size up (PyTorch's rule).
    layout : {"channels_first", "channels_last"}

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.MaxPool2d(2)(np.arange(16.0).reshape(1, 1, 4, 4))[0, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        layout: str = "channels_first",
    ) -> None:
        super().__init__()
        _check_window("MaxPool2d", kernel_size, stride)
        pair_of("MaxPool2d", "dilation", dilation, 1)
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode
        self.layout = check_layout("MaxPool2d", layout)

    def forward(self, input: Any) -> Any:
        """Apply the pooling."""
        return F.max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
            layout=self.layout,
        )

    def extra_repr(self) -> str:
        """Return the window, as PyTorch does."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """Mean of each window.

    Parameters
    ----------
    kernel_size : int or pair
    stride : int or pair, optional
        The kernel's size when None.
    padding : int or pair
        Zeros around the image; at most half the kernel.
    ceil_mode : bool
        Round the output's size up (PyTorch's rule).
    count_include_pad : bool
        Whether padding counts in the divisor.
    divisor_override : int, optional
        Divide by this in place of the count.
    layout : {"channels_first", "channels_last"}

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.AvgPool2d(2)(np.arange(16.0).reshape(1, 1, 4, 4))[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        layout: str = "channels_first",
    ) -> None:
        super().__init__()
        _check_window("AvgPool2d", kernel_size, stride)
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override
        self.layout = check_layout("AvgPool2d", layout)

    def forward(self, input: Any) -> Any:
        """Apply the pooling."""
        return F.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
            layout=self.layout,
        )

    def extra_repr(self) -> str:
        """Return the window, as PyTorch does."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
