"""Rotary embedding on the tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arraynn import kernels as K
from arraynn.autograd.tape import Array, Node, array_of, edge_of, guard, make, recording

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

__all__ = ["rope"]


class RopeNode(Node):
    """x turned by the angles of its positions; saves (cos, sin, positions)."""

    __slots__ = ("options",)
    fresh = True

    options: dict[str, Any]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (K.rope_backward(grad, *self.saved, **self.options),)


def rope(x: Any, cos: Any, sin: Any, positions: Any = None, **options: Any) -> Tensor:
    """Return ``kernels.rope``, differentiable in x."""
    tables = (array_of(cos), array_of(sin), array_of(positions))
    out = K.rope(array_of(x), *tables, **options)
    if not recording(x):
        return make(out, None)
    node = RopeNode((edge_of(x),), tables, guard(cos, sin, positions))
    node.options = options
    return make(out, node)
