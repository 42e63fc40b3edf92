"""Convolution on the tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arraynn import kernels as K
from arraynn.autograd.elementwise import activation_of
from arraynn.autograd.gemm import FusedNode, fused_edges, record_fused
from arraynn.autograd.tape import Array, array_of, make

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

__all__ = ["conv2d"]


class Conv2dNode(FusedNode):
    """f(conv2d(x, weight) + bias + residual)."""

    __slots__ = ("flip_kernel", "geometry", "layout")

    flip_kernel: bool
    geometry: tuple[Any, Any, Any, int]
    layout: str

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        x, weight, _ = self.saved
        grad = self.before_activation(grad)
        parts = K.conv2d_backward(
            grad,
            x,
            weight,
            *self.geometry,
            layout=self.layout,
            flip_kernel=self.flip_kernel,
            needs=self.needs,
        )
        return self.finish(grad, parts)


def conv2d(
    x: Any,
    weight: Any,
    bias: Any,
    geometry: tuple[Any, Any, Any, int],
    activation: str | None = None,
    residual: Any = None,
    layout: str = "channels_first",
    flip_kernel: bool = False,
) -> Tensor:
    """Return f(conv2d(x, weight) + bias + residual), differentiable in all four.

    ``geometry`` is (stride, padding, dilation, groups).
    """
    kind = None if activation is None else activation_of("conv2d", activation)
    edges = fused_edges(x, weight, bias, residual)
    # One pass with the activation, unless its backward needs what goes into it.
    fused = activation if edges is None or (kind is not None and kind.from_output) else None
    out = K.conv2d(
        array_of(x),
        array_of(weight),
        array_of(bias),
        *geometry,
        activation=fused,
        residual=array_of(residual),
        layout=layout,
        flip_kernel=flip_kernel,
    )
    if edges is None:
        return make(out, None)
    result, node = record_fused(Conv2dNode, edges, x, weight, kind, out)
    node.geometry = geometry
    node.layout = layout
    node.flip_kernel = flip_kernel
    return result
