"""Stochastic gradient descent."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

from arraynn import kernels as K
from arraynn.autograd.tape import Array
from arraynn.autograd.tensor import Tensor
from arraynn.optim.optimizer import NOT_NEGATIVE, Group, Optimizer

__all__ = ["SGD"]


class SGD(Optimizer):
    """Gradient descent with momentum (Sutskever et al., 2013, in PyTorch's form).

    With g the gradient (plus ``weight_decay * p``)::

        b = momentum * b + (1 - dampening) * g        (b = g in the first step)
        p = p - lr * b        or, with nesterov,   p - lr * (g + momentum * b)

    Parameters
    ----------
    params : iterable of Tensor, or of dict
    lr : float
    momentum, dampening, weight_decay : float
    nesterov : bool
        Needs a momentum and no dampening.
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
    >>> optimizer = ann.optim.SGD([w], lr=0.25)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w.data
    array([ 0.5, -0.5], dtype=float32)
    """

    _ranges: ClassVar = {
        **dict.fromkeys(("lr", "momentum", "weight_decay"), NOT_NEGATIVE),
        "dampening": (-1e308, math.inf),
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        max_norm: float | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "max_norm": max_norm,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                f"[{self._op}] nesterov: expected a momentum above 0 and no dampening, got "
                f"momentum {group['momentum']} and dampening {group['dampening']}"
            )

    def _update(
        self, group: Group, params: list[Tensor], grads: list[Array], scaling: dict[str, Any]
    ) -> list[dict[str, Any]]:
        momentum = group["momentum"]
        states = self._states(params, {"momentum_buffer": 0.0}) if momentum else []
        K.sgd_step(
            [p.data for p in params],
            grads,
            [s["momentum_buffer"] for s in states] if momentum else None,
            states[0]["step"] + 1 if momentum else 1,
            lr=group["lr"],
            momentum=momentum,
            dampening=group["dampening"],
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
            **scaling,
        )
        return states
