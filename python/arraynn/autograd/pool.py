"""Pooling on the tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from arraynn import kernels as K
from arraynn.autograd.tape import Array, Node, grad_mode, guard, make

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

MaxWindow: TypeAlias = tuple[Any, Any, Any, Any, bool]
AvgWindow: TypeAlias = tuple[Any, Any, Any, bool, bool, int | None]

__all__ = ["avg_pool2d", "max_pool2d"]


class MaxPool2dNode(Node):
    """Largest element of each window; saves (x, indices), indices None when not asked for."""

    __slots__ = ("layout", "window")
    fresh = True

    layout: str
    window: MaxWindow

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        x, indices = self.saved
        return (K.max_pool2d_backward(grad, x, *self.window, layout=self.layout, indices=indices),)


class AvgPool2dNode(Node):
    """Mean of each window; needs the shape of x only."""

    __slots__ = ("dilation", "layout", "shape", "window")
    fresh = True

    dilation: Any
    layout: str
    shape: tuple[int, ...]
    window: AvgWindow

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (
            K.avg_pool2d_backward(
                grad, self.shape, *self.window, dilation=self.dilation, layout=self.layout
            ),
        )


def max_pool2d(
    x: Tensor, window: MaxWindow, return_indices: bool = False, layout: str = "channels_first"
) -> Any:
    """Max pooling; ``window`` is (kernel_size, stride, padding, dilation, ceil_mode).

    With ``return_indices`` the result is (output, indices), the indices a plain tensor.
    """
    out = K.max_pool2d(x.data, *window, return_indices=return_indices, layout=layout)
    indices = None
    if return_indices:
        out, indices = out
    node = None
    if grad_mode.enabled and x._requires_grad:
        node = MaxPool2dNode((x.node or x,), (x.data, indices), guard(x))
        node.window = window
        node.layout = layout
    result = make(out, node)
    return result if indices is None else (result, make(indices, None))


def avg_pool2d(
    x: Tensor, window: AvgWindow, dilation: Any = 1, layout: str = "channels_first"
) -> Tensor:
    """Average pooling.

    ``window`` is (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override).
    """
    out = K.avg_pool2d(x.data, *window, dilation=dilation, layout=layout)
    if not (grad_mode.enabled and x._requires_grad):
        return make(out, None)
    node = AvgPool2dNode((x.node or x,))
    node.shape = x.data.shape
    node.window = window
    node.dilation = dilation
    node.layout = layout
    return make(out, node)
