"""What tests of convolutions on a device share: arrays, layouts, and the reference beside them."""

from __future__ import annotations

from typing import Any

import numpy as np

from arraynn import kernels, reference
from tolerances import (
    assert_close_to_reference,
    assert_within,
    compute_dtype,
    dot_bound,
    native,
    storage_bound,
    widen,
)


def normal(rng: np.random.Generator, dtype: Any, *shape: int) -> Any:
    return rng.standard_normal(shape).astype(dtype)


def arranged(x: Any, layout: str) -> Any:
    """Give a channels-first array the layout under test."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if layout == "channels_last" else x


def magnitudes(*arrays: Any) -> Any:
    return tuple(np.abs(widen(a)) for a in arrays)


def both(*arrays: Any) -> Any:
    """Give the dtypes of the truth and of the computation."""
    return widen(*arrays), native(*arrays)


def check(device: Any, name: str, x: Any, weight: Any, bias: Any, options: Any, rng: Any) -> None:
    """Hold forward and backward against the reference, and schedules against each other."""
    kernel, backward = getattr(kernels, name), getattr(kernels, f"{name}_backward")
    formula, formula_backward = getattr(reference, name), getattr(reference, f"{name}_backward")
    label = f"{name} {x.shape} {weight.shape} {options}"
    given = [device.put(a) for a in (x, weight, bias)]
    got = device.get(kernel(*given, **options))
    scale = formula(*magnitudes(x, weight, bias), **options)
    ref, plain = (formula(*given, **options) for given in both(x, weight, bias))
    k = int(np.prod(weight.shape[1:])) * (weight.shape[0] if "transpose" in name else 1)
    bound = dot_bound(k, compute_dtype(x.dtype), scale)
    bound = bound + storage_bound(np.abs(ref) + bound, x.dtype)
    assert_within(got, ref, bound, label)
    assert_close_to_reference(got, ref, plain, scale=scale, label=label)

    grad = normal(rng, x.dtype, *got.shape)
    given = [device.put(a) for a in (grad, x, weight)]
    gradients = [device.get(g) for g in backward(*given, **options)]
    refs, plains = (formula_backward(*given, **options) for given in both(grad, x, weight))
    scales = formula_backward(*magnitudes(grad, x, weight), **options)
    for which, g, r, n, s in zip("xwb", gradients, refs, plains, scales, strict=True):
        assert_close_to_reference(g, r, n, scale=s, label=f"grad_{which} of {label}")


def axes_of(x_shape: Any) -> int:
    return len(x_shape) - 2
