"""The softmax and cross-entropy references against hand-worked cases and finite differences."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from arraynn import reference
from tolerances import assert_gradient

LOG2, LOG4 = math.log(2), math.log(4)


def test_softmax_by_hand() -> None:
    x = np.array([[0.0, math.log(3)], [1000.0, 1000.0]])
    np.testing.assert_allclose(reference.softmax(x), [[0.25, 0.75], [0.5, 0.5]])
    np.testing.assert_allclose(np.exp(reference.log_softmax(x)), [[0.25, 0.75], [0.5, 0.5]])
    np.testing.assert_allclose(reference.softmax(x[:, :1], axis=0), [[0.0], [1.0]])
    np.testing.assert_array_equal(
        reference.softmax(np.array([-np.inf, 0.0, -np.inf])), [0.0, 1.0, 0.0]
    )
    assert np.isnan(reference.softmax(np.array([-np.inf, -np.inf]))).all()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 4)])
def test_nothing_in_nothing_out(shape: tuple[int, ...]) -> None:
    for function in (reference.softmax, reference.log_softmax):
        for axis in range(len(shape)):
            assert function(np.zeros(shape), axis).shape == shape


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_backward_is_the_derivative(name: str, axis: int, rng: np.random.Generator) -> None:
    x, grad = rng.standard_normal((2, 4, 5, 3))
    forward, backward = getattr(reference, name), getattr(reference, f"{name}_backward")
    gradient = backward(grad, forward(x, axis), axis)
    assert_gradient(lambda v: np.sum(grad * forward(v, axis)), x, gradient, rng)


def test_cross_entropy_by_hand() -> None:
    # Probabilities (1/2, 1/4, 1/4) and (1/4, 1/4, 1/2).
    logits = np.log([[2.0, 1.0, 1.0], [1.0, 1.0, 2.0]])
    target = np.array([0, 1])

    def loss(**options: Any) -> Any:
        return reference.cross_entropy(logits, target, **options)

    np.testing.assert_allclose(loss(reduction="none"), [LOG2, LOG4])
    np.testing.assert_allclose(loss(reduction="sum"), LOG2 + LOG4)
    np.testing.assert_allclose(loss(), (LOG2 + LOG4) / 2)
    np.testing.assert_allclose(loss(weight=np.array([1.0, 3.0, 9.0])), (LOG2 + 3 * LOG4) / 4)
    np.testing.assert_allclose(loss(ignore_index=1), LOG2)
    # Smoothing 0.3 puts 0.1 on every class: the mean of -log p is (LOG2 + 2 LOG4) / 3 twice.
    smooth = (LOG2 + 2 * LOG4) / 3
    np.testing.assert_allclose(loss(label_smoothing=0.3), 0.7 * (LOG2 + LOG4) / 2 + 0.3 * smooth)
    soft = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(
        reference.cross_entropy(logits, soft, reduction="none"), [(LOG2 + LOG4) / 2, LOG2]
    )
    one = reference.cross_entropy(logits[0], np.array(0))
    assert one.shape == ()
    np.testing.assert_allclose(one, LOG2)


def test_cross_entropy_of_nothing() -> None:
    logits, target = np.zeros((0, 3)), np.zeros(0, np.int64)
    assert reference.cross_entropy(logits, target, reduction="none").shape == (0,)
    assert reference.cross_entropy(logits, target, reduction="sum") == 0
    assert np.isnan(reference.cross_entropy(logits, target))
    ignored = np.full(2, -100)
    assert np.isnan(reference.cross_entropy(np.zeros((2, 3)), ignored))
    gradient = reference.cross_entropy_backward(1.0, np.zeros((2, 3)), ignored)
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


def test_impossible_class_is_only_seen_when_it_is_the_target() -> None:
    logits = np.array([[0.0, -np.inf, 0.0]])
    np.testing.assert_allclose(reference.cross_entropy(logits, np.array([0])), LOG2)
    assert reference.cross_entropy(logits, np.array([1])) == np.inf
    with pytest.raises(ValueError, match=r"\[0, 3\)"):
        reference.cross_entropy(logits, np.array([3]))


def test_nll_loss_by_hand() -> None:
    z, target = np.array([[-1.0, -2.0, -np.inf], [-3.0, -0.5, -4.0]]), np.array([1, 0])

    def loss(**options: Any) -> Any:
        return reference.nll_loss(z, target, **options)

    np.testing.assert_array_equal(loss(reduction="none"), [2, 3])
    assert loss() == 2.5
    assert loss(reduction="sum") == 5
    weight = np.array([3.0, 1.0, 9.0])
    assert loss(weight=weight) == (1 * 2 + 3 * 3) / (1 + 3)
    assert loss(ignore_index=0) == 2
    assert reference.nll_loss(z[0], np.array(0)) == 1
    gradient = reference.nll_loss_backward(2.0, z, target, weight=weight)
    np.testing.assert_array_equal(gradient, [[0, -0.5, 0], [-1.5, 0, 0]])


@pytest.mark.parametrize("shape", [(4, 5), (5,), (2, 3, 2, 2)])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_cross_entropy_backward_is_the_derivative(
    shape: tuple[int, ...], reduction: str, rng: np.random.Generator
) -> None:
    logits = rng.standard_normal(shape)
    classes = shape[0] if len(shape) == 1 else shape[1]
    sample_shape = shape[:0] if len(shape) == 1 else (shape[0], *shape[2:])
    for weighted, smoothing, soft in itertools.product((0, 1), (0.0, 0.2), (0, 1)):
        target: Any = rng.random(shape) if soft else rng.integers(0, classes, sample_shape)
        if not soft and sample_shape:
            target.flat[0] = 1
        options: dict[str, Any] = {
            "weight": rng.random(classes) if weighted else None,
            "ignore_index": 1 if sample_shape else -100,
            "label_smoothing": smoothing,
            "reduction": reduction,
        }
        loss = reference.cross_entropy(logits, target, **options)
        grad = rng.standard_normal(loss.shape)
        gradient = reference.cross_entropy_backward(grad, logits, target, **options)

        def total(v: Any, grad: Any = grad, target: Any = target, options: Any = options) -> Any:
            return np.sum(grad * reference.cross_entropy(v, target, **options))

        assert_gradient(total, logits, gradient, rng)
