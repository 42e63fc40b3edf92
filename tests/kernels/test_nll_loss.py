"""The loss of log-probabilities against the reference at every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from memory import mixed_layouts
from tolerances import assert_close_to_reference, assert_gradient, assert_same_bits, widen

from .problems import normal, thread_counts

pytestmark = pytest.mark.usefixtures("isa")

# Around a row, a strip of 256 columns, and both sides of an axis.
SHAPES = [(5,), (1, 1), (7, 10), (4, 5, 3), (2, 17, 4, 5), (3, 4, 255), (2, 3, 257), (60, 1000)]
REDUCTIONS = ["none", "sum", "mean"]


def targets(rng: np.random.Generator, shape: tuple[int, ...], kind: str = "int64") -> Any:
    """Return class indices of which the second is -7."""
    where = () if len(shape) == 1 else (shape[0], *shape[2:])
    target = np.asarray(rng.integers(0, shape[min(1, len(shape) - 1)], where), dtype=kind)
    if target.size > 2:
        target.flat[1] = -7
    return target


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nll_loss(
    dtype: Any, shape: tuple[int, ...], reduction: str, rng: np.random.Generator
) -> None:
    classes = shape[min(1, len(shape) - 1)]
    z = 3 * normal(rng, dtype, *shape)
    for weighted, kind in ((False, "int64"), (True, "int32")):
        target = targets(rng, shape, kind)
        weight = rng.uniform(0.1, 2, classes).astype(dtype) if weighted else None
        how: dict[str, Any] = {"ignore_index": -7, "reduction": reduction}
        label = f"nll_loss of {shape}, {kind}, {reduction}"

        got = kernels.nll_loss(z, target, weight=weight, **how)
        assert isinstance(got, np.ndarray), label
        assert got.shape == (target.shape if reduction == "none" else ()), label
        native = reference.nll_loss(z, target, weight=weight, **how)
        ref = reference.nll_loss(widen(z), target, weight=widen(weight), **how)
        terms = reference.nll_loss(
            widen(z), target, weight=widen(weight), ignore_index=-7, reduction="none"
        )
        counted = target[target != -7]
        divisor = float(counted.size if weight is None else widen(weight)[counted].sum())
        total = np.abs(terms).sum()
        scale = {"none": np.abs(terms), "sum": total, "mean": total / divisor}[reduction]
        assert_close_to_reference(got, ref, native, scale=scale, label=label)

        grad = normal(rng, dtype, *got.shape)
        got = kernels.nll_loss_backward(grad, z, target, weight=weight, **how)
        ref = reference.nll_loss_backward(*widen(grad, z), target, weight=widen(weight), **how)
        native = reference.nll_loss_backward(grad, z, target, weight=weight, **how)
        assert_close_to_reference(got, ref, native, scale=np.abs(ref), label=f"{label}, backward")


def test_it_is_the_cross_entropy_after_log_softmax(dtype: Any, rng: np.random.Generator) -> None:
    x = normal(rng, dtype, 6, 9, 4)
    target, weight = rng.integers(0, 9, (6, 4)), rng.uniform(0.1, 2, 9).astype(dtype)
    for reduction in REDUCTIONS:
        how: dict[str, Any] = {"weight": weight, "reduction": reduction}
        got = kernels.nll_loss(kernels.log_softmax(x, 1), target, **how)
        whole = kernels.cross_entropy(x, target, **how)
        np.testing.assert_allclose(got, whole, rtol=32 * np.finfo(dtype).eps)


def test_what_does_not_count(dtype: Any) -> None:
    inf, nan = np.inf, np.nan
    z = np.array([[0, -inf, nan], [-1, nan, -inf], [-inf, -2, 0]], dtype)
    target, weight = np.array([2, -100, 1]), np.array([1, 3, 0], dtype)
    got = kernels.nll_loss(z, target, weight=weight, reduction="none")
    np.testing.assert_array_equal(got, [0, 0, 6])
    assert kernels.nll_loss(z, target, weight=weight) == 2
    assert kernels.nll_loss(z, np.array([1, 0, 0]), reduction="sum") == inf
    assert np.isnan(kernels.nll_loss(z, np.array([2, 0, 1]), reduction="sum"))
    grad = np.array([nan, nan, 2], dtype)
    got = kernels.nll_loss_backward(grad, z, target, weight=weight, reduction="none")
    np.testing.assert_array_equal(got, [[0, 0, 0], [0, 0, 0], [0, -6, 0]])

    nothing, none = np.zeros((0, 3), dtype), np.zeros(0, np.int64)
    assert kernels.nll_loss(nothing, none, reduction="none").shape == (0,)
    assert kernels.nll_loss(nothing, none, reduction="sum") == 0
    assert np.isnan(kernels.nll_loss(nothing, none))
    assert kernels.nll_loss_backward(1.0, nothing, none).shape == (0, 3)
    ignored = np.full(3, -100)
    assert np.isnan(kernels.nll_loss(z, ignored))
    for reduction in ("sum", "mean"):
        got = kernels.nll_loss_backward(1.0, z, ignored, reduction=reduction)
        np.testing.assert_array_equal(got, np.zeros_like(z))


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
