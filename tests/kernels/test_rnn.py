"""rnn, lstm, gru and their cells against the reference, at every ISA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arraynn import kernels, reference
from memory import mixed_layouts
from tolerances import (
    assert_gradient,
    assert_same_bits,
    assert_within,
    compute_dtype,
    finfo,
    oracle_dtype,
)

from .problems import thread_counts

pytestmark = pytest.mark.usefixtures("isa")

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
KINDS = list(GATES)


def flat(value: Any) -> list[Any]:
    """Arrays of a nest of tuples and lists, in order."""
    if isinstance(value, list | tuple):
        return [a for part in value for a in flat(part)]
    return [value]


def cast(value: Any, dtype: Any) -> Any:
    """Copy of a nest of arrays in `dtype`; None stays."""
    if isinstance(value, list | tuple):
        return type(value)(cast(part, dtype) for part in value)
    return value if value is None else value.astype(dtype)


def make(
    rng: np.random.Generator,
    kind: str,
    steps: int,
    batch: int,
    size: int,
    hidden: int,
    *,
    layers: int = 1,
    directions: int = 1,
    biases: int = 2,
    project: int = 0,
) -> tuple[Any, list[Any], Any]:
    """x, weights and a first state in float64, representable in float32."""

    def uniform(*shape: int) -> Any:
        return rng.uniform(-1, 1, shape).astype(np.float32).astype(np.float64)

    rows, out = GATES[kind] * hidden, project or hidden
    weights = []
    for layer in range(layers):
        for _ in range(directions):
            width = directions * out if layer else size
            weights += [uniform(rows, width) / 2, uniform(rows, out) / 2]
            weights += [uniform(rows) for _ in range(biases)]
            weights += [uniform(project, hidden)] if project else []
    h0 = uniform(layers * directions, batch, out)
    state = (h0, uniform(layers * directions, batch, hidden)) if kind == "lstm" else h0
    return uniform(steps, batch, size), weights, state


def gains(
    rng: np.random.Generator, kind: str, hidden: int, groups: int, dtype: Any = np.float64
) -> list[Any]:
    """Arrays of the layer norms, around 1."""
    wide = GATES[kind] * hidden
    sizes = (wide, wide, hidden, hidden) if kind == "lstm" else (wide, wide)
    return [rng.uniform(0.5, 1.5, n).astype(dtype) for _ in range(groups) for n in sizes]


def run(module: Any, kind: str, x: Any, weights: Any, state: Any, grads: Any, how: Any) -> Any:
    """Results of the forward call and of its backward; `grads` makes gradients of y and state."""
    *results, kept = getattr(module, kind)(x, weights, state, **how, return_workspace=True)
    grad_y, grad_state = grads(results)
    back = getattr(module, f"{kind}_backward")(grad_y, grad_state, kept)
    return flat(results), flat(back)


def has_corners(how: dict[str, Any]) -> bool:
    """Whether a derivative jumps, at numbers that one rounding may be beyond."""
    bounds = how.get("clip") is not None or how.get("cell_clip") is not None
    return bounds or bool({"relu", "hardsigmoid"} & {v for v in how.values() if type(v) is str})


def check(
    kind: str,
    x: Any,
    weights: Any,
    state: Any,
    how: Any,
    dtype: Any,
    seed: int,
    kernels: Any = kernels,
) -> None:
    """Hold forward and backward against the reference in the oracle's dtype.

    Errors grow with the steps, so they are measured against the largest value of an array and
    held to twice those of plain NumPy in the same dtype, plus some roundings of a sum. In 16 bits
    NumPy computes in float32, and h and the gradients of gates are rounded in every step; gradients
    that jump are not held there.
    """
    base, wide = compute_dtype(dtype), oracle_dtype(dtype)
    x, weights, state = (cast(cast(a, dtype), wide) for a in (x, weights, state))

    def grads_in(kind_of: Any) -> Any:
        def grads(results: Any) -> Any:
            rng = np.random.default_rng(seed)
            made = [rng.uniform(-1, 1, a.shape).astype(np.float32) for a in flat(results[:2])]
            made = cast(cast(made, dtype), kind_of)
            return made[0], tuple(made[1:]) if kind == "lstm" else made[1]

        return grads

    def options(kind_of: Any) -> Any:
        arrays = ("peepholes", "layer_norm")
        return {k: cast(cast(v, dtype), kind_of) if k in arrays else v for k, v in how.items()}

    found, native, truth = (
        run(
            module,
            kind,
            *(cast(a, kind_of) for a in (x, weights, state)),
            grads_in(kind_of),
            options(kind_of),
        )
        for module, kind_of in ((kernels, dtype), (reference, base), (reference, wide))
    )
    for part, label in enumerate(("forward", "backward")):
        if part == 1 and base != dtype and has_corners(how):
            continue
        assert len(found[part]) == len(truth[part])
        for i, got in enumerate(found[part]):
            ref, plain = truth[part][i], native[part][i]
            top = float(np.abs(ref).max(initial=0)) + 1
            worst = float(np.abs(plain.astype(wide) - ref).max(initial=0))
            roundings = 32 if base == dtype else 4
            allowed = 2 * worst + roundings * float(finfo(dtype).eps) * top
            assert_within(got, ref, allowed, f"{kind} {label} {i} of {x.shape}, {how}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("steps", "batch", "size", "hidden"),
    [
        (1, 1, 1, 1),
        (1, 1, 40, 37),
        (1, 5, 3, 530),
        (2, 1, 7, 20),
        (3, 2, 5, 7),
        (4, 1, 3, 16),
        (2, 13, 8, 33),
        (5, 5, 1, 64),
        (3, 7, 17, 15),
        (2, 25, 4, 8),
        (2, 3, 6, 130),
    ],
)
def test_sizes_around_the_tile(
    dtype: Any, kind: str, steps: int, batch: int, size: int, hidden: int, rng: Any
) -> None:
    check(kind, *make(rng, kind, steps, batch, size, hidden), {}, dtype, hidden)


CELLS: list[tuple[str, dict[str, Any]]] = [
    ("rnn", {"nonlinearity": "relu"}),
    ("rnn", {"nonlinearity": "gelu", "clip": 1.5}),
    ("lstm", {"peepholes": True}),
    ("lstm", {"input_forget": True, "peepholes": True}),
    ("lstm", {"clip": 0.75, "cell_clip": 0.5}),
    ("lstm", {"activation": "relu", "recurrent_activation": "hardsigmoid"}),
    ("lstm", {"activation": "silu", "output_activation": "softplus", "peepholes": True}),
    ("lstm", {"activation": "elu", "output_activation": "selu"}),
    ("lstm", {"project": 5}),
    ("lstm", {"project": 21, "peepholes": True, "cell_clip": 0.5, "return_cells": True}),
    ("gru", {"reset_after": False}),
    ("gru", {"reset_after": False, "clip": 0.5, "activation": "elu"}),
    ("gru", {"recurrent_activation": "hardsigmoid", "activation": "mish"}),
    ("gru", {"activation": "leaky_relu", "reset_after": False}),
    ("gru", {"clip": 0.5}),
    ("rnn", {"layer_norm": True, "nonlinearity": "softplus"}),
    ("lstm", {"layer_norm": True}),
    ("lstm", {"layer_norm": True, "peepholes": True, "project": 5, "zoneout_cell": 0.5}),
    ("lstm", {"layer_norm": True, "output_activation": "mish", "cell_clip": 0.5}),
    ("gru", {"layer_norm": True}),
]


def check_options(
    kind: str, options: dict[str, Any], biases: int, sizes: Any, dtype: Any, rng: Any, *on: Any
) -> None:
    """Hold a cell with options against the reference; ``sizes`` are hidden ones."""
    how = dict(options)
    project = how.pop("project", 0)
    for hidden in sizes:
        x, weights, state = make(rng, kind, 4, 6, 3, hidden, biases=biases, project=project)
        if how.get("peepholes"):
            how["peepholes"] = [rng.uniform(-1, 1, (3, hidden)).astype(np.float32)]
        if how.get("layer_norm"):
            how["layer_norm"] = gains(rng, kind, hidden, 1, np.float32)
            how["layer_norm_eps"] = 1e-2
        check(kind, x, weights, state, how, dtype, hidden, *on)


@pytest.mark.parametrize(("kind", "options"), CELLS, ids=str)
@pytest.mark.parametrize("biases", [0, 1, 2])
def test_options_of_the_cells(
    dtype: Any, kind: str, options: dict[str, Any], biases: int, rng: np.random.Generator
) -> None:
    check_options(kind, options, biases, (9, 40), dtype, rng)


# Those whose derivative follows from their value, and one whose argument is kept.
ACTIVATIONS = ["relu", "leaky_relu", "elu", "sigmoid", "hardsigmoid", "softplus", "silu"]


def check_combination(kind: str, data: st.DataObject, *on: Any, dtype: Any = np.float64) -> None:
    """Hold any combination of options against the reference."""
    draw = data.draw
    bidirectional, layers = draw(st.booleans()), draw(st.integers(1, 3))
    steps, batch = draw(st.integers(0, 5)), draw(st.integers(0, 9))
    hidden, size = draw(st.sampled_from([1, 5, 16, 35])), draw(st.integers(0, 4))
    directions = 1 + bidirectional
    how: dict[str, Any] = {
        "num_layers": layers,
        "bidirectional": bidirectional,
        "batch_first": draw(st.booleans()),
        "reverse": draw(st.booleans()) and not bidirectional,
        "dropout": draw(st.sampled_from([0.0, 0.3, 1.0])),
        "seed": draw(st.integers(-(2**63), 2**64 - 1)),
    }
    if draw(st.booleans()):
        lengths = st.lists(st.integers(0, steps), min_size=batch, max_size=batch)
        how["lengths"] = np.array(draw(lengths), draw(st.sampled_from([np.int32, np.int64])))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    if draw(st.booleans()):
        how["mask"] = rng.random((batch, steps) if how["batch_first"] else (steps, batch)) < 0.6
    for name in ("recurrent_dropout", "weight_dropout", "zoneout"):
        how[name] = draw(st.sampled_from([0.0, 0.4, 1.0]))
    how["clip"] = draw(st.sampled_from([None, 0.7]))
    names = ["nonlinearity"] if kind == "rnn" else ["activation", "recurrent_activation"]
    for name in names + ["output_activation"] * (kind == "lstm"):
        if draw(st.booleans()):
            how[name] = draw(st.sampled_from(ACTIVATIONS))
    project = 0
    if kind == "lstm":
        project = draw(st.sampled_from([0, 3]))
        how["input_forget"] = draw(st.booleans())
        how["return_cells"] = draw(st.booleans())
        how["cell_clip"] = draw(st.sampled_from([None, 0.4]))
        how["zoneout_cell"] = draw(st.sampled_from([0.0, 0.5]))
        if draw(st.booleans()):
            groups = range(layers * directions)
            how["peepholes"] = [rng.uniform(-1, 1, (3, hidden)) for _ in groups]
    elif kind == "gru":
        how["reset_after"] = draw(st.booleans())
    if draw(st.booleans()) and how.get("reset_after", True):
        how["layer_norm"] = gains(rng, kind, hidden, layers * directions)
        how["layer_norm_eps"] = draw(st.sampled_from([1e-3, 1.0]))
    x, weights, state = make(
        rng, kind, steps, batch, size, hidden,
        layers=layers, directions=directions, biases=draw(st.integers(0, 2)), project=project,
    )  # fmt: skip
    if how["batch_first"]:
        x = x.swapaxes(0, 1).copy()
    given_state = state if draw(st.booleans()) else None
    # In float64: where a bound takes hold, or a relu turns, may hang on one rounding of float32.
    check(kind, x, weights, given_state, how, dtype, 3, *on)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=25)
def test_any_combination(kind: str, data: st.DataObject) -> None:
    check_combination(kind, data)


@pytest.mark.parametrize("kind", KINDS)
def test_one_sample_without_its_axis(dtype: Any, kind: str, rng: np.random.Generator) -> None:
    x, weights, state = cast(make(rng, kind, 4, 1, 3, 10), dtype)
    alone = (tuple(s[:, 0] for s in state) if kind == "lstm" else state[:, 0],)
    for batch_first in (False, True):
        got = getattr(kernels, kind)(x[:, 0], weights, *alone, batch_first=batch_first)
        for a, b in zip(flat(got), flat(getattr(kernels, kind)(x, weights, state)), strict=True):
            assert_same_bits(a, b[:, 0])


CELL_OPTIONS: dict[str, dict[str, Any]] = {
    "rnn": {"nonlinearity": "relu", "clip": 2.0},
    "lstm": {"clip": 2.0, "cell_clip": 0.8, "input_forget": True},
    "gru": {"reset_after": False},
}


def check_cell(kind: str, dtype: Any, rng: np.random.Generator, kernels: Any = kernels) -> None:
    """Hold a cell and its gradients against a sequence of one step, and against a sample alone."""
    cell, back = (getattr(kernels, f"{kind}_cell{end}") for end in ("", "_backward"))
    whole_back = getattr(kernels, f"{kind}_backward")
    x, weights, state = cast(make(rng, kind, 1, 9, 6, 21), dtype)
    first = tuple(s[0] for s in state) if kind == "lstm" else state[0]
    for options in ({}, CELL_OPTIONS[kind], {"layer_norm": gains(rng, kind, 21, 1, dtype)}):
        new, kept = cell(x[0], weights, first, **options, return_workspace=True)
        how = dict(options)
        _, last, whole = getattr(kernels, kind)(x, weights, state, **how, return_workspace=True)
        for a, b in zip(flat(new), flat(last), strict=True):
            assert_same_bits(a, b[0])
        grads = [rng.uniform(-1, 1, a.shape).astype(dtype) for a in flat(last)]
        grad = tuple(grads) if kind == "lstm" else grads[0]
        one = tuple(g[0] for g in grads) if kind == "lstm" else grads[0][0]
        expected = whole_back(None, grad, whole)
        found = back(one, kept)
        assert_same_bits(found[0], expected[0][0])
        for a, b in zip(flat(found[1]), flat(expected[1]), strict=True):
            assert_same_bits(a, b[0])
        for a, b in zip(flat(found[2:]), flat(expected[2:]), strict=True):
            assert_same_bits(a, b)
        alone = cell(x[0, 2], weights, cast_row(first, 2), **options)
        for a, b in zip(flat(alone), flat(new), strict=True):
            assert_same_bits(a, b[2])
    if kind == "lstm":
        peepholes = rng.uniform(-1, 1, (3, 21)).astype(dtype)
        new, kept = cell(x[0], weights, first, peepholes=peepholes, return_workspace=True)
        assert back(new, kept)[3].shape == (3, 21)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_is_one_step(dtype: Any, kind: str, rng: np.random.Generator) -> None:
    # rnn_cell, lstm_cell, gru_cell and rnn_cell_backward, lstm_cell_backward, gru_cell_backward.
    check_cell(kind, dtype, rng)


def cast_row(state: Any, row: int) -> Any:
    """One sample of a state."""
    return tuple(s[row] for s in state) if isinstance(state, tuple) else state[row]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradients_are_the_derivatives(
    kind: str, bidirectional: bool, rng: np.random.Generator
) -> None:
    directions = 1 + bidirectional
    x, weights, state = make(rng, kind, 4, 3, 3, 6, layers=2, directions=directions)
    how: dict[str, Any] = {
        "num_layers": 2,
        "bidirectional": bidirectional,
        "lengths": np.array([4, 0, 2]),
        "dropout": 0.4,
        "seed": 7,
    }
    if bidirectional:
        how |= {"recurrent_dropout": 0.3, "weight_dropout": 0.2, "zoneout": 0.4}
        how["mask"] = rng.random((4, 3)) < 0.7
    else:
        how["layer_norm"] = gains(rng, kind, 6, 2)
    if kind == "lstm":
        how["peepholes"] = [rng.uniform(-1, 1, (3, 6)) for _ in range(2 * directions)]
    forward, backward = getattr(kernels, kind), getattr(kernels, f"{kind}_backward")
    *results, kept = forward(x, weights, state, **how, return_workspace=True)
    slopes = [rng.standard_normal(a.shape) for a in flat(results)]
    grad_state = tuple(slopes[1:]) if kind == "lstm" else slopes[1]
    gradients = flat(backward(slopes[0], grad_state, kept))
    points = flat([x, state, weights, how.get("peepholes", []), how.get("layer_norm", [])])
    assert len(points) == len(gradients)
    states = 2 if kind == "lstm" else 1

    for i, point in enumerate(points):

        def value(v: Any, i: int = i) -> float:
            p = [*points[:i], v, *points[i + 1 :]]
            first = tuple(p[1:3]) if kind == "lstm" else p[1]
            used = 1 + states + len(weights)
            call = dict(how)
            for name in ("peepholes", "layer_norm"):
                if name in how:
                    call[name] = p[used : used + len(how[name])]
                    used += len(how[name])
            mine = p[1 + states : 1 + states + len(weights)]
            out = flat(forward(p[0], mine, first, **call))
            return float(sum(np.sum(s * o) for s, o in zip(slopes, out, strict=True)))

        assert_gradient(value, point, gradients[i], rng, label=f"{kind}, gradient {i}")


def variants(kind: str) -> Iterator[dict[str, Any]]:
    yield {}
    yield {"bidirectional": True}
    if kind == "gru":
        yield {"reset_after": False}
    yield {"layer_norm": True}
    if kind == "lstm":
        yield {"peepholes": True, "project": 11, "clip": 1.5, "cell_clip": 0.7, "zoneout": 0.3}


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_for_every_thread_count(dtype: Any, kind: str, rng: np.random.Generator) -> None:
    for how in variants(kind):
        directions = 2 if "bidirectional" in how else 1
        project = how.pop("project", 40 if kind == "lstm" and directions == 2 else 0)
        x, weights, state = cast(
            make(rng, kind, 3, 30, 20, 150, directions=directions, project=project), dtype
        )
        if how.get("layer_norm"):
            how["layer_norm"] = gains(rng, kind, 150, directions, dtype)
        if how.get("peepholes"):
            how["peepholes"] = [rng.uniform(-1, 1, (3, 150)).astype(dtype)]
        how |= {"lengths": rng.integers(0, 4, 30), "mask": rng.random((3, 30)) < 0.7, "seed": 5}
        how |= {"recurrent_dropout": 0.3, "weight_dropout": 0.2, "zoneout": 0.4}

        def grads(results: Any) -> Any:
            return results[0], results[1]

        expected = run(kernels, kind, x, weights, state, grads, how)
        for n in thread_counts():
            found = run(kernels, kind, x, weights, state, grads, how)
            for a, b in zip(flat(found), flat(expected), strict=True):
                assert_same_bits(a, b, f"{kind}, {n} threads")


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_alone_and_a_sequence_in_pieces(
    dtype: Any, kind: str, rng: np.random.Generator
) -> None:
    for how in variants(kind):
        if how.get("bidirectional"):
            continue
        project = how.pop("project", 0)
        x, weights, state = cast(make(rng, kind, 6, 29, 9, 37, project=project), dtype)
        if how.get("layer_norm"):
            how["layer_norm"] = gains(rng, kind, 37, 1, dtype)
        if how.get("peepholes"):
            how["peepholes"] = [rng.uniform(-1, 1, (3, 37)).astype(dtype)]
        forward = getattr(kernels, kind)
        y, last = forward(x, weights, state, **how)
        kept = forward(x, weights, state, **how, return_workspace=True)
        for a, b in zip(flat(kept[:2]), flat([y, last]), strict=True):
            assert_same_bits(a, b, "with and without a workspace")
        for b in (0, 17, 28):
            one = tuple(s[:, b : b + 1] for s in state) if kind == "lstm" else state[:, b : b + 1]
            alone, _ = forward(x[:, b : b + 1], weights, one, **how)
            assert_same_bits(alone, y[:, b : b + 1], f"sample {b} alone")
        pieces, carried = [], state
        for part in (x[:1], x[1:2], x[2:5], x[5:]):
            piece, carried = forward(part, weights, carried, **how)
            pieces.append(piece)
        assert_same_bits(np.concatenate(pieces), y, "in pieces")
        for a, b in zip(flat(carried), flat(last), strict=True):
            assert_same_bits(a, b, "state after the pieces")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("biases", [0, 1, 2])
def test_an_input_of_one_element(
    dtype: Any, kind: str, biases: int, rng: np.random.Generator
) -> None:
    # Without a workspace a step forms x's share itself, else it is a matrix product.
    forward = getattr(kernels, kind)
    for batch, hidden, how in (
        (1, 20, {}),
        (9, 37, {"bidirectional": True}),
        (23, 64, {"reverse": True}),
        (23, 64, {"reset_after": False} if kind == "gru" else {"zoneout": 0.2}),
    ):
        directions = 2 if "bidirectional" in how else 1
        x, weights, state = cast(
            make(rng, kind, 12, batch, 1, hidden, biases=biases, directions=directions), dtype
        )
        lengths = {"lengths": rng.integers(0, 13, batch), "mask": rng.random((12, batch)) < 0.7}
        for more in ({}, lengths):
            *expected, _ = forward(x, weights, state, **how, **more, return_workspace=True)
            for n in thread_counts():
                for w in (weights, kernels.pack(weights, kind)):
                    found = forward(x, w, state, **how, **more)
                    for a, b in zip(flat(found), flat(expected), strict=True):
                        assert_same_bits(a, b, f"{how}, {n} threads")


def test_step_by_step_over_several_blocks(dtype: Any, rng: np.random.Generator) -> None:
    # A single step is a matrix product, which sums in blocks; a sequence has to do so too.
    for kind, hidden, how in (("rnn", 1100, {}), ("gru", 530, {"reset_after": False})):
        x, weights, state = cast(make(rng, kind, 2, 2, 3, hidden), dtype)
        y, _ = getattr(kernels, kind)(x, weights, state, **how)
        first, carried = getattr(kernels, kind)(x[:1], weights, state, **how)
        second, _ = getattr(kernels, kind)(x[1:], weights, carried, **how)
        assert_same_bits(np.concatenate([first, second]), y, kind)


def test_gates_of_a_part_of_the_steps_at_a_time(rng: np.random.Generator) -> None:
    # Long enough for several parts.
    for kind, how in (
        ("lstm", {"clip": 2.0}),
        ("gru", {"reverse": True}),
        ("rnn", {"nonlinearity": "gelu"}),
    ):
        problem = make(rng, kind, 700, 3, 2, 40)
        problem[1][1] *= 0.25  # errors do not grow from step to step
        how["lengths"] = np.array([700, 123, 0])
        check(kind, *problem, how, np.dtype(np.float64), 5)
        x, weights, _ = cast(problem, np.float32)
        whole = getattr(kernels, kind)(x, weights, **how, return_workspace=True)
        parts = getattr(kernels, kind)(x, weights, **how)
        for a, b in zip(flat(parts), flat(whole[:2]), strict=True):
            assert_same_bits(a, b)


def check_padding(kind: str, dtype: Any, rng: np.random.Generator, kernels: Any = kernels) -> None:
    """What is past the end of a sample is not looked at, and is 0 in results."""
    x, weights, state = cast(make(rng, kind, 5, 6, 4, 20, layers=2, directions=2), dtype)
    lengths = np.array([5, 0, 3, 1, 4, 2])
    beyond = np.arange(5)[:, None] >= lengths
    how = {"num_layers": 2, "bidirectional": True, "lengths": lengths}
    bad = x.copy()
    bad[beyond] = np.nan
    grad = rng.uniform(-1, 1, (5, 6, 40)).astype(dtype)
    bad_grad = grad.copy()
    bad_grad[beyond] = np.nan
    expected = run(kernels, kind, x, weights, state, lambda r: (grad, r[1]), how)
    found = run(kernels, kind, bad, weights, state, lambda r: (bad_grad, r[1]), how)
    for a, b in zip(flat(found), flat(expected), strict=True):
        assert_same_bits(a, b)
    assert not found[0][0][beyond].any(), "y past the end"
    assert not found[1][0][beyond].any(), "gradient of x past the end"
    for s, last in zip(flat(state), found[0][1:], strict=True):
        assert_same_bits(last[:, 1], s[:, 1], "the state of a sample of no steps")


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_not_looked_at(dtype: Any, kind: str, rng: np.random.Generator) -> None:
    check_padding(kind, dtype, rng)


def check_masks(
    kind: str, reverse: bool, dtype: Any, rng: np.random.Generator, kernels: Any = kernels
) -> None:
    """A sample goes on as if the steps that a mask hides were not there."""
    x, weights, state = cast(make(rng, kind, 7, 5, 4, 20), dtype)
    mask = rng.random((7, 5)) < 0.6
    mask[:, 3] = False
    x[~mask] = np.nan
    grad = rng.uniform(-1, 1, (7, 5, 20)).astype(dtype)
    how: dict[str, Any] = {"reverse": reverse, "zoneout": 0.25}
    found = run(kernels, kind, x, weights, state, lambda r: (grad, r[1]), how | {"mask": mask})
    for b in range(5):
        took = np.flatnonzero(mask[:, b])
        one = tuple(s[:, b : b + 1] for s in state) if kind == "lstm" else state[:, b : b + 1]
        y, last = getattr(kernels, kind)(x[took][:, b : b + 1], weights, one, **how)
        for a, s in zip(flat(last), found[0][1:], strict=True):
            assert_same_bits(s[:, b], a[:, 0], "final state")
        before = one[0][0] if kind == "lstm" else one[0]
        rows = [*before, *(y[::-1, 0] if reverse else y[:, 0])]
        order = mask[::-1, b] if reverse else mask[:, b]
        expected = np.array([rows[n] for n in np.cumsum(order)])
        assert_same_bits(found[0][0][:, b], expected[::-1] if reverse else expected, "y")
    assert not found[1][0][~mask].any(), "gradient of x"
    assert all(np.isfinite(a).all() for a in found[1])
    alone = getattr(kernels, kind)(
        x[:, 2], weights, tuple(s[:, 2] for s in state) if kind == "lstm" else state[:, 2],
        mask=mask[:, 2], **how,
    )  # fmt: skip
    assert_same_bits(alone[0], found[0][0][:, 2], "one sample without its axis")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_masked_steps_are_not_there(
    dtype: Any, kind: str, reverse: bool, rng: np.random.Generator
) -> None:
    check_masks(kind, reverse, dtype, rng)


def test_a_mask_at_the_end_is_a_length(dtype: Any, rng: np.random.Generator) -> None:
    x, weights, state = cast(make(rng, "lstm", 5, 4, 3, 18, layers=2, directions=2), dtype)
    lengths = np.array([5, 0, 2, 4])
    how = {"num_layers": 2, "bidirectional": True}
    by_length = kernels.lstm(x, weights, state, lengths=lengths, **how)
    mask = np.arange(5)[:, None] < lengths
    by_mask = kernels.lstm(x, weights, state, mask=mask, **how)
    for a, b in zip(flat(by_length[1]), flat(by_mask[1]), strict=True):
        assert_same_bits(a, b)
    assert_same_bits(by_length[0][mask], by_mask[0][mask])


@pytest.mark.parametrize("kind", KINDS)
def test_any_memory(dtype: Any, kind: str, rng: np.random.Generator) -> None:
    x, weights, state = cast(make(rng, kind, 3, 4, 5, 18), dtype)
    arrays = [x, *weights, *flat(state)]

    def all_of(a: Any) -> Any:
        first = tuple(a[5:]) if kind == "lstm" else a[5]
        return flat(run(kernels, kind, a[0], a[1:5], first, lambda r: (r[0], r[1]), {}))

    expected = all_of(arrays)
    before = [a.copy() for a in arrays]
    for memory, awkward in mixed_layouts(*arrays):
        for a, b in zip(all_of(awkward), expected, strict=True):
            assert_same_bits(a, b, memory)
    for a, b in zip(arrays, before, strict=True):
        assert_same_bits(a, b, "inputs are not touched")


NOTHING = [(0, 2, 3, 4), (3, 0, 3, 4), (3, 2, 0, 4), (3, 2, 3, 0)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("steps", "batch", "size", "hidden"), NOTHING)
def test_nothing_in(
    dtype: Any, kind: str, steps: int, batch: int, size: int, hidden: int, rng: Any
) -> None:
    check(kind, *make(rng, kind, steps, batch, size, hidden), {}, dtype, 1)


def check_specials(kind: str, dtype: Any, rng: np.random.Generator, kernels: Any = kernels) -> None:
    """NaN stays with its sample, and large inputs saturate the gates."""
    x, weights, state = cast(make(rng, kind, 3, 4, 2, 5), dtype)
    x[0, 0, 0] = np.nan
    x[0, 1, 0] = float(finfo(dtype).max) / 64
    y, _ = getattr(kernels, kind)(x, weights, state)
    assert np.isnan(y[:, 0]).any(axis=-1).all(), "NaN stays with its sample"
    assert np.isfinite(y[:, 1:]).all(), "gates saturate, and no other sample sees the NaN"


@pytest.mark.parametrize("kind", KINDS)
def test_special_values(dtype: Any, kind: str, rng: np.random.Generator) -> None:
    check_specials(kind, dtype, rng)


def test_a_workspace_serves_twice_and_only_its_own(rng: np.random.Generator) -> None:
    x, weights, state = make(rng, "gru", 3, 2, 3, 4)
    y, _, kept = kernels.gru(x, weights, state, return_workspace=True)
    first = kernels.gru_backward(y, None, kept)
    for a, b in zip(flat(kernels.gru_backward(y, None, kept)), flat(first), strict=True):
        assert_same_bits(a, b)
    assert kept.nbytes >= 4 * y.nbytes
    with pytest.raises(ValueError, match=r"\[rnn_backward\] workspace: expected that of the same"):
        kernels.rnn_backward(y, None, kept)
    with pytest.raises(TypeError, match=r"\[gru_backward\] workspace: "):
        kernels.gru_backward(y, None, object())


@pytest.mark.parametrize("kind", KINDS)
def test_pytorch_agrees(dtype: Any, kind: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x, weights, state = cast(make(rng, kind, 6, 5, 4, 24, layers=2, directions=2), dtype)
    module = getattr(torch.nn, kind.upper())(
        4, 24, 2, bidirectional=True, dtype=getattr(torch, str(dtype))
    )
    with torch.no_grad():
        for p, w in zip(module._flat_weights, weights, strict=True):
            p.copy_(torch.from_numpy(w))
    tx = torch.from_numpy(x.copy()).requires_grad_()
    given_state = [torch.from_numpy(s.copy()).requires_grad_() for s in flat(state)]
    out, last = module(tx, tuple(given_state) if kind == "lstm" else given_state[0])
    theirs = [out, *flat(last)]
    how = {"num_layers": 2, "bidirectional": True}
    slopes = [rng.uniform(-1, 1, t.shape).astype(dtype) for t in theirs]
    grad_state = tuple(slopes[1:]) if kind == "lstm" else slopes[1]
    results, back = run(kernels, kind, x, weights, state, lambda _: (slopes[0], grad_state), how)
    torch.autograd.backward(theirs, [torch.from_numpy(s) for s in slopes])
    leaves = [tx, *given_state, *module._flat_weights]
    wanted = [t.detach().numpy() for t in theirs], [leaf.grad.numpy() for leaf in leaves]
    tolerance = 200 * float(np.finfo(dtype).eps)
    for got, expected in zip(results + back, wanted[0] + wanted[1], strict=True):
        allowed = tolerance * (1 + float(np.abs(expected).max()))
        assert_within(got, expected, allowed, f"{kind} against PyTorch")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 3])
def test_no_state_is_a_state_of_zeros(kind: str, steps: int) -> None:
    """The product with zeros is left out: nothing else is."""
    x, weights, state = make(np.random.default_rng(3), kind, steps, 4, 3, 37)
    zeros = tuple(np.zeros_like(s) for s in state) if kind == "lstm" else np.zeros_like(state)
    hows: list[dict[str, Any]] = [{}, {"reverse": True, "lengths": [steps, 1, 0, steps]}]
    hows += [{"mask": np.arange(4 * steps).reshape(steps, 4) % 3 != 0}, {"zoneout": 0.3}]
    hows += [{"layer_norm": [np.full(GATES[kind] * 37, 1.5)] * 2}] if kind != "lstm" else []
    hows += [{"reset_after": False}] if kind == "gru" else []
    for how in hows:
        for packed in (weights, kernels.pack(weights, kind)):
            found = getattr(kernels, kind)(x, packed, **how)
            expected = getattr(kernels, kind)(x, weights, zeros, **how)
            for a, b in zip(flat(found), flat(expected), strict=True):
                assert_same_bits(a, b)
