"""Rows of a table by index, and the gradient of the table."""

from __future__ import annotations

from typing import Any

import numpy as np

from arraynn import _core

__all__ = ["embedding", "embedding_backward"]

Array = np.ndarray[Any, Any]


def embedding(
    indices: Array, weight: Array, padding_idx: int | None = None, *, out: Array | None = None
) -> Array:
    """Look up rows: ``weight[indices]``.

    Parameters
    ----------
    indices : array of any shape, int64 or int32
        In [0, rows): negative ones do not count from the end. On a GPU they are not read back to be
        checked: the row of one outside is NaN, and ``arraynn.cuda.debug(True)`` raises.
    weight : array (rows, columns), of a floating dtype
    padding_idx : int, optional
        A row of the table, negative from the end. It is looked up like any other;
        :func:`embedding_backward` gives it no gradient.
    out : array (*indices.shape, columns) of the dtype of ``weight``, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array (*indices.shape, columns) of the dtype of ``weight``

    Raises
    ------
    ValueError
        For shapes that do not fit, or an index outside the table (the first is named).
    TypeError
        For other dtypes.

    Examples
    --------
    >>> embedding(np.array([2, 0]), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    array([[5., 6.],
           [1., 2.]])
    """
    return _core.embedding(indices, weight, padding_idx, out)


def embedding_backward(
    grad_out: Array,
    indices: Array,
    num_embeddings: int,
    padding_idx: int | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """Gradient of the table: for every row the sum of the gradients of its occurrences.

    The occurrences are added in the order of ``indices``, whatever the number of threads; on a GPU
    in pieces of that order, the same on every run, and an index outside the table adds nothing.

    Parameters
    ----------
    grad_out : array (*indices.shape, columns), of a floating dtype
    indices : array of any shape, int64 or int32
    num_embeddings : int
        Rows of the table.
    padding_idx : int, optional
        The row whose gradient is 0.
    out : array (num_embeddings, columns) of the dtype of ``grad_out``, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array (num_embeddings, columns) of the dtype of ``grad_out``

    Raises
    ------
    ValueError
        For shapes that do not fit, also of ``out``, or an index outside the table (the first is
        named).
    TypeError
        For other dtypes.

    Examples
    --------
    >>> embedding_backward(np.array([[1.0], [2.0], [4.0]]), np.array([1, 0, 1]), 3)
    array([[2.],
           [5.],
           [0.]])
    """
    return _core.embedding_backward(grad_out, indices, num_embeddings, padding_idx, out)
