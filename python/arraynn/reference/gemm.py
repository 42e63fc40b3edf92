"""Matrix products in plain NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ._common import FloatArray, quiet, store
from .elementwise import epilogue


@quiet
def matmul(a: FloatArray, b: FloatArray, *, out: FloatArray | None = None) -> FloatArray:
    """Batched matrix product with the shapes and broadcasting of ``np.matmul``.

    >>> matmul(np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([[1., 2.],
           [3., 4.]])
    """
    return store(np.matmul(a, b), out)


@quiet
def linear(
    x: FloatArray,
    weight: FloatArray,
    bias: FloatArray | None = None,
    *,
    activation: str | None = None,
    residual: FloatArray | None = None,
    out: FloatArray | None = None,
) -> FloatArray:
    """``activation(x @ weight.T + bias + residual)``.

    Parameters
    ----------
    x : array (..., in_features)
    weight : array (out_features, in_features)
    bias : array (out_features,), optional
    activation : str, optional
        One of ``ACTIVATIONS``.
    residual : array (..., out_features), optional
    out : array (..., out_features), optional

    Examples
    --------
    >>> linear(np.array([[1.0, -2.0]]), np.eye(2), np.ones(2), activation="relu")
    array([[2., 0.]])
    """
    return store(epilogue(np.matmul(x, weight.T), bias, residual, activation), out)


@quiet
def linear_backward(
    grad_out: FloatArray,
    x: FloatArray,
    weight: FloatArray,
    *,
    needs: Sequence[str] = ("x", "weight", "bias"),
) -> tuple[FloatArray | None, FloatArray | None, FloatArray | None]:
    """Gradients of ``sum(grad_out * (x @ weight.T + bias))``.

    With G and X the (rows, features) views: grad_x = G W, grad_weight = G^T X,
    grad_bias = sum of G over rows.

    Returns
    -------
    grad_x (..., in), grad_weight (out, in), grad_bias (out,)
        None for what `needs` does not name.
    """
    rows = math.prod(x.shape[:-1])
    g = grad_out.reshape(rows, weight.shape[0])
    flat = x.reshape(rows, weight.shape[1])
    return (
        np.matmul(grad_out, weight) if "x" in needs else None,
        np.matmul(g.T, flat) if "weight" in needs else None,
        g.sum(axis=0) if "bias" in needs else None,
    )
