"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from arraynn import kernels as K
from arraynn.autograd.tape import Array
from arraynn.autograd.tensor import Tensor
from arraynn.optim.optimizer import Group, Optimizer, check_number

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
        op = self._op
        for name in ("lr", "momentum", "weight_decay"):
            check_number(op, name, group[name], 0.0)
        check_number(op, "dampening", group["dampening"], -1e308)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                f"[{op}] nesterov: expected a momentum above 0 and no dampening, got momentum "
                f"{group['momentum']} and dampening {group['dampening']}"
            )
        if group["max_norm"] is not None:
            check_number(op, "max_norm", group["max_norm"], 0.0)

    def _update(
        self,
        group: Group,
        params: list[Tensor],
        grads: list[Array],
        grad_scale: float | None,
        max_norm: float | None,
    ) -> None:
        momentum = group["momentum"]
        step = 1
        buffers = None
        if momentum:
            states = self._states(params, {"momentum_buffer": 0.0})
            step = states[0]["step"] + 1
            buffers = [state["momentum_buffer"] for state in states]
        K.sgd_step(
            [p.data for p in params],
            grads,
            buffers,
            step,
            lr=group["lr"],
            momentum=momentum,
            dampening=group["dampening"],
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            grad_scale=grad_scale,
            max_norm=max_norm,
        )
        if momentum:
            for state in states:
                state["step"] = step
