"""The optimizer references against steps worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from arraynn import reference


def adam(grads: list[float], start: float = 1.0, **options: Any) -> tuple[float, float, float]:
    """Run Adam on one number; return it and its moments."""
    p, m, v = [np.array([start])], [np.zeros(1)], [np.zeros(1)]
    if options.pop("amsgrad", False):
        options["max_exp_avg_sqs"] = [np.zeros(1)]
    for step, g in enumerate(grads, start=1):
        reference.adam_step(p, [np.array([g])], m, v, step, **options)
    return float(p[0][0]), float(m[0][0]), float(v[0][0])


def test_adam_by_hand() -> None:
    # First step: m_hat = g, v_hat = g**2, so p moves by lr * g / (|g| + eps).
    p, m, v = adam([4.0], lr=0.5, betas=(0.5, 0.75), eps=1.0)
    assert (m, v) == (2.0, 4.0)
    assert math.isclose(p, 1 - 0.5 * 4 / 5)
    # "hat" keeps eps beside the uncorrected sqrt(v) = 2: lr * sqrt(1/4) / (1/2) * 2 / (2 + 1).
    assert math.isclose(
        adam([4.0], lr=0.5, betas=(0.5, 0.75), eps=1.0, eps_mode="hat")[0], 1 - 1 / 3
    )
    # Second step with g = 0: m = 1, v = 3, corrections 3/4 and 7/16.
    p2, m, v = adam([4.0, 0.0], lr=0.5, betas=(0.5, 0.75), eps=1.0)
    assert (m, v) == (1.0, 3.0)
    assert math.isclose(p2, p - 0.5 * (1 / 0.75) / (math.sqrt(3 / 0.4375) + 1))
    # AMSGrad keeps v = 4 of the first step.
    p2 = adam([4.0, 0.0], lr=0.5, betas=(0.5, 0.75), eps=1.0, amsgrad=True)[0]
    assert math.isclose(p2, p - 0.5 * (1 / 0.75) / (math.sqrt(4 / 0.4375) + 1))


def test_adam_weight_decay_maximize_and_scale() -> None:
    hyper = {"lr": 0.5, "betas": (0.5, 0.75), "eps": 1.0}
    assert adam([4.0], start=2.0, weight_decay=0.5, **hyper) == adam([5.0], start=2.0, **hyper)
    decayed = adam([4.0], start=2.0, weight_decay=0.5, decoupled=True, **hyper)[0]
    assert math.isclose(decayed, 2 * 0.75 - 0.5 * 4 / 5)
    assert adam([4.0], maximize=True, **hyper)[0] == adam([-4.0], **hyper)[0]
    assert adam([4.0], grad_scale=8.0, **hyper) == adam([0.5], **hyper)


@pytest.mark.parametrize("name", ["adam_step", "sgd_step"])
def test_global_norm(name: str) -> None:
    def run(**options: Any) -> tuple[float | None, list[Any], list[Any]]:
        params = [np.zeros(1), np.zeros((1, 1))]
        grads = [np.array([6.0]), np.array([[8.0]])]
        if name == "sgd_step":
            return reference.sgd_step(params, grads, lr=1.0, **options), params, grads
        m, v = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
        norm = reference.adam_step(params, grads, m, v, 1, lr=1.0, betas=(0.0, 0.0), **options)
        return norm, m, grads

    assert run()[0] is None
    norm, moved, grads = run(max_norm=100.0, grad_scale=2.0)
    assert norm == 5.0
    assert abs(float(moved[0][0])) == 3.0
    norm, moved, grads = run(max_norm=1.0)
    assert norm == 10.0
    assert math.isclose(abs(float(moved[0][0])), 6 / (10 + 1e-6))
    assert [g.tolist() for g in grads] == [[6.0], [[8.0]]]


def sgd(grads: list[float], **options: Any) -> float:
    p, buffers = [np.array([1.0])], [np.full(1, np.nan)]  # overwritten at step 1
    for step, g in enumerate(grads, start=1):
        reference.sgd_step(p, [np.array([g])], buffers, step, lr=0.5, **options)
    return float(p[0][0])


def test_sgd_by_hand() -> None:
    assert sgd([1.0, 2.0]) == 1 - 0.5 - 1.0
    # Buffers: 1, then 0.5 * 1 + 2.
    assert sgd([1.0, 2.0], momentum=0.5) == 1 - 0.5 - 1.25
    assert sgd([1.0, 2.0], momentum=0.5, dampening=0.5) == 1 - 0.5 - 0.75
    # Nesterov: g + 0.5 * buffer.
    assert sgd([1.0, 2.0], momentum=0.5, nesterov=True) == 1 - 0.75 - 1.625
    assert sgd([1.0], weight_decay=0.5) == 1 - 0.75
    assert sgd([1.0], maximize=True) == 1.5
    assert sgd([1.0], maximize=True, weight_decay=0.5) == 1.25


def test_adagrad_by_hand() -> None:
    p, sums = [np.array([1.0])], [np.array([9.0])]
    reference.adagrad_step(p, [np.array([4.0])], sums, 3, lr=0.6, lr_decay=0.5, eps=1.0)
    assert sums[0] == 25
    assert math.isclose(p[0][0], 1 - 0.6 / 2 * 4 / 6)
    reference.adagrad_step(p, [np.array([0.0])], sums, 4, lr=0.6, weight_decay=1.0, eps=0.0)
    assert p[0][0] < 0.8


def test_rmsprop_by_hand() -> None:
    def step(g: float, **options: Any) -> float:
        p = [np.array([1.0])]
        squares = [np.array([4.0])]
        reference.rmsprop_step(p, [np.array([g])], squares, lr=0.5, alpha=0.5, eps=1.0, **options)
        return float(p[0][0])

    assert math.isclose(step(2.0), 1 - 0.5 * 2 / 3)  # v stays 4
    # The mean is 1.5 of 1 and 2: the spread 4 - 2.25.
    centred = step(2.0, grad_avgs=[np.array([1.0])])
    assert math.isclose(centred, 1 - 0.5 * 2 / (math.sqrt(1.75) + 1))
    moved = step(2.0, momentum=0.5, momentum_buffers=[np.array([3.0])])
    assert math.isclose(moved, 1 - 0.5 * (1.5 + 2 / 3))
    assert math.isclose(step(2.0, maximize=True), 2 - step(2.0))
    assert step(0.0, grad_avgs=[np.array([9.0])]) == 1  # nothing below 0 under the root


def test_bad_arguments() -> None:
    one = [np.ones(1)]
    with pytest.raises(ValueError, match="momentum_buffers"):
        reference.sgd_step(one, one, momentum=0.9)
    with pytest.raises(ValueError, match="momentum_buffers"):
        reference.rmsprop_step(one, one, one, momentum=0.9)
    with pytest.raises(ValueError, match="nesterov"):
        reference.sgd_step(one, one, nesterov=True)
    with pytest.raises(ValueError, match="eps_mode"):
        reference.adam_step(one, one, one, one, 1, eps_mode="inside")
    with pytest.raises(ValueError, match="grads"):
        reference.sgd_step(one, [])
