"""Every c of an LSTM, and the gradients that come by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from tolerances import assert_same_bits, finfo

from .problems import thread_counts
from .test_rnn import cast, flat, make

pytestmark = pytest.mark.usefixtures("isa")

EVERY_CELL: list[dict[str, Any]] = [
    {},
    {"batch_first": True, "lengths": [4, 0, 2]},
    {"mask": "some", "zoneout_cell": 0.4, "seed": 5},
    {"bidirectional": True, "num_layers": 2, "project": 3, "mask": "some"},
    {"reverse": True, "layer_norm": True, "mask": "some", "lengths": [3, 4, 1]},
]


def check_every_cell(dtype: Any, how: dict[str, Any], kernels: Any = kernels) -> None:
    """Of the cells alone, beside those of y and of the states, and by finite differences."""
    how, rng = dict(how), np.random.default_rng(21)
    layers, directions = how.get("num_layers", 1), 2 if how.get("bidirectional") else 1
    project = how.pop("project", 0)
    x, weights, state = make(
        rng, "lstm", 4, 3, 5, 19, layers=layers, directions=directions, project=project
    )
    x, weights, state = cast(cast([x, weights, state], dtype), np.float64)
    if "mask" in how:
        how["mask"] = rng.random((4, 3)) < 0.6
    if "layer_norm" in how:
        norms = [rng.uniform(0.5, 1.5, n) for n in (76, 76, 19, 19)]
        how["layer_norm"] = cast(cast(norms, dtype), np.float64)
    if how.get("batch_first"):
        x = np.ascontiguousarray(x.swapaxes(0, 1))
    y, _, cells = reference.lstm(x, weights, state, **how, return_cells=True)
    grads = cast([rng.uniform(-1, 1, a.shape) for a in (y, cells)], dtype)
    found = []
    for module, kind in ((reference, np.float64), (kernels, dtype)):
        call = {k: cast(v, kind) if k == "layer_norm" else v for k, v in how.items()}
        *_, kept = module.lstm(
            cast(x, kind), cast(weights, kind), cast(state, kind), **call, return_workspace=True
        )
        grad_y, grad_cells = cast(grads, kind)
        for first in (None, grad_y):
            found.append(flat(module.lstm_backward(first, None, kept, grad_cells=grad_cells)))
    rounding = (2000 if np.dtype(dtype).itemsize > 2 else 8) * float(finfo(dtype).eps)
    for expected, got in zip(found[:2], found[2:], strict=True):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=rounding, atol=rounding * max(1, np.abs(b).max()))
    direction, step = rng.uniform(-1, 1, x.shape), 1e-6
    ends = [
        reference.lstm(x + sign * step * direction, weights, state, **how, return_cells=True)[2]
        for sign in (1, -1)
    ]
    slope = ((ends[0] - ends[1]) / (2 * step) * grads[1].astype(np.float64)).sum()
    np.testing.assert_allclose((found[0][0] * direction).sum(), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("how", EVERY_CELL, ids=lambda how: "-".join(how) or "plain")
def test_gradients_of_every_cell(dtype: Any, how: dict[str, Any]) -> None:
    check_every_cell(dtype, how)


def test_gradients_of_every_cell_for_any_team() -> None:
    x, weights, _ = make(np.random.default_rng(5), "lstm", 6, 5, 8, 200)
    x, weights = cast([x, weights], np.float32)
    mask = np.arange(30).reshape(6, 5) % 4 != 1
    results = []
    for _ in thread_counts():
        _, _, cells, kept = kernels.lstm(
            x, weights, mask=mask, return_cells=True, return_workspace=True
        )
        results.append(flat(kernels.lstm_backward(None, None, kept, grad_cells=cells)))
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            assert_same_bits(a, b)
