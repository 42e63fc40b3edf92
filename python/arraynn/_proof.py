"""Comparing an answer with the reference, under an error bound that is derived.

Shared by ``python -m arraynn check``, the demo's table and the benchmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = tuple[Array, ...]


def unit_roundoff(dtype: str) -> float:
    """Half the machine epsilon of the dtype that `dtype` is computed in.

    >>> unit_roundoff("float64") == 2.0**-53
    True
    """
    # Numbers of 16 bits are computed in float32.
    return float(np.finfo("float32" if dtype.endswith("float16") else dtype).eps) / 2


def dot_bound(terms: int, dtype: str, *, factors: int = 2, deviations: float = 8.0) -> float:
    """Error bound of a sum of `terms` products of uniform numbers in [-1, 1].

    ``lambda * sqrt(terms) * u * sum |a||b|`` (Higham and Mary, "A new approach to probabilistic
    rounding error analysis", 2019, theorem 3.1, to first order), with the sum of magnitudes
    taken at its mean plus `deviations` standard deviations.

    Parameters
    ----------
    terms : int
    dtype : "float32", "float64", or "float16" or "bfloat16", whose sums are float32
    factors : random factors of a term: 1 for a plain sum, 2 for a dot product
    deviations : lambda, and the deviations above the mean magnitude

    Examples
    --------
    >>> 1e-5 < dot_bound(100, "float32") < 1e-3
    True
    """
    mean = 0.5**factors
    deviation = (3.0**-factors - mean**2) ** 0.5
    magnitude = terms * mean + deviations * deviation * terms**0.5
    return float(deviations * (terms + 1) ** 0.5 * unit_roundoff(dtype) * magnitude)


def uniform(dtype: str, *shape: int, seed: int = 0) -> Array:
    """Uniform numbers in [-1, 1); the seed is mixed with the shape.

    >>> uniform("float32", 2, 3).shape
    (2, 3)
    """
    rng = np.random.default_rng([seed, *shape])
    return rng.uniform(-1, 1, shape).astype(dtype)


def distinct(dtype: str, *shape: int, seed: int = 0) -> Array:
    """Distinct numbers in [-1, 1), in random order: no two maxima are equal.

    Raises
    ------
    ValueError
        If `dtype` has too few numbers for it.
    """
    count = int(np.prod(shape))
    if count > 2 ** (1 + np.finfo(dtype).nmant):
        raise ValueError(f"[distinct] shape: {count} distinct values do not fit {dtype}")
    rng = np.random.default_rng([seed, *shape])
    half = max(count / 2, 1.0)
    return (rng.permutation(count) / half - 1).astype(dtype).reshape(shape)


def compare(got: Arrays, expected: Arrays, bounds: Sequence[Any]) -> tuple[str | None, float]:
    """Hold arrays against the expected ones.

    Parameters
    ----------
    got, expected : tuples of arrays
    bounds : the error allowed in each, a scalar or an array of its shape

    Returns
    -------
    complaint : str or None
        The first difference over its bound.
    worst : float
        The largest error as a share of its bound; 0 where both are 0.

    Examples
    --------
    >>> compare((np.array([1.0]),), (np.array([1.5]),), [1.0])
    (None, 0.5)
    """
    if len(got) != len(expected):
        return f"expected {len(expected)} arrays, got {len(got)}", float("inf")
    worst = 0.0
    for i, (g, e, b) in enumerate(zip(got, expected, bounds, strict=True)):
        if g.shape != e.shape:
            return f"array {i}: expected shape {e.shape}, got {g.shape}", float("inf")
        if not g.size:
            continue
        error = np.abs(np.subtract(g, e, dtype=np.float64))
        # 0/0 is an exact answer where an exact answer is asked for.
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(error == 0, 0.0, error / b)
        good = share <= 1
        if not np.all(good):
            at = tuple(int(v) for v in np.unravel_index(int(np.argmin(good)), share.shape))
            bound = float(np.broadcast_to(b, e.shape)[at])
            text = (
                f"array {i} at {at}: expected {float(e[at]):.9g}, got {float(g[at]):.9g}"
                f" (bound {bound:.3g})"
            )
            return text, float(np.max(share))
        worst = max(worst, float(np.max(share)))
    return None, worst
