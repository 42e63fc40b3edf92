"""Recurrent layers on the tape: a whole sequence, or a step of a cell, is one node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from arraynn import kernels as K
from arraynn.autograd.tape import (
    Array,
    Grads,
    Node,
    Variable,
    array_of,
    edge_of,
    guard,
    make,
    make_outputs,
    recording,
)

__all__ = ["cell", "sequence"]


class _RecurrentNode(Node):
    """``op`` is the kernel's name; saves (workspace,).

    Edges: x, states, weights, peepholes, layer norms.
    """

    __slots__ = ("op",)
    fresh = True

    op: str

    @property
    def name(self) -> str:
        """Name of the operation in messages."""
        return self.op

    def call(self, *grads: Any, **cells: Any) -> tuple[Array | None, ...]:
        """Call the backward kernel and return its gradients in the order of the edges."""
        kernel = getattr(K, f"{self.op}_backward")
        grad_x, states, weights, *more = kernel(*grads, self.saved[0], **cells)
        # A cell's peephole is one array, a sequence's one for each layer and direction.
        return (
            grad_x,
            *_listed(states),
            *weights,
            *(p for part in more for p in _listed(part)),
        )


class SequenceNode(_RecurrentNode):
    """y, the final state and, of an LSTM that was asked for it, every c."""

    __slots__ = ()

    def backward(self, grad: Any) -> tuple[Array | None, ...]:
        grad_y, *states = grad.parts
        if self.op == "lstm" and len(states) > 2:
            return self.call(grad_y, tuple(states[:2]), grad_cells=states[2])
        return self.call(grad_y, _as_state(states))


class CellNode(_RecurrentNode):
    """The new state: h, or h and c."""

    __slots__ = ()

    def backward(self, grad: Any) -> tuple[Array | None, ...]:
        return self.call(grad.parts if isinstance(grad, Grads) else grad)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _as_state(parts: Sequence[Any]) -> Any:
    """Return the pair (h, c) of an LSTM, or h alone."""
    return tuple(parts) if len(parts) > 1 else parts[0]


def _packed_of(weights: Any) -> K.PackedWeights | None:
    """Return packed weights, which are constants; None for a list.

    Those on a GPU are of a type of their own.
    """
    data = weights.data if isinstance(weights, Variable) else weights
    return None if hasattr(data, "__iter__") else data


def _run(
    node_class: type[_RecurrentNode],
    op: str,
    x: Any,
    weights: Sequence[Any],
    state: Any,
    peepholes: Sequence[Any] | None,
    layer_norm: Sequence[Any] | None,
    call: dict[str, Any],
) -> tuple[Any, _RecurrentNode | None]:
    """Call the kernel; returns what it returned without the workspace, and the node."""
    states = () if state is None else tuple(_listed(state))
    packed = _packed_of(weights)
    listed = () if packed is not None else weights
    inputs = (x, *states, *listed, *(peepholes or ()), *(layer_norm or ()))
    if layer_norm is not None:
        call["layer_norm"] = [array_of(g) for g in layer_norm]
    arguments = (
        array_of(x),
        packed if packed is not None else [array_of(w) for w in weights],
        None if state is None else _as_state([array_of(s) for s in states]),
    )
    kernel = getattr(K, op)
    if not recording(*inputs):
        return kernel(*arguments, **call), None
    *found, workspace = kernel(*arguments, return_workspace=True, **call)
    edges = [edge_of(value) for value in inputs]
    slots = 2 if op.startswith("lstm") else 1
    if state is None:
        edges[1:1] = [None] * slots
    if packed is not None:
        edges[1 + slots : 1 + slots] = [None] * len(packed.shapes)
    node = node_class(tuple(edges), (workspace,), guard(*inputs))
    node.op = op
    return found if len(found) > 1 else found[0], node


def sequence(
    op: str,
    x: Any,
    weights: Sequence[Any],
    state: Any = None,
    *,
    peepholes: Sequence[Any] | None = None,
    layer_norm: Sequence[Any] | None = None,
    **options: Any,
) -> tuple[Any, ...]:
    """Return y and the final state of the kernel ``op``, differentiable in all arrays given.

    ``options`` are what the kernel takes beyond the arrays; the state is h, or (h, c) of an LSTM.
    With ``return_cells`` every c comes third.
    """
    call = dict(options)
    if peepholes is not None:
        call["peepholes"] = [array_of(p) for p in peepholes]
    found, node = _run(SequenceNode, op, x, weights, state, peepholes, layer_norm, call)
    y, last, *cells = found
    outputs = make_outputs([y, *_listed(last), *cells], node)
    if node is not None:
        node.guards += guard(outputs[0])  # the workspace may hold y itself
    end = len(outputs) - len(cells)
    return (outputs[0], _as_state(outputs[1:end]), *outputs[end:])


def cell(
    op: str,
    x: Any,
    weights: Sequence[Any],
    state: Any = None,
    *,
    peepholes: Any = None,
    layer_norm: Sequence[Any] | None = None,
    **options: Any,
) -> Any:
    """Return the new state of one step of the kernel ``op``: h, or (h, c) of an LSTM."""
    call = dict(options)
    if peepholes is not None:
        call["peepholes"] = array_of(peepholes)
    extra = None if peepholes is None else [peepholes]
    new, node = _run(CellNode, op, x, weights, state, extra, layer_norm, call)
    if len(parts := _listed(new)) == 1:
        return make(parts[0], node)
    return tuple(make_outputs(parts, node))
