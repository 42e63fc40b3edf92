"""16 bits beside float32: what a device stores in float16 or bfloat16 was computed in float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from tolerances import assert_same_bits


def every_value(half: Any) -> Any:
    """Return all 65536 bit patterns."""
    return np.arange(1 << 16, dtype=np.uint16).view(half)


def rounded(a: Any, half: Any) -> Any:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(a).astype(half)


def assert_same_numbers(got: Any, expected: Any, label: str = "result") -> None:
    """Assert the same bits, and NaN where a NaN is expected."""
    nan = np.isnan(expected.astype(np.float32))
    assert got.dtype == expected.dtype, label
    assert got.shape == expected.shape, label
    assert np.isnan(got[nan].astype(np.float32)).all(), label
    assert_same_bits(got[~nan], expected[~nan], label)


def _mapped(value: Any, change: Any) -> Any:
    if type(value) in (tuple, list):
        return type(value)(_mapped(v, change) for v in value)
    if type(value) is dict:
        return {k: _mapped(v, change) for k, v in value.items()}
    return change(value) if isinstance(value, np.ndarray) else value


def assert_rounded_once(got: Any, expected: Any, half: Any, label: str) -> None:
    """Assert that results in 16 bits are those in float32, rounded. Statistics stay float32."""
    if type(expected) in (tuple, list):
        assert type(got) is type(expected), label
        for i, (g, e) in enumerate(zip(got, expected, strict=True)):
            assert_rounded_once(g, e, half, f"{label}[{i}]")
    elif isinstance(expected, np.ndarray) and expected.dtype == np.float32:
        if got.dtype == np.float32:
            assert_same_numbers(got, expected, label)
        else:
            assert_same_numbers(got, rounded(expected, half), label)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(got, expected, label)
    else:
        assert type(got) is type(expected), label


def both_ways(half: Any, arguments: Any) -> tuple[Any, Any]:
    """Return nested arguments whose float32 arrays are of 16 bits, and in float32 again."""

    def narrow(a: Any) -> Any:
        return rounded(a, half) if a.dtype == np.float32 else a.copy()

    def wide(a: Any) -> Any:
        return a.astype(np.float32) if a.dtype == half else a.copy()

    short = _mapped(arguments, narrow)
    return short, _mapped(short, wide)


class RoundedOnce:
    """Kernels of float32 arrays, whose every call is made in 16 bits as well.

    The same bits must come of 16-bit arrays as of the same numbers in float32, rounded at the end.
    What the caller gets is float32's, to be held against the reference.

    Parameters
    ----------
    kernels : what is called, on NumPy arrays
    half : dtype
    """

    def __init__(self, kernels: Any, half: Any) -> None:
        self.kernels, self.half = kernels, half

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.compare(name, *arguments, **options)
            return getattr(self.kernels, name)(*arguments, **options)

        return call

    def compare(self, name: str, *arguments: Any, **options: Any) -> None:
        """Hold a call in 16 bits against one in float32."""

        function = getattr(self.kernels, name)
        short, long = both_ways(self.half, (arguments, options))
        got, expected = function(*short[0], **short[1]), function(*long[0], **long[1])
        assert_rounded_once(got, expected, self.half, f"{name}, {self.half.name}")
