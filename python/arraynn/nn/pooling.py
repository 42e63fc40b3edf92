"""Pooling layers."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from arraynn.nn import functional as F
from arraynn.nn.conv import check_layout
from arraynn.nn.module import Module

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
]


def _check_sizes(op: str, axes: int, name: str, value: Any) -> None:
    values = value if isinstance(value, tuple | list) and axes > 1 else (value,) * axes
    if axes == 1 and isinstance(value, tuple | list) and len(value) == 1:
        values = value
    if len(values) != axes or not all(
        isinstance(v, int | np.integer) and not isinstance(v, bool) for v in values
    ):
        several = {1: "", 2: " or a pair of ints", 3: " or three ints"}[axes]
        raise ValueError(f"[{op}] {name}: expected an int{several}, got {value!r}")
    if min(values) < 1:
        raise ValueError(f"[{op}] {name}: expected at least 1, got {value!r}")


class _Pool(Module):
    """A layer named after its function; ``_function`` is that function."""

    _axes: ClassVar[int]
    _function: ClassVar[Any]

    def _set_window(self, kernel_size: Any, stride: Any) -> None:
        op = type(self).__name__
        _check_sizes(op, self._axes, "kernel_size", kernel_size)
        if stride is not None:
            _check_sizes(op, self._axes, "stride", stride)
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride


class _MaxPool(_Pool):
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
        self._set_window(kernel_size, stride)
        _check_sizes(type(self).__name__, self._axes, "dilation", dilation)
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode
        self.layout = check_layout(type(self).__name__, layout)

    def window(self) -> tuple[Any, ...]:
        """Return what the function takes after its input, up to ``ceil_mode``."""
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode

    def forward(self, input: Any) -> Any:
        """Apply the pooling."""
        return type(self)._function(input, *self.window(), self.return_indices, layout=self.layout)

    def extra_repr(self) -> str:
        """Return the window, as PyTorch does."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """Largest element of each window of a signal.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, return_indices, ceil_mode, layout
        As of :class:`MaxPool2d`, for one axis.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.MaxPool1d(2)(np.array([[[3.0, 1.0, 2.0, 5.0]]]))
    array([[[3., 5.]]])
    """

    _axes = 1
    _function = staticmethod(F.max_pool1d)


class MaxPool2d(_MaxPool):
    """Largest element of each window.

    Parameters
    ----------
    kernel_size : int or pair
    stride : int or pair, optional
        The kernel's size when None.
    padding, dilation : int or pair
        Padding is never chosen; less than the dilated kernel's reach.
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

    _axes = 2
    _function = staticmethod(F.max_pool2d)


class AvgPool1d(_Pool):
    """Mean of each window of a signal.

    Parameters
    ----------
    kernel_size, stride, padding, ceil_mode, count_include_pad, layout
        As of :class:`AvgPool2d`, for one axis.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.AvgPool1d(2)(np.array([[[3.0, 1.0, 2.0, 5.0]]]))
    array([[[2. , 3.5]]])
    """

    _axes = 1

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        *,
        layout: str = "channels_first",
    ) -> None:
        super().__init__()
        self._set_window(kernel_size, stride)
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.layout = check_layout("AvgPool1d", layout)

    def forward(self, input: Any) -> Any:
        """Apply the pooling."""
        return F.avg_pool1d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            layout=self.layout,
        )

    def extra_repr(self) -> str:
        """Return the window, as PyTorch does."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _AvgPool(_Pool):
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
        self._set_window(kernel_size, stride)
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override
        self.layout = check_layout(type(self).__name__, layout)

    def forward(self, input: Any) -> Any:
        """Apply the pooling."""
        return type(self)._function(
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


class AvgPool2d(_AvgPool):
    """Mean of each window.

    Parameters
    ----------
    kernel_size : int or pair
    stride : int or pair, optional
        The kernel's size when None.
    padding : int or pair
        Zeros around the image; less than the kernel.
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

    _axes = 2
    _function = staticmethod(F.avg_pool2d)


class _AdaptivePool(_Pool):
    """``output_size`` windows per axis, cut so that they cover it."""

    def __init__(self, output_size: Any, *, layout: str = "channels_first") -> None:
        super().__init__()
        op, sizes = type(self).__name__, output_size
        if not isinstance(sizes, tuple | list):
            sizes = (sizes,) * self._axes
        if len(sizes) != self._axes or not all(
            v is None or (isinstance(v, int | np.integer) and v >= 0) for v in sizes
        ):
            raise ValueError(
                f"[{op}] output_size: expected an int >= 0 or None"
                f"{('', ', or a pair of them', ', or three of them')[self._axes - 1]}, "
                f"got {output_size!r}"
            )
        self.output_size = output_size
        self.layout = check_layout(op, layout)

    def extra_repr(self) -> str:
        """Return the size of the output, as PyTorch does."""
        return f"output_size={self.output_size}"


class _AdaptiveMaxPool(_AdaptivePool):
    def __init__(
        self, output_size: Any, return_indices: bool = False, *, layout: str = "channels_first"
    ) -> None:
        super().__init__(output_size, layout=layout)
        self.return_indices = return_indices

    def forward(self, input: Any) -> Any:
        """Apply the pooling."""
        return type(self)._function(
            input, self.output_size, self.return_indices, layout=self.layout
        )


class _AdaptiveAvgPool(_AdaptivePool):
    def forward(self, input: Any) -> Any:
        """Apply the pooling."""
        return type(self)._function(input, self.output_size, layout=self.layout)


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """Largest element of each of ``output_size`` windows that cover the signal.

    Parameters
    ----------
    output_size : int or None
        None keeps the input's size.
    return_indices : bool
        Return the positions, too.
    layout : {"channels_first", "channels_last"}

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.AdaptiveMaxPool1d(3)(np.array([[[3.0, 1.0, 2.0, 5.0, 4.0]]]))
    array([[[3., 5., 5.]]])
    """

    _axes = 1
    _function = staticmethod(F.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """Largest element of each of ``output_size`` windows that cover the image.

    Parameters
    ----------
    output_size : int, None or a pair of them
        None keeps the input's size.
    return_indices : bool
        Return the positions, too.
    layout : {"channels_first", "channels_last"}

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.AdaptiveMaxPool2d((1, None))(np.arange(4.0).reshape(1, 1, 2, 2))
    array([[[[2., 3.]]]])
    """

    _axes = 2
    _function = staticmethod(F.adaptive_max_pool2d)


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Mean of each of ``output_size`` windows that cover the signal.

    Parameters
    ----------
    output_size : int or None
        None keeps the input's size.
    layout : {"channels_first", "channels_last"}

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.AdaptiveAvgPool1d(2)(np.array([[[3.0, 1.0, 2.0]]]))
    array([[[2. , 1.5]]])
    """

    _axes = 1
    _function = staticmethod(F.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Mean of each of ``output_size`` windows that cover the image.

    Parameters
    ----------
    output_size : int, None or a pair of them
        None keeps the input's size.
    layout : {"channels_first", "channels_last"}

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.AdaptiveAvgPool2d(1)(np.arange(4.0).reshape(1, 1, 2, 2))
    array([[[[1.5]]]])
    """

    _axes = 2
    _function = staticmethod(F.adaptive_avg_pool2d)


class _LPPool(_Pool):
    def __init__(
        self,
        norm_type: float,
        kernel_size: Any,
        stride: Any = None,
        ceil_mode: bool = False,
        *,
        padding: Any = 0,
        dilation: Any = 1,
        layout: str = "channels_first",
    ) -> None:
        super().__init__()
        op = type(self).__name__
        if not 0 < norm_type < float("inf"):
            raise ValueError(f"[{op}] norm_type: expected a finite value > 0, got {norm_type!r}")
        self._set_window(kernel_size, stride)
        _check_sizes(op, self._axes, "dilation", dilation)
        self.norm_type = norm_type
        self.stride = stride
        self.ceil_mode = ceil_mode
        self.padding = padding
        self.dilation = dilation
        self.layout = check_layout(op, layout)

    def forward(self, input: Any) -> Any:
        """Apply the pooling."""
        return type(self)._function(
            input,
            float(self.norm_type),
            self.kernel_size,
            self.stride,
            self.ceil_mode,
            padding=self.padding,
            dilation=self.dilation,
            layout=self.layout,
        )

    def extra_repr(self) -> str:
        """Return norm and window, as PyTorch does, and what it does not have."""
        text = (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )
        own = {"padding": (self.padding, 0), "dilation": (self.dilation, 1)}
        return text + "".join(f", {k}={v}" for k, (v, usual) in own.items() if v != usual)


class _MaxUnpool(_Pool):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        *,
        layout: str = "channels_first",
    ) -> None:
        super().__init__()
        self._set_window(kernel_size, stride)
        self.padding = padding
        self.layout = check_layout(type(self).__name__, layout)

    def forward(self, input: Any, indices: Any, output_size: Any = None) -> Any:
        """Put the elements back; ``output_size`` where several sizes would fit."""
        return type(self)._function(
            input,
            indices,
            self.kernel_size,
            self.stride,
            self.padding,
            output_size,
            layout=self.layout,
        )

    def extra_repr(self) -> str:
        """Return the window."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class LPPool1d(_LPPool):
    """``(sum of x**p)**(1 / p)`` over each window of a signal.

    Parameters
    ----------
    norm_type : float
        The p, above 0.
    kernel_size : int
    stride : int, optional
        The kernel's size when None.
    ceil_mode : bool
        Round the output's size up (PyTorch's rule).
    padding, dilation : int
        Padding counts as zeros. PyTorch has neither.
    layout : {"channels_first", "channels_last"}

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.LPPool1d(2, 2)(np.array([[[3.0, 4.0, 6.0, 8.0]]]))
    array([[[ 5., 10.]]])
    """

    _axes = 1
    _function = staticmethod(F.lp_pool1d)


class MaxUnpool1d(_MaxUnpool):
    """Every element of a signal back where :class:`MaxPool1d` found it, zeros elsewhere.

    Parameters
    ----------
    kernel_size : int
    stride : int, optional
        The kernel's size when None.
    padding : int
    layout : {"channels_first", "channels_last"}

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> pool, unpool = ann.nn.MaxPool1d(2, return_indices=True), ann.nn.MaxUnpool1d(2)
    >>> unpool(*pool(np.arange(4.0).reshape(1, 1, 4)))
    array([[[0., 1., 0., 3.]]])
    """

    _axes = 1
    _function = staticmethod(F.max_unpool1d)


class LPPool2d(_LPPool):
    """``(sum of x**p)**(1 / p)`` over each window of an image.

    Parameters
    ----------
    norm_type : float
        The p, above 0.
    kernel_size : int or pair
    stride : int or pair, optional
        The kernel's size when None.
    ceil_mode : bool
        Round the output's size up (PyTorch's rule).
    padding, dilation : int or pair
        Padding counts as zeros. PyTorch has neither.
    layout : {"channels_first", "channels_last"}

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.LPPool2d(2, 2)(np.ones((1, 1, 2, 4)))
    array([[[[2., 2.]]]])
    """

    _axes = 2
    _function = staticmethod(F.lp_pool2d)


class MaxUnpool2d(_MaxUnpool):
    """Every element of an image back where :class:`MaxPool2d` found it, zeros elsewhere.

    Parameters
    ----------
    kernel_size : int or pair
    stride : int or pair, optional
        The kernel's size when None.
    padding : int or pair
    layout : {"channels_first", "channels_last"}

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> pool, unpool = ann.nn.MaxPool2d(2, return_indices=True), ann.nn.MaxUnpool2d(2)
    >>> unpool(*pool(np.arange(4.0).reshape(1, 1, 2, 2)))
    array([[[[0., 0.],
             [0., 3.]]]])
    """

    _axes = 2
    _function = staticmethod(F.max_unpool2d)


class MaxPool3d(_MaxPool):
    """Largest element of each window of a volume.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, return_indices, ceil_mode, layout
        As of :class:`MaxPool2d`, for three axes.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.MaxPool3d(2)(np.arange(8.0).reshape(1, 1, 2, 2, 2))
    array([[[[[7.]]]]])
    """

    _axes = 3
    _function = staticmethod(F.max_pool3d)


class AvgPool3d(_AvgPool):
    """Mean of each window of a volume.

    Parameters
    ----------
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, layout
        As of :class:`AvgPool2d`, for three axes.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.AvgPool3d(2)(np.arange(8.0).reshape(1, 1, 2, 2, 2))
    array([[[[[3.5]]]]])
    """

    _axes = 3
    _function = staticmethod(F.avg_pool3d)


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """Largest element of each of ``output_size`` windows that cover the volume.

    Parameters
    ----------
    output_size : int, None or three of them
        None keeps the input's size.
    return_indices : bool
        Return the positions, too.
    layout : {"channels_first", "channels_last"}

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.AdaptiveMaxPool3d((1, 1, None))(np.arange(8.0).reshape(1, 1, 2, 2, 2))
    array([[[[[6., 7.]]]]])
    """

    _axes = 3
    _function = staticmethod(F.adaptive_max_pool3d)


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """Mean of each of ``output_size`` windows that cover the volume.

    Parameters
    ----------
    output_size : int, None or three of them
        None keeps the input's size.
    layout : {"channels_first", "channels_last"}

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.AdaptiveAvgPool3d(1)(np.arange(8.0).reshape(1, 1, 2, 2, 2))
    array([[[[[3.5]]]]])
    """

    _axes = 3
    _function = staticmethod(F.adaptive_avg_pool3d)


class LPPool3d(_LPPool):
    """``(sum of x**p)**(1 / p)`` over each window of a volume.

    Parameters
    ----------
    norm_type, kernel_size, stride, ceil_mode, layout
        As of :class:`LPPool2d`, for three axes.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.LPPool3d(2, (1, 2, 2))(np.full((1, 1, 1, 2, 2), 3.0))
    array([[[[[6.]]]]])
    """

    _axes = 3
    _function = staticmethod(F.lp_pool3d)


class MaxUnpool3d(_MaxUnpool):
    """Every element of a volume back where :class:`MaxPool3d` found it, zeros elsewhere.

    Parameters
    ----------
    kernel_size, stride, padding, layout
        As of :class:`MaxUnpool2d`, for three axes.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> pool = ann.nn.MaxPool3d((1, 2, 2), return_indices=True)
    >>> ann.nn.MaxUnpool3d((1, 2, 2))(*pool(np.arange(4.0).reshape(1, 1, 1, 2, 2)))
    array([[[[[0., 0.],
              [0., 3.]]]]])
    """

    _axes = 3
    _function = staticmethod(F.max_unpool3d)
