"""Gated linear units: one half of an axis times an activation of the other, in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from arraynn import _core

__all__ = ["glu", "glu_backward"]

Array = np.ndarray[Any, Any]


def glu(
    x: Array, axis: int = -1, *, activation: str | None = "sigmoid", out: Array | None = None
) -> Array:
    r"""Multiply the first half of an axis by an activation of the second.

    .. math:: y = a \odot f(b), \qquad x = [a, b]

    ``"sigmoid"`` is the gated linear unit of Y. Dauphin et al., "Language modeling with gated
    convolutional networks", ICML 2017; ``"silu"`` is SwiGLU, ``"gelu"`` GEGLU, ``"relu"`` ReGLU
    and None the bilinear unit of N. Shazeer, "GLU variants improve Transformer", arXiv:2002.05202.

    Parameters
    ----------
    x : array, of a floating dtype
        Of an even length along the axis.
    axis : int
    activation : str or None
        Any name that :func:`linear` takes, with its default parameters.
    out : array of the result's shape and dtype, optional
        Where the result goes. Must not overlap ``x``.

    Returns
    -------
    array of the shape of ``x``, but half as long along the axis

    Raises
    ------
    ValueError
        For an odd length, an axis that ``x`` does not have, an unknown activation, an unfit
        ``out``.
    TypeError
        For other dtypes.

    Examples
    --------
    >>> glu(np.array([2.0, 3.0, -1.0, 4.0]), activation="relu")
    array([ 0., 12.])
    """
    return _core.glu(x, axis, activation, out)


def glu_backward(
    grad_out: Array,
    x: Array,
    axis: int = -1,
    *,
    activation: str | None = "sigmoid",
    out: Array | None = None,
) -> Array:
    r"""Gradient of :func:`glu`.

    .. math:: \bar a = \bar y \odot f(b), \qquad \bar b = \bar y \odot a \odot f'(b)

    Parameters
    ----------
    grad_out : array of the result's shape, of a floating dtype
    x, axis, activation
        As given to :func:`glu`.
    out : array like ``x``, optional

    Returns
    -------
    array of the shape and dtype of ``x``

    Raises
    ------
    ValueError, TypeError
        As :func:`glu`, and for a grad_out that does not fit.

    Examples
    --------
    >>> glu_backward(np.ones(2), np.array([2.0, 3.0, -1.0, 4.0]), activation="relu")
    array([0., 4., 0., 3.])
    """
    return _core.glu_backward(grad_out, x, axis, activation, out)
