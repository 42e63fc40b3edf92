"""Every wrong call of the recurrent family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from arraynn import kernels
from wrong_calls import INF, NAN, TOO_LARGE, Case, T, V, f32, f64, huge

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
NOT_FLOAT = (np.int64, np.bool_, np.complex64, np.longdouble, ">f4", object)


def _weights(kind: str) -> list[Any]:
    """Weights of one layer for an input of 3 and a state of 5."""
    rows = GATES[kind] * 5
    return [f32(rows, 3), f32(rows, 5), f32(rows), f32(rows)]


def _wrong_cells(op: str, kind: str, x: Any) -> Iterator[Case]:
    """What a sequence and a cell have in common: x, the weights, the options of the cell."""
    w = _weights(kind)
    for wrong in NOT_FLOAT:
        yield Case(op, (x.astype(wrong), w), {}, T, "x")
        yield Case(op, (x, [w[0], w[1].astype(wrong)]), {}, T, r"weights\[1\]")
    for nothing in (None, "x", x.tolist()):
        yield Case(op, (nothing, w), {}, T, "x")
    rows: list[tuple[tuple[Any, ...], dict[str, Any], Any, str]] = [
        ((f32(3)[0], w), {}, V, "x"),
        ((x[None, None], w), {}, V, "x"),
        ((x, w[:1]), {}, V, "weights"),
        ((x, []), {}, V, "weights"),
        ((x, [*w, *w[2:]]), {}, V, "weights"),
        ((x, None), {}, T, "weights"),
        ((x, w[0]), {}, T, "weights"),
        ((x, [w[0], None]), {}, T, r"weights\[1\]"),
        ((x, [f64(*w[0].shape), w[1]]), {}, T, r"weights\[0\]: .*float"),
        ((x, [w[0].T, w[1]]), {}, V, r"weights\[[01]\]"),
        ((x, [w[0][:, :2], w[1]]), {}, V, r"weights\[0\]"),
        ((x, [w[0].ravel(), w[1]]), {}, V, r"weights\[0\]"),
        ((x, [w[0], w[1].T[:2]]), {}, V, r"weights\[1\]"),
        ((x, [w[0], w[1][:, :4]]), {}, V, r"weights\[1\]"),
        ((x, [*w[:3], w[3][:4]]), {}, V, r"weights\[3\]"),
        ((x, [*w[:2], f32()]), {}, V, r"weights\[2\]"),
        *(((x, w), {"clip": v}, V, "clip") for v in (0.0, -1.0, NAN, INF)),
        ((x, w), {"clip": "1"}, T, "clip"),
        *(((x, w), {"return_workspace": v}, T, "return_workspace") for v in (1, None)),
    ]
    wide = GATES[kind] * 5
    good = [f32(wide), f32(wide), *([f32(5), f32(5)] if kind == "lstm" else [])]
    norms: list[tuple[Any, Any, str]] = [
        ([], V, "layer_norm"),
        (good[:1], V, "layer_norm"),
        ([*good, *good], V, "layer_norm"),
        ([f32(5, wide), *good[1:]], V, r"layer_norm\[0\]"),
        ([*good[:-1], f32(3)], V, rf"layer_norm\[{len(good) - 1}\]"),
        ([good[0], f64(wide), *good[2:]], T, r"layer_norm\[1\]"),
        (good[0], T, "layer_norm"),
        ([None, *good[1:]], T, r"layer_norm\[0\]"),
    ]
    rows += [((x, w), {"layer_norm": a}, e, name) for a, e, name in norms]
    for eps, exception in ((0.0, V), (-1.0, V), (NAN, V), (INF, V), ("1", T), (None, T)):
        how = {"layer_norm": good, "layer_norm_eps": eps}
        rows += [((x, w), how, exception, "layer_norm_eps")]
    names = ["nonlinearity"] if kind == "rnn" else ["activation", "recurrent_activation"]
    if kind == "gru":
        rows += [((x, w), {"reset_after": 1}, T, "reset_after")]
        rows += [((x, w), {"reset_after": False, "layer_norm": good}, V, "layer_norm")]
    if kind != "lstm":
        rows += [((x, [*w[:2], f32(5, 5)]), {}, V, r"weights\[2\]")]
    if kind == "lstm":
        names.append("output_activation")
        rows += [
            ((x, [*w, f32(2, 4)]), {}, V, r"weights\[[14]\]"),
            ((x, [*w, f32(20)]), {}, V, r"weights\[4\]"),
            ((x, w), {"input_forget": 1}, T, "input_forget"),
            *(((x, w), {"cell_clip": v}, V, "cell_clip") for v in (0.0, -1.0, NAN, INF)),
        ]
    for name in names:
        rows += [((x, w), {name: "swoosh"}, V, name), ((x, w), {name: 3}, T, name)]
        if name != "output_activation":
            rows += [((x, w), {name: None}, T, name)]
    yield from (Case(op, *row) for row in rows)


def _wrong_states(op: str, kind: str, x: Any, shape: tuple[int, ...]) -> Iterator[Case]:
    w = _weights(kind)
    good = f32(*shape)
    for bad, exception in (
        (f32(*shape, 1), V),
        (f32(*shape[:-1], 4), V),
        (f32(*shape[1:]), V),
        (f64(*shape), T),
        (good.tolist(), T),
    ):
        if kind == "lstm":
            yield Case(op, (x, w, (bad, good)), {}, exception, r"state\[0\]")
            yield Case(op, (x, w, (good, bad)), {}, exception, r"state\[1\]")
        else:
            yield Case(op, (x, w, bad), {}, exception, "h0")
    if kind == "lstm":
        yield Case(op, (x, w, good), {}, T, "state")
        yield Case(op, (x, w, (good,)), {}, V, "state")


def _wrong_sequences(kind: str) -> Iterator[Case]:
    x, w = f32(4, 2, 3), _weights(kind)
    yield from _wrong_states(kind, kind, x, (1, 2, 5))
    options: list[tuple[str, Any, Any]] = [
        *(("num_layers", v, V) for v in (0, -1, 2)),
        *(("num_layers", v, T) for v in (1.5, None, "1")),
        *((k, v, T) for k in ("bidirectional", "batch_first", "reverse") for v in (1, None)),
        ("bidirectional", True, V),
        *(("lengths", v, V) for v in ([1], [1, 2, 3], [1, 5], [-1, 2], [[1, 2]])),
        *(("lengths", v, T) for v in (f32(2), np.zeros(2, bool), [1.0, 2.0], "12")),
        *(("mask", np.ones(s, bool), V) for s in ((2, 4), (4,), (4, 2, 1))),
        *(("mask", v, T) for v in (np.ones((4, 2)), np.ones((4, 2), np.uint8), "1")),
    ]
    probabilities = ["dropout", "recurrent_dropout", "weight_dropout", "zoneout"]
    if kind == "lstm":
        probabilities.append("zoneout_cell")
    for name in probabilities:
        options += [*((name, v, V) for v in (-0.1, 1.1, NAN)), (name, "0", T), (name, None, T)]
    for name, value, exception in options:
        given = np.array(value) if isinstance(value, list) else value
        # Too many layers or directions for the list.
        too_many = exception is V and (value is True or (name == "num_layers" and value == 2))
        yield Case(kind, (x, w), {name: given}, exception, "weights" if too_many else name)
    both = [*w, *w]
    yield Case(kind, (x, both), {"bidirectional": True, "reverse": True}, V, "reverse")
    second = [w[0].repeat(2, 1)[:, :5], *w[1:]]
    for seed, exception in ((None, V), (2**64, V), ("1", T)):
        how = {"num_layers": 2, "dropout": 0.5, "seed": seed}
        yield Case(kind, (x, [*w, *second]), how, exception, "seed")
        for name in ("recurrent_dropout", "weight_dropout"):
            yield Case(kind, (x, w), {name: 0.5, "seed": seed}, exception, "seed")
        if seed is not None:
            yield Case(kind, (x, w), {"zoneout": 0.5, "seed": seed}, exception, "seed")
    yield Case(kind, (x, both), {"num_layers": 2}, V, r"weights\[4\]")
    yield Case(kind, (huge(2**30, 2**20, 3), w), {}, TOO_LARGE, "")
    if kind == "lstm":
        for peepholes, exception, names in (
            ([], V, "peepholes"),
            ([f32(3, 5)] * 2, V, "peepholes"),
            ([f32(3, 4)], V, r"peepholes\[0\]"),
            ([f64(3, 5)], T, r"peepholes\[0\]"),
            (f32(3, 5), T, "peepholes"),
        ):
            yield Case(kind, (x, w), {"peepholes": peepholes}, exception, names)
        yield Case(kind, (x, w), {"return_cells": 1}, T, "return_cells")


def _wrong_gradients(kind: str, cell: bool) -> Iterator[Case]:
    op = f"{kind}_cell" if cell else kind
    x = f32(2, 3) if cell else f32(4, 2, 3)
    results = getattr(kernels, op)(x, _weights(kind), return_workspace=True)
    kept, back = results[-1], f"{op}_backward"
    shape = (2, 5) if cell else (1, 2, 5)
    good = f32(*shape)
    first: tuple[Any, ...] = () if cell else (None,)
    state = "grad_h" if cell and kind != "lstm" else "grad_state"
    other = kernels.lstm_cell if kind != "lstm" else kernels.gru_cell
    _, stranger = other(
        f32(2, 3), _weights("lstm" if kind != "lstm" else "gru"), return_workspace=True
    )
    for wrong, exception in ((None, T), (3, T), (x, T), (stranger, V)):
        yield Case(back, (*first, None, wrong), {}, exception, "workspace")
    for bad, exception in (
        (f32(*shape[:-1], 4), V),
        (f32(*shape, 1), V),
        (f64(*shape), T),
        (good.tolist(), T),
    ):
        for grad in ((bad, good), (None, bad)) if kind == "lstm" else (bad,):
            yield Case(back, (*first, grad, kept), {}, exception, state)
    if kind == "lstm":
        yield Case(back, (*first, (good,), kept), {}, V, state)
        yield Case(back, (*first, good, kept), {}, T, state)
    if op == "lstm":
        for bad, exception in ((f32(4, 2, 4), V), (f64(4, 2, 5), T), (f32(8, 5), V), ("c", T)):
            yield Case(back, (None, None, kept), {"grad_cells": bad}, exception, "grad_cells")
    if not cell:
        for bad, exception in ((f32(4, 2, 4), V), (f64(4, 2, 5), T), (f32(8, 5), V), ("y", T)):
            yield Case(back, (bad, None, kept), {}, exception, "grad_y")


def recurrent() -> Iterator[Case]:
    for kind in GATES:
        yield from _wrong_cells(kind, kind, f32(4, 2, 3))
        yield from _wrong_sequences(kind)
        cell = f"{kind}_cell"
        yield from _wrong_cells(cell, kind, f32(2, 3))
        yield from _wrong_states(cell, kind, f32(2, 3), (2, 5))
        yield from _wrong_gradients(kind, cell=False)
        yield from _wrong_gradients(kind, cell=True)
    for peepholes, exception in ((f32(3, 4), V), (f64(3, 5), T), ([f32(3, 5)], T)):
        call = (f32(2, 3), _weights("lstm"))
        yield Case("lstm_cell", call, {"peepholes": peepholes}, exception, "peepholes")
