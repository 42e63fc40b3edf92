"""glu on a device, against the reference and against its parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from kernels.problems import normal
from tolerances import assert_close_to_reference, assert_same_bits, widen

ACTIVATIONS = [
    *(None, "sigmoid", "relu", "silu", "gelu", "gelu_tanh", "tanh", "leaky_relu", "elu", "selu"),
    *("hardsigmoid", "hardswish", "mish", "softplus"),
]
#: Around a pack, and all units that the emulated device's blocks take at once (4096 packs).
HALVES = [0, 1, 3, 4, 5, 8, 17, 64, 250, 8_300]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values(activation: str | None, dtype: Any, device: Any, rng: np.random.Generator) -> None:
    how = {"activation": activation}
    for n in HALVES:
        x, grad = 3 * normal(rng, dtype, 3, 2 * n), normal(rng, dtype, 3, n)
        there, dgrad = device.put(x), device.put(grad)
        wide, wide_grad = widen(x, grad)
        a, b = np.split(np.abs(wide), 2, -1)
        # gelu is accurate to eps |x| (1 + erf cancels), hardswish in its ramp; slopes are below 2.
        assert_close_to_reference(
            device.get(kernels.glu(there, **how)),
            reference.glu(wide, **how),
            reference.glu(x, **how),
            scale=a * (b + 1),
        )
        scale = np.abs(wide_grad)
        assert_close_to_reference(
            device.get(kernels.glu_backward(dgrad, there, **how)),
            reference.glu_backward(wide_grad, wide, **how),
            reference.glu_backward(grad, x, **how),
            scale=np.concatenate((scale * (b + 1), 2 * scale * a), -1),
        )


@pytest.mark.parametrize("activation", ["sigmoid", "silu", None])
def test_axes_schedules_and_slices(
    activation: str | None, storage: Any, device: Any, rng: np.random.Generator
) -> None:
    """The same bits along any axis, in any memory, at every schedule."""
    how = {"activation": activation}
    for shape in ((4,), (6, 5), (2, 4, 6), (4, 2, 3, 8), (0, 4), (4, 0), (2, 0, 3), (6, 80)):
        x = rng.standard_normal(shape).astype(storage)
        for axis in range(-len(shape), len(shape)):
            if shape[axis] % 2 != 0:
                continue
            last = np.moveaxis(x, axis, -1)
            grad = rng.standard_normal((*last.shape[:-1], last.shape[-1] // 2)).astype(storage)
            flat, dflat = device.put(last), device.put(grad)
            y = np.moveaxis(device.get(kernels.glu(flat, -1, **how)), -1, axis)
            dx = np.moveaxis(device.get(kernels.glu_backward(dflat, flat, -1, **how)), -1, axis)
            there = device.put(np.ascontiguousarray(x))
            dgrad = device.put(np.ascontiguousarray(np.moveaxis(grad, -1, axis)))
            for schedule in device.schedules():
                assert_same_bits(device.get(kernels.glu(there, axis, **how)), y, schedule)
                got = kernels.glu_backward(dgrad, there, axis, **how)
                assert_same_bits(device.get(got), dx, schedule)
    x, grad = (rng.standard_normal(s).astype(storage) for s in ((3, 160), (3, 80)))
    there, dgrad = device.put(x), device.put(grad)
    y, dx = kernels.glu(there, **how), kernels.glu_backward(dgrad, there, **how)
    for offset in (0, 1, 8):
        for step in (1, 2):
            holes, inside = [], []
            for n in (160, 80, 80, 160):
                holes.append(device.put(np.zeros((3, step * n + 9), storage)))
                inside.append(holes[-1][:, offset : offset + step * n : step])
            inside[0][...], inside[1][...] = there, dgrad
            assert kernels.glu(inside[0], out=inside[2], **how) is inside[2]
            kernels.glu_backward(inside[1], inside[0], out=inside[3], **how)
            for hole, part, expected in zip(holes[2:], inside[2:], (y, dx), strict=True):
                assert_same_bits(device.get(part), device.get(expected))
                part[...] = device.put(np.zeros(part.shape, storage))
                assert not device.get(hole).astype(np.float32).any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_sixteen_bits_are_rounded_once(
    activation: str | None, half: Any, device: Any, rng: np.random.Generator
) -> None:
    for n in (5, 640):
        x, grad = (rng.standard_normal((3, s)).astype(half) for s in (2 * n, n))
        wide = [device.put(a.astype(np.float32)) for a in (x, grad)]
        there, dgrad = device.put(x), device.put(grad)
        got = device.get(kernels.glu(there, activation=activation))
        expected = device.get(kernels.glu(wide[0], activation=activation))
        assert_same_bits(got, expected.astype(half))
        got = device.get(kernels.glu_backward(dgrad, there, activation=activation))
        expected = device.get(kernels.glu_backward(wide[1], wide[0], activation=activation))
        assert_same_bits(got, expected.astype(half))


def test_wrong_calls(device: Any) -> None:
    x, grad = device.put(np.ones((3, 6), np.float32)), device.put(np.ones((3, 2), np.float32))
    with pytest.raises(ValueError, match=r"\[glu\] x: expected an even length along axis 0, got 3"):
        kernels.glu(x, 0)
    with pytest.raises(ValueError, match=r"\[glu_backward\] grad_out: expected shape \(3, 3\)"):
        kernels.glu_backward(grad, x)
    with pytest.raises(TypeError, match=r"\[glu\] x: expected float16, .*, got int64"):
        kernels.glu(device.put(np.ones((3, 6), np.int64)))
    with pytest.raises(ValueError, match=r"\[glu\] out: expected memory of its own"):
        kernels.glu(x, out=x[:, :3])
