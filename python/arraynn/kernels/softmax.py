"""Softmax, log-softmax, cross entropy and the loss of log-probabilities, over any axis.

Sums are taken in the dtype of the input in an order fixed by the shape, so results are the same
bits for any number of threads. Denormal results are flushed to zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arraynn import _core

__all__ = [
    "cross_entropy",
    "cross_entropy_backward",
    "log_softmax",
    "log_softmax_backward",
    "nll_loss",
    "nll_loss_backward",
    "softmax",
    "softmax_backward",
]

Array = np.ndarray[Any, Any]


def softmax(x: Array, axis: int = -1, *, out: Array | None = None) -> Array:
    """``exp(x - max) / sum(exp(x - max))`` along ``axis``.

    A slice that is -inf everywhere, or holds +inf or NaN, becomes NaN.

    Parameters
    ----------
    x : array of at least one dimension, of a floating dtype
        Any strides; a non-contiguous ``x`` is copied.
    axis : int, default -1
    out : array of ``x``'s shape and dtype, optional
        Where the result goes. Must not overlap ``x``.

    Returns
    -------
    array of ``x``'s shape and dtype

    Raises
    ------
    ValueError
        For an axis that ``x`` does not have, or an ``out`` that does not fit.
    TypeError
        For a dtype other than float32 and float64.

    Notes
    -----
    Slices too long for the cache keep a running maximum and sum: M. Milakov, N. Gimelshein,
    "Online normalizer calculation for softmax", 2018 (arXiv:1805.02867).

    Examples
    --------
    >>> softmax(np.array([0.0, 0.0, -np.inf]))
    array([0.5, 0.5, 0. ])
    """
    return _core.softmax(x, axis, out)


def softmax_backward(
    grad_out: Array, y: Array, axis: int = -1, *, out: Array | None = None
) -> Array:
    """``y * (grad_out - sum(grad_out * y))`` from the output ``y`` of :func:`softmax`.

    Parameters
    ----------
    grad_out, y : arrays of one shape, of a floating dtype
    axis : int, default -1
    out : array of ``y``'s shape and dtype, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array of ``y``'s shape and dtype

    Raises
    ------
    ValueError
        For shapes that differ, an axis that ``y`` does not have, or an ``out`` that does not fit.
    TypeError
        For other or mixed dtypes.

    Examples
    --------
    >>> softmax_backward(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    array([ 0.25, -0.25])
    """
    return _core.softmax_backward(grad_out, y, axis, out)


def log_softmax(x: Array, axis: int = -1, *, out: Array | None = None) -> Array:
    """``(x - max) - log(sum(exp(x - max)))`` along ``axis``.

    A slice that is -inf everywhere, or holds +inf or NaN, becomes NaN.

    Parameters
    ----------
    x : array of at least one dimension, of a floating dtype
        Any strides; a non-contiguous ``x`` is copied.
    axis : int, default -1
    out : array of ``x``'s shape and dtype, optional
        Where the result goes. Must not overlap ``x``.

    Returns
    -------
    array of ``x``'s shape and dtype

    Raises
    ------
    ValueError
        For an axis that ``x`` does not have, or an ``out`` that does not fit.
    TypeError
        For a dtype other than float32 and float64.

    Examples
    --------
    >>> log_softmax(np.array([0.0, 0.0])).round(4)
    array([-0.6931, -0.6931])
    """
    return _core.log_softmax(x, axis, out)


def log_softmax_backward(
    grad_out: Array, y: Array, axis: int = -1, *, out: Array | None = None
) -> Array:
    """``grad_out - exp(y) * sum(grad_out)`` from the output ``y`` of :func:`log_softmax`.

    Parameters
    ----------
    grad_out, y : arrays of one shape, of a floating dtype
    axis : int, default -1
    out : array of ``y``'s shape and dtype, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array of ``y``'s shape and dtype

    Raises
    ------
    ValueError
        For shapes that differ, an axis that ``y`` does not have, or an ``out`` that does not fit.
    TypeError
        For other or mixed dtypes.

    Examples
    --------
    >>> log_softmax_backward(np.array([1.0, 0.0]), np.log(np.array([0.5, 0.5])))
    array([ 0.5, -0.5])
    """
    return _core.log_softmax_backward(grad_out, y, axis, out)


def cross_entropy(
    logits: Array,
    target: Array,
    *,
    weight: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    out: Array | None = None,
) -> Array:
    r"""Cross entropy of ``softmax(logits)`` against ``target``, with PyTorch's semantics.

    .. math:: \ell = -\sum_c T_c \log \mathrm{softmax}(z)_c

    with ``T_c = (1 - s) w_y [c = y] + s w_c / C`` for a class index ``y`` and
    ``T_c = w_c ((1 - s) t_c + s / C)`` for probabilities ``t``; ``s`` is ``label_smoothing``. The
    probabilities of the softmax are never stored. A class with ``T_c = 0`` counts for nothing,
    whatever its logit.

    Parameters
    ----------
    logits : array (N, C, d1, ...) or (C,), of a floating dtype
    target : array
        Class indices (N, d1, ...), int64 or int32, in [0, C); or probabilities of the shape and
        dtype of ``logits``.
    weight : array (C,) of the dtype of ``logits``, optional
        Weights of the classes.
    ignore_index : int, default -100
        Samples with this class index contribute nothing.
    label_smoothing : float in [0, 1], default 0
    reduction : {"mean", "sum", "none"}
        ``"mean"`` divides by the sum of the weights of the targets that are not ignored (class
        indices), or by the number of samples (probabilities); over no sample it is NaN.
    out : array of the result's shape and dtype, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array of the dtype of ``logits``
        (N, d1, ...) for ``"none"``, else 0-d.

    Raises
    ------
    ValueError
        For shapes that do not fit, a class index out of range (it is named; on a GPU, which is not
        waited for, its sample gives NaN), a smoothing outside [0, 1], an unknown reduction or an
        ``out`` that does not fit.
    TypeError
        For other or mixed dtypes.

    Notes
    -----
    Label smoothing: C. Szegedy et al., "Rethinking the Inception architecture for computer
    vision", CVPR 2016.

    Examples
    --------
    >>> cross_entropy(np.zeros((1, 4)), np.array([2])).round(4)
    np.float64(1.3863)
    """
    return _core.cross_entropy(
        logits, target, weight, ignore_index, label_smoothing, reduction, out
    )


def cross_entropy_backward(
    grad_out: Array | float,
    logits: Array,
    target: Array,
    *,
    weight: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`cross_entropy`: ``g * (softmax(z) * sum_c T_c - T)``.

    ``g`` is the sample's element of ``grad_out`` for ``"none"``, ``grad_out`` for ``"sum"``, and
    ``grad_out`` over the divisor of the mean for ``"mean"``. A sample that contributes nothing has
    the gradient 0.

    Parameters
    ----------
    grad_out : array of the shape and dtype of the loss, or a float for a scalar loss
    logits, target, weight, ignore_index, label_smoothing, reduction
        As given to :func:`cross_entropy`.
    out : array of the result's shape and dtype, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array of the shape and dtype of ``logits``

    Raises
    ------
    ValueError, TypeError
        As :func:`cross_entropy`, and for a ``grad_out`` of another shape or dtype than the loss.

    Examples
    --------
    >>> cross_entropy_backward(1.0, np.zeros((1, 4)), np.array([2]))
    array([[ 0.25,  0.25, -0.75,  0.25]])
    """
    return _core.cross_entropy_backward(
        grad_out, logits, target, weight, ignore_index, label_smoothing, reduction, out
    )


def nll_loss(
    log_probs: Array,
    target: Array,
    *,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    out: Array | None = None,
) -> Array:
    r"""Negative log-likelihood of ``target`` under ``log_probs``, with PyTorch's semantics.

    .. math:: \ell = -w_y z_y

    for a class index ``y`` and the logarithms ``z`` of the classes' probabilities: after
    :func:`log_softmax` it is the :func:`cross_entropy`, which is one pass and the way to go where
    the logarithms are not needed themselves. A class of weight 0 counts for nothing, whatever its
    logarithm.

    Parameters
    ----------
    log_probs : array (N, C, d1, ...) or (C,), of a floating dtype
    target : array (N, d1, ...), int64 or int32
        Class indices in [0, C).
    weight : array (C,) of the dtype of ``log_probs``, optional
        Weights of the classes.
    ignore_index : int, default -100
        Samples with this class index contribute nothing.
    reduction : {"mean", "sum", "none"}
        ``"mean"`` divides by the sum of the weights of the targets that are not ignored; over no
        sample it is NaN.
    out : array of the result's shape and dtype, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array of the dtype of ``log_probs``
        (N, d1, ...) for ``"none"``, else 0-d.

    Raises
    ------
    ValueError
        For shapes that do not fit, a class index out of range (it is named; on a GPU
        its sample gives NaN), an unknown reduction or an ``out`` that does not fit.
    TypeError
        For other or mixed dtypes; targets that are probabilities are for :func:`cross_entropy`.

    Examples
    --------
    >>> nll_loss(np.array([[-1.0, -2.0], [-3.0, -0.5]]), np.array([0, 0]))
    array(2.)
    """
    return _core.nll_loss(log_probs, target, weight, ignore_index, reduction, out)


def nll_loss_backward(
    grad_out: Array | float,
    log_probs: Array,
    target: Array,
    *,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    out: Array | None = None,
) -> Array:
    """Gradient of :func:`nll_loss`: ``-g w_y`` at the class of the target, 0 elsewhere.

    ``g`` is the sample's element of ``grad_out`` for ``"none"``, ``grad_out`` for ``"sum"``, and
    ``grad_out`` over the divisor of the mean for ``"mean"``.

    Parameters
    ----------
    grad_out : array of the shape and dtype of the loss, or a float for a scalar loss
    log_probs, target, weight, ignore_index, reduction
        As given to :func:`nll_loss`; the values of ``log_probs`` do not matter.
    out : array of the result's shape and dtype, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array of the shape and dtype of ``log_probs``

    Raises
    ------
    ValueError, TypeError
        As :func:`nll_loss`, and for a ``grad_out`` of another shape or dtype than the loss.

    Examples
    --------
    >>> nll_loss_backward(1.0, np.zeros((2, 2)), np.array([0, 1]))
    array([[-0.5,  0. ],
           [ 0. , -0.5]])
    """
    return _core.nll_loss_backward(
        grad_out, log_probs, target, weight, ignore_index, reduction, out
    )
