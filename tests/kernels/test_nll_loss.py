"""The loss of log-probabilities against the reference at every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import kernels
from memory import Guarded, mixed_layouts
from softmax_checks import REDUCTIONS, check_nll_loss, check_what_does_not_count, targets
from tolerances import assert_gradient, assert_same_bits

from .problems import normal, thread_counts

pytestmark = pytest.mark.usefixtures("isa")

# Around a row, a strip of 256 columns, and both sides of an axis.
SHAPES = [(5,), (1, 1), (7, 10), (4, 5, 3), (2, 17, 4, 5), (3, 4, 255), (2, 3, 257), (60, 1000)]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nll_loss(
    dtype: Any, shape: tuple[int, ...], reduction: str, rng: np.random.Generator
) -> None:
    check_nll_loss(kernels, dtype, shape, reduction, rng)


def test_it_is_the_cross_entropy_after_log_softmax(dtype: Any, rng: np.random.Generator) -> None:
    x = normal(rng, dtype, 6, 9, 4)
    target, weight = rng.integers(0, 9, (6, 4)), rng.uniform(0.1, 2, 9).astype(dtype)
    for reduction in REDUCTIONS:
        how: dict[str, Any] = {"weight": weight, "reduction": reduction}
        got = kernels.nll_loss(kernels.log_softmax(x, 1), target, **how)
        whole = kernels.cross_entropy(x, target, **how)
        np.testing.assert_allclose(got, whole, rtol=32 * np.finfo(dtype).eps)


def test_what_does_not_count(dtype: Any) -> None:
    check_what_does_not_count(kernels, dtype)


def test_any_memory_threads_and_batch(dtype: Any, rng: np.random.Generator) -> None:
    for shape in ((700, 90), (9, 30, 700)):
        z = normal(rng, dtype, *shape)
        target = targets(rng, shape)
        weight, grad = rng.random(shape[1]).astype(dtype), np.array(0.7, dtype)
        how: dict[str, Any] = {"weight": weight, "ignore_index": -7}
        loss = kernels.nll_loss(z, target, **how)
        terms = kernels.nll_loss(z, target, **how, reduction="none")
        dx = kernels.nll_loss_backward(grad, z, target, **how)
        for n in thread_counts():
            assert_same_bits(kernels.nll_loss(z, target, **how), loss, f"{n} threads")
            again = kernels.nll_loss_backward(grad, z, target, **how)
            assert_same_bits(again, dx, f"{n} threads, backward")
        for memory, (a, b, w) in mixed_layouts(z, target, weight):
            how["weight"] = w
            assert_same_bits(kernels.nll_loss(a, b, **how), loss, memory)
            assert_same_bits(kernels.nll_loss_backward(grad, a, b, **how), dx, memory)
        alone = kernels.nll_loss(z[1:2], target[1:2], **how, reduction="none")
        assert_same_bits(alone, terms[1:2], "a sample alone")


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_out_is_filled_and_nothing_beside_it(
    dtype: Any, name: str, strided: bool, rng: np.random.Generator
) -> None:
    forward, backward = getattr(kernels, name), getattr(kernels, f"{name}_backward")
    z = normal(rng, dtype, 4, 19, 3)
    target = targets(rng, z.shape)
    for reduction in REDUCTIONS:
        how: dict[str, Any] = {"ignore_index": -7, "reduction": reduction}
        loss = forward(z, target, **how)
        guard = Guarded(loss.shape, dtype, strided=strided and loss.ndim > 0)
        assert forward(z, target, **how, out=guard.out) is guard.out
        assert_same_bits(guard.out, loss)
        guard.check()
        guard = Guarded(z.shape, dtype, strided=strided)
        assert backward(loss, z, target, **how, out=guard.out) is guard.out
        assert_same_bits(guard.out, backward(loss, z, target, **how))
        guard.check()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_backward_is_the_derivative(reduction: str, rng: np.random.Generator) -> None:
    z = rng.standard_normal((4, 6, 3))
    target = targets(rng, z.shape)
    how: dict[str, Any] = {"weight": rng.random(6), "ignore_index": -7, "reduction": reduction}
    grad = np.asarray(rng.standard_normal(np.shape(kernels.nll_loss(z, target, **how))))
    gradient = kernels.nll_loss_backward(grad, z, target, **how)

    def total(v: Any) -> Any:
        return np.sum(grad * kernels.nll_loss(v, target, **how))

    assert_gradient(total, z, gradient, rng)
