"""Softmax, its logarithm and losses on the tape."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from arraynn import _array
from arraynn import kernels as K
from arraynn.autograd.pointwise import in_float32
from arraynn.autograd.tape import (
    Array,
    Node,
    Variable,
    array_of,
    edge_of,
    grad_mode,
    guard,
    make,
    recording,
)

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

__all__ = ["cross_entropy", "log_softmax", "mse_loss", "nll_loss", "softmax"]

REDUCTIONS = ("none", "sum", "mean")


class SoftmaxNode(Node):
    """softmax or log_softmax over an axis; saves (y,)."""

    __slots__ = ("axis", "kernel")
    fresh = True

    axis: int
    kernel: Callable[..., Array]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (self.kernel(grad, self.saved[0], self.axis),)


def _over_axis(
    x: Tensor, forward: Callable[..., Array], backward: Callable[..., Array], axis: int
) -> Tensor:
    result = make(forward(x.data, axis), None)
    if grad_mode.enabled and x._requires_grad:
        node = SoftmaxNode((x.node or x,), (result.data,), guard(result))
        node.axis = axis
        node.kernel = backward
        result.node = node
        result._requires_grad = True
    return result


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Return exp(x) / sum(exp(x)) over ``axis``."""
    return _over_axis(x, K.softmax, K.softmax_backward, axis)


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Return the logarithm of softmax over ``axis``."""
    return _over_axis(x, K.log_softmax, K.log_softmax_backward, axis)


def _refuse_gradients(op: str, of: str, target: Any, weight: Any) -> None:
    for name, value in (("target", target), ("weight", weight)):
        if isinstance(value, Variable) and value._requires_grad and grad_mode.enabled:
            raise NotImplementedError(
                f"[{op}] {name}: a gradient is supported for the {of} alone; pass {name}.detach()"
            )


class ClassLossNode(Node):
    """Loss of scores against their classes; saves (scores, target, weight)."""

    __slots__ = ("options",)
    fresh = True

    op: ClassVar[str]
    reads_scores: ClassVar[bool] = True  # or only their shape, in backward
    options: dict[str, Any]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        scores, target, weight = self.saved
        gradient = getattr(K, f"{self.op}_backward")
        return (gradient(grad, scores, target, weight=weight, **self.options),)


class CrossEntropyNode(ClassLossNode):
    """Cross entropy of logits."""

    __slots__ = ()
    op = "cross_entropy"


class NllLossNode(ClassLossNode):
    """Negative log-likelihood of log-probabilities."""

    __slots__ = ()
    op = "nll_loss"
    reads_scores = False


def _class_loss(
    node_type: type[ClassLossNode], scores: Any, target: Any, weight: Any, **options: Any
) -> Tensor:
    plain_target, plain_weight = array_of(target), array_of(weight)
    kernel = getattr(K, node_type.op)
    out = kernel(array_of(scores), plain_target, weight=plain_weight, **options)
    if not recording(scores):
        return make(out, None)
    guards = guard(scores, target) if node_type.reads_scores else guard(target)
    node = node_type((edge_of(scores),), (scores.data, plain_target, plain_weight), guards)
    node.options = options
    return make(out, node)


def cross_entropy(
    logits: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Return the cross entropy, differentiable in the logits.

    Raises
    ------
    NotImplementedError
        If the target or the weight needs a gradient.
    """
    _refuse_gradients("cross_entropy", "logits", target, weight)
    return _class_loss(
        CrossEntropyNode,
        logits,
        target,
        weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


def nll_loss(
    log_probs: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log-likelihood, differentiable in the log-probabilities.

    Raises
    ------
    NotImplementedError
        If the target or the weight needs a gradient.
    """
    _refuse_gradients("nll_loss", "log-probabilities", target, weight)
    return _class_loss(
        NllLossNode, log_probs, target, weight, ignore_index=ignore_index, reduction=reduction
    )


class MseLossNode(Node):
    """(x - target)**2, reduced; saves (x - target,)."""

    __slots__ = ("factor",)
    fresh = True

    factor: float | None

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        (difference,) = self.saved
        slope = difference * (grad * self.factor)
        edge_x, edge_target = self.edges
        return None if edge_x is None else slope, None if edge_target is None else -slope


@in_float32
def mse_loss(x: Any, target: Any, reduction: str = "mean") -> Tensor:
    """Return the squared difference of equal shapes, differentiable in both."""
    a, b = array_of(x), array_of(target)
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"[mse_loss] reduction: expected one of {' '.join(REDUCTIONS)}, got {reduction!r}"
        )
    if a.shape != b.shape:
        raise ValueError(f"[mse_loss] target: expected shape {a.shape} (as input), got {b.shape}")
    if a.dtype != b.dtype or not _array.is_floating(a.dtype):
        raise TypeError(
            f"[mse_loss] target: expected {a.dtype} (as input) of a floating kind, got {b.dtype}"
        )
    difference = a - b
    factor = 2.0
    out = difference * difference
    if reduction != "none":
        out = out.sum()
    if reduction == "mean":
        # The mean of nothing is nan, as in PyTorch.
        scale = 1 / a.size if a.size else float("nan")
        out = out * scale
        factor *= scale
    if not recording(x, target):
        return make(out, None)
    node = MseLossNode((edge_of(x), edge_of(target)), (difference,))
    node.factor = factor
    return make(out, node)
