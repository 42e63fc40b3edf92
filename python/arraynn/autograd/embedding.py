"""Rows of a table on the tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from arraynn import kernels as K
from arraynn.autograd.tape import Array, Node, Variable, array_of, edge_of, guard, make, recording

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

__all__ = ["embedding", "renormalise"]


class EmbeddingNode(Node):
    """weight[indices]; saves (indices,)."""

    __slots__ = ("by_frequency", "padding_idx", "rows")
    fresh = True

    by_frequency: bool
    padding_idx: int | None
    rows: int

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        (indices,) = self.saved
        sums = K.embedding_backward(grad, indices, self.rows, self.padding_idx)
        if self.by_frequency:
            counts = np.bincount(indices.reshape(-1), minlength=self.rows)
            sums /= np.maximum(counts, 1).astype(sums.dtype)[:, None]
        return (sums,)


def renormalise(indices: Any, weight: Any, max_norm: float, norm_type: float) -> None:
    """Scale the rows that are looked up and longer than ``max_norm`` to that norm, in place."""
    table = array_of(weight)
    rows = np.unique(array_of(indices))
    picked = K.embedding(rows, table)  # refuses what lies outside the table
    norms = np.linalg.norm(picked, ord=norm_type, axis=1)
    long = norms > max_norm
    if long.any():
        # PyTorch's term against a division by 0.
        table[rows[long]] = picked[long] * (max_norm / (norms[long] + 1e-7))[:, None]
        if isinstance(weight, Variable):
            weight.version[0] += 1


def embedding(
    indices: Any, weight: Any, padding_idx: int | None = None, by_frequency: bool = False
) -> Tensor:
    """Look up rows of ``weight``, differentiable in it.

    ``by_frequency`` divides the gradient of a row by the number of times it was looked up.
    """
    where, table = array_of(indices), array_of(weight)
    out = K.embedding(where, table, padding_idx)
    if not recording(weight):
        return make(out, None)
    node = EmbeddingNode((edge_of(weight),), (where,), guard(indices))
    node.by_frequency = by_frequency
    node.padding_idx = padding_idx
    node.rows = table.shape[0]
    return make(out, node)
