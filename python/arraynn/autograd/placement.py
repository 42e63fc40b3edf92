"""Moves between devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arraynn import _array
from arraynn.autograd import pointwise
from arraynn.autograd.tape import Array, Node, edge_of, grad_mode, make

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

__all__ = ["to"]


class ToNode(Node):
    """A copy on another device; the gradient goes back to where the input is."""

    __slots__ = ("device",)
    fresh = True

    device: str

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (_array.to_device("to", grad, self.device),)


def to(x: Tensor, device: Any, dtype: Any) -> Tensor:
    """Return ``x`` on a device, in a dtype; itself where nothing changes."""
    place, kind = _array.split_target("to", device, dtype)
    if kind is not None and kind != x.data.dtype:
        x = pointwise.astype(x, kind)
    if place is None:
        return x
    out = _array.to_device("to", x.data, place)
    if out is x.data:
        return x
    if not (grad_mode.enabled and x._requires_grad):
        return make(out, None)
    node = ToNode((edge_of(x),))
    node.device = _array.device_of(x.data)
    return make(out, node)
