"""Rotary embedding: vectors turned by angles that their positions name, and the gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from arraynn import _core

__all__ = ["rope", "rope_backward"]

Array = np.ndarray[Any, Any]


def rope(
    x: Array,
    cos: Array,
    sin: Array,
    positions: Array | int | None = None,
    *,
    interleaved: bool = False,
    layout: str = "bhld",
    out: Array | None = None,
) -> Array:
    r"""Turn pairs of elements of each vector by the angles of its position.

    .. math::

        y_a = x_a \cos\theta_{p,i} - x_b \sin\theta_{p,i}, \qquad
        y_b = x_b \cos\theta_{p,i} + x_a \sin\theta_{p,i}

    for i < R/2, where a and b are i and i + R/2, or 2i and 2i + 1 where interleaved. The elements
    from R on are copied. J. Su et al., "RoFormer: enhanced transformer with rotary position
    embedding", arXiv:2104.09864.

    Parameters
    ----------
    x : array (B, H, L, D), or (H, L, D) of one sample, of a floating dtype
        Any strides; with a contiguous last dimension nothing is copied.
    cos, sin : arrays (P, R/2) of the dtype of x
        Of the angles of P positions; R <= D. Or (B, L, R/2): those of every vector, without
        positions.
    positions : int or int array (L,) or (B, L), optional
        Rows of cos and sin. An int is the position of the first vector, the others follow it;
        None is 0. On a GPU an array of them is not read back to be checked: a position without a
        row gives NaN, and ``arraynn.cuda.debug(True)`` raises.
    interleaved : bool
        Pair neighbours (RoFormer, GPT-J) instead of halves (GPT-NeoX, Llama).
    layout : {"bhld", "blhd"}
        Order of the dimensions of x. Packed sequences (T, H, D) are "blhd" of one sample.
    out : array like ``x``, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array of the shape and dtype of ``x``

    Raises
    ------
    ValueError
        For shapes that do not fit, or a position without a row (the first is named).
    TypeError
        For other or mixed dtypes.

    Examples
    --------
    >>> angle = np.array([[0.0], [np.pi / 2]])
    >>> x = np.array([[[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]])
    >>> rope(x, np.cos(angle), np.sin(angle)).round(6)
    array([[[ 1.,  2.,  5.],
            [-2.,  1.,  5.]]])
    """
    return _core.rope(x, cos, sin, positions, interleaved, layout, out)


def rope_backward(
    grad_out: Array,
    cos: Array,
    sin: Array,
    positions: Array | int | None = None,
    *,
    interleaved: bool = False,
    layout: str = "bhld",
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`rope` by x: the same pairs turned back.

    Parameters
    ----------
    grad_out : array of the shape of x, of a floating dtype
    cos, sin, positions, interleaved, layout
        As given to :func:`rope`.
    out : array like ``grad_out``, optional

    Returns
    -------
    array of the shape and dtype of ``grad_out``

    Raises
    ------
    ValueError, TypeError
        As :func:`rope`.

    Examples
    --------
    >>> x, cos, sin = np.ones((1, 2, 4)), np.full((2, 2), 0.6), np.full((2, 2), 0.8)
    >>> bool(np.allclose(rope_backward(rope(x, cos, sin), cos, sin), x))
    True
    """
    return _core.rope_backward(grad_out, cos, sin, positions, interleaved, layout, out)
