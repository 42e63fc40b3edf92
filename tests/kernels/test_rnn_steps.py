"""Recurrent calls of a single step, and of ten thousand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import kernels
from arraynn.cli import _benchmarks
from tolerances import assert_same_bits

from .problems import thread_counts
from .test_rnn import KINDS, cast, flat, make, run

pytestmark = pytest.mark.usefixtures("isa")
peak = _benchmarks.load("peak")


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_of_one_step_for_every_thread_count(
    dtype: Any, kind: str, rng: np.random.Generator
) -> None:
    for batch in (1, 30):
        x, weights, state = cast(make(rng, kind, 1, batch, 300, 300), dtype)
        found = [
            flat(run(kernels, kind, x, weights, state, lambda r: (r[0], r[1]), {}))
            for _ in thread_counts()
        ]
        for other in found[1:]:
            for a, b in zip(other, found[0], strict=True):
                assert_same_bits(a, b, f"{kind}, {batch} samples")


def test_long_sequence() -> None:
    x = np.ones((10_000, 1, 4), np.float32)
    weights = [np.full((32, n), 0.01, np.float32) for n in (4, 8)]
    y, (h_n, _) = kernels.lstm(x, weights)
    assert_same_bits(y[-1:], h_n)
    assert_same_bits(y[5000], y[-1], "settles")


def test_memory_of_a_long_sequence() -> None:
    rng = np.random.default_rng(2)
    x, weights, _ = cast(make(rng, "lstm", 10_000, 4, 4, 64), np.float32)
    kernels.lstm(x[:9], weights)
    grown, (y, _) = peak.growth_of(lambda: kernels.lstm(x, weights))
    assert grown < y.nbytes + (8 << 20), "gates of all steps would be four times y"
    *_, kept = kernels.lstm(x, weights, return_workspace=True)
    states = 2 * y[0].nbytes
    assert kept.nbytes <= 5 * y.nbytes + states + (1 << 20), "gates, every c, first states"
    assert all(np.isfinite(a).all() for a in flat(kernels.lstm_backward(y, None, kept)))
