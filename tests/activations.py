"""The activations with their options, and where to look at them, for every device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from tolerances import finfo, widen

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("relu", {}),
    ("leaky_relu", {}),
    ("leaky_relu", {"negative_slope": -0.3}),
    ("elu", {}),
    ("elu", {"alpha": 2.5}),
    ("selu", {}),
    ("sigmoid", {}),
    ("tanh", {}),
    ("hardsigmoid", {}),
    ("hardswish", {}),
    ("silu", {}),
    ("gelu", {}),
    ("gelu", {"approximate": "tanh"}),
    ("mish", {}),
    ("softplus", {}),
    ("softplus", {"beta": 3.0, "threshold": 4.0}),
]
every_variant = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)

# At -inf these are -inf * 0, which PyTorch answers with NaN; the limit 0 is as good an answer.
VANISH_AT_MINUS_INFINITY = {"hardswish", "silu", "gelu", "mish"}


def functions(name: str) -> tuple[Any, Any, Any, Any]:
    """Return the kernel, its backward and the same two of the reference."""
    backward = f"{name}_backward"
    return (
        getattr(kernels, name),
        getattr(kernels, backward),
        getattr(reference, name),
        getattr(reference, backward),
    )


def sweep(dtype: Any) -> Any:
    """Return points over the whole range of the dtype: dense where functions bend."""
    info = np.finfo(dtype)
    small = np.geomspace(info.tiny, 1, 600)
    large = np.geomspace(30, info.max / 4, 200)
    special = [0.0, -0.0, 1.0, -1.0, 3.0, -3.0, 20.0, 88.0, -88.0, 709.0, -709.0]
    around = np.nextafter(np.array([3, -3, 20, 4 / 3], dtype), np.inf, dtype=dtype)
    points = [np.linspace(-30, 30, 6001), small, -small, large, -large, special, around]
    return np.concatenate([np.asarray(p, dtype=dtype) for p in points])


def scale_of(name: str, options: dict[str, Any], x: Any, ref: Any) -> Any:
    """Return what rounding errors of the forward are relative to.

    The result itself, but for gelu the input: 1 + erf cancels in the left tail, where PyTorch's
    gelu, too, is accurate to eps * |x| and no better.
    """
    if name == "gelu":
        return np.abs(widen(x)) * np.where(np.abs(x) < 40, 1, np.sign(np.abs(ref)))
    return np.abs(ref) if not options.get("beta") else np.abs(ref) * 4


def assert_within_half_a_unit(name: str, options: dict[str, Any], x: Any, got: Any) -> None:
    """Hold values of 16 bits against the reference: half a unit, and the errors of float32."""
    _, _, formula, _ = functions(name)
    info = finfo(x.dtype)
    with np.errstate(all="ignore"):
        x64 = x.astype(np.float64)
        ref = formula(x64, **options)
        scale = np.abs(scale_of(name, options, x64, ref))
        usable = np.isfinite(ref) & (np.abs(ref) < float(info.max)) & np.isfinite(x64)
        error = np.abs(got.astype(np.float64) - ref)
        tiny = float(info.smallest_subnormal) + 4 * float(np.finfo(np.float32).tiny)
        bound = float(info.eps) / 2 * np.abs(ref) + 32 * 2.0**-23 * scale + tiny
    wrong = usable & (error > bound)
    assert not wrong.any(), x64[wrong]
