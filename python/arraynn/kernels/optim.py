"""Optimizer steps over lists of arrays, updated in place: one fused pass a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from arraynn import _core

__all__ = ["adagrad_step", "adam_step", "rmsprop_step", "sgd_step"]

Arrays = Sequence[NDArray[Any]]


def adam_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    step: int | NDArray[Any],
    *,
    lr: float | NDArray[Any] = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    max_exp_avg_sqs: Arrays | None = None,
    maximize: bool = False,
    eps_mode: str = "outside",
    grad_scale: float | None = None,
    max_norm: float | None = None,
) -> float | None:
    r"""One step of Adam (Kingma and Ba 2014) or, with ``decoupled``, of AdamW (Loshchilov 2017).

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
        v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
        p \leftarrow p - \mathrm{lr}\, \hat m / (\sqrt{\hat v} + \epsilon)

    with :math:`\hat m = m / (1 - \beta_1^t)` and :math:`\hat v = v / (1 - \beta_2^t)`.

    Parameters
    ----------
    params, exp_avgs, exp_avg_sqs : lists of arrays of one dtype, of a floating dtype
        Updated in place. Strided arrays are worked on in contiguous copies and written back.
        float16 and bfloat16 are stepped in float32 and rounded once.
    grads : list of arrays
        Never modified.
    step : int
        The number t of this step, from 1. On a GPU ``step`` and ``lr`` may be arrays without
        dimensions, read when the step runs there and not checked.
    lr, eps, weight_decay : float
        Finite and not negative. ``weight_decay`` is added to g as ``weight_decay * p``, or, with
        ``decoupled``, first multiplies p by ``1 - lr * weight_decay``.
    betas : (float, float)
        Each at least 0 and below 1.
    max_exp_avg_sqs : list of arrays, optional
        Makes it AMSGrad (Reddi et al. 2018): the largest v so far takes the place of v.
    maximize : bool
        Climb instead of descend.
    eps_mode : {"outside", "hat"}
        ``"outside"`` is the equation above, PyTorch's; ``"hat"`` divides by
        :math:`\sqrt v + \epsilon` and multiplies the step by :math:`\sqrt{1 - \beta_2^t}`, Keras'
        and ONNX'.
    grad_scale : float, optional
        The gradients are divided by it first.
    max_norm : float, optional
        Then they are scaled by ``min(1, max_norm / (norm + 1e-6))``, with their global norm over
        the whole list.

    Returns
    -------
    float or None
        The global norm before clipping, when ``max_norm`` is given.

    Raises
    ------
    ValueError
        For lists that do not match, read-only or overlapping arrays, and values out of range.
        Nothing has been written then.
    TypeError
        For arrays of other or of mixed dtypes.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> p, m, v = [np.zeros(1)], [np.zeros(1)], [np.zeros(1)]
    >>> K.adam_step(p, [np.ones(1)], m, v, 1, lr=0.5)
    >>> p[0].round(4)
    array([-0.5])
    """
    return _core.adam_step(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        step,
        lr,
        betas,
        eps,
        weight_decay,
        decoupled,
        max_exp_avg_sqs,
        maximize,
        eps_mode,
        grad_scale,
        max_norm,
    )


def sgd_step(
    params: Arrays,
    grads: Arrays,
    momentum_buffers: Arrays | None = None,
    step: int | NDArray[Any] = 1,
    *,
    lr: float | NDArray[Any] = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    grad_scale: float | None = None,
    max_norm: float | None = None,
) -> float | None:
    r"""One step of gradient descent with momentum, in PyTorch's formulation.

    .. math::
        b \leftarrow \mu b + (1 - \tau) g \quad (b \leftarrow g \text{ at step } 1), \quad
        p \leftarrow p - \mathrm{lr}\, b

    With ``nesterov``, :math:`g + \mu b` takes the place of b (Sutskever et al. 2013).

    Parameters
    ----------
    params : list of arrays of one dtype, of a floating dtype
        Updated in place.
    grads : list of arrays
        Never modified.
    momentum_buffers : list of arrays
        Updated in place; needed when ``momentum`` is not 0.
    step : int
        From 1. At step 1 the buffers are written and not read. An array as in :func:`adam_step`.
    lr, momentum, dampening, weight_decay : float
        Finite; all but ``dampening`` not negative.
    nesterov : bool
        Needs ``momentum > 0`` and ``dampening == 0``.
    maximize, grad_scale, max_norm
        As in :func:`adam_step`.

    Returns
    -------
    float or None
        The global norm before clipping, when ``max_norm`` is given.

    Raises
    ------
    ValueError, TypeError
        As :func:`adam_step`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> p = [np.ones(1)]
    >>> K.sgd_step(p, [np.ones(1)], lr=0.25)
    >>> p[0]
    array([0.75])
    """
    return _core.sgd_step(
        params,
        grads,
        momentum_buffers,
        step,
        lr,
        momentum,
        dampening,
        weight_decay,
        nesterov,
        maximize,
        grad_scale,
        max_norm,
    )


def adagrad_step(
    params: Arrays,
    grads: Arrays,
    state_sums: Arrays,
    step: int | NDArray[Any],
    *,
    lr: float | NDArray[Any] = 1e-2,
    lr_decay: float = 0.0,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    maximize: bool = False,
    grad_scale: float | None = None,
    max_norm: float | None = None,
) -> float | None:
    r"""One step of Adagrad (Duchi, Hazan and Singer 2011).

    .. math::
        s \leftarrow s + g^2, \quad
        p \leftarrow p - \frac{\mathrm{lr}}{1 + (t - 1)\,\mathrm{lr\_decay}}
        \frac{g}{\sqrt s + \epsilon}

    Parameters
    ----------
    params, state_sums : lists of arrays of one dtype, of a floating dtype
        Updated in place, as in :func:`adam_step`.
    grads : list of arrays
        Never modified.
    step : int
        The number t of this step, from 1. An array as in :func:`adam_step`.
    lr, lr_decay, eps, weight_decay : float
        Finite and not negative. ``weight_decay * p`` is added to g.
    maximize, grad_scale, max_norm
        As in :func:`adam_step`.

    Returns
    -------
    float or None
        The global norm before clipping, when ``max_norm`` is given.

    Raises
    ------
    ValueError, TypeError
        As :func:`adam_step`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> p, s = [np.zeros(1)], [np.full(1, 9.0)]
    >>> K.adagrad_step(p, [np.full(1, 4.0)], s, 1, lr=0.5)
    >>> p[0], s[0]
    (array([-0.4]), array([25.]))
    """
    return _core.adagrad_step(
        params,
        grads,
        state_sums,
        step,
        lr,
        lr_decay,
        eps,
        weight_decay,
        maximize,
        grad_scale,
        max_norm,
    )


def rmsprop_step(
    params: Arrays,
    grads: Arrays,
    square_avgs: Arrays,
    *,
    lr: float | NDArray[Any] = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    grad_avgs: Arrays | None = None,
    momentum_buffers: Arrays | None = None,
    maximize: bool = False,
    grad_scale: float | None = None,
    max_norm: float | None = None,
) -> float | None:
    r"""One step of RMSprop (Tieleman and Hinton 2012), in PyTorch's formulation.

    .. math::
        v \leftarrow \alpha v + (1 - \alpha) g^2, \quad
        b \leftarrow \mu b + g / (\sqrt v + \epsilon), \quad
        p \leftarrow p - \mathrm{lr}\, b

    Centred (Graves 2013), :math:`\max(0, v - a^2)` takes the place of v under the root, with
    :math:`a \leftarrow \alpha a + (1 - \alpha) g`.

    Parameters
    ----------
    params, square_avgs : lists of arrays of one dtype, of a floating dtype
        Updated in place, as in :func:`adam_step`.
    grads : list of arrays
        Never modified.
    lr, eps, weight_decay, momentum : float
        Finite and not negative. ``weight_decay * p`` is added to g. ``lr`` may be an array as in
        :func:`adam_step`.
    alpha : float in [0, 1]
    grad_avgs : list of arrays, optional
        Makes it centred; updated in place.
    momentum_buffers : list of arrays
        Updated in place; needed when ``momentum`` is not 0, else left alone.
    maximize, grad_scale, max_norm
        As in :func:`adam_step`.

    Returns
    -------
    float or None
        The global norm before clipping, when ``max_norm`` is given.

    Raises
    ------
    ValueError, TypeError
        As :func:`adam_step`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> p, v = [np.zeros(1)], [np.zeros(1)]
    >>> K.rmsprop_step(p, [np.full(1, 4.0)], v, lr=0.5, alpha=0.75, eps=0.0)
    >>> p[0], v[0]
    (array([-1.]), array([4.]))
    """
    return _core.rmsprop_step(
        params,
        grads,
        square_avgs,
        lr,
        alpha,
        eps,
        weight_decay,
        momentum,
        grad_avgs,
        momentum_buffers,
        maximize,
        grad_scale,
        max_norm,
    )
