"""One step of the recurrent layers, with PyTorch's names, shapes and parameter names."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from arraynn.autograd.elementwise import ACTIVATIONS
from arraynn.nn import functional as F
from arraynn.nn import init
from arraynn.nn.module import Module, Parameter, check_floating, check_positive

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]


def check_activations(op: str, **names: str | None) -> None:
    """Raise unless every name is that of an activation."""
    for name, value in names.items():
        if value is not None and value not in ACTIVATIONS:
            raise ValueError(
                f"[{op}] {name}: expected one of {' '.join(ACTIVATIONS)}, got {value!r}"
            )


def fill(module: Module, hidden_size: int) -> None:
    """Draw every parameter from U(-1/sqrt(hidden), 1/sqrt(hidden)), as PyTorch does."""
    bound = 1 / math.sqrt(hidden_size)
    for parameter in module.parameters():
        init.uniform_(parameter, -bound, bound)


class _Cell(Module):
    """One step of a recurrent layer."""

    _kernel: ClassVar[str]
    _gates: ClassVar[int]

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = None
    ) -> None:
        super().__init__()
        op = type(self).__name__
        check_positive(op, input_size=input_size, hidden_size=hidden_size)
        kind = check_floating(op, dtype)
        rows = self._gates * hidden_size
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.weight_ih = Parameter(np.empty((rows, input_size), kind))
        self.weight_hh = Parameter(np.empty((rows, hidden_size), kind))
        self.bias_ih = Parameter(np.empty(rows, kind)) if bias else None
        self.bias_hh = Parameter(np.empty(rows, kind)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        fill(self, self.hidden_size)

    def _options(self) -> dict[str, Any]:
        return {}

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Return the new state for (B, input_size) or (input_size,); zeros stand for None."""
        weights = [self.weight_ih, self.weight_hh]
        if self.bias_ih is not None and self.bias_hh is not None:
            weights += [self.bias_ih, self.bias_hh]
        return getattr(F, self._kernel)(input, weights, hx, **self._options())

    def extra_repr(self) -> str:
        """Return the sizes."""
        text = f"{self.input_size}, {self.hidden_size}"
        return text if self.bias else text + ", bias=False"


class RNNCell(_Cell):
    """One step of an Elman network.

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool
    nonlinearity : str
        tanh, relu, or any other activation of the library.
    dtype : dtype, optional

    Attributes
    ----------
    weight_ih, weight_hh, bias_ih, bias_hh : Parameter

    Examples
    --------
    >>> import numpy as np, arraynn as ann
    >>> ann.nn.RNNCell(10, 20)(np.zeros((3, 10), np.float32)).shape
    (3, 20)
    """

    _kernel = "rnn_cell"
    _gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        dtype: Any = None,
    ) -> None:
        check_activations("RNNCell", nonlinearity=nonlinearity)
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.nonlinearity = nonlinearity

    def _options(self) -> dict[str, Any]:
        return {"nonlinearity": self.nonlinearity}


class LSTMCell(_Cell):
    """One step of an LSTM: takes and returns the pair (h, c); parameters as :class:`RNNCell`.

    Examples
    --------
    >>> import numpy as np, arraynn as ann
    >>> h, c = ann.nn.LSTMCell(10, 20)(np.zeros((3, 10), np.float32))
    >>> h.shape, c.shape
    ((3, 20), (3, 20))
    """

    _kernel = "lstm_cell"
    _gates = 4


class GRUCell(_Cell):
    """One step of a GRU; parameters as :class:`RNNCell`.

    Examples
    --------
    >>> import numpy as np, arraynn as ann
    >>> ann.nn.GRUCell(10, 20)(np.zeros(10, np.float32)).shape
    (20,)
    """

    _kernel = "gru_cell"
    _gates = 3
