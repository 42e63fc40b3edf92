"""glu and its backward against the reference, PyTorch and ONNX' SwiGLU, at every ISA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from memory import Guarded, mixed_layouts
from onnx_nodes import node_cases
from tolerances import assert_close_to_reference, assert_gradient, assert_same_bits, widen

from .problems import LENGTHS, normal, thread_counts

pytestmark = pytest.mark.usefixtures("isa")

ACTIVATIONS = [
    *(None, "sigmoid", "relu", "silu", "gelu", "gelu_tanh", "tanh", "leaky_relu", "elu", "selu"),
    *("hardsigmoid", "hardswish", "mish", "softplus"),
]
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def check(x: Any, grad: Any, axis: int, activation: str | None) -> None:
    """Hold both directions against the reference."""
    how = {"activation": activation}
    y, dx = kernels.glu(x, axis, **how), kernels.glu_backward(grad, x, axis, **how)
    wide, wide_grad = widen(x, grad)
    a, b = np.split(np.abs(wide), 2, axis)
    # gelu is accurate to eps |x| (1 + erf cancels), hardswish in its ramp; slopes are below 2.
    assert_close_to_reference(
        y, reference.glu(wide, axis, **how), reference.glu(x, axis, **how), scale=a * (b + 1)
    )
    scale = np.abs(wide_grad)
    assert_close_to_reference(
        dx,
        reference.glu_backward(wide_grad, wide, axis, **how),
        reference.glu_backward(grad, x, axis, **how),
        scale=np.concatenate((scale * (b + 1), 2 * scale * a), axis),
    )


@every_activation
def test_lengths(activation: str | None, dtype: Any, rng: np.random.Generator) -> None:
    for n in LENGTHS:
        x, grad = 3 * normal(rng, dtype, 3, 2 * n), normal(rng, dtype, 3, n)
        check(x, grad, -1, activation)


@pytest.mark.parametrize("activation", ["sigmoid", "silu", None])
def test_axes(activation: str | None, dtype: Any, rng: np.random.Generator) -> None:
    for shape in ((4,), (6, 5), (2, 4, 6), (4, 2, 3, 8), (0, 4), (4, 0), (2, 0, 3)):
        x = normal(rng, dtype, *shape)
        for axis in range(-len(shape), len(shape)):
            if shape[axis] % 2 == 0:
                half = [n // 2 if i == axis % len(shape) else n for i, n in enumerate(shape)]
                check(x, normal(rng, dtype, *half), axis, activation)


@every_activation
def test_is_the_product_of_the_kernels(
    activation: str | None, dtype: Any, rng: np.random.Generator
) -> None:
    x, grad = 3 * normal(rng, dtype, 5, 74), normal(rng, dtype, 5, 37)
    a, b = (np.ascontiguousarray(h) for h in np.split(x, 2, -1))
    name, more = activation or "", {}
    if activation == "gelu_tanh":
        name, more = "gelu", {"approximate": "tanh"}
    gate = getattr(kernels, name)(b, **more) if name else b
    assert_same_bits(kernels.glu(x, activation=activation), a * gate)
    ones = np.ones_like(b)
    slope = getattr(kernels, f"{name}_backward")(ones, b, **more) if name else ones
    dx = kernels.glu_backward(grad, x, activation=activation)
    assert_same_bits(dx, np.concatenate((grad * gate, grad * a * slope), -1))


def test_infinities_and_nan(dtype: Any) -> None:
    a = np.array([np.inf, np.nan, -np.inf, 1, 1, 1, 0] * 5, dtype)
    b = np.array([1, 1, 1, np.inf, np.nan, -np.inf, np.inf] * 5, dtype)
    x = np.concatenate((a, b))
    np.testing.assert_allclose(kernels.glu(x), reference.glu(x), rtol=1e-6)


def test_any_memory(dtype: Any, rng: np.random.Generator) -> None:
    x, grad = normal(rng, dtype, 4, 6, 22), normal(rng, dtype, 4, 3, 22)
    y, dx = kernels.glu(x, 1), kernels.glu_backward(grad, x, 1)
    for memory, (v, g) in mixed_layouts(x, grad):
        assert_same_bits(kernels.glu(v, 1), y, memory)
        assert_same_bits(kernels.glu_backward(g, v, 1), dx, memory)


@pytest.mark.parametrize("strided", [False, True])
def test_out_is_filled_and_nothing_beside_it(
    dtype: Any, strided: bool, rng: np.random.Generator
) -> None:
    for n in (1, 5, 16, 33):
        x, grad = normal(rng, dtype, 3, 2 * n), normal(rng, dtype, 3, n)
        guard = Guarded((3, n), dtype, strided=strided)
        assert kernels.glu(x, out=guard.out) is guard.out
        assert_same_bits(guard.out, kernels.glu(x))
        guard.check()
        guard = Guarded(x.shape, dtype, strided=strided)
        assert kernels.glu_backward(grad, x, out=guard.out) is guard.out
        assert_same_bits(guard.out, kernels.glu_backward(grad, x))
        guard.check()


@pytest.mark.parametrize("activation", ["sigmoid", "silu", "gelu"])
def test_same_bits_for_every_thread_count(
    activation: str, dtype: Any, rng: np.random.Generator
) -> None:
    for shape, axis in (((3, 60_001, 2), -1), ((3, 2, 70_003), 1), ((2, 150_001), 0)):
        x = 3 * normal(rng, dtype, *shape)
        y = kernels.glu(x, axis, activation=activation)
        grad = normal(rng, dtype, *y.shape)
        dx = kernels.glu_backward(grad, x, axis, activation=activation)
        for n in thread_counts():
            assert_same_bits(kernels.glu(x, axis, activation=activation), y, f"{n} threads")
            again = kernels.glu_backward(grad, x, axis, activation=activation)
            assert_same_bits(again, dx, f"{n} threads")
        if axis:
            alone = kernels.glu(x[1:2], axis, activation=activation)
            assert_same_bits(alone, y[1:2], "a sample alone")


@every_activation
def test_backward_is_the_derivative(activation: str | None, rng: np.random.Generator) -> None:
    x, grad = rng.uniform(-6, 6, (3, 40)), rng.standard_normal((3, 20))
    kinks = np.array([-3.0, 0.0, 3.0])
    x[np.abs(x[..., None] - kinks).min(-1) < 1e-3] += 0.01
    gradient = kernels.glu_backward(grad, x, activation=activation)

    def loss(v: Any) -> Any:
        return np.sum(grad * kernels.glu(v, activation=activation))

    assert_gradient(loss, x, gradient, rng)


def test_pytorchs_glu(dtype: Any, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    for axis in (0, 1, -1):
        x = normal(rng, dtype, 4, 6, 10)
        given = torch.from_numpy(x).requires_grad_()
        expected = torch.nn.functional.glu(given, axis)
        grad = normal(rng, dtype, *expected.shape)
        expected.backward(torch.from_numpy(grad))
        rtol = 16 * np.finfo(dtype).eps
        np.testing.assert_allclose(kernels.glu(x, axis), expected.detach().numpy(), rtol, rtol)
        got = kernels.glu_backward(grad, x, axis)
        np.testing.assert_allclose(got, given.grad.numpy(), rtol, rtol)


def test_onnxs_swiglu() -> None:
    pytest.importorskip("onnx")
    case = node_cases(swiglu="SwiGLU").get("test_swiglu")
    if case is None:
        pytest.skip("this onnx has no SwiGLU")
    ((gate, value), (expected,)) = case.data_sets[0]
    got = kernels.glu(np.concatenate((value, gate), -1), activation="silu")
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-7)
