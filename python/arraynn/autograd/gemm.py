"""The linear layer on the tape, and what it shares with convolution: a fused activation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from arraynn import kernels as K
from arraynn.autograd.elementwise import Activation, activation_of
from arraynn.autograd.tape import Array, Edge, Node, array_of, edge_of, grad_mode, guard, make

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

__all__ = ["FusedNode", "linear"]

#: ``needs`` of a backward kernel by bit: 1 for x, 2 for weight, 4 for bias.
_NEEDS = tuple(
    tuple(name for bit, name in enumerate(("x", "weight", "bias")) if mask >> bit & 1)
    for mask in range(8)
)


class FusedNode(Node):
    """f(op(x, weight) + bias + residual); saves (x, weight, z).

    ``z`` is the output where the slope of f follows from it, else what went into f; None without
    an activation.
    """

    __slots__ = ("activation", "needs")
    fresh = True  # finish() copies the one part that could be shared

    activation: Activation | None
    needs: tuple[str, ...]

    def before_activation(self, grad: Array) -> Array:
        """Gradient of what went into the activation."""
        kind = self.activation
        if kind is None:
            return grad
        return kind.backward(grad, self.saved[2], **kind.options)

    def finish(self, grad: Array, parts: tuple[Array | None, ...]) -> tuple[Array | None, ...]:
        """Add the residual's gradient, a copy when it is the incoming one."""
        if len(self.edges) == 3:
            return parts
        return (*parts, grad.copy() if self.activation is None else grad)


_FusedNodeT = TypeVar("_FusedNodeT", bound=FusedNode)


def fused_edges(x: Any, weight: Any, bias: Any, residual: Any) -> tuple[Edge, ...] | None:
    """Edges of a fused layer, None when nothing is recorded."""
    if not grad_mode.enabled:
        return None
    edge_x, edge_w, edge_b = edge_of(x), edge_of(weight), edge_of(bias)
    if residual is not None:
        edge_r = edge_of(residual)
        if edge_r is not None:
            return edge_x, edge_w, edge_b, edge_r
    return None if edge_x is edge_w is edge_b is None else (edge_x, edge_w, edge_b)


def record_fused(
    node_class: type[_FusedNodeT],
    edges: tuple[Edge, ...],
    x: Any,
    weight: Any,
    kind: Activation | None,
    out: Array,
) -> tuple[Tensor, _FusedNodeT]:
    """Finish a fused layer: ``out`` is the output, or what the activation still has to change."""
    result = make(out, None)
    guards = guard(x, weight)
    kept = None
    if kind is not None:
        kept = out
        if kind.from_output:
            guards += (result.version, 0)
        else:
            result.data = kind.forward(out, **kind.options)
    node = node_class(edges, (array_of(x), array_of(weight), kept), guards)
    node.activation = kind
    node.needs = _NEEDS[
        (edges[0] is not None) + 2 * (edges[1] is not None) + 4 * (edges[2] is not None)
    ]
    result.node = node
    result._requires_grad = True
    return result, node


class LinearNode(FusedNode):
    """f(x @ weight.T + bias + residual)."""

    __slots__ = ()

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        x, weight, _ = self.saved
        grad = self.before_activation(grad)
        return self.finish(grad, K.linear_backward(grad, x, weight, needs=self.needs))


def linear(
    x: Any,
    weight: Any,
    bias: Any = None,
    activation: str | None = None,
    residual: Any = None,
) -> Tensor:
    """Return f(x @ weight.T + bias + residual), differentiable in all four."""
    kind = None if activation is None else activation_of("linear", activation)
    edges = fused_edges(x, weight, bias, residual)
    # One pass with the activation, unless its backward needs what goes into it.
    fused = activation if edges is None or (kind is not None and kind.from_output) else None
    out = K.linear(
        array_of(x),
        array_of(weight),
        array_of(bias),
        activation=fused,
        residual=array_of(residual),
    )
    if edges is None:
        return make(out, None)
    return record_fused(LinearNode, edges, x, weight, kind, out)[0]
