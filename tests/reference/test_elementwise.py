"""The activation and dropout references against known values and finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from arraynn import reference
from tolerances import assert_gradient

NAMES = [
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "sigmoid",
    "tanh",
    "hardsigmoid",
    "hardswish",
    "silu",
    "gelu",
    "mish",
    "softplus",
]
VARIANTS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in NAMES] + [
    ("leaky_relu", {"negative_slope": -0.3}),
    ("elu", {"alpha": 2.5}),
    ("gelu", {"approximate": "tanh"}),
    ("softplus", {"beta": 3.0, "threshold": 4.0}),
]

# Values at x = -1 and x = 2 from the definitions with math's functions.
BY_DEFINITION = {
    "relu": lambda x: max(x, 0.0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1)),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "hardsigmoid": lambda x: min(max(x / 6 + 0.5, 0), 1),
    "hardswish": lambda x: x * min(max(x / 6 + 0.5, 0), 1),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "mish": lambda x: x * math.tanh(math.log(1 + math.exp(x))),
    "softplus": lambda x: math.log(1 + math.exp(x)),
}


@pytest.mark.parametrize("name", NAMES)
def test_values(name: str) -> None:
    points = [-7.5, -3.0, -1.0, -0.25, 0.0, 0.5, 2.0, 3.0, 8.0]
    expected = [BY_DEFINITION[name](x) for x in points]
    y = getattr(reference, name)(np.array(points))
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-15)


def test_gelu_tanh_value() -> None:
    expected = 0.5 * 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (2 + 0.044715 * 8)))
    assert math.isclose(float(reference.gelu(np.array(2.0), "tanh")), expected, rel_tol=1e-14)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_backward_is_the_derivative(
    name: str, options: dict[str, Any], rng: np.random.Generator
) -> None:
    x = rng.uniform(-6, 6, 400)
    # Away from the kinks, where the derivative does not exist.
    kinks = np.array([-3.0, 0.0, 3.0, 4.0 / 3.0])
    x = x[np.abs(x[:, None] - kinks).min(axis=1) > 1e-3]
    grad = rng.standard_normal(x.shape)
    forward, backward = getattr(reference, name), getattr(reference, f"{name}_backward")
    assert_gradient(
        lambda v: np.sum(grad * forward(v, **options)), x, backward(grad, x, **options), rng
    )


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_backward_from_the_output(name: str, rng: np.random.Generator) -> None:
    x, grad = rng.standard_normal((2, 50))
    backward = getattr(reference, f"{name}_backward")
    y = getattr(reference, name)(x)
    np.testing.assert_array_equal(backward(grad, y), backward(grad, x))


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_float32_in_float32_out_and_saturation(name: str, options: dict[str, Any]) -> None:
    x = np.array([-1e30, -200.0, 0.0, 200.0, 1e30], np.float32)
    y = getattr(reference, name)(x, **options)
    grad = getattr(reference, f"{name}_backward")(np.ones_like(x), x, **options)
    assert y.dtype == grad.dtype == np.float32
    assert not np.isnan(y).any()
    assert not np.isnan(grad).any()


# The known-answer vectors published with Random123 (kat_vectors, philox4x32 10).
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (
            [0xFFFFFFFF] * 4,
            (0xFFFFFFFF, 0xFFFFFFFF),
            [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        ),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_known_answers(counter: list[int], key: tuple[int, int], words: list[int]) -> None:
    got = reference.philox4x32(np.array(counter, np.uint32), key)
    assert got.tolist() == words


def test_dropout_by_hand() -> None:
    # With seed 0 the first four words are those of the first known answer: as fractions of 2**32
    # 0.399, 0.881, 0.735, 0.606.
    x = np.ones((1, 4))
    np.testing.assert_array_equal(reference.dropout(x, 0.5, 0), [[0, 2, 2, 2]])
    np.testing.assert_array_equal(reference.dropout(x, 0.75, 0), [[0, 4, 0, 0]])
    np.testing.assert_array_equal(reference.dropout(x, 0.0, 0), x)
    np.testing.assert_array_equal(reference.dropout(x, 1.0, 0), 0 * x)
    np.testing.assert_array_equal(reference.dropout_backward(x, 0.5, 0), [[0, 2, 2, 2]])


def test_dropout_rate_seed_and_high_words() -> None:
    keep = reference.dropout_mask((100_000,), 0.3, 1234)
    assert abs(keep.mean() - 0.7) < 5 * math.sqrt(0.3 * 0.7 / keep.size)
    assert not np.array_equal(keep, reference.dropout_mask((100_000,), 0.3, 1235))
    assert not np.array_equal(keep, reference.dropout_mask((100_000,), 0.3, 1234 + (1 << 32)))
