"""The elementary functions of csrc/simd/math.hpp against long double, in ULP.

Inputs cover every exponent of the type, with extra points where the algorithms change branch. A
unit in the last place is that of the true value; results below the normal range are flushed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from arraynn import _core

Wide = np.longdouble


def _gauss(x: NDArray[Any], scale: float) -> NDArray[Any]:
    """Return exp(-scale x^2), the square taken exactly: its rounding would be magnified."""
    x = x.astype(Wide)
    head = x.astype(np.float32).astype(Wide)
    return np.asarray(np.exp(-scale * head * head) * np.exp(-scale * (x - head) * (x + head)))


def _erfc(x: NDArray[Any], gauss: NDArray[Any]) -> NDArray[Any]:
    """erfc(x) for x >= 0 from exp(-x^2): series of erf below 1.5, continued fraction beyond."""
    root_pi = np.sqrt(np.arccos(Wide(-1)))
    low = np.minimum(x, 1.5)
    term = total = low
    for n in range(1, 80):
        term = term * 2 * low * low / (2 * n + 1)
        total = total + term
    high = np.maximum(x, 1.5)
    fraction = high
    for n in range(400, 0, -1):
        fraction = high + Wide(n) / 2 / fraction
    return np.where(x < 1.5, 1 - 2 / root_pi * gauss * total, gauss / root_pi / fraction)


def _erf(x: NDArray[Any]) -> NDArray[Any]:
    """Near 0 the same series without the subtraction; the test needs every bit there."""
    x = x.astype(Wide)
    low = np.clip(x, -1.5, 1.5)
    term = total = low
    for n in range(1, 80):
        term = term * 2 * low * low / (2 * n + 1)
        total = total + term
    near = 2 / np.sqrt(np.arccos(Wide(-1))) * np.exp(-low * low) * total
    return np.where(np.abs(x) < 1.5, near, np.copysign(1 - _erfc(np.abs(x), _gauss(x, 1.0)), x))


def _normal_cdf(x: NDArray[Any]) -> NDArray[Any]:
    scaled = np.abs(x.astype(Wide)) / np.sqrt(Wide(2))
    tail = _erfc(scaled, _gauss(x, 0.5)) / 2
    return np.where(x < 0, tail, 1 - tail)


def _wide(function: Callable[[Any], Any]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    return lambda x: np.asarray(function(x.astype(Wide)))


def _unary(name: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    return lambda x: np.asarray(_core.elementwise_unary(name, x))


# name: (kernel, truth, lowest and highest input as multiples of log(max), stated error in ULP)
_LOGARITHM_OF_MAX = {np.dtype(np.float32): 88.72, np.dtype(np.float64): 709.78}
_FUNCTIONS: dict[str, tuple[Any, Any, Any, float]] = {
    "exp": (_unary("exp"), _wide(np.exp), lambda m: (-m, m), 1.0),
    "expm1": (_unary("expm1"), _wide(np.expm1), lambda m: (-m, 0.99 * m), 2.5),
    "log": (_unary("log"), _wide(np.log), lambda _: (0.0, np.inf), 2.0),
    "log1p_unit": (_unary("log1p_unit"), _wide(np.log1p), lambda _: (0.0, 1.0), 2.0),
    "tanh": (lambda x: _core.tanh(x, None), _wide(np.tanh), lambda m: (-m, m), 3.0),
    "sigmoid": (
        lambda x: _core.sigmoid(x, None),
        _wide(lambda x: 1 / (1 + np.exp(-x))),
        lambda m: (-0.98 * m, m),
        3.0,
    ),
    "erf": (_unary("erf"), _erf, lambda _: (-10.0, 10.0), 2.0),
    "normal_cdf": (
        _unary("normal_cdf"),
        _normal_cdf,
        lambda m: (-1.39 * m**0.5, 20.0),
        7.0,
    ),
}


def _inputs(dtype: np.dtype[Any], low: float, high: float, count: int) -> NDArray[Any]:
    """Both signs of every exponent, a uniform sweep of a bounded range, and its ends."""
    info = np.finfo(dtype)
    rng = np.random.default_rng(7)
    exponents = rng.integers(info.minexp, info.maxexp, count)
    scaled = np.ldexp(rng.uniform(1, 2, count), exponents) * rng.choice([-1.0, 1.0], count)
    ends = [e for e in (low, high) if np.isfinite(e)]
    around_one = np.concatenate([[1 - info.epsneg, 1.0, 1 + info.eps], -np.arange(1.0, 4.0)])
    parts = [scaled, around_one, ends]
    if np.isfinite(high):
        parts += [rng.uniform(low, high, count), rng.uniform(max(low, -2), min(high, 2), count)]
    x = np.concatenate(parts)
    x = x[(x >= low) & (x <= high)].astype(dtype)
    return x[np.isfinite(x) & (np.abs(x) >= info.tiny)]


def _ulp_error(got: NDArray[Any], true: NDArray[Any]) -> tuple[float, int]:
    info = np.finfo(got.dtype)
    usable = (np.abs(true) >= Wide(info.tiny) * 2) & (np.abs(true) <= Wide(info.max))
    _, exponent = np.frexp(np.where(usable, true, 1))
    unit = np.ldexp(Wide(info.eps), exponent - 1)
    error = np.where(usable, np.abs(got.astype(Wide) - true) / unit, 0)
    return float(error.max()), int(np.argmax(error))


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_error_in_ulp(name: str, isa: str, dtype: np.dtype[Any]) -> None:
    kernel, truth, bounds, stated = _FUNCTIONS[name]
    low, high = bounds(_LOGARITHM_OF_MAX[dtype])
    x = _inputs(dtype, low, high, 60000)
    if name == "exp" and isa == "generic":
        stated = 1.5  # multiply-adds round twice there
    got = kernel(x)
    error, worst = _ulp_error(got, truth(x))
    assert error <= stated, f"{name}({x[worst]!r}) = {got[worst]!r}: {error:.2f} ULP"


@pytest.mark.parametrize(
    ("name", "at_minus_infinity", "at_infinity", "at_zero"),
    [
        ("exp", 0.0, np.inf, 1.0),
        ("tanh", -1.0, 1.0, 0.0),
        ("sigmoid", 0.0, 1.0, 0.5),
        ("erf", -1.0, 1.0, 0.0),
        ("normal_cdf", 0.0, 1.0, 0.5),
    ],
)
def test_special_values(
    name: str,
    at_minus_infinity: float,
    at_infinity: float,
    at_zero: float,
    isa: str,
    dtype: np.dtype[Any],
) -> None:
    kernel = _FUNCTIONS[name][0]
    info = np.finfo(dtype)
    tiny = info.smallest_subnormal
    x = np.array([-np.inf, np.inf, 0.0, -0.0, np.nan, info.max, -info.max, tiny, -tiny], dtype)
    got = kernel(x)
    expected = np.array(
        [at_minus_infinity, at_infinity, at_zero, at_zero, np.nan, at_infinity, at_minus_infinity]
        + [at_zero] * 2,
        dtype,
    )
    assert np.array_equal(got, expected, equal_nan=True), (isa, got)
    if at_zero == 0.0:  # odd functions keep the sign of zero
        assert np.array_equal(np.signbit(got[2:4]), [False, True])


def test_logarithm_at_its_ends(isa: str, dtype: np.dtype[Any]) -> None:
    x = np.array([1.0, np.inf, np.nan], dtype)
    got = _core.elementwise_unary("log", x)
    assert np.array_equal(got, np.array([0.0, np.inf, np.nan], dtype), equal_nan=True), isa


def test_every_lane_and_remainder_gives_the_same_bits(isa: str, dtype: np.dtype[Any]) -> None:
    x = np.random.default_rng(3).normal(size=67).astype(dtype)
    for name in ("exp", "expm1", "erf", "normal_cdf"):
        whole = _core.elementwise_unary(name, x)
        for n in range(1, 67):
            part = _core.elementwise_unary(name, x[:n])
            assert part.tobytes() == whole[:n].tobytes(), (isa, name, n)


def test_unknown_function_is_named() -> None:
    with pytest.raises(ValueError, match=r"\[elementwise_unary\] name: .* got 'sinh'"):
        _core.elementwise_unary("sinh", np.ones(1))
