"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from arraynn import kernels as K
from arraynn.autograd.tape import Array
from arraynn.autograd.tensor import Tensor
from arraynn.optim.optimizer import NOT_NEGATIVE, Group, Optimizer

__all__ = ["RMSprop"]


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton, 2012, in PyTorch's form).

    With g the gradient (plus ``weight_decay * p``)::

        v = alpha v + (1 - alpha) g^2;    b = momentum * b + g / (sqrt(v) + eps);    p = p - lr b

    Centred (Graves, 2013), ``max(0, v - a^2)`` takes the place of v under the root, with
    ``a = alpha a + (1 - alpha) g``.

    Parameters
    ----------
    params : iterable of Tensor, or of dict
    lr : float
    alpha : float in [0, 1)
        Decay of the running means.
    eps : float
        Added to the root, outside of it.
    weight_decay : float
        Added to the gradient as ``weight_decay * p``.
    momentum : float
    centered : bool
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
    >>> optimizer = ann.optim.RMSprop([w], lr=0.25, alpha=0.75)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w.data
    array([ 0.5, -0.5], dtype=float32)
    """

    _ranges: ClassVar = {
        **dict.fromkeys(("lr", "eps", "weight_decay", "momentum"), NOT_NEGATIVE),
        "alpha": (0.0, 1.0),
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        max_norm: float | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
            "max_norm": max_norm,
        }
        super().__init__(params, defaults)

    def _update(
        self, group: Group, params: list[Tensor], grads: list[Array], scaling: dict[str, Any]
    ) -> list[dict[str, Any]]:
        centered, momentum = group["centered"], group["momentum"]
        names = ["square_avg"]
        names += ["momentum_buffer"] if momentum else []
        names += ["grad_avg"] if centered else []
        states = self._states(params, dict.fromkeys(names, 0.0))
        K.rmsprop_step(
            [p.data for p in params],
            grads,
            [s["square_avg"] for s in states],
            lr=group["lr"],
            alpha=group["alpha"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            momentum=momentum,
            grad_avgs=[s["grad_avg"] for s in states] if centered else None,
            momentum_buffers=[s["momentum_buffer"] for s in states] if momentum else None,
            **scaling,
        )
        return states
