"""softmax, log_softmax and cross_entropy on a device, against the reference."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from kernels.problems import normal
from softmax_checks import (
    LOGITS,
    REDUCTIONS,
    check,
    check_cross_entropy,
    check_nll_loss,
    check_what_does_not_count,
)
from tolerances import assert_same_bits, finfo, native

#: Around groups of 8 threads, warps and blocks of a row, whole packs and not; chunks of long rows.
CLASSES = [1, 3, 8, 33, 64, 127, 260, 513, 1030, 2048, 4099, 8200]
LONG = [16_388, 20_001]


@pytest.mark.parametrize("classes", [*CLASSES, *LONG])
def test_rows(storage: Any, classes: int, device: Any, rng: np.random.Generator) -> None:
    rows = 5 if classes < 5000 else 2
    x, grad = (4 * normal(rng, storage, rows, classes) for _ in range(2))
    check(device.kernels, x, grad, -1)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(3, 5, 7), (17, 1, 33), (1, 1, 1), (2, 130, 9), (260, 2, 3)])
def test_any_axis(
    storage: Any, shape: tuple[int, ...], axis: int, device: Any, rng: np.random.Generator
) -> None:
    check(device.kernels, normal(rng, storage, *shape), normal(rng, storage, *shape), axis)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_nothing_in_nothing_out(storage: Any, shape: tuple[int, ...], device: Any) -> None:
    x = np.zeros(shape, storage)
    for axis in range(len(shape)):
        for name in ("softmax", "log_softmax"):
            assert getattr(device.kernels, name)(x, axis).shape == shape
            assert getattr(device.kernels, f"{name}_backward")(x, x, axis).shape == shape


def test_large_logits(dtype: Any, device: Any, rng: np.random.Generator) -> None:
    big = float(np.finfo(dtype).max) / 4
    for offset in (0.0, 1e4, -1e4, big):
        x = normal(rng, dtype, 4, 37) + dtype.type(offset)
        check(device.kernels, x, normal(rng, dtype, 4, 37), -1)
    x = np.array([[big, -big, 0], [-big, -big, -big]], dtype)
    expected = [[1, 0, 0], [1 / 3] * 3]
    np.testing.assert_allclose(device.kernels.softmax(x), expected, rtol=1e-6)
    np.testing.assert_allclose(device.kernels.softmax(x * 3.9 / 2), expected, rtol=1e-6)


@pytest.mark.parametrize("width", [1, 5, 40, 200, 17_000])
def test_infinities_and_nan(storage: Any, width: int, device: Any) -> None:
    inf, nan = np.inf, np.nan
    rows = np.zeros((6, width), storage)
    rows[0, 1:] = -inf
    rows[1] = -inf
    rows[2, width // 2] = inf
    rows[3, width // 2] = nan
    rows[4, 0], rows[4, -1] = -inf, nan
    rows[5, 0], rows[5, -1] = inf, -inf
    for x, axis in ((rows, 1), (np.ascontiguousarray(rows.T), 0)):
        for name in ("softmax", "log_softmax"):
            got = getattr(device.kernels, name)(x, axis)
            expected = getattr(reference, name)(native(x), axis)
            rtol = max(1e-6, float(finfo(storage).eps))
            np.testing.assert_allclose(native(got), expected, rtol=rtol, err_msg=name)


SHAPES = [((9, 30), -1), ((9, 128), -1), ((5, 1003), -1), ((300, 3), 0), ((3, 12, 5), 1)]


def test_same_bits_at_every_schedule_and_in_any_batch(
    storage: Any, device: Any, rng: np.random.Generator
) -> None:
    for shape, axis in [*SHAPES, ((2, 16_500), -1)]:
        x, grad = device.put(normal(rng, storage, *shape)), device.put(normal(rng, storage, *shape))
        for name in ("softmax", "log_softmax"):
            forward, backward = getattr(kernels, name), getattr(kernels, f"{name}_backward")
            y = forward(x, axis)
            there, dx = device.get(y), device.get(backward(grad, y, axis))
            for schedule in device.schedules():
                assert_same_bits(device.get(forward(x, axis)), there, f"{name}, {schedule}")
                again = device.get(backward(grad, y, axis))
                assert_same_bits(again, dx, f"{name}_backward, {schedule}")
            if axis != 0:
                alone = device.get(forward(x[1:2], axis))
                assert_same_bits(alone, there[1:2], f"{name} of one row of {shape}")


def test_slices_and_strides(storage: Any, device: Any, rng: np.random.Generator) -> None:
    """Rows that begin beside 16 bytes are read in place, strided arrays through a copy."""
    for shape, axis in SHAPES:
        x, grad = normal(rng, storage, *shape), normal(rng, storage, *shape)
        expected = device.kernels.softmax(x, axis)
        dx = device.kernels.softmax_backward(grad, expected, axis)
        for step in (1, 2):
            views = []
            for a in (x, grad, expected):
                big = np.full((*shape[:-1], step * shape[-1] + 3), 7, storage)
                inside = (..., slice(1, 1 + step * shape[-1], step))
                if step == 1:  # contiguous, beside 16 bytes
                    big = np.full(a.size + 3, 7, storage)
                    inside = (slice(1, 1 + a.size),)
                big[inside] = a.reshape(-1) if step == 1 else a
                views.append((device.put(big), inside))
            if step == 1 and (len(shape) != 2 or axis != -1):
                continue
            a, g, y = (there[inside] for there, inside in views)
            if step == 1:
                for row in range(shape[0]):
                    part = slice(row * shape[1], (row + 1) * shape[1])
                    got = device.get(kernels.softmax(a[part]))
                    assert_same_bits(got, expected[row], f"row {row} of {shape}")
                continue
            assert_same_bits(device.get(kernels.softmax(a, axis)), expected, f"{shape}")
            assert_same_bits(device.get(kernels.softmax_backward(g, y, axis)), dx, f"{shape}")


def test_out_is_filled_and_nothing_beside_it(
    storage: Any, device: Any, rng: np.random.Generator
) -> None:
    for shape, axis in SHAPES:
        x, size = normal(rng, storage, *shape), int(np.prod(shape))
        dx = device.put(x)
        for name in ("softmax", "log_softmax"):
            expected = getattr(device.kernels, name)(x, axis)
            for offset in (0, 1, 4):
                if len(shape) != 2:
                    continue
                host = np.full((shape[0], shape[1] + 8), 7, storage)
                inside = (slice(None), slice(offset, offset + shape[1]))
                whole = device.put(host)
                assert getattr(kernels, name)(dx, axis, out=whole[inside]) is not None
                host[inside] = expected
                assert_same_bits(device.get(whole), host, f"{name} of {shape}, offset {offset}")
            flat = device.put(np.full(size + 9, 7, storage))
            if len(shape) == 2 and axis == -1:
                row = flat[1 : 1 + shape[1]]
                getattr(kernels, name)(dx[0], out=row)
                host = np.full(size + 9, 7, storage)
                host[1 : 1 + shape[1]] = expected[0]
                assert_same_bits(device.get(flat), host, f"{name} of a row of {shape}")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [*LOGITS, (2, 140, 3), (3, 700), (2, 9001)], ids=str)
def test_cross_entropy(
    dtype: Any, shape: tuple[int, ...], reduction: str, device: Any, rng: np.random.Generator
) -> None:
    check_cross_entropy(device.kernels, dtype, shape, reduction, rng)


@pytest.mark.parametrize("shape", [(5,), (4, 5, 3), (2, 140, 3), (3, 700), (2, 9001)], ids=str)
def test_losses_in_sixteen_bits(
    half: Any, shape: tuple[int, ...], device: Any, rng: np.random.Generator
) -> None:
    for reduction in ("none", "mean"):
        check_cross_entropy(device.kernels, half, shape, reduction, rng)
        check_nll_loss(device.kernels, half, shape, reduction, rng)


def test_cross_entropy_of_many_samples(dtype: Any, device: Any, rng: np.random.Generator) -> None:
    """More samples than one block adds up."""
    logits = normal(rng, dtype, 33_000, 2)
    target, weight = rng.integers(0, 2, 33_000), np.array([0.3, 1.7], dtype)
    wide, heavy = (logits.astype(np.float64), target), weight.astype(np.float64)
    got = device.kernels.cross_entropy(logits, target, weight=weight)
    np.testing.assert_allclose(
        got, reference.cross_entropy(*wide, weight=heavy), rtol=8 * np.finfo(dtype).eps
    )
    grad = np.ones((), dtype)
    dx = device.kernels.cross_entropy_backward(grad, logits, target, weight=weight)
    expected = reference.cross_entropy_backward(1.0, *wide, weight=heavy)
    scale = 16 * float(np.finfo(dtype).eps) * np.abs(expected).max()
    np.testing.assert_allclose(dx, expected, atol=scale, rtol=0)


def test_cross_entropy_extremes(dtype: Any, device: Any) -> None:
    inf = np.inf
    logits = np.array([[0, -inf, 0], [1e4, -1e4, 0], [3e4, 3e4, 3e4]], dtype)
    for target in ([0, 0, 2], [2, 1, 1], [1, 2, 0]):
        indices = np.array(target)
        for reduction in ("none", "sum", "mean"):
            got = device.kernels.cross_entropy(logits, indices, reduction=reduction)
            expected = reference.cross_entropy(logits, indices, reduction=reduction)
            np.testing.assert_allclose(got, expected, rtol=1e-6)
    got = device.kernels.cross_entropy_backward(np.ones((), dtype), logits, np.array([0, 0, 2]))
    expected = reference.cross_entropy_backward(1.0, logits, np.array([0, 0, 2]))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


def test_cross_entropy_of_nothing(storage: Any, device: Any) -> None:
    k = device.kernels
    logits, target = np.zeros((0, 3), storage), np.zeros(0, np.int64)
    assert k.cross_entropy(logits, target, reduction="none").shape == (0,)
    assert k.cross_entropy(logits, target, reduction="sum") == 0
    assert np.isnan(k.cross_entropy(logits, target))
    one = np.ones((), storage)
    assert k.cross_entropy_backward(one, logits, target).shape == (0, 3)
    ignored = np.full(4, -100)
    logits = np.ones((4, 3), storage)
    assert np.isnan(k.cross_entropy(logits, ignored))
    assert k.cross_entropy(logits, ignored, reduction="sum") == 0
    for reduction in ("sum", "mean"):
        got = k.cross_entropy_backward(one, logits, ignored, reduction=reduction)
        np.testing.assert_array_equal(got, np.zeros_like(logits))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [*LOGITS, (3, 4, 255)], ids=str)
def test_nll_loss(
    dtype: Any, shape: tuple[int, ...], reduction: str, device: Any, rng: np.random.Generator
) -> None:
    check_nll_loss(device.kernels, dtype, shape, reduction, rng)


def test_what_does_not_count_in_an_nll_loss(storage: Any, device: Any) -> None:
    check_what_does_not_count(device.kernels, storage)


def test_wrong_class_indices_give_nan(storage: Any, device: Any, rng: np.random.Generator) -> None:
    """They are not waited for; nothing is read beside the logits."""
    for shape in ((4, 5), (4, 5, 3), (4, 9001)):
        logits = normal(rng, storage, *shape)
        target = rng.integers(0, 5, (shape[0], *shape[2:]))
        target[1], target[2] = -1, shape[1]
        loss = device.kernels.cross_entropy(logits, target, reduction="none")
        grad = device.kernels.cross_entropy_backward(loss * 0 + 1, logits, target, reduction="none")
        wrong = np.zeros(shape[0], bool)
        wrong[1:3] = True
        assert np.isnan(loss[wrong]).all()
        assert np.isfinite(loss[~wrong]).all()
        assert np.isnan(grad[wrong]).all()
        grad = device.kernels.cross_entropy_backward(
            np.ones((), storage), logits, target, reduction="sum"
        )
        assert np.isfinite(grad[~wrong]).all()
        loss = device.kernels.nll_loss(logits, target, reduction="none")
        grad = device.kernels.nll_loss_backward(1.0, logits, target, reduction="sum")
        assert np.isnan(loss[wrong]).all()
        assert np.isnan(grad[wrong]).all()
        assert np.isfinite(loss[~wrong]).all()
        assert np.isfinite(grad[~wrong]).all()


def test_cross_entropy_has_the_same_bits_at_every_schedule(
    storage: Any, device: Any, rng: np.random.Generator
) -> None:
    for shape in ((40, 70), (6, 9, 5), (2, 150, 3), (2, 8500)):
        logits, weight = normal(rng, storage, *shape), rng.random(shape[1]).astype(storage)
        hard = rng.integers(0, shape[1], (shape[0], *shape[2:]))
        soft = reference.softmax(native(logits), 1).astype(storage)
        for target, smoothing in itertools.product((hard, soft), (0.0, 0.2)):
            arguments = device.put(logits), device.put(target)
            options: dict[str, Any] = {"weight": device.put(weight), "label_smoothing": smoothing}
            grad = device.put(np.array(0.7, storage))
            first: Any = None
            for schedule in device.schedules():
                loss = device.get(kernels.cross_entropy(*arguments, **options))
                dx = device.get(kernels.cross_entropy_backward(grad, *arguments, **options))
                first = first or (loss, dx)
                assert_same_bits(loss, first[0], f"{shape}, {schedule}")
                assert_same_bits(dx, first[1], f"{shape}, {schedule}, backward")
            by_number = device.get(kernels.cross_entropy_backward(1.0, *arguments, **options))
            one = device.put(np.ones((), storage))
            by_array = device.get(kernels.cross_entropy_backward(one, *arguments, **options))
            assert_same_bits(by_number, by_array)


def test_wrong_calls(device: Any, rng: np.random.Generator) -> None:
    logits = normal(rng, np.float32, 4, 5)
    there, target = device.put(logits), rng.integers(0, 5, 4)
    cases: list[tuple[Any, Any, str]] = [
        (lambda: kernels.softmax(there, 2), ValueError, "[softmax] axis: expected an axis"),
        (
            lambda: kernels.softmax_backward(there, logits),
            TypeError,
            "[softmax_backward] y: expected an array on the GPU",
        ),
        (
            lambda: kernels.cross_entropy(there, target),
            TypeError,
            "[cross_entropy] target: expected an array on the GPU",
        ),
        (
            lambda: kernels.cross_entropy(there, device.put(target[:3])),
            ValueError,
            "[cross_entropy] target: expected shape (4,)",
        ),
        (
            lambda: kernels.cross_entropy(there, device.put(target.astype(np.uint8))),
            TypeError,
            "[cross_entropy] target: expected int64 or int32 class indices",
        ),
        (
            lambda: kernels.cross_entropy_backward(there, there, device.put(target)),
            ValueError,
            "[cross_entropy_backward] grad_out: expected shape ()",
        ),
    ]
    for call, exception, message in cases:
        with pytest.raises(exception, match=re.escape(message)):
            call()
