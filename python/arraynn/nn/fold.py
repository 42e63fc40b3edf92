"""Layers that take images to columns of windows and back."""

from __future__ import annotations

from typing import Any

from arraynn.nn import functional as F
from arraynn.nn.module import Module

__all__ = ["Fold", "Unfold"]


class Unfold(Module):
    """The windows of images side by side as columns: (N, C, H, W) to (N, C kh kw, windows).

    Parameters
    ----------
    kernel_size, dilation, stride : int or pair
    padding : int, pair or ((top, bottom), (left, right))

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.Unfold(2)(np.arange(6.0).reshape(1, 1, 2, 3)).shape
    (1, 4, 2)
    """

    def __init__(
        self, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: Any) -> Any:
        """Apply the layer."""
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        """Return the windows, as PyTorch does."""
        return (
            f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, "
            f"stride={self.stride}"
        )


class Fold(Module):
    """Columns of windows added to the images they came from: the inverse shape of `Unfold`.

    Parameters
    ----------
    output_size : int or pair
        Height and width of the images.
    kernel_size, dilation, padding, stride
        As of :class:`Unfold`.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.Fold((2, 3), 2)(np.ones((1, 4, 2)))[0, 0]
    array([[1., 2., 1.],
           [1., 2., 1.]])
    """

    def __init__(
        self,
        output_size: Any,
        kernel_size: Any,
        dilation: Any = 1,
        padding: Any = 0,
        stride: Any = 1,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: Any) -> Any:
        """Apply the layer."""
        return F.fold(
            input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride
        )

    def extra_repr(self) -> str:
        """Return sizes and windows, as PyTorch does."""
        return (
            f"output_size={self.output_size}, kernel_size={self.kernel_size}, "
            f"dilation={self.dilation}, padding={self.padding}, stride={self.stride}"
        )
