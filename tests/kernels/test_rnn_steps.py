"""Recurrent calls of a single step, of ten thousand, and whose steps multiply their input."""

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


def states_of(state: Any, part: slice) -> Any:
    """The states of some samples."""
    return tuple(s[:, part] for s in state) if isinstance(state, tuple) else state[:, part]


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_in_the_step_and_before_it(
    dtype: Any, kind: str, rng: np.random.Generator
) -> None:
    # Steps of a few samples, and a step of packed weights, form x's share themselves; of the others
    # it is one matrix product, which sums in blocks.
    forward = getattr(kernels, kind)
    for size, hidden, biases, how in (
        (2, 37, 0, {}),
        (530, 20, 2, {"reverse": True}),
        (70, 33, 1, {"zoneout": 0.2, "recurrent_dropout": 0.3, "seed": 3}),
    ):
        x, weights, state = cast(make(rng, kind, 4, 13, size, hidden, biases=biases), dtype)
        packed = kernels.pack(weights, kind)
        row = {"lengths": rng.integers(0, 5, 13)} if "seed" not in how else {}
        expected = forward(x, weights, state, **how, **row)
        for n in thread_counts():
            kept = forward(x, packed, state, **how, **row, return_workspace=True)[:2]
            for found in (kept, forward(x, packed, state, **how, **row)):
                for a, b in zip(flat(found), flat(expected), strict=True):
                    assert_same_bits(a, b, f"{how}, {n} threads")
        if row:  # what is dropped depends on the batch
            for b in (slice(0, 1), slice(4, 7)):
                one = states_of(state, b)
                part = forward(x[:, b], weights, one, **how, lengths=row["lengths"][b])
                assert_same_bits(part[0], expected[0][:, b], "few samples")
        for batch in (1, 13):
            one = states_of(state, slice(0, batch))
            step = (x[:1, :batch], weights, one), (x[:1, :batch], packed, one)
            for a, b in zip(*(flat(forward(*args)) for args in step), strict=True):
                assert_same_bits(a, b, "one step, packed or not")


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
