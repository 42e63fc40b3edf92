"""What ``check`` runs for the recurrent kernels; the rest is in ``_checks``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import arraynn.kernels
import arraynn.reference
from arraynn._proof import dot_bound, uniform, unit_roundoff

__all__ = ["RECURRENT_CHECKS"]

# Arguments come from tables, so their types are checked when they are called.
kernels: Any = arraynn.kernels
reference: Any = arraynn.reference

_GATES = {"rnn": 1, "lstm": 4, "gru": 3}
# (steps, batch, input, hidden): one below, at and one above the tiles.
_SIZES = ((5, 1, 3, 16), (4, 13, 7, 33), (3, 6, 20, 64))
_OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "rnn": ({}, {"nonlinearity": "relu"}, {"clip": 2.0}),
    "lstm": ({}, {"input_forget": True, "cell_clip": 3.0}, {"activation": "softplus"}),
    "gru": ({}, {"reset_after": False}, {"recurrent_activation": "hardsigmoid"}),
}


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [a for part in value for a in _flat(part)]
    return [value]


def _results(module: Any, op: str, dtype: str, index: int, backward: bool) -> tuple[Any, ...]:
    """Results of the forward or of the backward call of a case, in the arithmetic of `dtype`."""
    kind, cell = op.removesuffix("_cell"), op.endswith("_cell")
    steps, batch, size, hidden = _SIZES[index]
    rows = _GATES[kind] * hidden

    def made(*shape: int, seed: int) -> Any:
        return uniform("float32", *shape, seed=seed).astype(dtype)

    scale = np.dtype(dtype).type(2.0 ** -np.ceil(np.log2(2 * hidden)))
    # Rows of w_hh whose magnitudes sum to at most 1, after dropout as well: an error does not grow
    # from step to step.
    weights = [made(rows, size, seed=1), made(rows, hidden, seed=2) * scale]
    weights += [made(rows, seed=s) for s in (3, 4)]
    lead = (batch,) if cell else (1, batch)
    x = made(batch, size, seed=5) if cell else made(steps, batch, size, seed=5)
    state = [made(*lead, hidden, seed=6 + s) for s in range(2 if kind == "lstm" else 1)]
    how = dict(_OPTIONS[kind][index])
    if not cell:
        how["lengths"] = np.arange(batch) % (steps + 1)
        if index == 1:
            how |= {"recurrent_dropout": 0.25, "weight_dropout": 0.25, "zoneout": 0.5, "seed": 7}
            how["mask"] = (np.arange(steps)[:, None] + np.arange(batch)) % 3 > 0
    if index == 2:
        wide = (rows, rows, hidden, hidden)[: 4 if kind == "lstm" else 2]
        how["layer_norm"] = [made(n, seed=20 + s) for s, n in enumerate(wide)]
        how["layer_norm_eps"] = 1.0  # a norm's slopes, too, are at most 1
    first = tuple(state) if kind == "lstm" else state[0]
    results = getattr(module, op)(x, weights, first, **how, return_workspace=backward)
    if not backward:
        return tuple(_flat(results))
    last = tuple(made(*lead, hidden, seed=8 + s) for s in range(len(state)))
    grads: tuple[Any, ...] = (last if kind == "lstm" else last[0], results[-1])
    if not cell:
        grads = (made(steps, batch, hidden, seed=10), *grads)
    return tuple(_flat(getattr(module, f"{op}_backward")(*grads)))


def _recurrent(op: str, backward: bool, dtype: str) -> Iterator[Any]:
    for index, (steps, batch, size, hidden) in enumerate(_SIZES):
        got = _results(kernels, op, dtype, index, backward)
        want = _results(reference, op, "float64", index, backward)
        # A step adds the rounding of a sum over input and state, and of some 16 operations on
        # numbers of at most the largest result; slopes are at most 1. A gradient by a weight
        # sums one such error for every step of every sample.
        kind = op.removesuffix("_cell")
        gates = _GATES[kind]
        terms = size + (gates if backward else 1) * hidden
        of_states = 3 if kind == "lstm" else 2  # gradients of x and of states come first
        largest = [float(np.abs(w).max()) for w in (want[:of_states] if backward else want)]
        top = 1 + max(largest)
        step = dot_bound(terms, dtype) + 16 * unit_roundoff(dtype) * top
        bound = steps * step * (top if backward else 1)
        summed = batch * bound if backward else bound
        yield got, want, [bound if i < of_states else summed for i in range(len(want))]


RECURRENT_CHECKS: dict[str, Any] = {
    f"{kind}{cell}{'_backward' if backward else ''}": partial(_recurrent, f"{kind}{cell}", backward)
    for kind in _GATES
    for cell in ("", "_cell")
    for backward in (False, True)
}
