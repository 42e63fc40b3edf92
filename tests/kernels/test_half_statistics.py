"""Softmax, the losses and the norms of float16 and bfloat16, at every ISA.

They are held against the reference, and to the bits of the float32 kernels rounded once.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from halves import RoundedOnce, assert_same_numbers, rounded
from norm_checks import (
    IMAGES,
    ROW_NORMS,
    Problem,
    check,
    check_constant_data,
    check_nothing,
    check_rows,
    check_specials,
)
from softmax_checks import (
    LOGITS,
    REDUCTIONS,
    check_cross_entropy,
    check_nll_loss,
    check_what_does_not_count,
    targets,
)
from softmax_checks import check as check_softmax
from tolerances import assert_same_bits

from .problems import normal, thread_counts

pytestmark = pytest.mark.usefixtures("isa")

CHANNEL_NORMS = ("batch_norm", "group_norm", "instance_norm")
#: Around vectors, the room for exponentials, blocks and the longest row of float32 in one piece.
CLASSES = [1, 3, 8, 33, 130, 1003, 4096, 4099, 65_536, 65_541]


@pytest.mark.parametrize("classes", CLASSES)
def test_softmax_of_rows(classes: int, half: Any, rng: np.random.Generator) -> None:
    rows = 5 if classes < 5000 else 2
    x, grad = (4 * normal(rng, half, rows, classes) for _ in range(2))
    check_softmax(RoundedOnce(kernels, half), x.astype(np.float32), grad.astype(np.float32), -1)
    if classes < 5000:
        check_softmax(kernels, x, grad, -1)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(3, 5, 7), (17, 1, 33), (2, 130, 9), (20, 2, 300)])
def test_softmax_along_any_axis(
    shape: tuple[int, ...], axis: int, half: Any, rng: np.random.Generator
) -> None:
    x, grad = normal(rng, np.float32, *shape), normal(rng, np.float32, *shape)
    check_softmax(RoundedOnce(kernels, half), x, grad, axis)
    check_softmax(kernels, x.astype(half), grad.astype(half), axis)


def test_results_beyond_the_caches(half: Any, rng: np.random.Generator) -> None:
    """Those are stored past them, wherever they begin."""
    for rows, n in ((1030, 4100), (4300, 1001)):
        x = normal(rng, half, rows, n)
        room = np.zeros(x.size + 31, half)
        for offset in (0, 1, 31):
            out = room[offset : offset + x.size].reshape(x.shape)
            for name in ("log_softmax", "layer_norm"):
                options = (n,) if name == "layer_norm" else ()
                expected = getattr(kernels, name)(x.astype(np.float32), *options)
                getattr(kernels, name)(x, *options, out=out)
                assert_same_bits(out, rounded(expected, half), f"{name}, offset {offset}")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", LOGITS, ids=str)
def test_losses(
    shape: tuple[int, ...], reduction: str, half: Any, rng: np.random.Generator
) -> None:
    check_cross_entropy(kernels, half, shape, reduction, rng)
    check_nll_loss(kernels, half, shape, reduction, rng)


@pytest.mark.parametrize("shape", [(4, 10), (3, 4099), (2, 5, 300), (2, 70_000)], ids=str)
def test_losses_are_rounded_once(
    shape: tuple[int, ...], half: Any, rng: np.random.Generator
) -> None:
    once = RoundedOnce(kernels, half)
    logits = 3 * normal(rng, np.float32, *shape)
    weight = rng.uniform(0.1, 2, shape[1]).astype(np.float32)
    soft = reference.softmax(normal(rng, np.float32, *shape), 1)
    for reduction, smoothing in itertools.product(REDUCTIONS, (0.0, 0.1)):
        for target, w in itertools.product((targets(rng, shape), soft), (None, weight)):
            options: dict[str, Any] = {"weight": w, "ignore_index": -7, "reduction": reduction}
            indexed = target is not soft and smoothing == 0
            names = ("cross_entropy", "nll_loss") if indexed else ("cross_entropy",)
            for name in names:
                if name == "cross_entropy":
                    options["label_smoothing"] = smoothing
                else:
                    del options["label_smoothing"]
                shape_of_loss = getattr(kernels, name)(logits, target, **options).shape
                grad = normal(rng, np.float32, *shape_of_loss)
                once.compare(name, logits, target, **options)
                once.compare(f"{name}_backward", grad, logits, target, **options)


def test_what_does_not_count(half: Any) -> None:
    check_what_does_not_count(kernels, half)


@pytest.mark.parametrize("name", ROW_NORMS)
@pytest.mark.parametrize("n", [1, 7, 16, 33, 130, 4096, 9001])
def test_norms_of_rows(name: str, n: int, half: Any, rng: np.random.Generator) -> None:
    check_rows(kernels, name, n, half, rng, rows=37 if n < 500 else 5)
    once = RoundedOnce(kernels, half)
    for rows in (3, 40):
        x, grad, w = (normal(rng, np.float32, *s) for s in ((rows, n), (rows, n), (n,)))
        for weight, activation in itertools.product((None, w), (None, "relu")):
            once.compare(name, x, n, weight, eps=1e-3, activation=activation, return_stats=True)
            once.compare(f"{name}_backward", grad, x, n, weight, eps=1e-3)


@pytest.mark.parametrize("shape", IMAGES, ids=str)
@pytest.mark.parametrize("name", CHANNEL_NORMS)
def test_norms_of_channels(
    name: str, shape: Any, layout: str, half: Any, rng: np.random.Generator
) -> None:
    if name == "instance_norm" and not shape[2]:
        shape = (*shape[:2], (2,))
    for fixed in (False, True) if name != "group_norm" else (False,):
        check(kernels, Problem(name, shape, layout, rng, half, fixed=fixed), "relu")
        problem = Problem(name, shape, layout, rng, np.dtype(np.float32), fixed=fixed)
        once = RoundedOnce(kernels, half)
        problem.forward(once, problem.operands(), return_stats=True)
        problem.backward(once, problem.operands())


def test_running_statistics(half: Any, rng: np.random.Generator) -> None:
    x = normal(rng, half, 4, 5, 3)
    for name in ("batch_norm", "instance_norm"):
        wide = np.zeros(5, np.float32), np.ones(5, np.float32)
        getattr(kernels, name)(x.astype(np.float32), *wide, None, None, True)
        room = np.full((2, 16), 7, half)
        room[0, 1:11:2], room[1, 4:14:2] = 0, 1
        getattr(kernels, name)(x, room[0, 1:11:2], room[1, 4:14:2], None, None, True)
        assert_same_bits(room[0, 1:11:2].copy(), rounded(wide[0], half))
        assert_same_bits(room[1, 4:14:2].copy(), rounded(wide[1], half))
        assert (np.delete(room[0], range(1, 11, 2)) == 7).all()


def test_an_activation_of_what_was_rounded(
    layout: str, half: Any, rng: np.random.Generator
) -> None:
    x = normal(rng, half, 3, 8, 34)
    calls = [(kernels.layer_norm, (34,), {}), (kernels.rms_norm, (34,), {})]
    for norm, args, options in [*calls, (kernels.group_norm, (2,), {"layout": layout})]:
        y = norm(x, *args, activation="silu", **options)
        assert_same_bits(y, kernels.silu(norm(x, *args, **options)))


def test_specials(half: Any, layout: str) -> None:
    check_constant_data(kernels, half, layout)
    check_specials(kernels, half)
    for shape in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        check_nothing(kernels, shape, half, layout)


def test_same_bits_for_any_number_of_threads(
    half: Any, layout: str, rng: np.random.Generator
) -> None:
    x, grad = normal(rng, half, 6, 40, 900), normal(rng, half, 6, 40, 900)
    first: Any = None
    for _ in thread_counts():
        results = [
            kernels.softmax(x, 1),
            kernels.log_softmax(x.reshape(2, -1)),
            *kernels.layer_norm_backward(grad, x, 900, grad[0, 0]),
            kernels.batch_norm(x, training=True, layout=layout),
            *kernels.group_norm_backward(grad, x, 4, layout=layout),
        ]
        first = first or results
        for got, expected in zip(results, first, strict=True):
            assert_same_numbers(got, expected)
