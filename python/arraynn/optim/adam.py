"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from arraynn import kernels as K
from arraynn.autograd.tape import Array
from arraynn.autograd.tensor import Tensor
from arraynn.optim.optimizer import NOT_NEGATIVE, Group, Optimizer, check_number

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015): steps scaled by running moments of the gradient.

    With g the gradient (plus ``weight_decay * p``), t the step counted from 1::

        m = b1 m + (1 - b1) g;    v = b2 v + (1 - b2) g^2
        p = p - lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    Parameters
    ----------
    params : iterable of Tensor, or of dict
    lr : float
    betas : pair of float in [0, 1)
        Decay of the first and second moment.
    eps : float
        Added to the root, outside of it.
    weight_decay : float
        Added to the gradient as ``weight_decay * p``.
    amsgrad : bool
        Divide by the root of the largest second moment so far (Reddi et al., 2018).
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
    >>> optimizer = ann.optim.Adam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w.data.round(3)
    array([ 0.9, -0.9], dtype=float32)
    """

    _ranges: ClassVar = dict.fromkeys(("lr", "eps", "weight_decay"), NOT_NEGATIVE)
    _decoupled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        max_norm: float | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "max_norm": max_norm,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        op, betas = self._op, group["betas"]
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise ValueError(f"[{op}] betas: expected a pair of numbers, got {betas!r}")
        for i, beta in enumerate(betas):
            check_number(op, f"betas[{i}]", beta, 0.0, 1.0)

    def _update(
        self, group: Group, params: list[Tensor], grads: list[Array], scaling: dict[str, Any]
    ) -> list[dict[str, Any]]:
        amsgrad = group["amsgrad"]
        names = ["exp_avg", "exp_avg_sq"] + (["max_exp_avg_sq"] if amsgrad else [])
        states = self._states(params, dict.fromkeys(names, 0.0))
        K.adam_step(
            [p.data for p in params],
            grads,
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            states[0]["step"] + 1,
            lr=group["lr"],
            betas=tuple(group["betas"]),
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            decoupled=self._decoupled,
            max_exp_avg_sqs=[s["max_exp_avg_sq"] for s in states] if amsgrad else None,
            **scaling,
        )
        return states


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

    The parameter itself decays, ``p = p * (1 - lr * weight_decay)``, and the moments do not see
    it. Parameters as for :class:`Adam`; ``weight_decay`` is 0.01 unless given.
    """

    _decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        max_norm: float | None = None,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, max_norm=max_norm
        )
