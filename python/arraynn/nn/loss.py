"""Losses as modules."""

from __future__ import annotations

from typing import Any

from arraynn.autograd.softmax import REDUCTIONS
from arraynn.nn import functional as F
from arraynn.nn.module import Module

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "MSELoss",
    "NLLLoss",
    "SmoothL1Loss",
]


def _check_reduction(op: str, reduction: str, more: tuple[str, ...] = ()) -> str:
    allowed = (*REDUCTIONS, *more)
    if reduction not in allowed:
        raise ValueError(
            f"[{op}] reduction: expected one of {' '.join(allowed)}, got {reduction!r}"
        )
    return reduction


class CrossEntropyLoss(Module):
    """Cross entropy of logits against class indices or probabilities; see ``F.cross_entropy``.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> loss = ann.nn.CrossEntropyLoss()
    >>> logits = ann.Tensor(np.zeros((2, 4)), requires_grad=True)
    >>> loss(logits, np.array([0, 3])).backward()
    >>> logits.grad[0]
    array([-0.375,  0.125,  0.125,  0.125])
    """

    def __init__(
        self,
        weight: Any = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(
                "[CrossEntropyLoss] label_smoothing: expected a number in [0, 1], "
                f"got {label_smoothing}"
            )
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = _check_reduction("CrossEntropyLoss", reduction)
        self.label_smoothing = label_smoothing

    weight: Any

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return F.cross_entropy(
            input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )


class MSELoss(Module):
    """Mean, sum or elements of ``(input - target)**2``."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = _check_reduction("MSELoss", reduction)

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return F.mse_loss(input, target, self.reduction)


class NLLLoss(Module):
    """Negative log-likelihood of class indices under log-probabilities; see ``F.nll_loss``.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> loss = ann.nn.NLLLoss()
    >>> float(loss(np.log(np.array([[0.5, 0.5], [0.25, 0.75]])), np.array([0, 0])).round(4))
    1.0397
    """

    def __init__(
        self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean"
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = _check_reduction("NLLLoss", reduction)

    weight: Any

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return F.nll_loss(input, target, self.weight, self.ignore_index, self.reduction)


class L1Loss(Module):
    """Mean, sum or elements of ``|input - target|``."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = _check_reduction("L1Loss", reduction)

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return F.l1_loss(input, target, self.reduction)


class SmoothL1Loss(Module):
    """A square near 0 that goes over into the distance at ``beta``; see ``F.smooth_l1_loss``."""

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__()
        self.reduction = _check_reduction("SmoothL1Loss", reduction)
        self.beta = beta

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return F.smooth_l1_loss(input, target, self.reduction, self.beta)


class HuberLoss(Module):
    """A square up to ``delta`` and a line beyond; see ``F.huber_loss``."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__()
        self.reduction = _check_reduction("HuberLoss", reduction)
        self.delta = delta

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return F.huber_loss(input, target, self.reduction, self.delta)


class BCELoss(Module):
    """Binary cross entropy of probabilities; see ``F.binary_cross_entropy``."""

    def __init__(self, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.reduction = _check_reduction("BCELoss", reduction)

    weight: Any

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return F.binary_cross_entropy(input, target, self.weight, self.reduction)


class BCEWithLogitsLoss(Module):
    """Binary cross entropy of logits; see ``F.binary_cross_entropy_with_logits``.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> float(ann.nn.BCEWithLogitsLoss()(np.zeros(3), np.ones(3)).round(4))
    0.6931
    """

    def __init__(self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)
        self.reduction = _check_reduction("BCEWithLogitsLoss", reduction)

    weight: Any
    pos_weight: Any

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return F.binary_cross_entropy_with_logits(
            input, target, self.weight, self.reduction, self.pos_weight
        )


class KLDivLoss(Module):
    """Divergence of probabilities from log-probabilities; see ``F.kl_div``."""

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__()
        self.reduction = _check_reduction("KLDivLoss", reduction, ("batchmean",))
        self.log_target = log_target

    def forward(self, input: Any, target: Any) -> Any:
        """Return the loss."""
        return F.kl_div(input, target, self.reduction, self.log_target)
