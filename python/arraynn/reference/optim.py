"""Optimizer steps in plain NumPy: lists of arrays, updated in place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ._common import FloatArray, quiet


def _prepared(
    params: Sequence[FloatArray],
    grads: Sequence[FloatArray],
    maximize: bool,
    grad_scale: float | None,
    max_norm: float | None,
) -> tuple[list[FloatArray], float | None]:
    """Unscale, clip by the global norm and negate copies of the gradients; return the norm too.

    The norm runs over the whole list in float64; the factor is
    ``min(1, max_norm / (norm + 1e-6))`` as in PyTorch's ``clip_grad_norm_``.
    """
    if len(grads) != len(params):
        raise ValueError(f"grads: expected {len(params)} arrays, got {len(grads)}")
    prepared = [g / grad_scale if grad_scale is not None else g.copy() for g in grads]
    norm = None
    if max_norm is not None:
        norm = math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in prepared))
        factor = min(1.0, max_norm / (norm + 1e-6))
        prepared = [g * factor for g in prepared]
    if maximize:
        prepared = [-g for g in prepared]
    return prepared, norm


@quiet
def adam_step(
    params: Sequence[FloatArray],
    grads: Sequence[FloatArray],
    exp_avgs: Sequence[FloatArray],
    exp_avg_sqs: Sequence[FloatArray],
    step: int,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    max_exp_avg_sqs: Sequence[FloatArray] | None = None,
    maximize: bool = False,
    eps_mode: str = "outside",
    grad_scale: float | None = None,
    max_norm: float | None = None,
) -> float | None:
    r"""One step of Adam (Kingma and Ba 2014) or, with `decoupled`, AdamW (Loshchilov 2017).

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow p - \mathrm{lr}\,\hat m / (\sqrt{\hat v} + \epsilon)

    with :math:`\hat m = m / (1 - \beta_1^t)`, :math:`\hat v = v / (1 - \beta_2^t)`. `eps_mode`
    "hat" divides by :math:`\sqrt v + \epsilon` and multiplies the step by
    :math:`\sqrt{1 - \beta_2^t}` (Keras', ONNX'). With `max_exp_avg_sqs` v is replaced by the
    largest v so far (AMSGrad, Reddi et al. 2018). `weight_decay` adds ``weight_decay * p`` to g,
    or, decoupled, first multiplies p by ``1 - lr * weight_decay``.

    Parameters
    ----------
    params, exp_avgs, exp_avg_sqs, max_exp_avg_sqs : lists of arrays, updated in place
    grads : list of arrays, not modified
    step : int
        Counts from 1.
    grad_scale : float, optional
        The gradients are divided by it first.
    max_norm : float, optional
        Clip the global norm of the (unscaled) gradients.

    Returns
    -------
    float or None
        The global norm before clipping when `max_norm` is given.

    Examples
    --------
    >>> p, m, v = [np.zeros(1)], [np.zeros(1)], [np.zeros(1)]
    >>> adam_step(p, [np.ones(1)], m, v, 1, lr=0.5)
    >>> p[0].round(4)
    array([-0.5])
    """
    if eps_mode not in ("outside", "hat"):
        raise ValueError(f"[adam_step] eps_mode: expected 'outside' or 'hat', got {eps_mode!r}")
    prepared, norm = _prepared(params, grads, maximize, grad_scale, max_norm)
    beta1, beta2 = betas
    correction1 = 1 - beta1**step
    correction2_sqrt = math.sqrt(1 - beta2**step)
    for i, (p, g, m, v) in enumerate(zip(params, prepared, exp_avgs, exp_avg_sqs, strict=True)):
        if decoupled:
            p *= 1 - lr * weight_decay
        elif weight_decay:
            g = g + weight_decay * p
        m[...] = beta1 * m + (1 - beta1) * g
        v[...] = beta2 * v + (1 - beta2) * g * g
        second = v
        if max_exp_avg_sqs is not None:
            second = max_exp_avg_sqs[i]
            np.maximum(second, v, out=second)
        if eps_mode == "outside":
            p -= lr / correction1 * (m / (np.sqrt(second) / correction2_sqrt + eps))
        else:
            p -= lr * correction2_sqrt / correction1 * (m / (np.sqrt(second) + eps))
    return norm


@quiet
def sgd_step(
    params: Sequence[FloatArray],
    grads: Sequence[FloatArray],
    momentum_buffers: Sequence[FloatArray] | None = None,
    step: int = 1,
    *,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    grad_scale: float | None = None,
    max_norm: float | None = None,
) -> float | None:
    r"""One step of gradient descent with momentum, PyTorch's formulation.

    .. math::
        b &\leftarrow \mu b + (1 - \tau) g \quad (b \leftarrow g \text{ at step } 1) \\
        p &\leftarrow p - \mathrm{lr}\, b, \quad \text{or } p - \mathrm{lr}\,(g + \mu b)
        \text{ with Nesterov}

    Parameters are those of :func:`adam_step`; momentum_buffers are needed when momentum is not 0.

    Examples
    --------
    >>> p = [np.ones(1)]
    >>> sgd_step(p, [np.ones(1)], lr=0.25)
    >>> p[0]
    array([0.75])
    """
    if momentum and momentum_buffers is None:
        raise ValueError("[sgd_step] momentum_buffers: expected a list of arrays, got None")
    if nesterov and (momentum <= 0 or dampening != 0):
        raise ValueError("[sgd_step] nesterov: expected momentum > 0 and dampening 0")
    prepared, norm = _prepared(params, grads, maximize, grad_scale, max_norm)
    for i, (p, g) in enumerate(zip(params, prepared, strict=True)):
        if weight_decay:
            g = g + weight_decay * p
        if momentum and momentum_buffers is not None:
            b = momentum_buffers[i]
            b[...] = g if step == 1 else momentum * b + (1 - dampening) * g
            g = g + momentum * b if nesterov else b
        p -= lr * g
    return norm


@quiet
def adagrad_step(
    params: Sequence[FloatArray],
    grads: Sequence[FloatArray],
    state_sums: Sequence[FloatArray],
    step: int,
    *,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    maximize: bool = False,
    grad_scale: float | None = None,
    max_norm: float | None = None,
) -> float | None:
    r"""One step of Adagrad (Duchi, Hazan and Singer 2011), PyTorch's formulation.

    .. math::
        s &\leftarrow s + g^2 \\
        p &\leftarrow p - \frac{\mathrm{lr}}{1 + (t - 1)\,\mathrm{lr\_decay}}
        \frac{g}{\sqrt s + \epsilon}

    Parameters are those of :func:`adam_step`.

    Examples
    --------
    >>> p, s = [np.zeros(1)], [np.full(1, 9.0)]
    >>> adagrad_step(p, [np.full(1, 4.0)], s, 1, lr=0.5)
    >>> p[0]
    array([-0.4])
    """
    prepared, norm = _prepared(params, grads, maximize, grad_scale, max_norm)
    for p, g, s in zip(params, prepared, state_sums, strict=True):
        if weight_decay:
            g = g + weight_decay * p
        s += g * g
        p -= lr / (1 + (step - 1) * lr_decay) * (g / (np.sqrt(s) + eps))
    return norm


@quiet
def rmsprop_step(
    params: Sequence[FloatArray],
    grads: Sequence[FloatArray],
    square_avgs: Sequence[FloatArray],
    *,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    grad_avgs: Sequence[FloatArray] | None = None,
    momentum_buffers: Sequence[FloatArray] | None = None,
    maximize: bool = False,
    grad_scale: float | None = None,
    max_norm: float | None = None,
) -> float | None:
    r"""One step of RMSprop (Tieleman and Hinton 2012), PyTorch's formulation.

    .. math::
        v &\leftarrow \alpha v + (1 - \alpha) g^2 \\
        b &\leftarrow \mu b + g / (\sqrt v + \epsilon) \\
        p &\leftarrow p - \mathrm{lr}\, b

    With `grad_avgs` a it is centred (Graves 2013): :math:`\max(0, v - a^2)` takes the place of v
    under the root, with :math:`a \leftarrow \alpha a + (1 - \alpha) g`. The other parameters are
    those of :func:`adam_step`; momentum_buffers are needed when momentum is not 0.

    Examples
    --------
    >>> p, v = [np.zeros(1)], [np.zeros(1)]
    >>> rmsprop_step(p, [np.full(1, 4.0)], v, lr=0.5, alpha=0.75, eps=0.0)
    >>> p[0]
    array([-1.])
    """
    if momentum and momentum_buffers is None:
        raise ValueError("[rmsprop_step] momentum_buffers: expected a list of arrays, got None")
    prepared, norm = _prepared(params, grads, maximize, grad_scale, max_norm)
    for i, (p, g, v) in enumerate(zip(params, prepared, square_avgs, strict=True)):
        if weight_decay:
            g = g + weight_decay * p
        v[...] = alpha * v + (1 - alpha) * g * g
        spread = v
        if grad_avgs is not None:
            a = grad_avgs[i]
            a[...] = alpha * a + (1 - alpha) * g
            spread = np.maximum(v - a * a, 0)
        scaled = g / (np.sqrt(spread) + eps)
        if momentum and momentum_buffers is not None:
            b = momentum_buffers[i]
            b[...] = momentum * b + scaled
            p -= lr * b
        else:
            p -= lr * scaled
    return norm
