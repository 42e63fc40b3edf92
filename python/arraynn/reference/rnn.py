"""Recurrent networks over whole sequences in plain NumPy: cells of ``rnn_cell`` in a loop.

One sample's steps are those before its length; past it outputs and gradients are 0 and the state
stays. Where a mask is False the state stays as well, and y repeats it. The reverse direction takes
the same steps from the last to the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._common import FloatArray, quiet
from .elementwise import dropout as drop
from .elementwise import dropout_backward
from .rnn_cell import (
    Group,
    GruCell,
    LstmCell,
    RnnCell,
    State,
    Workspace,
    check_norms,
    split_norms,
    split_weights,
)
from .rnn_options import NOTHING, Extras, Random, Steps, checked_steps, unzoned, zoned


def _scan(
    cell: Any,
    x: FloatArray,
    state: State,
    group: Group,
    when: Steps,
    reverse: bool,
    extras: Extras = NOTHING,
) -> tuple[FloatArray, State, list[tuple[NDArray[Any], NDArray[Any], Any]], FloatArray]:
    """Run a direction of a layer over (T, B, I): y, the final state, what is saved, every c."""
    steps, batch, _ = x.shape
    y = np.zeros((steps, batch, group.output), x.dtype)
    cells = np.zeros((steps, batch, state[-1].shape[1]), x.dtype)
    state = tuple(part.copy() for part in state)
    saved: list[tuple[NDArray[Any], NDArray[Any], Any]] = []
    for t in reversed(range(steps)) if reverse else range(steps):
        rows = np.flatnonzero(when.active[t])
        passing = np.flatnonzero(when.within[t] & ~when.active[t])
        old = tuple(part[rows] for part in state)
        new, kept = cell.step(x[t, rows], old, group, extras.factors_of(rows))
        new = tuple(
            zoned(zone, t, rows, value, before)
            for zone, value, before in zip(extras.zones, new, old, strict=False)
        )
        for part, value in zip(state, new, strict=True):
            part[rows] = value
        y[t, rows], cells[t, rows] = new[0], new[-1]
        y[t, passing], cells[t, passing] = state[0][passing], state[-1][passing]
        saved.append((rows, passing, kept))
    return y, state, saved, cells


def _scan_backward(
    cell: Any,
    grad_y: FloatArray,
    grad_state: State,
    saved: list[tuple[NDArray[Any], NDArray[Any], Any]],
    group: Group,
    reverse: bool,
    extras: Extras = NOTHING,
    grad_cells: FloatArray | None = None,
) -> tuple[FloatArray, State, list[FloatArray], FloatArray]:
    """Undo :func:`_scan`: the gradients of x, the first state, the group and its peephole."""
    steps, batch, _ = grad_y.shape
    grad_x = np.zeros((steps, batch, group.w_ih.shape[1]), grad_y.dtype)
    grad_state = tuple(part.copy() for part in grad_state)
    totals = [np.zeros_like(w) for w in group.arrays]
    peephole = np.zeros((3, group.w_ih.shape[0] // cell.gates), grad_y.dtype)
    order = range(steps) if reverse else reversed(range(steps))
    for t, (rows, passing, kept) in zip(order, reversed(saved), strict=True):
        outputs = (grad_y,) if grad_cells is None else (grad_y, grad_cells)
        for part, given in zip(grad_state, outputs, strict=False):
            part[passing] += given[t, passing]
        parts = [part[rows] for part in grad_state]
        for i, given in enumerate(outputs):
            parts[i] = parts[i] + given[t, rows]
        passed = [
            unzoned(zone, t, rows, part) for zone, part in zip(extras.zones, parts, strict=False)
        ]
        news = tuple(part - old for part, old in zip(parts, passed, strict=True))
        grad_x[t, rows], before, grads, dp = cell.back(news, kept, group, extras.factors_of(rows))
        for part, value, old in zip(grad_state, before, passed, strict=True):
            part[rows] = value + old
        for total, value in zip(totals, grads, strict=True):
            total += value
        if dp is not None:
            peephole += dp
    return grad_x, grad_state, totals, peephole


def _time_major(x: FloatArray, batched: bool, batch_first: bool) -> FloatArray:
    """View (B, T, I) or (T, I) as (T, B, I)."""
    if not batched:
        return x[:, None]
    return x.swapaxes(0, 1) if batch_first else x


def _as_asked(y: FloatArray, batched: bool, batch_first: bool) -> FloatArray:
    """Undo :func:`_time_major`; the result is C-contiguous."""
    if not batched:
        return np.ascontiguousarray(y[:, 0])
    return np.ascontiguousarray(y.swapaxes(0, 1)) if batch_first else y


def _forward(
    op: str,
    cell: Any,
    x: FloatArray,
    weights: Sequence[FloatArray],
    state: Sequence[FloatArray] | None,
    *,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
    reverse: bool,
    random: Random,
    layer_norm: Sequence[FloatArray] | None,
    eps: float,
    peepholes: Sequence[FloatArray] | None = None,
) -> tuple[FloatArray, State, FloatArray, Workspace]:
    """Stack layers and directions of a cell: y, final states, the last layer's c, workspace."""
    if reverse and bidirectional:
        raise ValueError(f"[{op}] reverse: expected False with bidirectional, got True")
    batched = x.ndim == 3
    inputs = _time_major(x, batched, batch_first)
    steps, batch, _ = inputs.shape
    when = checked_steps(op, lengths, mask, (steps, batch), batched, batch_first)
    directions = (False, True) if bidirectional else (reverse,)
    count = num_layers * len(directions)
    groups = split_weights(op, weights, count, cell.gates, peepholes, layer_norm, eps)
    check_norms(op, cell, layer_norm)
    sizes = (groups[0].output, groups[0].w_ih.shape[0] // 4)[: 2 if cell.gates == 4 else 1]
    if state is None:
        first: State = tuple(np.zeros((count, batch, size), x.dtype) for size in sizes)
    else:
        first = tuple(part if batched else part[:, None] for part in state)
    for part, size in zip(first, sizes, strict=True):
        if part.shape != (count, batch, size):
            raise ValueError(f"[{op}] state: expected {(count, batch, size)}, got {part.shape}")
    last = tuple(np.empty_like(part) for part in first)
    random.check(op, num_layers)
    groups = [random.weights_of(index, group) for index, group in enumerate(groups)]
    all_extras = [random.extras(index, when, sizes, x.dtype) for index in range(count)]
    all_saved = []
    y, cells = inputs, inputs
    for layer in range(num_layers):
        if layer and random.dropout:
            # The mask is over (T, B, directions * output) in C order, whatever batch_first is.
            y = drop(y, random.dropout, random.seed_of(0, layer - 1))
        outputs, every_c = [], []
        for d, backwards in enumerate(directions):
            index = layer * len(directions) + d
            began = tuple(part[index] for part in first)
            out, ended, saved, c = _scan(
                cell, y, began, groups[index], when, backwards, all_extras[index]
            )
            for part, value in zip(last, ended, strict=True):
                part[index] = value
            outputs.append(out)
            every_c.append(c)
            all_saved.append(saved)
        y, cells = np.concatenate(outputs, axis=2), np.concatenate(every_c, axis=2)
    kept = Workspace(
        all_saved, cell=cell, groups=groups, directions=directions, random=random,
        extras=all_extras, layout=(batched, batch_first), sizes=(steps, batch, *sizes),
    )  # fmt: skip
    if not batched:
        last = tuple(part[:, 0] for part in last)
    return _as_asked(y, batched, batch_first), last, _as_asked(cells, batched, batch_first), kept


def _backward(
    grad_y: FloatArray | None,
    grad_state: Sequence[FloatArray | None],
    workspace: Workspace,
    grad_cells: FloatArray | None = None,
) -> tuple[Any, ...]:
    """Undo :func:`_forward`; None stands for zeros.

    The results are the gradients of x, of the states, of the weights and, if any, of the peepholes
    and of the layer norms.
    """
    how = workspace.how
    cell, groups, directions, layout, random, extras = (
        how[name] for name in ("cell", "groups", "directions", "layout", "random", "extras")
    )
    steps, batch, *sizes = how["sizes"]
    dtype = groups[0].w_ih.dtype
    if grad_y is None:
        grad = np.zeros((steps, batch, len(directions) * sizes[0]), dtype)
    else:
        grad = _time_major(grad_y, *layout)
    cells = None if grad_cells is None else _time_major(grad_cells, *layout)
    after = tuple(
        np.zeros((len(groups), batch, size), dtype)
        if part is None
        else part.reshape(len(groups), batch, size)
        for part, size in zip(grad_state, sizes, strict=True)
    )
    before = tuple(np.empty_like(part) for part in after)
    grads: list[list[FloatArray]] = [[] for _ in groups]
    peepholes: list[Any] = [None] * len(groups)
    for layer in reversed(range(len(groups) // len(directions))):
        total: Any = 0
        for d, backwards in enumerate(directions):
            index = layer * len(directions) + d
            part_y = grad[:, :, d * sizes[0] : (d + 1) * sizes[0]]
            ending = tuple(part[index] for part in after)
            part_c = None if cells is None else np.split(cells, len(directions), axis=2)[d]
            dx, began, grads[index], peepholes[index] = _scan_backward(
                cell, part_y, ending, workspace.saved[index], groups[index], backwards,
                extras[index], part_c,
            )  # fmt: skip
            grads[index] = random.weights_back(index, grads[index])
            for part, value in zip(before, began, strict=True):
                part[index] = value
            total = total + dx
        grad, cells = total, None
        if layer and random.dropout:
            grad = dropout_backward(grad, random.dropout, random.seed_of(0, layer - 1))
    if not layout[0]:
        before = tuple(part[:, 0] for part in before)
    weights, norms = split_norms(groups, grads)
    more = ((peepholes,) if groups[0].peephole is not None else ()) + ((norms,) if norms else ())
    return _as_asked(grad, *layout), before, weights, *more


@quiet
def rnn(
    x: FloatArray,
    weights: Sequence[FloatArray],
    h0: FloatArray | None = None,
    *,
    nonlinearity: str = "tanh",
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    weight_dropout: float = 0.0,
    zoneout: float = 0.0,
    seed: int | None = None,
    clip: float | None = None,
    layer_norm: Sequence[FloatArray] | None = None,
    layer_norm_eps: float = 1e-5,
    return_workspace: bool = False,
) -> Any:
    """``h' = f(x W_ih' + b_ih + h W_hh' + b_hh)`` over (T, B, I), (B, T, I) or (T, I).

    >>> one = np.ones((1, 1))
    >>> y, h_n = rnn(np.ones((3, 1, 1)), [one, one], nonlinearity="relu")
    >>> y[:, 0, 0], h_n
    (array([1., 2., 3.]), array([[[3.]]]))
    """
    y, last, _, kept = _forward(
        "rnn", RnnCell(nonlinearity, clip), x, weights, None if h0 is None else [h0],
        num_layers=num_layers, bidirectional=bidirectional, batch_first=batch_first,
        lengths=lengths, mask=mask, reverse=reverse,
        random=Random(dropout, recurrent_dropout, weight_dropout, (zoneout,), seed),
        layer_norm=layer_norm, eps=layer_norm_eps,
    )  # fmt: skip
    return (y, last[0], kept) if return_workspace else (y, last[0])


@quiet
def rnn_backward(
    grad_y: FloatArray | None, grad_state: FloatArray | None, workspace: Workspace
) -> tuple[Any, ...]:
    """Return grad_x, grad_h0, the gradients of `weights` and, if any, of `layer_norm`.

    None stands for zeros.
    """
    grad_x, (grad_h0,), *grads = _backward(grad_y, [grad_state], workspace)
    return grad_x, grad_h0, *grads


@quiet
def lstm(
    x: FloatArray,
    weights: Sequence[FloatArray],
    state: tuple[FloatArray, FloatArray] | None = None,
    *,
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
    output_activation: str | None = None,
    peepholes: Sequence[FloatArray] | None = None,
    input_forget: bool = False,
    clip: float | None = None,
    cell_clip: float | None = None,
    layer_norm: Sequence[FloatArray] | None = None,
    layer_norm_eps: float = 1e-5,
    return_cells: bool = False,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    weight_dropout: float = 0.0,
    zoneout: float = 0.0,
    zoneout_cell: float = 0.0,
    seed: int | None = None,
    return_workspace: bool = False,
) -> Any:
    """Long short-term memory over (T, B, I), (B, T, I) or (T, I); see :class:`LstmCell`.

    The result is y, (h_n, c_n), then every c of the last layer (shaped as y, with hidden in place
    of the projected size) with `return_cells`, then the workspace.
    """
    cell = LstmCell(
        activation,
        recurrent_activation,
        activation if output_activation is None else output_activation,
        input_forget,
        clip,
        cell_clip,
    )
    y, last, cells, kept = _forward(
        "lstm", cell, x, weights, state,
        num_layers=num_layers, bidirectional=bidirectional, batch_first=batch_first,
        lengths=lengths, mask=mask, reverse=reverse,
        random=Random(dropout, recurrent_dropout, weight_dropout, (zoneout, zoneout_cell), seed),
        layer_norm=layer_norm, eps=layer_norm_eps,
        peepholes=peepholes,
    )  # fmt: skip
    wanted = ((cells,) if return_cells else ()) + ((kept,) if return_workspace else ())
    return (y, last, *wanted)


@quiet
def lstm_backward(
    grad_y: FloatArray | None,
    grad_state: tuple[FloatArray | None, FloatArray | None] | None,
    workspace: Workspace,
    *,
    grad_cells: FloatArray | None = None,
) -> tuple[Any, ...]:
    """Return grad_x, (grad_h0, grad_c0), the gradients of `weights`.

    Then, if there are any, those of `peepholes` and of `layer_norm`.
    """
    states = (None, None) if grad_state is None else grad_state
    return _backward(grad_y, states, workspace, grad_cells)


@quiet
def gru(
    x: FloatArray,
    weights: Sequence[FloatArray],
    h0: FloatArray | None = None,
    *,
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
    reset_after: bool = True,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    weight_dropout: float = 0.0,
    zoneout: float = 0.0,
    seed: int | None = None,
    clip: float | None = None,
    layer_norm: Sequence[FloatArray] | None = None,
    layer_norm_eps: float = 1e-5,
    return_workspace: bool = False,
) -> Any:
    """Gated recurrent unit over (T, B, I), (B, T, I) or (T, I); see :class:`GruCell`."""
    cell = GruCell(activation, recurrent_activation, reset_after, clip)
    y, last, _, kept = _forward(
        "gru", cell, x, weights, None if h0 is None else [h0],
        num_layers=num_layers, bidirectional=bidirectional, batch_first=batch_first,
        lengths=lengths, mask=mask, reverse=reverse,
        random=Random(dropout, recurrent_dropout, weight_dropout, (zoneout,), seed),
        layer_norm=layer_norm, eps=layer_norm_eps,
    )  # fmt: skip
    return (y, last[0], kept) if return_workspace else (y, last[0])


@quiet
def gru_backward(
    grad_y: FloatArray | None, grad_state: FloatArray | None, workspace: Workspace
) -> tuple[Any, ...]:
    """Return grad_x, grad_h0, the gradients of `weights` and, if any, of `layer_norm`.

    None stands for zeros.
    """
    grad_x, (grad_h0,), *grads = _backward(grad_y, [grad_state], workspace)
    return grad_x, grad_h0, *grads
