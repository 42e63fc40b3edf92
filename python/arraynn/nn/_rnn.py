"""Recurrent networks as functions, for :mod:`arraynn.nn.functional`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from arraynn import kernels as K
from arraynn.autograd import rnn as tape
from arraynn.autograd.tape import Variable

__all__ = ["gru", "gru_cell", "lstm", "lstm_cell", "rnn", "rnn_cell"]


def _has_tensor(*values: Any) -> bool:
    return any(
        _has_tensor(*value) if isinstance(value, list | tuple) else isinstance(value, Variable)
        for value in values
    )


def _apply(
    tape_function: Any, op: str, input: Any, weights: Any, state: Any, options: dict[str, Any]
) -> Any:
    if _has_tensor(input, weights, state, options.get("peepholes"), options.get("layer_norm")):
        return tape_function(op, input, weights, state, **options)
    given = list(weights) if hasattr(weights, "__iter__") else weights  # packed
    return getattr(K, op)(input, given, state, **options)


def rnn(input: Any, weights: Sequence[Any], h0: Any = None, **options: Any) -> Any:
    """Return y and h_n of an Elman network over a sequence.

    Parameters
    ----------
    input : Tensor or array, (T, B, I), (B, T, I) with ``batch_first=True``, or (T, I)
    weights : list of Tensors or arrays
        PyTorch's flat list, layer by layer and direction by direction, or what
        :func:`arraynn.kernels.pack` made of arrays.
    h0 : Tensor or array, (layers * directions, B, H), optional
        Zeros when None.
    **options
        Those of :func:`arraynn.kernels.rnn`, ``return_workspace`` left out.

    Returns
    -------
    y, h_n : Tensors, or arrays when nothing given is a tensor

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones((1, 1))
    >>> y, h_n = rnn(np.ones((3, 1, 1)), [one, one], nonlinearity="relu")
    >>> y.ravel()
    array([1., 2., 3.])
    """
    return _apply(tape.sequence, "rnn", input, weights, h0, options)


def lstm(input: Any, weights: Sequence[Any], state: Any = None, **options: Any) -> Any:
    """Return y and (h_n, c_n) of an LSTM over a sequence.

    ``options`` are those of :func:`arraynn.kernels.lstm`, ``return_workspace`` left out; with
    ``return_cells`` every c of the last layer comes third. ``state`` is the pair (h0, c0); the
    rest is as for :func:`rnn`.
    """
    return _apply(tape.sequence, "lstm", input, weights, state, options)


def gru(input: Any, weights: Sequence[Any], h0: Any = None, **options: Any) -> Any:
    """Return y and h_n of a GRU over a sequence.

    ``options`` are those of :func:`arraynn.kernels.gru`, ``return_workspace`` left out; the rest
    is as for :func:`rnn`.
    """
    return _apply(tape.sequence, "gru", input, weights, h0, options)


def rnn_cell(input: Any, weights: Sequence[Any], h0: Any = None, **options: Any) -> Any:
    """Return the new h of one step on (B, I) or (I,).

    ``options`` are those of :func:`arraynn.kernels.rnn_cell`, ``return_workspace`` left out.
    """
    return _apply(tape.cell, "rnn_cell", input, weights, h0, options)


def lstm_cell(input: Any, weights: Sequence[Any], state: Any = None, **options: Any) -> Any:
    """Return the new (h, c) of one step, as :func:`rnn_cell`; ``state`` is the pair (h, c)."""
    return _apply(tape.cell, "lstm_cell", input, weights, state, options)


def gru_cell(input: Any, weights: Sequence[Any], h0: Any = None, **options: Any) -> Any:
    """Return the new h of one step, as :func:`rnn_cell`."""
    return _apply(tape.cell, "gru_cell", input, weights, h0, options)
