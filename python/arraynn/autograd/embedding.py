"""Rows of a table on the tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arraynn import kernels as K
from arraynn.autograd.tape import Array, Node, array_of, edge_of, guard, make, recording

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

__all__ = ["embedding"]


class EmbeddingNode(Node):
    """weight[indices]; saves (indices,)."""

    __slots__ = ("padding_idx", "rows")
    fresh = True

    padding_idx: int | None
    rows: int

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (K.embedding_backward(grad, self.saved[0], self.rows, self.padding_idx),)


def embedding(indices: Any, weight: Any, padding_idx: int | None = None) -> Tensor:
    """Look up rows of ``weight``, differentiable in it."""
    where, table = array_of(indices), array_of(weight)
    out = K.embedding(where, table, padding_idx)
    if not recording(weight):
        return make(out, None)
    node = EmbeddingNode((edge_of(weight),), (where,), guard(indices))
    node.padding_idx = padding_idx
    node.rows = table.shape[0]
    return make(out, node)
