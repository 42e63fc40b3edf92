"""Matrix products with a fused epilogue.

    linear(x, W, b, residual) = activation(x Wᵀ + b + residual)

Products of one output element are added in a fixed order (ascending k, in blocks), so a row's
result depends neither on the number of threads nor on the other rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from arraynn import _core
from arraynn._core import PackedWeight

__all__ = ["linear", "linear_backward", "matmul"]

Array = NDArray[Any]


def linear(
    x: Array,
    weight: Array | PackedWeight,
    bias: Array | None = None,
    *,
    activation: str | None = None,
    residual: Array | None = None,
    out: Array | None = None,
) -> Array:
    """``activation(x @ weight.T + bias + residual)`` in one pass.

    Parameters
    ----------
    x : array (..., in_features), of a floating dtype
        Any strides; a non-contiguous ``x`` is copied.
    weight : array or PackedWeight (out_features, in_features)
        Read in place when one of its strides is one element (a transposed view is fine).
    bias : array (out_features,), optional
    activation : str, optional
        ``relu``, ``leaky_relu``, ``elu``, ``selu``, ``sigmoid``, ``tanh``, ``hardsigmoid``,
        ``hardswish``, ``silu``, ``gelu``, ``gelu_tanh``, ``mish`` or ``softplus``.
    residual : array (..., out_features), optional
        Added before the activation.
    out : array (..., out_features), optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array (..., out_features), dtype of ``x``

    Raises
    ------
    ValueError
        For shapes that do not fit, or an unknown activation.
    TypeError
        For arrays of other or of mixed dtypes.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x = np.array([[1.0, 2.0]], dtype=np.float32)
    >>> w = np.array([[1.0, 1.0], [1.0, -1.0]], dtype=np.float32)
    >>> K.linear(x, w, activation="relu")
    array([[3., 0.]], dtype=float32)
    """
    return _core.linear(x, weight, bias, activation, residual, out)


def linear_backward(
    grad_out: Array,
    x: Array,
    weight: Array,
    *,
    needs: Sequence[str] = ("x", "weight", "bias"),
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of ``x @ weight.T + bias``.

    ``grad_x = g W``, ``grad_weight = gᵀ x``, ``grad_bias = Σ g`` over all but the last axis,
    with ``g`` the gradient before the activation.

    Parameters
    ----------
    grad_out : array (..., out_features), of a floating dtype
    x : array (..., in_features)
    weight : array (out_features, in_features)
    needs : sequence of {"x", "weight", "bias"}
        The gradients to compute.

    Returns
    -------
    (grad_x, grad_weight, grad_bias)
        ``None`` where not needed.

    Raises
    ------
    ValueError
        For shapes that do not fit, or an unknown name in ``needs``.
    TypeError
        For arrays of other or of mixed dtypes.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> g, x, w = np.ones((3, 2)), np.ones((3, 4)), np.ones((2, 4))
    >>> K.linear_backward(g, x, w, needs=("bias",))
    (None, None, array([3., 3.]))
    """
    return _core.linear_backward(grad_out, x, weight, needs)


def matmul(a: Array, b: Array | PackedWeight, *, out: Array | None = None) -> Array:
    """Matrix product with the broadcasting rules of ``numpy.matmul``.

    Parameters
    ----------
    a : array (..., m, k) or (k,), of a floating dtype
    b : array (..., k, n) or (k,), or PackedWeight (k, n)
        Transposed views are read in place.
    out : array, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array (..., m, n)
        Without the axes that a one-dimensional operand lacks.

    Raises
    ------
    ValueError
        For shapes that do not fit.
    TypeError
        For arrays of other or of mixed dtypes.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.matmul(np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([[1., 2.],
           [3., 4.]])
    """
    return _core.matmul(a, b, out)
