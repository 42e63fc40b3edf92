"""unfold and fold on a device: the cases of the CPU, and 16 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arraynn import kernels, reference
from kernels.problems import normal
from kernels.test_conv_fold import CASES, check, check_property
from tolerances import assert_same_bits

#: Several blocks, rows of results that begin beside packs, windows that miss the image.
MORE: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 5, 21, 23), {"kernel_size": (5, 3), "padding": 2}),
    ((1, 3, 2, 3), {"kernel_size": 2, "padding": 5, "dilation": 4, "stride": 3}),
]


@pytest.mark.parametrize(("shape", "options"), [*CASES, *MORE], ids=str)
def test_values(
    dtype: Any, device: Any, shape: tuple[int, ...], options: dict[str, Any], rng: Any
) -> None:
    x = normal(rng, dtype, *shape)
    y, image = check(x, rng, device.kernels, **options)
    if x.size == 0:
        return
    alone, _ = check(x[:1], rng, device.kernels, **options)
    assert_same_bits(alone, y[:1], "a sample alone")
    assert image.shape == shape


@given(data=st.data())
@settings(max_examples=20)
def test_property(data: st.DataObject, device: Any) -> None:
    check_property(data, device.kernels, 15)


def test_same_bits_in_any_memory_at_every_schedule(
    storage: Any, device: Any, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((2, 3, 9, 11)).astype(storage)
    there = device.put(x)
    y = kernels.unfold(there, 3, 1, 1, 2)
    image = device.get(kernels.fold(y, (9, 11), 3, 1, 1, 2))
    for schedule in device.schedules():
        assert_same_bits(device.get(kernels.unfold(there, 3, 1, 1, 2)), device.get(y), schedule)
        assert_same_bits(device.get(kernels.fold(y, (9, 11), 3, 1, 1, 2)), image, schedule)
    for offset in (0, 1, 8):  # results that begin beside 16 bytes, between guards
        for result, call in (
            (device.get(y), lambda out: kernels.unfold(there, 3, 1, 1, 2, out=out)),
            (image, lambda out: kernels.fold(y, (9, 11), 3, 1, 1, 2, out=out)),
        ):
            hole = device.put(np.full(result.size + 17, 7, storage))
            inside = hole[offset : offset + result.size].reshape(*result.shape)
            assert call(inside) is inside
            assert_same_bits(device.get(inside), result)
            inside[...] = device.put(np.full(result.shape, 7, storage))
            assert (device.get(hole).astype(np.float32) == 7).all()
    turned = device.put(np.ascontiguousarray(x.T)).T
    assert_same_bits(device.get(kernels.unfold(turned, 3, 1, 1, 2)), device.get(y), "strided")


def test_sixteen_bits_are_rounded_once(half: Any, device: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 7, 9)).astype(half)
    y = device.kernels.unfold(x, 3, 1, 1)
    assert_same_bits(y, reference.unfold(x.astype(np.float32), 3, 1, 1).astype(half))
    wide = device.kernels.fold(y.astype(np.float32), (7, 9), 3, 1, 1)
    assert_same_bits(device.kernels.fold(y, (7, 9), 3, 1, 1), wide.astype(half))


def test_nan_and_infinity_are_moved(dtype: Any, device: Any) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1], dtype).reshape(1, 1, 2, 2)
    y = device.kernels.unfold(x, 2, padding=1)
    assert_same_bits(y, reference.unfold(x, 2, padding=1))
    found = device.kernels.fold(y, 2, 2, padding=1)
    np.testing.assert_array_equal(found, reference.fold(y, 2, 2, padding=1))


def test_wrong_calls(device: Any) -> None:
    x = device.put(np.ones((1, 1, 3, 3), np.float32))
    with pytest.raises(TypeError, match=r"\[unfold\] x: expected float16, bfloat16"):
        kernels.unfold(device.put(np.ones((1, 1, 3, 3), np.int32)), 2)
    with pytest.raises(ValueError, match=r"\[unfold\] kernel_size: expected a window that fits"):
        kernels.unfold(x, 5)
    with pytest.raises(ValueError, match=r"\[fold\] x: expected 9 x 9 windows along axis 2"):
        kernels.fold(device.put(np.ones((1, 4, 9), np.float32)), 10, 2)
