"""rnn, lstm, gru and their cells on a device: the checks of the CPU, and what a device adds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arraynn import kernels
from kernels.test_rnn import (
    CELLS,
    KINDS,
    NOTHING,
    cast,
    check,
    check_cell,
    check_combination,
    check_masks,
    check_options,
    check_padding,
    check_specials,
    flat,
    make,
    run,
)
from kernels.test_rnn_cells import EVERY_CELL, check_every_cell
from tolerances import assert_same_bits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("steps", "batch", "size", "hidden"),
    [(1, 1, 1, 1), (3, 2, 5, 7), (2, 13, 8, 33), (2, 3, 6, 130), *NOTHING],
)
def test_sizes(
    dtype: Any, kind: str, steps: int, batch: int, size: int, hidden: int, device: Any, rng: Any
) -> None:
    problem = make(rng, kind, steps, batch, size, hidden)
    check(kind, *problem, {}, dtype, hidden, device.kernels)


@pytest.mark.parametrize(("kind", "options"), CELLS, ids=str)
@pytest.mark.parametrize("biases", [0, 1, 2])
def test_options_of_the_cells(
    dtype: Any, kind: str, options: dict[str, Any], biases: int, device: Any, rng: Any
) -> None:
    check_options(kind, options, biases, (9,), dtype, rng, device.kernels)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=20)
def test_any_combination(kind: str, data: st.DataObject, device: Any) -> None:
    check_combination(kind, data, device.kernels)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_is_one_step(dtype: Any, kind: str, device: Any, rng: np.random.Generator) -> None:
    check_cell(kind, dtype, rng, device.kernels)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_not_looked_at(
    dtype: Any, kind: str, device: Any, rng: np.random.Generator
) -> None:
    check_padding(kind, dtype, rng, device.kernels)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_masked_steps_are_not_there(
    kind: str, reverse: bool, device: Any, rng: np.random.Generator
) -> None:
    check_masks(kind, reverse, np.dtype(np.float32), rng, device.kernels)


@pytest.mark.parametrize("kind", KINDS)
def test_special_values(dtype: Any, kind: str, device: Any, rng: np.random.Generator) -> None:
    check_specials(kind, dtype, rng, device.kernels)


@pytest.mark.parametrize("how", EVERY_CELL, ids=lambda how: "-".join(how) or "plain")
def test_gradients_of_every_cell(dtype: Any, how: dict[str, Any], device: Any) -> None:
    check_every_cell(dtype, how, device.kernels)


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_at_every_schedule(kind: str, device: Any, rng: np.random.Generator) -> None:
    x, weights, state = cast(make(rng, kind, 4, 5, 3, 18, layers=2, directions=2), np.float32)
    how: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "lengths": [4, 0, 2, 3, 1]}
    how |= {"dropout": 0.3, "recurrent_dropout": 0.3, "weight_dropout": 0.2, "zoneout": 0.4}
    how["seed"] = 5

    def everything() -> Any:
        return flat(run(device.kernels, kind, x, weights, state, lambda r: (r[0], r[1]), how))

    expected = everything()
    for schedule in device.schedules():
        for a, b in zip(everything(), expected, strict=True):
            assert_same_bits(a, b, schedule)
    # The masks of dropout are the CPU's: so are the elements that are 0.
    on_host = flat(run(kernels, kind, x, weights, state, lambda r: (r[0], r[1]), how))
    for a, b in zip(expected, on_host, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_several_blocks_and_parts(device: Any, rng: np.random.Generator) -> None:
    """More units than a grid has threads, in two launches of lengths."""
    x, weights, _ = make(rng, "rnn", 2, 600, 1, 3)
    lengths = rng.integers(0, 3, 600)
    check("rnn", x, weights, None, {"lengths": lengths}, np.dtype(np.float32), 1, device.kernels)
    there = cast((x, weights), np.float32)
    by_list = device.kernels.rnn(*there, lengths=lengths.tolist())
    by_array = device.kernels.rnn(*there, lengths=lengths.astype(np.int32))
    for a, b in zip(flat(by_list), flat(by_array), strict=True):
        assert_same_bits(a, b)


def test_lengths_beyond_the_steps_are_all_of_them(device: Any, rng: np.random.Generator) -> None:
    """Nothing is read back to be checked, unless it is a list."""
    x, weights, state = cast(make(rng, "gru", 3, 3, 2, 5), np.float32)
    for reverse in (False, True):
        found = device.kernels.gru(x, weights, state, lengths=np.array([9, -2, 2]), reverse=reverse)
        expected = device.kernels.gru(x, weights, state, lengths=[3, 0, 2], reverse=reverse)
        for a, b in zip(flat(found), flat(expected), strict=True):
            assert_same_bits(a, b)
    with pytest.raises(ValueError, match=r"\[gru\] lengths: expected values in \[0, 3\], got 9"):
        device.kernels.gru(x, weights, state, lengths=[9, 0, 2])
    with pytest.raises(ValueError, match=r"\[gru\] lengths: expected shape \(3,\), got \(2,\)"):
        device.kernels.gru(x, weights, state, lengths=[1, 2])


@pytest.mark.parametrize("kind", KINDS)
def test_packed_weights_and_one_sample(kind: str, device: Any, rng: np.random.Generator) -> None:
    x, weights, _ = cast(make(rng, kind, 3, 4, 2, 9), np.float32)
    moved = [device.put(w) for w in weights]
    packed = kernels.pack(moved, kind)
    there = device.put(x)
    y = device.kernels.get(getattr(kernels, kind)(there, moved)[0])
    assert_same_bits(device.get(getattr(kernels, kind)(there, packed)[0]), y)
    for batch_first in (False, True):
        alone = getattr(kernels, kind)(device.put(x[:, 2]), moved, batch_first=batch_first)[0]
        assert_same_bits(device.get(alone), y[:, 2], "a sample without its axis")
    turned = device.put(np.ascontiguousarray(x.swapaxes(0, 1)))
    got = device.get(getattr(kernels, kind)(turned, moved, batch_first=True)[0])
    assert_same_bits(got, y.swapaxes(0, 1), "batch first")


def test_a_workspace_knows_its_device(device: Any, rng: np.random.Generator) -> None:
    x, weights, _ = cast(make(rng, "lstm", 3, 2, 3, 4), np.float32)
    there, moved = device.put(x), [device.put(w) for w in weights]
    _, _, cells, kept = kernels.lstm(there, moved, return_cells=True, return_workspace=True)
    first = kernels.lstm_backward(None, None, kept, grad_cells=cells)
    assert type(first[0]) is device.ndarray
    for a, b in zip(
        flat(device.kernels.get(kernels.lstm_backward(None, None, kept, grad_cells=cells))),
        flat(device.kernels.get(first)),
        strict=True,
    ):
        assert_same_bits(a, b, "a workspace serves twice")
    zeros = device.kernels.get(kernels.lstm_backward(None, None, kept))
    assert not any(a.any() for a in flat(zeros))
    assert kept.nbytes > 0
    grad = (None, device.put(np.ones((1, 2, 4), np.float32)))
    assert device.get(kernels.lstm_backward(None, grad, kept)[0]).any()
    with pytest.raises(TypeError, match=r"\[lstm_backward\] workspace: expected what the forward"):
        kernels.lstm_backward(np.ones((3, 2, 4), np.float32), None, kept)
    with pytest.raises(TypeError, match=r"\[lstm\] lengths: expected an array on the GPU"):
        kernels.lstm(there, moved, lengths=np.array([1, 2]))
    with pytest.raises(TypeError, match=r"\[lstm\] weights\[0\]: expected an array on the GPU"):
        kernels.lstm(there, weights)
    with pytest.raises(TypeError, match=r"\[lstm\] mask: expected bool"):
        kernels.lstm(there, moved, mask=device.put(np.ones((3, 2), np.int32)))
