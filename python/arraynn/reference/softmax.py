"""Softmax, log-softmax, cross entropy and nll_loss in plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._common import FloatArray, quiet, store


@quiet
def softmax(x: FloatArray, axis: int = -1, *, out: FloatArray | None = None) -> FloatArray:
    """``exp(x - max) / sum(exp(x - max))`` along `axis`.

    >>> softmax(np.array([0.0, 0.0, -np.inf]))
    array([0.5, 0.5, 0. ])
    """
    e = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return store(e / e.sum(axis=axis, keepdims=True), out)


@quiet
def softmax_backward(
    grad_out: FloatArray, y: FloatArray, axis: int = -1, *, out: FloatArray | None = None
) -> FloatArray:
    """``y * (grad_out - sum(grad_out * y))`` from the output `y` of softmax."""
    return store(y * (grad_out - (grad_out * y).sum(axis=axis, keepdims=True)), out)


@quiet
def log_softmax(x: FloatArray, axis: int = -1, *, out: FloatArray | None = None) -> FloatArray:
    """``x - max - log(sum(exp(x - max)))`` along `axis`.

    >>> log_softmax(np.array([0.0, 0.0])).round(4)
    array([-0.6931, -0.6931])
    """
    shifted = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    return store(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)), out)


@quiet
def log_softmax_backward(
    grad_out: FloatArray, y: FloatArray, axis: int = -1, *, out: FloatArray | None = None
) -> FloatArray:
    """``grad_out - exp(y) * sum(grad_out)`` from the output `y` of log_softmax."""
    return store(grad_out - np.exp(y) * grad_out.sum(axis=axis, keepdims=True), out)


def _class_axis(logits: FloatArray) -> int:
    return 0 if logits.ndim == 1 else 1


def _soft_targets(
    logits: FloatArray,
    target: NDArray[Any],
    weight: FloatArray | None,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[FloatArray, Any]:
    """Return T with ``loss = -sum_c T_c log p_c``, and the divisor of the mean.

    Class indices y: ``T_c = (1 - s) w_y [c == y] + s w_c / C``, all zero where y is ignored; the
    mean divides by the sum of w_y over what is not ignored.
    Probabilities t: ``T_c = w_c ((1 - s) t_c + s / C)``; the mean divides by the number of samples.
    """
    axis = _class_axis(logits)
    classes = logits.shape[axis]
    w = np.ones(classes, logits.dtype) if weight is None else weight
    w_along = w.reshape([-1] + [1] * (logits.ndim - axis - 1))
    if np.issubdtype(target.dtype, np.floating):
        soft = w_along * (target * (1 - label_smoothing) + label_smoothing / classes)
        return soft, logits.size // classes if classes else 0
    ignored = target == ignore_index
    y = np.where(ignored, 0, target)
    if np.any((y < 0) | (y >= classes)):
        raise ValueError(f"[cross_entropy] target: expected class indices in [0, {classes})")
    index = np.expand_dims(y, axis)
    w_of_target = np.where(ignored, 0, w[y]).astype(logits.dtype)
    onehot = np.zeros(logits.shape, logits.dtype)
    np.put_along_axis(onehot, index, np.expand_dims(w_of_target, axis), axis)
    smooth = np.where(np.expand_dims(ignored, axis), 0, w_along * (label_smoothing / classes))
    return onehot * (1 - label_smoothing) + smooth.astype(logits.dtype), w_of_target.sum()


def _check_reduction(op: str, reduction: str) -> None:
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f"[{op}] reduction: expected 'none', 'sum' or 'mean', got {reduction!r}")


@quiet
def cross_entropy(
    logits: FloatArray,
    target: NDArray[Any],
    *,
    weight: FloatArray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    out: FloatArray | None = None,
) -> FloatArray:
    r"""Cross entropy of softmax(logits) against `target`, with PyTorch's semantics.

    .. math:: \ell = -\sum_c T_c \log \mathrm{softmax}(z)_c

    where T is the smoothed, weighted target; ``0 * log 0`` counts as 0.

    Parameters
    ----------
    logits : array (N, C, d1, ...) or (C,)
    target : int array (N, d1, ...) of class indices, or float array of logits' shape
    weight : array (C,), optional
    ignore_index : int
        Samples with this index contribute nothing.
    label_smoothing : float in [0, 1]
    reduction : "none", "sum" or "mean"
        "mean" divides by the sum of the weights of the targets that are not ignored (class
        indices), or by the number of samples (probabilities).

    Returns
    -------
    array of logits' dtype, (N, d1, ...) for "none", else 0-d

    Examples
    --------
    >>> cross_entropy(np.zeros((1, 4)), np.array([2])).round(4)
    np.float64(1.3863)
    """
    _check_reduction("cross_entropy", reduction)
    axis = _class_axis(logits)
    soft, divisor = _soft_targets(logits, target, weight, ignore_index, label_smoothing)
    terms = np.where(soft == 0, 0, soft * log_softmax(logits, axis))
    loss = -terms.sum(axis=axis)
    if reduction == "none":
        return store(np.asarray(loss, dtype=logits.dtype), out)
    total = loss.sum()
    if reduction == "mean":
        total = total / logits.dtype.type(divisor)
    return store(np.asarray(total, dtype=logits.dtype), out)


@quiet
def cross_entropy_backward(
    grad_out: FloatArray | float,
    logits: FloatArray,
    target: NDArray[Any],
    *,
    weight: FloatArray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    out: FloatArray | None = None,
) -> FloatArray:
    """Gradient with respect to the logits: ``g * (softmax(z) * sum_c T_c - T)``.

    g is `grad_out` of the sample ("none"), `grad_out` ("sum"), or `grad_out` over the divisor of
    the mean.
    """
    _check_reduction("cross_entropy", reduction)
    axis = _class_axis(logits)
    soft, divisor = _soft_targets(logits, target, weight, ignore_index, label_smoothing)
    g = np.asarray(grad_out, dtype=logits.dtype)
    if reduction == "none":
        g = np.expand_dims(g, axis)
    elif reduction == "mean":
        g = g / logits.dtype.type(divisor)
    grad = g * (softmax(logits, axis) * soft.sum(axis=axis, keepdims=True) - soft)
    # A mean over nothing is NaN, but a sample that contributes nothing has no gradient.
    contributes = np.any(soft != 0, axis=axis, keepdims=True)
    return store(np.where(contributes, grad, 0).astype(logits.dtype), out)


@quiet
def nll_loss(
    log_probs: FloatArray,
    target: NDArray[Any],
    *,
    weight: FloatArray | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    out: FloatArray | None = None,
) -> FloatArray:
    r"""Negative log-likelihood :math:`-w_y z_y` of class indices y, with PyTorch's semantics.

    Parameters
    ----------
    log_probs : array (N, C, d1, ...) or (C,), z
    target : int array (N, d1, ...)
    weight : array (C,), optional
    ignore_index : int
        Samples with this index contribute nothing.
    reduction : "none", "sum" or "mean"
        "mean" divides by the sum of the weights of the targets that are not ignored.

    Returns
    -------
    array of the dtype of log_probs, (N, d1, ...) for "none", else 0-d

    Examples
    --------
    >>> nll_loss(np.array([[-1.0, -2.0], [-3.0, -0.5]]), np.array([0, 0]))
    array(2.)
    """
    _check_reduction("nll_loss", reduction)
    weights, divisor = _soft_targets(log_probs, target, weight, ignore_index, 0.0)
    loss = -np.where(weights == 0, 0, weights * log_probs).sum(axis=_class_axis(log_probs))
    if reduction == "none":
        return store(np.asarray(loss, dtype=log_probs.dtype), out)
    total = loss.sum()
    if reduction == "mean":
        total = total / log_probs.dtype.type(divisor)
    return store(np.asarray(total, dtype=log_probs.dtype), out)


@quiet
def nll_loss_backward(
    grad_out: FloatArray | float,
    log_probs: FloatArray,
    target: NDArray[Any],
    *,
    weight: FloatArray | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    out: FloatArray | None = None,
) -> FloatArray:
    """Gradient with respect to log_probs: ``-g w_y`` at the target's class, 0 elsewhere."""
    _check_reduction("nll_loss", reduction)
    weights, divisor = _soft_targets(log_probs, target, weight, ignore_index, 0.0)
    g = np.asarray(grad_out, dtype=log_probs.dtype)
    if reduction == "none":
        g = np.expand_dims(g, _class_axis(log_probs))
    elif reduction == "mean":
        g = g / log_probs.dtype.type(divisor)
    return store(np.where(weights == 0, 0, -g * weights).astype(log_probs.dtype), out)
