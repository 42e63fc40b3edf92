"""What ``check`` runs for the kernels of the norm family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import arraynn.kernels
import arraynn.reference
from arraynn._proof import Array, Arrays, uniform, unit_roundoff

kernels: Any = arraynn.kernels
reference: Any = arraynn.reference

_Outcome = tuple[Arrays, Arrays, list[Any]]

_ROWS = ((1, 1), (5, 33), (70, 130), (3, 5000))
# (n, c, positions): blocks of short planes and of long ones, and one position each.
_IMAGES = ((3, 6, (5, 7)), (2, 12, (70, 70)), (9, 40, ()))
_LAYOUTS = ("channels_first", "channels_last")
#: Of the variances of uniform numbers, 1/3, with room for short rows.
_EPS = 0.05


def _wide(*arrays: Any) -> Any:
    return tuple(a if a is None else a.astype(np.float64) for a in arrays)


def _bounds(dtype: str, terms: int) -> list[Any]:
    """Bounds of y or dx, and of dw and db, sums of `terms`.

    ``|x| <= 1`` and ``rstd <= 1 / sqrt(eps) < 4.5``: xhat and the terms of every sum stay below 9.
    A sum of k rounds 8 sqrt(k) times (Higham and Mary 2019), so that a mean is off by at most 8 u
    of its terms; the statistics, the sums of dx and the formula have a dozen more.
    """
    u, size = unit_roundoff(dtype), 9.0
    total = (8 * terms**0.5 + 16) * u * size * terms
    return [32 * u * size * (1 + size), total, total]


def _rows(name: str, dtype: str) -> Iterator[_Outcome]:
    for rows, n in _ROWS:
        x, vectors = uniform(dtype, rows, n, seed=1), [uniform(dtype, n, seed=s) for s in (2, 3)]
        vectors = vectors[: 2 if name == "layer_norm" else 1]
        got = getattr(kernels, name)(x, n, *vectors, eps=_EPS, activation="relu")
        want = getattr(reference, name)(*_wide(x), n, *_wide(*vectors), eps=_EPS, activation="relu")
        yield (got,), (want,), _bounds(dtype, 1)[:1]


def _rows_backward(name: str, dtype: str) -> Iterator[_Outcome]:
    for rows, n in _ROWS:
        g, x, w = (
            uniform(dtype, *shape, seed=i) for i, shape in enumerate(((rows, n), (rows, n), (n,)))
        )
        got = getattr(kernels, name)(g, x, n, w, eps=_EPS)
        want = getattr(reference, name)(*_wide(g, x), n, *_wide(w), eps=_EPS)
        yield got, want, _bounds(dtype, rows)[: len(want)]


def _image(dtype: str, case: Any, layout: str, seed: int) -> Array:
    n, c, positions = case
    full = (n, c, *positions) if layout == "channels_first" else (n, *positions, c)
    return uniform(dtype, *full, seed=seed)


def _arguments(name: str, dtype: str, c: int) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What stands between x and the weight, and the flag: own statistics, then fixed ones."""
    if name == "group_norm":
        yield (c // 2,), {}
        return
    flag = "training" if name == "batch_norm" else "use_input_stats"
    mean, var = uniform(dtype, c, seed=7), uniform(dtype, c, seed=8) + np.dtype(dtype).type(1.5)
    for own in (True, False):
        yield (mean, var), {flag: own}


def _channels(name: str, dtype: str, backward: bool) -> Iterator[_Outcome]:
    for case in _IMAGES:
        if name == "instance_norm" and not case[2]:
            continue
        for layout in _LAYOUTS:
            x, g = _image(dtype, case, layout, 1), _image(dtype, case, layout, 2)
            w, b = uniform(dtype, case[1], seed=3), uniform(dtype, case[1], seed=4)
            bounds = _bounds(dtype, x.size // case[1])
            for middle, how in _arguments(name, dtype, case[1]):
                how = {**how, "eps": _EPS, "layout": layout}
                wide = tuple(v if isinstance(v, int) else v.astype(np.float64) for v in middle)
                if backward:
                    function = getattr(kernels, f"{name}_backward")
                    formula = getattr(reference, f"{name}_backward")
                    got = function(g, x, *middle, w, **how)
                    yield got, formula(*_wide(g, x), *wide, *_wide(w), **how), bounds
                else:
                    ours = tuple(v if isinstance(v, int) else v.copy() for v in middle)
                    got = getattr(kernels, name)(x, *ours, w, b, **how)
                    want = getattr(reference, name)(*_wide(x), *wide, *_wide(w, b), **how)
                    # Running statistics are updated in place.
                    moved = [v for v in ours if not isinstance(v, int)]
                    expected = [v for v in wide if not isinstance(v, int)]
                    yield (got, *moved), (want, *expected), [bounds[0]] * (1 + len(moved))


NORM_CHECKS: dict[str, Callable[[str], Iterator[_Outcome]]] = {
    **{name: partial(_rows, name) for name in ("layer_norm", "rms_norm")},
    **{
        name: partial(_rows_backward, name) for name in ("layer_norm_backward", "rms_norm_backward")
    },
}
for _name in ("batch_norm", "group_norm", "instance_norm"):
    NORM_CHECKS[_name] = partial(_channels, _name, backward=False)
    NORM_CHECKS[f"{_name}_backward"] = partial(_channels, _name, backward=True)
