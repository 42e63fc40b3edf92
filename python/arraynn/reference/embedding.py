"""Rows of a table by index in plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._common import FloatArray, quiet, store


def embedding(
    indices: NDArray[Any],
    weight: FloatArray,
    padding_idx: int | None = None,
    *,
    out: FloatArray | None = None,
) -> FloatArray:
    """``weight[indices]``; `padding_idx` matters to the gradient alone.

    >>> embedding(np.array([1, 0]), np.array([[1.0], [3.0]]))
    array([[3.],
           [1.]])
    """
    del padding_idx
    return store(weight[indices], out)


@quiet
def embedding_backward(
    grad_out: FloatArray,
    indices: NDArray[Any],
    num_embeddings: int,
    padding_idx: int | None = None,
    *,
    out: FloatArray | None = None,
) -> FloatArray:
    """Sum of the gradients of every row's occurrences; 0 for the row `padding_idx`."""
    grad = np.zeros((num_embeddings, grad_out.shape[-1]), grad_out.dtype)
    np.add.at(grad, indices.reshape(-1), grad_out.reshape(indices.size, grad_out.shape[-1]))
    if padding_idx is not None:
        grad[padding_idx] = 0
    return store(grad, out)
