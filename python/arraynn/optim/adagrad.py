"""Adagrad."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from arraynn import kernels as K
from arraynn.autograd.tape import Array
from arraynn.autograd.tensor import Tensor
from arraynn.optim.optimizer import NOT_NEGATIVE, Group, Optimizer

__all__ = ["Adagrad"]


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer, 2011): steps scaled by all squared gradients so far.

    With g the gradient (plus ``weight_decay * p``), t the step counted from 1::

        s = s + g^2                       (s = initial_accumulator_value at first)
        p = p - lr / (1 + (t - 1) lr_decay) * g / (sqrt(s) + eps)

    Parameters
    ----------
    params : iterable of Tensor, or of dict
    lr : float
    lr_decay : float
    weight_decay : float
        Added to the gradient as ``weight_decay * p``.
    initial_accumulator_value : float
    eps : float
        Added to the root, outside of it.
    maximize : bool
        Step up the gradient.
    max_norm : float, optional
        Scale gradients down so that their norm over all parameters is at most this.

    Raises
    ------
    ValueError, TypeError
        If a hyperparameter is out of range, not finite or no number.

    Examples
    --------
    >>> import arraynn as ann
    >>> w = ann.Tensor([1.0, -1.0], requires_grad=True)
    >>> optimizer = ann.optim.Adagrad([w], lr=0.5)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w.data
    array([ 0.5, -0.5], dtype=float32)
    """

    _ranges: ClassVar = dict.fromkeys(
        ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"), NOT_NEGATIVE
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        max_norm: float | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "maximize": maximize,
            "max_norm": max_norm,
        }
        super().__init__(params, defaults)

    def _update(
        self, group: Group, params: list[Tensor], grads: list[Array], scaling: dict[str, Any]
    ) -> list[dict[str, Any]]:
        states = self._states(params, {"sum": group["initial_accumulator_value"]})
        K.adagrad_step(
            [p.data for p in params],
            grads,
            [s["sum"] for s in states],
            states[0]["step"] + 1,
            lr=group["lr"],
            lr_decay=group["lr_decay"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            **scaling,
        )
        return states
