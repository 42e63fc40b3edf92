"""Losses of one number and its target as functions."""

from __future__ import annotations

from typing import Any

from arraynn.autograd import losses
from arraynn.autograd.tape import Variable

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "smooth_l1_loss",
]


def _as_given(result: Any, *values: Any) -> Any:
    """Return a tensor where one was given, otherwise its array."""
    return result if any(isinstance(value, Variable) for value in values) else result.data


def l1_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """Return ``|input - target|``, its sum or its mean; the shapes must be equal.

    Examples
    --------
    >>> import numpy as np
    >>> float(l1_loss(np.array([1.0, 2.0]), np.array([0.0, 4.0])))
    1.5
    """
    return _as_given(losses.l1_loss(input, target, reduction), input, target)


def smooth_l1_loss(input: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Any:
    """Return ``d**2 / (2 beta)`` where ``|d| < beta`` and ``|d| - beta / 2`` elsewhere.

    ``d = input - target``; a beta of 0 is :func:`l1_loss` (Girshick, 2015).

    Examples
    --------
    >>> import numpy as np
    >>> smooth_l1_loss(np.array([0.5, 3.0]), np.zeros(2), "none")
    array([0.125, 2.5  ])
    """
    return _as_given(losses.smooth_l1_loss(input, target, reduction, beta), input, target)


def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Any:
    """Return ``d**2 / 2`` where ``|d| <= delta`` and ``delta (|d| - delta / 2)`` elsewhere.

    ``d = input - target`` (Huber, 1964).
    """
    return _as_given(losses.huber_loss(input, target, reduction, delta), input, target)


def binary_cross_entropy(
    input: Any, target: Any, weight: Any = None, reduction: str = "mean"
) -> Any:
    """Return ``-w (t log p + (1 - t) log(1 - p))`` of probabilities p in [0, 1].

    Parameters
    ----------
    input, target : Tensors or arrays of one shape and dtype
    weight : array that broadcasts to them, optional
    reduction : {"mean", "sum", "none"}

    Notes
    -----
    Logarithms are at least -100, as in PyTorch, so that the loss of a certain error is finite.
    """
    result = losses.binary_cross_entropy(input, target, weight, reduction)
    return _as_given(result, input, target)


def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
) -> Any:
    """Return :func:`binary_cross_entropy` of ``sigmoid(input)``, without forming it.

    Parameters
    ----------
    input, target : Tensors or arrays of one shape and dtype
    weight, pos_weight : arrays that broadcast to them, optional
        Of a term, and of its part ``t log p``.
    reduction : {"mean", "sum", "none"}

    Examples
    --------
    >>> import numpy as np
    >>> binary_cross_entropy_with_logits(np.array([0.0, 800.0]), np.array([1.0, 1.0]), None, "none")
    array([0.69314718, 0.        ])
    """
    result = losses.binary_cross_entropy_with_logits(input, target, weight, reduction, pos_weight)
    return _as_given(result, input, target)


def kl_div(input: Any, target: Any, reduction: str = "mean", log_target: bool = False) -> Any:
    """Return ``t (log t - input)``, the divergence of probabilities t from log-probabilities.

    Parameters
    ----------
    input, target : Tensors or arrays of one shape and dtype
        With ``log_target`` the target holds log t.
    reduction : {"mean", "batchmean", "sum", "none"}
        ``"batchmean"`` divides by the length of the first axis.
    """
    return _as_given(losses.kl_div(input, target, reduction, log_target), input, target)
