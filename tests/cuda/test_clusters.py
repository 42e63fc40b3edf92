"""Rows that the blocks of a cluster hold together: softmax, its loss and the norms on a Hopper."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from arraynn import kernels
from kernels.problems import normal
from norm_checks import ROW_NORMS, check_rows
from softmax_checks import check, check_cross_entropy
from tolerances import assert_same_bits


def lengths(dtype: Any, *columns: int) -> list[int]:
    """Scale lengths for float32: a block has a quarter of them in float64."""
    return [n // (4 if np.dtype(dtype).itemsize == 8 else 1) for n in columns]


def launches(device: Any, call: Any, *arguments: Any) -> int:
    before = device.launches()
    call(*arguments)
    return int(device.launches() - before)


#: Clusters of 2, 4 and 8 blocks, whole packs and not, the last one full; their parts unequal.
@pytest.mark.parametrize("which", range(5))
def test_softmax(storage: Any, which: int, hopper: Any, rng: np.random.Generator) -> None:
    classes = lengths(storage, 16_392, 16_388 + 1, 40_000, 40_004 + 3, 65_536)[which]
    x, grad = (4 * normal(rng, storage, 2, classes) for _ in range(2))
    check(hopper.kernels, x, grad, -1)


@pytest.mark.parametrize("classes", [9001, 20_000])
def test_cross_entropy(storage: Any, classes: int, hopper: Any, rng: np.random.Generator) -> None:
    shape = (2, lengths(storage, classes)[0])
    check_cross_entropy(hopper.kernels, storage, shape, "none", rng)


@pytest.mark.parametrize("name", ROW_NORMS)
@pytest.mark.parametrize("n", [9001, 20_000, 33_000])
def test_norms(name: str, n: int, storage: Any, hopper: Any, rng: np.random.Generator) -> None:
    check_rows(hopper.kernels, name, lengths(storage, n)[0], storage, rng, rows=2)


def test_infinities_and_nan_of_another_block(storage: Any, hopper: Any) -> None:
    n = lengths(storage, 17_000)[0]
    x = np.zeros((5, n), storage)
    x[0, 1:] = -np.inf
    x[1] = -np.inf
    x[2, -1] = np.inf
    x[3, -1] = np.nan
    x[4, n // 2 :] = -np.inf
    got = hopper.kernels.softmax(x).astype(np.float64)
    assert got[0, 0] == 1
    assert not got[0, 1:].any()
    assert np.isnan(got[1:4]).any(axis=1).all()
    assert np.isnan(got[[1, 3]]).all()
    np.testing.assert_allclose(got[4, : n // 2], 1 / (n // 2), rtol=1e-2)
    assert not got[4, n // 2 :].any()


def test_same_bits_at_every_schedule_and_in_any_batch(
    storage: Any, hopper: Any, rng: np.random.Generator
) -> None:
    for n in lengths(storage, 16_500, 33_001):
        x, grad, w = (hopper.put(normal(rng, storage, *s)) for s in ((3, n), (3, n), (n,)))
        target = hopper.put(rng.integers(0, n, 3))

        def results(i: Any, x: Any = x, grad: Any = grad, w: Any = w, t: Any = target) -> Any:
            """Every function of some rows."""
            y = kernels.softmax(x[i])
            loss = {"weight": w, "label_smoothing": 0.1}
            yield y
            yield kernels.softmax_backward(grad[i], y)
            yield kernels.cross_entropy(x[i], t[i], **loss, reduction="none")
            yield kernels.cross_entropy_backward(1.0, x[i], t[i], **loss, reduction="sum")
            for name in ROW_NORMS:
                yield getattr(kernels, name)(x[i], x.shape[1], w)
                yield getattr(kernels, f"{name}_backward")(
                    grad[i], x[i], x.shape[1], w, needs=("x",)
                )[0]

        first = [hopper.get(a) for a in results(slice(None))]
        for schedule in itertools.islice(hopper.schedules(), 1, None):
            for got, expected in zip(results(slice(None)), first, strict=True):
                assert_same_bits(hopper.get(got), expected, schedule)
        for got, expected in zip(results(slice(1, 2)), first, strict=True):
            assert_same_bits(hopper.get(got), expected[1:2], "one row")


def test_gradients_by_weight_at_every_schedule(
    dtype: Any, hopper: Any, rng: np.random.Generator
) -> None:
    """More rows than parts: a cluster goes over several."""
    n = lengths(dtype, 8200)[0]
    x, grad, w = (hopper.put(normal(rng, dtype, *s)) for s in ((17, n), (17, n), (n,)))
    first: Any = None
    for schedule in itertools.islice(hopper.schedules(), 2):
        got = [hopper.get(a) for a in kernels.layer_norm_backward(grad, x, n, w)]
        first = first or got
        for a, b in zip(got, first, strict=True):
            assert_same_bits(a, b, schedule)


def test_rows_are_read_once(hopper: Any, rng: np.random.Generator) -> None:
    """One launch, up to the largest row that a cluster holds; chunks beyond it and elsewhere."""
    if hopper.name != "host_cuda":
        pytest.skip("counted by the emulated device only")
    held, longer = (hopper.put(normal(rng, np.float32, 1, n)) for n in (65_536, 65_537))
    y = kernels.softmax(held)
    target = hopper.put(np.array([3]))
    for call in (
        lambda x: kernels.softmax(x),
        lambda x: kernels.softmax_backward(x, y if x is held else x),
        lambda x: kernels.cross_entropy(x, target, reduction="none"),
        lambda x: kernels.cross_entropy_backward(1.0, x, target, reduction="sum"),
        lambda x: kernels.layer_norm(x, x.shape[1]),
        lambda x: kernels.layer_norm_backward(x, x, x.shape[1], needs=("x",)),
    ):
        assert launches(hopper, call, held) <= 2  # and the moments of a backward
        hopper.module.set_capability(8, 0)
        assert launches(hopper, call, held) >= 2
        hopper.module.set_capability(9, 0)
    assert launches(hopper, kernels.layer_norm, held, 65_536) == 1
    assert launches(hopper, kernels.layer_norm, longer, 65_537) == 3
