"""Losses of one number and its target, on the tape; through NumPy's own ufuncs.

A loss is given by its terms and their slopes, both found when it is called where a gradient is
wanted, so that the backward pass is one product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from arraynn import _array
from arraynn.autograd.pointwise import in_float32
from arraynn.autograd.softmax import REDUCTIONS
from arraynn.autograd.tape import (
    Array,
    Node,
    Variable,
    array_of,
    edge_of,
    grad_mode,
    make,
    recording,
)

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "smooth_l1_loss",
]

#: What PyTorch takes for the logarithm of 0.
_LOG_FLOOR = -100.0


class LossNode(Node):
    """Terms, reduced; saves (slopes by x, slopes by the target or None), scaled by the mean."""

    __slots__ = ()
    fresh = True

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return tuple(
            None if edge is None or slope is None else grad * slope
            for edge, slope in zip(self.edges, self.saved, strict=True)
        )


def _check(op: str, x: Any, target: Any, reduction: str, more: tuple[str, ...] = ()) -> None:
    a, b = array_of(x), array_of(target)
    allowed = (*REDUCTIONS, *more)
    if reduction not in allowed:
        raise ValueError(
            f"[{op}] reduction: expected one of {' '.join(allowed)}, got {reduction!r}"
        )
    if not _array.is_floating(a.dtype):
        raise TypeError(f"[{op}] input: expected a floating dtype, got {a.dtype}")
    if a.shape != b.shape:
        raise ValueError(f"[{op}] target: expected shape {a.shape} (as input), got {b.shape}")
    if a.dtype != b.dtype:
        raise TypeError(f"[{op}] target: expected {a.dtype} (as input), got {b.dtype}")


def _weight(op: str, name: str, weight: Any, like: Array) -> Any:
    """Return what multiplies the terms, or 1."""
    if weight is None:
        return like.dtype.type(1)
    w: Array = array_of(weight)
    if isinstance(weight, Variable) and weight._requires_grad and grad_mode.enabled:
        raise NotImplementedError(
            f"[{op}] {name}: a gradient is supported for the input alone; pass {name}.detach()"
        )
    if w.dtype != like.dtype:
        raise TypeError(f"[{op}] {name}: expected {like.dtype} (as input), got {w.dtype}")
    try:
        fits = np.broadcast_shapes(w.shape, like.shape) == like.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"[{op}] {name}: expected a shape that broadcasts to {like.shape}, got {w.shape}"
        )
    return w


def _reduce(x: Any, target: Any, terms: Array, reduction: str, slopes: Any) -> Tensor:
    """Return the reduced terms; ``slopes()`` gives theirs by x and by the target."""
    scale = None
    out: Any = terms
    if reduction != "none":
        out = terms.sum()
    if reduction in ("mean", "batchmean"):
        count = terms.size if reduction == "mean" else len(terms)
        # The mean of nothing is nan, as in PyTorch.
        scale = terms.dtype.type(1 / count if count else np.nan)
        out = out * scale
    if not recording(x, target):
        return make(out, None)
    found = tuple(s if s is None or scale is None else s * scale for s in slopes())
    return make(out, LossNode((edge_of(x), edge_of(target)), found))


@in_float32
def l1_loss(x: Any, target: Any, reduction: str = "mean") -> Tensor:
    """Return |x - target|, differentiable in both; the slope at 0 is 0."""
    _check("l1_loss", x, target, reduction)
    d = array_of(x) - array_of(target)

    def slopes() -> tuple[Array, Array]:
        slope = np.sign(d)
        return slope, -slope

    return _reduce(x, target, np.abs(d), reduction, slopes)


def _huber(op: str, x: Any, target: Any, reduction: str, at: float, factor: float) -> Tensor:
    """Return factor times: d^2 / 2 up to |d| = at, at (|d| - at / 2) beyond."""
    _check(op, x, target, reduction)
    d = array_of(x) - array_of(target)
    # No more than `at` to either side, which is the slope as well.
    near = np.clip(d, -at, at)
    terms = factor * (near * (d - 0.5 * near))

    def slopes() -> tuple[Array, Array]:
        slope = factor * near
        return slope, -slope

    return _reduce(x, target, terms, reduction, slopes)


@in_float32
def smooth_l1_loss(x: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """Return d^2 / (2 beta) for |d| < beta, |d| - beta / 2 beyond, d = x - target."""
    if not beta >= 0:
        raise ValueError(f"[smooth_l1_loss] beta: expected a number of at least 0, got {beta}")
    if beta == 0:
        _check("smooth_l1_loss", x, target, reduction)
        return l1_loss(x, target, reduction)
    return _huber("smooth_l1_loss", x, target, reduction, beta, 1 / beta)


@in_float32
def huber_loss(x: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """Return d^2 / 2 for |d| <= delta, delta (|d| - delta / 2) beyond (Huber, 1964)."""
    if not delta > 0:
        raise ValueError(f"[huber_loss] delta: expected a number above 0, got {delta}")
    return _huber("huber_loss", x, target, reduction, delta, 1.0)


def _plain(op: str, target: Any) -> Array:
    if isinstance(target, Variable) and target._requires_grad and grad_mode.enabled:
        raise NotImplementedError(
            f"[{op}] target: a gradient is supported for the input alone; pass target.detach()"
        )
    plain: Array = array_of(target)
    return plain


@in_float32
def binary_cross_entropy(
    x: Any, target: Any, weight: Any = None, reduction: str = "mean"
) -> Tensor:
    """Return -w (t log x + (1 - t) log(1 - x)) of probabilities x; logarithms are at least -100."""
    op = "binary_cross_entropy"
    _check(op, x, target, reduction)
    p, t = array_of(x), _plain(op, target)
    w = _weight(op, "weight", weight, p)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"[{op}] input: expected probabilities in [0, 1]")
    with np.errstate(divide="ignore"):
        yes, no = np.maximum(np.log(p), _LOG_FLOOR), np.maximum(np.log1p(-p), _LOG_FLOOR)

    def slopes() -> tuple[Array, None]:
        # PyTorch's bound on the denominator, which is 0 at both ends.
        return w * (p - t) / np.maximum(p * (1 - p), p.dtype.type(1e-12)), None

    return _reduce(x, target, -w * (t * yes + (1 - t) * no), reduction, slopes)


@in_float32
def binary_cross_entropy_with_logits(
    x: Any, target: Any, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
) -> Tensor:
    """Return w ((1 - t) x + v log(1 + exp(-x))), v = 1 + (pos_weight - 1) t, of logits x."""
    op = "binary_cross_entropy_with_logits"
    _check(op, x, target, reduction)
    z, t = array_of(x), _plain(op, target)
    w = _weight(op, "weight", weight, z)
    v = 1 + (_weight(op, "pos_weight", pos_weight, z) - 1) * t
    small = np.exp(-np.abs(z))

    def slopes() -> tuple[Array, None]:
        # 1 / (1 + exp(z)) without overflow.
        below = np.where(z > 0, small, 1) / (1 + small)
        return w * ((1 - t) - v * below), None

    terms = w * ((1 - t) * z + v * (np.log1p(small) + np.maximum(-z, 0)))
    return _reduce(x, target, terms, reduction, slopes)


@in_float32
def kl_div(x: Any, target: Any, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """Return t (log t - x) of log-probabilities x; 0 where t is 0.

    With ``log_target`` the target is log t. ``"batchmean"`` divides the sum by the length of the
    first axis, which is the divergence's own mean.
    """
    op = "kl_div"
    _check(op, x, target, reduction, ("batchmean",))
    if reduction == "batchmean" and array_of(x).ndim == 0:
        raise ValueError(f"[{op}] reduction: expected an axis for batchmean, got 0 dimensions")
    z, t = array_of(x), _plain(op, target)
    if log_target:
        p = np.exp(t)
        terms = p * (t - z)
    else:
        p = t
        terms = np.where(p == 0, 0, p * (np.log(np.where(p == 0, 1, p)) - z))
    return _reduce(x, target, terms, reduction, lambda: (-p, None))
