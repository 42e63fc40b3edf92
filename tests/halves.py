"""16 bits beside float32: what a device stores in float16 or bfloat16 was computed in float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from tolerances import assert_same_bits


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
    if type(value) is tuple:
        return tuple(_mapped(v, change) for v in value)
    return change(value) if isinstance(value, np.ndarray) else value


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

        def narrow(a: Any) -> Any:
            return rounded(a, self.half) if a.dtype == np.float32 else a.copy()

        def wide(a: Any) -> Any:
            return a.astype(np.float32) if a.dtype == self.half else a.copy()

        function = getattr(self.kernels, name)
        short = _mapped(arguments, narrow), {k: _mapped(v, narrow) for k, v in options.items()}
        long = _mapped(short[0], wide), {k: _mapped(v, wide) for k, v in short[1].items()}
        got, expected = function(*short[0], **short[1]), function(*long[0], **long[1])
        pairs = zip(got, expected, strict=True) if type(got) is tuple else [(got, expected)]
        for i, (g, e) in enumerate(pairs):
            label = f"result {i} of {name}, {self.half.name}"
            if e is None:
                assert g is None, label
            elif e.dtype == np.float32:
                assert_same_numbers(g, rounded(e, self.half), label)
            else:
                np.testing.assert_array_equal(g, e, label)
