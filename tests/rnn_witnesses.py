"""What other systems mean by an LSTM and a GRU: Keras' equations, and ONNX' own node cases."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnx_nodes import node_cases


def keras_lstm(x: Any, kernel: Any, recurrent: Any, bias: Any) -> Any:
    """Keras' LSTM as its documentation has it: columns i f c o, hard limits none."""
    hidden = recurrent.shape[0]
    h, c = np.zeros(hidden), np.zeros(hidden)
    for row in x:
        z = row @ kernel + h @ recurrent + bias
        i, f, g, o = (z[k * hidden : (k + 1) * hidden] for k in range(4))
        i, f, o = (1 / (1 + np.exp(-v)) for v in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
    return h, c


def keras_gru(x: Any, kernel: Any, recurrent: Any, bias: Any) -> Any:
    """Keras' GRU, columns z r h; bias (2, 3 units) is that of reset_after."""
    hidden = recurrent.shape[0]
    h = np.zeros(hidden)
    after = bias.ndim == 2
    first, second = bias if after else (bias, np.zeros(3 * hidden))
    for row in x:
        a, b = row @ kernel + first, h @ recurrent + second
        z, r = (1 / (1 + np.exp(-(a + b)[k * hidden : (k + 1) * hidden])) for k in range(2))
        last = slice(2 * hidden, None)
        inner = r * b[last] if after else (r * h) @ recurrent[:, last]
        h = z * h + (1 - z) * np.tanh(a[last] + inner)
    return h


#: Published RNN, LSTM and GRU cases by name; none without the package.
ONNX_CASES = node_cases(rnn="RNN", lstm="LSTM", gru="GRU")
