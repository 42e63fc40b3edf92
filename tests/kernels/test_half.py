"""float16 and bfloat16: stored in 16 bits, computed in float32, rounded once.

The float32 kernels are held against the reference elsewhere; here the same arithmetic must come out
of 16-bit arrays, rounded by NumPy's or ml_dtypes' own conversion.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arraynn as ann
from activations import assert_within_half_a_unit, every_variant, functions
from arraynn import kernels
from halves import RoundedOnce, assert_same_numbers, every_value, rounded
from optimizer_state import COMMON, State, combinations, rmsprop_state
from tolerances import assert_same_bits

from .problems import LENGTHS, normal, thread_counts

pytestmark = pytest.mark.usefixtures("isa")

SHAPES: list[tuple[int, ...]] = [(1,), (9,), (2047,), (4096,), (), (2, 0), (7, 33), (16_385,)]


def widened(a: Any) -> Any:
    with np.errstate(invalid="ignore"):  # signalling NaN
        return a.astype(np.float32)


def test_every_value_is_kept(half: Any) -> None:
    x = every_value(half)
    assert_same_numbers(kernels.leaky_relu(x, negative_slope=1.0), x, "leaky_relu of slope 1")
    table = x.reshape(64, 1024)
    for columns in (1024, 1017):
        part = np.ascontiguousarray(table[:, :columns])
        got = kernels.embedding(np.arange(64), part)
        assert_same_bits(got.view(np.uint16), part.view(np.uint16))


@every_variant
def test_activations(
    name: str, options: dict[str, Any], half: Any, rng: np.random.Generator
) -> None:
    kernel, backward, *_ = functions(name)
    x = every_value(half)
    grad = rounded(3 * rng.standard_normal(x.size), half)
    wide = widened(x)
    got = kernel(x, **options)
    assert_same_numbers(got, rounded(kernel(wide, **options), half), name)
    expected = rounded(backward(widened(grad), wide, **options), half)
    assert_same_numbers(backward(grad, x, **options), expected, f"{name}_backward")
    assert_within_half_a_unit(name, options, x, got)


def test_lengths_threads_and_slices(half: Any, rng: np.random.Generator) -> None:
    once = RoundedOnce(kernels, half)
    for n in LENGTHS:
        x, grad = normal(rng, np.float32, n), normal(rng, np.float32, n)
        once.compare("tanh", x)
        once.compare("tanh_backward", grad, x)
        for p in (0.3, 1.0):
            once.compare("dropout", x, p, 5)
            once.compare("dropout_backward", x, p, 5)
    x = normal(rng, half, 3, 70_001)
    expected = kernels.silu(np.ascontiguousarray(x[:, ::2]))
    for _ in thread_counts():
        assert_same_bits(kernels.silu(x[:, ::2]), expected)
        hole = np.full((3, 2 * expected.shape[1]), 7, half)
        kernels.silu(x[:, ::2], out=hole[:, ::2])
        assert_same_bits(hole[:, ::2].copy(), expected)
        assert (hole[:, 1::2] == 7).all()


@pytest.mark.parametrize("activation", [None, "sigmoid", "relu", "silu", "gelu", "tanh", "mish"])
def test_glu(activation: str | None, half: Any, rng: np.random.Generator) -> None:
    once = RoundedOnce(kernels, half)
    for shape, axis in (((3, 10), -1), ((2, 6, 33), 1), ((4, 640), 1)):
        x = normal(rng, np.float32, *shape)
        half_shape = list(shape)
        half_shape[axis] //= 2
        once.compare("glu", x, axis, activation=activation)
        grad = normal(rng, np.float32, *half_shape)
        once.compare("glu_backward", grad, x, axis, activation=activation)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rope(interleaved: bool, half: Any, rng: np.random.Generator) -> None:
    once = RoundedOnce(kernels, half)
    for n in (1, 4, 7, 16, 33, 64):
        x = normal(rng, np.float32, 2, 3, 6, 2 * n + 5)
        cos, sin = normal(rng, np.float32, 6, n), normal(rng, np.float32, 6, n)
        once.compare("rope", x, cos, sin, interleaved=interleaved)
        once.compare("rope_backward", x, cos, sin, interleaved=interleaved)


@pytest.mark.parametrize(
    ("rows", "columns", "count"),
    [(13, 1, 7), (5, 33, 300), (300, 17, 2048), (3, 70, 0), (4, 0, 9), (1, 96, 1000), (900, 40, 9)],
)
def test_embedding_backward(
    rows: int, columns: int, count: int, half: Any, rng: np.random.Generator
) -> None:
    grad, indices = normal(rng, half, count, columns), rng.integers(0, rows, count)
    for padding in (None, 0, -1):
        wide = kernels.embedding_backward(widened(grad), indices, rows, padding)
        for _ in thread_counts():
            got = kernels.embedding_backward(grad, indices, rows, padding)
            assert_same_numbers(got, rounded(wide, half), f"padding {padding}")


def both_ways(half: Any, rng: np.random.Generator) -> tuple[State, State]:
    """Return a state in 16 bits and one of the same numbers in float32."""
    short = State(rng, np.float32, SHAPES).mapped(lambda a: rounded(a, half))
    return short, short.mapped(widened)


def assert_rounded(got: State, wide: State, half: Any, label: str) -> None:
    for (name, a), (_, b) in zip(got.arrays(), wide.arrays(), strict=True):
        assert_same_bits(a, rounded(b, half), f"{name}, {label}")


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("decoupled", [False, True])
def test_adam(amsgrad: bool, decoupled: bool, half: Any, rng: np.random.Generator) -> None:
    for options in combinations(**COMMON):
        options |= {"lr": 0.05, "eps": 1e-4, "decoupled": decoupled}
        states = both_ways(half, rng)
        norms = [s.adam(kernels, 3, amsgrad, **options) for s in states]
        assert_rounded(*states, half, str(options))
        assert norms[0] == norms[1]


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd(momentum: float, nesterov: bool, half: Any, rng: np.random.Generator) -> None:
    for options in combinations(**COMMON, step=(1, 2)):
        options |= {"lr": 0.05, "momentum": momentum, "nesterov": nesterov}
        states = both_ways(half, rng)
        norms = [s.sgd(kernels, **options) for s in states]
        assert_rounded(*states, half, str(options))
        assert norms[0] == norms[1]


@pytest.mark.parametrize("rule", ["adagrad", "rmsprop", "rmsprop centred", "rmsprop momentum"])
def test_steps_by_a_root(rule: str, half: Any, rng: np.random.Generator) -> None:
    short = rmsprop_state(rng, np.float32, SHAPES[:-1]).mapped(lambda a: rounded(a, half))
    wide = short.mapped(widened)
    options = {"lr": 0.05, "eps": 1e-3, "weight_decay": 0.1, "maximize": True, "grad_scale": 2.0}
    for state in (short, wide):
        if rule == "adagrad":
            state.adagrad(kernels, 2, lr_decay=0.3, **options)
        else:
            momentum = 0.9 if "momentum" in rule else 0.0
            state.rmsprop(kernels, "centred" in rule, momentum, **options)
    assert_rounded(short, wide, half, rule)


def test_wrong_dtypes(half: Any) -> None:
    x, y = np.ones(4, half), np.ones(4, np.float32)
    with pytest.raises(TypeError, match=rf"x: expected {half.name} \(the dtype of grad_out\), got"):
        kernels.relu_backward(x, y)
    with pytest.raises(TypeError, match=rf"x: expected float32 .*, got {half.name}"):
        kernels.relu_backward(y, x)
    with pytest.raises(TypeError, match=rf"out: expected {half.name}, got float32"):
        kernels.relu(x, out=y)
    with pytest.raises(TypeError, match=r"\[relu\] x: expected float16, bfloat16, .*, got int64"):
        kernels.relu(np.ones(4, np.int64))
    with pytest.raises(TypeError, match=r"\[adam_step\] exp_avgs: expected "):
        kernels.adam_step([x], [x.copy()], [y], [x.copy()], 1)


def test_sixteen_bits_of_other_libraries(half: Any) -> None:
    """NumPy knows float16 by several descriptors, and swapped bytes are no float16."""
    x = np.array([1.5, -2, 3], half)
    np.testing.assert_array_equal(kernels.relu(x.view(x.dtype.newbyteorder("="))), [1.5, 0, 3])
    with pytest.raises(TypeError, match="got >f2"):
        kernels.relu(np.ones(3, ">f2"))
    assert ann.Tensor(x).dtype == half
