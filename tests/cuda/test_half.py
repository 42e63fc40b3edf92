"""float16 and bfloat16 on a device: stored in 16 bits, computed in float32, rounded once.

The float32 kernels are held against the reference elsewhere; here the same arithmetic must come out
of 16-bit arrays, rounded by NumPy's or ml_dtypes' own conversion.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from activations import assert_within_half_a_unit, every_variant, functions
from arraynn import kernels
from halves import assert_same_numbers, every_value, rounded
from optimizer_state import COMMON, State, combinations, rmsprop_state
from tolerances import assert_same_bits

SHAPES: list[tuple[int, ...]] = [(1,), (9,), (2047,), (4096,), (), (2, 0), (7, 33), (16_385,)]


def test_every_value_is_kept(half: Any, device: Any) -> None:
    x = every_value(half)
    there = device.put(x)
    got = device.get(kernels.leaky_relu(there, negative_slope=1.0))
    assert_same_numbers(got, x, "leaky_relu of slope 1")
    got = device.get(kernels.dropout(there, 0.0, 1))
    assert_same_numbers(got, x, "dropout of nothing")


@every_variant
def test_activations(
    name: str, options: dict[str, Any], half: Any, device: Any, rng: np.random.Generator
) -> None:
    kernel, backward, *_ = functions(name)
    x = every_value(half)
    grad = rounded(3 * rng.standard_normal(x.size), half)
    there, dgrad = device.put(x), device.put(grad)
    wide, wide_grad = (device.put(a.astype(np.float32)) for a in (x, grad))
    got = device.get(kernel(there, **options))
    assert_same_numbers(got, rounded(device.get(kernel(wide, **options)), half), name)
    expected = rounded(device.get(backward(wide_grad, wide, **options)), half)
    assert_same_numbers(device.get(backward(dgrad, there, **options)), expected, f"{name}_backward")
    assert_within_half_a_unit(name, options, x, got)


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
def test_dropout(p: float, half: Any, device: Any) -> None:
    for x in (every_value(half), every_value(half)[1000:5007]):
        wide = device.put(x.astype(np.float32))
        expected = rounded(device.get(kernels.dropout(wide, p, 5)), half)
        assert_same_numbers(device.get(kernels.dropout(device.put(x), p, 5)), expected, "dropout")
        got = device.get(kernels.dropout_backward(device.put(x), p, 5))
        assert_same_numbers(got, expected, "dropout_backward")


def both_ways(device: Any, half: Any, rng: np.random.Generator) -> tuple[State, State, State]:
    """Return a state in 16 bits, its copy on the device, and one of the same numbers in float32."""
    start = State(rng, np.float32, SHAPES).mapped(lambda a: rounded(a, half))
    there = start.mapped(device.put)
    return start, there, start.mapped(lambda a: device.put(a.astype(np.float32)))


def assert_rounded(device: Any, got: State, wide: State, half: Any, label: str) -> None:
    for (name, a), (_, b) in zip(got.arrays(), wide.arrays(), strict=True):
        assert_same_bits(device.get(a), rounded(device.get(b), half), f"{name}, {label}")


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("decoupled", [False, True])
def test_adam(
    amsgrad: bool, decoupled: bool, half: Any, device: Any, rng: np.random.Generator
) -> None:
    for options in combinations(**COMMON):
        options |= {"lr": 0.05, "eps": 1e-4, "decoupled": decoupled}
        start, there, wide = both_ways(device, half, rng)
        norms = [s.adam(kernels, 3, amsgrad, **options) for s in (there, wide)]
        assert_rounded(device, there, wide, half, str(options))
        check_norms(device, norms, start.grads, options)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd(
    momentum: float, nesterov: bool, half: Any, device: Any, rng: np.random.Generator
) -> None:
    for options in combinations(**COMMON, step=(1, 2)):
        options |= {"lr": 0.05, "momentum": momentum, "nesterov": nesterov}
        start, there, wide = both_ways(device, half, rng)
        norms = [s.sgd(kernels, **options) for s in (there, wide)]
        assert_rounded(device, there, wide, half, str(options))
        check_norms(device, norms, start.grads, options)


@pytest.mark.parametrize("rule", ["adagrad", "rmsprop", "rmsprop centred", "rmsprop momentum"])
def test_steps_by_a_root(rule: str, half: Any, device: Any, rng: np.random.Generator) -> None:
    start = rmsprop_state(rng, np.float32, SHAPES[:-1]).mapped(lambda a: rounded(a, half))
    there, wide = start.mapped(device.put), start.mapped(lambda a: device.put(a.astype("f4")))
    options = {"lr": 0.05, "eps": 1e-3, "weight_decay": 0.1, "maximize": True, "grad_scale": 2.0}
    for state in (there, wide):
        if rule == "adagrad":
            state.adagrad(kernels, 2, lr_decay=0.3, **options)
        else:
            momentum = 0.9 if "momentum" in rule else 0.0
            state.rmsprop(kernels, "centred" in rule, momentum, **options)
    assert_rounded(device, there, wide, half, rule)


def check_norms(device: Any, norms: list[Any], grads: list[Any], options: dict[str, Any]) -> None:
    if options["max_norm"] is None:
        assert norms == [None, None]
        return
    squares = sum(np.sum(g.astype(np.longdouble) ** 2) for g in grads)
    expected = float(np.sqrt(squares)) / (options["grad_scale"] or 1)
    for norm in norms:
        np.testing.assert_allclose(float(device.get(norm)), expected, rtol=1e-13)


def test_moments_of_float16_may_overflow_as_they_do_in_pytorch(device: Any) -> None:
    """Squares of gradients beyond 256 are no float16: the moment is infinite, the step is 0."""
    lists = [[device.put(np.full(5, v, np.float16))] for v in (1.0, 6e4, 0.0, 0.0)]
    kernels.adam_step(*lists, 1, lr=0.1)
    assert np.isinf(device.get(lists[3][0])).all()
    assert np.isfinite(device.get(lists[0][0])).all()


def test_wrong_dtypes(half: Any, device: Any) -> None:
    x, y = device.put(np.ones(4, half)), device.put(np.ones(4, np.float32))
    with pytest.raises(TypeError, match=rf"x: expected {half.name} \(the dtype of grad_out\), got"):
        kernels.relu_backward(x, y)
    with pytest.raises(TypeError, match=rf"x: expected float32 .*, got {half.name}"):
        kernels.relu_backward(y, x)
    with pytest.raises(TypeError, match=rf"out: expected {half.name}, got float32"):
        kernels.relu(x, out=y)
    if device.name == "host_cuda":  # CuPy has no such arrays
        pairs = device.put(np.zeros(4, "V2"))
        with pytest.raises(
            TypeError, match=r"\[relu\] x: expected float16, bfloat16, .*, got \|V2"
        ):
            kernels.relu(pairs)


def test_bfloat16_has_no_name_in_the_array_interface(device: Any) -> None:
    """It is "<V2" there, which may be anything of two bytes; DLPack knows it."""
    if device.name != "host_cuda":
        pytest.skip("needs an array that has the interface and no DLPack")
    dtype = pytest.importorskip("ml_dtypes").bfloat16
    grad, held = device.put(np.ones(4, dtype)), device.put(np.ones(4, dtype))
    x = type("Foreign", (), {"__cuda_array_interface__": held.__cuda_array_interface__})()
    with pytest.raises(TypeError, match=r"\[relu_backward\] x: expected bfloat16 .*, got .V2"):
        kernels.relu_backward(grad, x)
