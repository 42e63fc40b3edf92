"""rnn, lstm, gru and their cells on a device: the checks of the CPU, and what a device adds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import arraynn as ann
from arraynn import kernels, reference
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
    gains,
    make,
    run,
)
from kernels.test_rnn_cells import EVERY_CELL, check_every_cell
from tolerances import assert_same_bits, assert_within, storage_bound


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("steps", "batch", "size", "hidden"),
    [(1, 1, 1, 1), (3, 2, 5, 7), (2, 13, 8, 33), (2, 3, 6, 130), *NOTHING],
)
def test_sizes(
    storage: Any, kind: str, steps: int, batch: int, size: int, hidden: int, device: Any, rng: Any
) -> None:
    problem = make(rng, kind, steps, batch, size, hidden)
    check(kind, *problem, {}, storage, hidden, device.kernels)


@pytest.mark.parametrize(("kind", "options"), CELLS, ids=str)
@pytest.mark.parametrize("biases", [0, 1, 2])
def test_options_of_the_cells(
    dtype: Any, kind: str, options: dict[str, Any], biases: int, device: Any, rng: Any
) -> None:
    check_options(kind, options, biases, (9,), dtype, rng, device.kernels)


@pytest.mark.parametrize(("kind", "options"), CELLS, ids=str)
def test_options_of_the_cells_in_16_bits(
    half: Any, kind: str, options: dict[str, Any], device: Any, rng: Any
) -> None:
    check_options(kind, options, 2, (9,), half, rng, device.kernels)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=20)
def test_any_combination(kind: str, data: st.DataObject, device: Any) -> None:
    check_combination(kind, data, device.kernels)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=20)
def test_any_combination_in_16_bits(kind: str, data: st.DataObject, half: Any, device: Any) -> None:
    check_combination(kind, data, device.kernels, dtype=half)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_is_one_step(storage: Any, kind: str, device: Any, rng: np.random.Generator) -> None:
    check_cell(kind, storage, rng, device.kernels)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_16_bits_is_rounded_once(
    half: Any, kind: str, device: Any, rng: np.random.Generator
) -> None:
    """Beside float32 of the same numbers: nothing within the step has 16 bits but what it reads."""
    x, weights, state = cast(make(rng, kind, 1, 9, 40, 33), half)
    narrow = flat(getattr(device.kernels, kind)(x, weights, state))
    wide = flat(getattr(device.kernels, kind)(*cast((x, weights, state), np.float32)))
    for a, b in zip(narrow, wide, strict=True):
        assert_within(a, b, storage_bound(b, half) + 64 * np.finfo(np.float32).eps, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_not_looked_at(
    storage: Any, kind: str, device: Any, rng: np.random.Generator
) -> None:
    check_padding(kind, storage, rng, device.kernels)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_masked_steps_are_not_there(
    kind: str, reverse: bool, device: Any, rng: np.random.Generator
) -> None:
    check_masks(kind, reverse, np.dtype(np.float32), rng, device.kernels)


@pytest.mark.parametrize("kind", KINDS)
def test_special_values(storage: Any, kind: str, device: Any, rng: np.random.Generator) -> None:
    check_specials(kind, storage, rng, device.kernels)


@pytest.mark.parametrize("how", EVERY_CELL, ids=lambda how: "-".join(how) or "plain")
def test_gradients_of_every_cell(storage: Any, how: dict[str, Any], device: Any) -> None:
    check_every_cell(storage, how, device.kernels)


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
def test_packed_weights_and_one_sample(
    storage: Any, kind: str, device: Any, rng: np.random.Generator
) -> None:
    x, weights, _ = cast(make(rng, kind, 3, 4, 2, 9), storage)
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


#: Deep enough for tensor cores, with units and samples of several panels and tiles.
SCANS: list[tuple[str, dict[str, Any]]] = [
    ("rnn", {}),
    ("lstm", {"peepholes": True}),
    ("lstm", {"project": 33, "layer_norm": True}),
    ("gru", {}),
    ("gru", {"reset_after": False}),
]


def make_scan(
    rng: Any,
    kind: str,
    options: dict[str, Any],
    steps: int,
    hidden: int,
    batch: int = 37,
    dtype: Any = np.float32,
) -> Any:
    """Arguments of a call whose samples end at different steps."""
    how = dict(options)
    problem = make(rng, kind, steps, batch, 3, hidden, project=how.pop("project", 0))
    if how.get("peepholes"):
        how["peepholes"] = [rng.uniform(-1, 1, (3, hidden)).astype(dtype)]
    if how.get("layer_norm"):
        how["layer_norm"] = gains(rng, kind, hidden, 1, dtype)
    how["lengths"] = rng.integers(0, steps + 1, batch).tolist()
    return (kind, *cast(problem, dtype), lambda r: (r[0], r[1]), how)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
# Weights of 41 units fit one block, which then has samples of its own; those of 130 in places.
@pytest.mark.parametrize(("batch", "hidden"), [(37, 41), (5, 130)])
@pytest.mark.parametrize(("kind", "options"), SCANS, ids=str)
def test_the_grid_does_not_show(
    name: str,
    kind: str,
    options: dict[str, Any],
    batch: int,
    hidden: int,
    device: Any,
    rng: np.random.Generator,
) -> None:
    """Many blocks or one, all steps in a launch or each part in its own: the same bits."""
    dtype: Any = np.float32
    if name == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    call = make_scan(rng, kind, options, 3, hidden, batch, dtype)
    expected = flat(run(device.kernels, *call))
    if device.name != "host_cuda":
        pytest.skip("a GPU has the blocks that it has")
    for count, together in ((1, True), (3, True), (7, True), (18, True), (3, False)):
        device.module.set_multiprocessors(count)
        device.module.set_cooperative(together)
        try:
            found = flat(run(device.kernels, *call))
        finally:
            device.module.set_cooperative(True)
        for a, b in zip(found, expected, strict=True):
            assert_same_bits(a, b, f"{count} multiprocessors, together: {together}")


@pytest.mark.parametrize("kind", KINDS)
def test_products_of_a_hopper(half: Any, kind: str, device: Any, rng: np.random.Generator) -> None:
    """Those over all steps take its instructions, and leave their sums in float32."""
    if device.name != "host_cuda":
        pytest.skip("a GPU is what it is")
    x, weights, state = cast(make(rng, kind, 9, 8, 16, 24, directions=2), half)

    def everything() -> Any:
        how = {"bidirectional": True}
        return flat(run(device.kernels, kind, x, weights, state, lambda r: (r[0], r[1]), how))

    expected = everything()
    device.module.set_capability(9, 0)
    try:
        found = everything()
    finally:
        device.module.set_capability(8, 0)
    for a, b in zip(found, expected, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize(("kind", "options"), SCANS, ids=str)
def test_launches_are_as_many_for_any_number_of_steps(
    kind: str, options: dict[str, Any], device: Any, rng: np.random.Generator
) -> None:
    if device.name != "host_cuda":
        pytest.skip("launches are counted by the emulator")
    launches = []
    for steps in (3, 6):
        call = make_scan(rng, kind, options, steps, 35)
        before = device.launches()
        run(device.kernels, *call)
        launches.append(device.launches() - before)
    assert launches[0] == launches[1]


@pytest.mark.parametrize(("kind", "options"), SCANS, ids=str)
def test_blocks_of_small_networks_do_not_wait_for_each_other(
    kind: str, options: dict[str, Any], device: Any, rng: np.random.Generator
) -> None:
    """Where blocks cannot be together either, all steps are one launch; of others each is one."""
    if device.name != "host_cuda":
        pytest.skip("launches are counted by the emulator")

    def launches(steps: int, hidden: int) -> int:
        call = make_scan(rng, kind, options, steps, hidden, 3)
        before = device.launches()
        run(device.kernels, *call)
        return int(device.launches() - before)

    device.module.set_multiprocessors(40)
    device.module.set_cooperative(False)
    try:
        small, large = (launches(5, hidden) - launches(2, hidden) for hidden in (33, 200))
    finally:
        device.module.set_cooperative(True)
    assert small == 0
    assert large >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_several_tiles(
    storage: Any, kind: str, device: Any, rng: np.random.Generator
) -> None:
    x, weights, _ = cast(make(rng, kind, 2, 70, 3, 34), storage)
    y = getattr(device.kernels, kind)(x, weights)[0]
    for begin, end in ((0, 1), (69, 70), (30, 47)):
        part = getattr(device.kernels, kind)(x[:, begin:end], weights)[0]
        assert_same_bits(part, y[:, begin:end], f"samples {begin} to {end} alone")


@pytest.mark.parametrize("kind", KINDS)
def test_weights_beyond_shared_memory(
    storage: Any, kind: str, device: Any, rng: np.random.Generator
) -> None:
    if device.name == "host_cuda":
        device.module.set_multiprocessors(1)
    hidden = {"rnn": 330, "lstm": 170, "gru": 190}[kind]
    check(kind, *make(rng, kind, 2, 3, 2, hidden), {}, storage, 4, device.kernels)


def test_products_of_the_largest_numbers(device: Any, rng: np.random.Generator) -> None:
    """Their leading bits are infinite, the products are not; and what is infinite stays so."""
    x, (w_ih, w_hh), h0 = cast(make(rng, "rnn", 1, 3, 2, 40, biases=0), np.float32)
    h0[0, 1, 5], w_hh[:, 5] = np.finfo(np.float32).max, 1e-37
    h0[0, 2, 7], w_hh[:, 7] = np.inf, np.abs(w_hh[:, 7]) + 1e-3
    how = {"nonlinearity": "relu"}
    found = device.kernels.rnn(x, [w_ih, w_hh], h0, **how)[0]
    wide = [a.astype(np.float64) for a in (x, w_ih, w_hh, h0)]
    truth = reference.rnn(wide[0], wide[1:3], wide[3], **how)[0]
    assert np.isinf(found[0, 2]).all()
    np.testing.assert_allclose(found[0, :2], truth[0, :2], rtol=1e-5, atol=1e-4)


def test_precision_of_tf32(device: Any, rng: np.random.Generator) -> None:
    x, weights, state = cast(make(rng, "lstm", 2, 5, 3, 40), np.float32)
    truth = kernels.lstm(x, weights, state)[0]
    exact = device.kernels.lstm(x, weights, state)[0]
    ann.set_float32_precision("tf32")
    try:
        short = device.kernels.lstm(x, weights, state)[0]
    finally:
        ann.set_float32_precision("highest")
    assert np.abs(exact - truth).max() < 2e-6
    assert 2e-6 < np.abs(short - truth).max() < 1e-2
