"""softmax, log_softmax and cross_entropy held against the reference, for every device.

`kernels` is ``arraynn.kernels``, or something that calls it elsewhere.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from arraynn import reference
from kernels.problems import normal
from tolerances import assert_close_to_reference, native, widen

#: Logits' shapes, with and without positions after the classes.
LOGITS = [(5,), (1, 1), (7, 10), (3, 33), (4, 5, 3), (2, 17, 4, 5), (2, 3, 1, 70), (60, 1000)]

REDUCTIONS = ["none", "sum", "mean"]


def check(kernels: Any, x: Any, grad: Any, axis: int) -> None:
    """Hold both functions and their backwards against the reference along one axis."""
    wide, wide_grad = widen(x, grad)
    below_max = np.abs(wide - wide.max(axis=axis, keepdims=True, initial=-np.inf))
    for name in ("softmax", "log_softmax"):
        label = f"{name} of {x.shape} along {axis}"
        forward, formula = getattr(kernels, name), getattr(reference, name)
        got, ref, plain = forward(x, axis), formula(wide, axis), formula(native(x), axis)
        # Rounding x - max moves the exponent of exp by eps * |x - max|.
        scale = np.abs(ref) * (1 + below_max) if name == "softmax" else below_max + 1
        assert_close_to_reference(got, ref, plain, scale=scale, label=label)

        backward, formula = (getattr(m, f"{name}_backward") for m in (kernels, reference))
        y = got
        got = backward(grad, y, axis)
        ref, plain = formula(wide_grad, widen(y), axis), formula(*native(grad, y), axis)
        size = np.abs(wide_grad)
        if name == "softmax":
            p = widen(y)
            scale = p * (size + (size * p).sum(axis=axis, keepdims=True))
        else:
            p = np.exp(widen(y))
            total = size.sum(axis=axis, keepdims=True)
            scale = size + p * (1 + np.abs(np.where(p > 0, widen(y), 0))) * total
        assert_close_to_reference(got, ref, plain, scale=scale, label=f"{label}, backward")


def check_cross_entropy(
    kernels: Any, dtype: Any, shape: tuple[int, ...], reduction: str, rng: np.random.Generator
) -> None:
    """Hold the loss and its gradient against the reference, with every option."""
    classes = shape[0] if len(shape) == 1 else shape[1]
    axis = 0 if len(shape) == 1 else 1
    samples = () if len(shape) == 1 else (shape[0], *shape[2:])
    logits = 4 * normal(rng, dtype, *shape)
    for weighted, smoothing, kind in itertools.product(
        (False, True), (0.0, 0.1, 1.0), ("int64", "int32", "probabilities")
    ):
        weight = rng.uniform(0.1, 2, classes).astype(dtype) if weighted else None
        if kind == "probabilities":
            target = reference.softmax(native(normal(rng, dtype, *shape)), axis).astype(dtype)
        else:
            target = np.asarray(rng.integers(0, classes, samples), dtype=kind)
            if target.size > 2:
                target.flat[1] = -7
        options: dict[str, Any] = {"ignore_index": -7, "label_smoothing": smoothing}
        wide: dict[str, Any] = {**options, "weight": widen(weight)}
        plainly: dict[str, Any] = {**options, "weight": native(weight)}
        options["weight"] = weight
        label = f"cross_entropy of {shape}, {kind}, {options}"

        got = kernels.cross_entropy(logits, target, **options, reduction=reduction)
        assert isinstance(got, np.ndarray), label
        assert got.shape == (samples if reduction == "none" else ()), label
        plain = reference.cross_entropy(*native(logits, target), **plainly, reduction=reduction)
        terms, total, mean = (
            reference.cross_entropy(*widen(logits, target), **wide, reduction=r)
            for r in ("none", "sum", "mean")
        )
        # -log p is a sum of positive terms, but where it is tiny log(sum) rounds to eps.
        top = 1.0 if weight is None else float(weight.max())
        if kind == "probabilities":
            divisor = logits.size / classes
        else:
            counted = target[target != -7]
            divisor = float(counted.size if weight is None else widen(weight)[counted].sum())
        scales = {"none": np.abs(terms) + top, "sum": np.sum(np.abs(terms) + top)}
        scales["mean"] = scales["sum"] / divisor
        ref = {"none": terms, "sum": total, "mean": mean}[reduction]
        assert_close_to_reference(got, ref, plain, scale=scales[reduction], label=label)

        grad = normal(rng, dtype, *got.shape)
        options["reduction"] = wide["reduction"] = plainly["reduction"] = reduction
        got = kernels.cross_entropy_backward(grad, logits, target, **options)
        ref = reference.cross_entropy_backward(*widen(grad, logits, target), **wide)
        plain = reference.cross_entropy_backward(*native(grad, logits, target), **plainly)
        size = np.abs(widen(grad)) * top / (divisor if reduction == "mean" else 1)
        scale = np.expand_dims(size, axis) if reduction == "none" else size
        assert_close_to_reference(got, ref, plain, scale=scale, label=f"{label}, backward")


def targets(rng: np.random.Generator, shape: tuple[int, ...], kind: str = "int64") -> Any:
    """Return class indices of which the second is -7."""
    where = () if len(shape) == 1 else (shape[0], *shape[2:])
    target = np.asarray(rng.integers(0, shape[min(1, len(shape) - 1)], where), dtype=kind)
    if target.size > 2:
        target.flat[1] = -7
    return target


def check_nll_loss(
    kernels: Any, dtype: Any, shape: tuple[int, ...], reduction: str, rng: np.random.Generator
) -> None:
    """Hold the loss of log-probabilities and its gradient against the reference."""
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
        plain = reference.nll_loss(native(z), target, weight=native(weight), **how)
        ref = reference.nll_loss(widen(z), target, weight=widen(weight), **how)
        terms = reference.nll_loss(
            widen(z), target, weight=widen(weight), ignore_index=-7, reduction="none"
        )
        counted = target[target != -7]
        divisor = float(counted.size if weight is None else widen(weight)[counted].sum())
        total = np.abs(terms).sum()
        scale = {"none": np.abs(terms), "sum": total, "mean": total / divisor}[reduction]
        assert_close_to_reference(got, ref, plain, scale=scale, label=label)

        grad = normal(rng, dtype, *got.shape)
        got = kernels.nll_loss_backward(grad, z, target, weight=weight, **how)
        ref = reference.nll_loss_backward(*widen(grad, z), target, weight=widen(weight), **how)
        plain = reference.nll_loss_backward(*native(grad, z), target, weight=native(weight), **how)
        assert_close_to_reference(got, ref, plain, scale=np.abs(ref), label=f"{label}, backward")


def check_what_does_not_count(kernels: Any, dtype: Any) -> None:
    """Hold nll_loss to 0 for ignored samples and weights of 0, whatever their logits."""
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
