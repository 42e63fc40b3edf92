"""One step of the recurrent layers, with PyTorch's names, shapes and parameter names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from arraynn.autograd.elementwise import ACTIVATIONS
from arraynn.nn import functional as F
from arraynn.nn import init
from arraynn.nn.module import Module, Parameter, check_floating, check_positive
from arraynn.nn.packing import PackableNetwork

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]


def check_activations(op: str, **names: str | None) -> None:
    """Raise unless every name is that of an activation."""
    for name, value in names.items():
        if value is not None and value not in ACTIVATIONS:
            raise ValueError(
                f"[{op}] {name}: expected one of {' '.join(ACTIVATIONS)}, got {value!r}"
            )


def check_clip(op: str, **limits: float | None) -> None:
    """Raise unless every bound is None or a positive number."""
    for name, value in limits.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"[{op}] {name}: expected a finite number > 0 or None, got {value}")


def fill(module: Module, hidden_size: int) -> None:
    """Draw every parameter from U(-1/sqrt(hidden), 1/sqrt(hidden)), as PyTorch does."""
    bound = 1 / math.sqrt(hidden_size)
    for parameter in module.parameters():
        init.uniform_(parameter, -bound, bound)


class _Cell(PackableNetwork):
    """One step of a recurrent layer."""

    _kernel: ClassVar[str]

    def _build(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        layer_norm: bool,
        layer_norm_eps: float,
        dtype: Any,
        peepholes: bool = False,
    ) -> None:
        op = type(self).__name__
        check_positive(op, input_size=input_size, hidden_size=hidden_size)
        kind = check_floating(op, dtype)
        rows = self._gates * hidden_size
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.layer_norm = layer_norm
        self.layer_norm_eps = layer_norm_eps
        self.weight_ih = Parameter(np.empty((rows, input_size), kind))
        self.weight_hh = Parameter(np.empty((rows, hidden_size), kind))
        self.bias_ih = Parameter(np.empty(rows, kind)) if bias else None
        self.bias_hh = Parameter(np.empty(rows, kind)) if bias else None
        if peepholes:
            self.weight_peephole = Parameter(np.empty((3, hidden_size), kind))
        norms = {"norm_ih": rows, "norm_hh": rows}
        if self._gates == 4:
            norms |= {"norm_cell": hidden_size, "norm_cell_bias": hidden_size}
        self._norm_names = list(norms) if layer_norm else []
        for name in self._norm_names:
            setattr(self, name, Parameter(np.empty(norms[name], kind)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew; gains of layer norms become 1, their biases 0."""
        fill(self, self.hidden_size)
        for name in self._norm_names:
            init.constant_(getattr(self, name), 0.0 if "bias" in name else 1.0)

    def _options(self) -> dict[str, Any]:
        """Options of the kernel beyond the layer norms."""
        raise NotImplementedError

    def _to_pack(self) -> Sequence[Parameter]:
        weights = [self.weight_ih, self.weight_hh]
        if self.bias_ih is not None and self.bias_hh is not None:
            weights += [self.bias_ih, self.bias_hh]
        return weights

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Return the new state for (B, input_size) or (input_size,); zeros stand for None."""
        norms: dict[str, Any] = {}
        if self.layer_norm:
            norms = {
                "layer_norm": [getattr(self, name) for name in self._norm_names],
                "layer_norm_eps": self.layer_norm_eps,
            }
        weights = self.packed_weights()
        return getattr(F, self._kernel)(input, weights, hx, **norms, **self._options())

    def extra_repr(self) -> str:
        """Return the sizes and the options that differ from their defaults."""
        text = f"{self.input_size}, {self.hidden_size}"
        if not self.bias:
            text += ", bias=False"
        return text + ", layer_norm=True" if self.layer_norm else text


class RNNCell(_Cell):
    """One step of an Elman network.

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool
    nonlinearity : str
        tanh, relu, or any other activation of the library.
    clip : float, optional
        Bound of the pre-activations.
    layer_norm : bool
        Whether the products with the weights are normalised over all gates, with gains ``norm_ih``
        and ``norm_hh``, as in :class:`RNN`.
    layer_norm_eps : float
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
        clip: float | None = None,
        layer_norm: bool = False,
        layer_norm_eps: float = 1e-5,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_activations("RNNCell", nonlinearity=nonlinearity)
        check_clip("RNNCell", clip=clip)
        self.nonlinearity = nonlinearity
        self.clip = clip
        self._build(input_size, hidden_size, bias, layer_norm, layer_norm_eps, dtype)

    def _options(self) -> dict[str, Any]:
        return {"nonlinearity": self.nonlinearity, "clip": self.clip}


class LSTMCell(_Cell):
    """One step of an LSTM: takes and returns the pair (h, c).

    Parameters
    ----------
    input_size, hidden_size, bias, clip, layer_norm, layer_norm_eps, dtype
        As for :class:`RNNCell`; with `layer_norm` the output reads c through a norm of its own,
        with gain ``norm_cell`` and bias ``norm_cell_bias``.
    activation, recurrent_activation, output_activation, peepholes, input_forget, cell_clip
        As for :class:`LSTM`.

    Attributes
    ----------
    weight_ih, weight_hh, bias_ih, bias_hh : Parameter
        As PyTorch's, gates in the order i f g o.
    weight_peephole : Parameter, (3, hidden_size)
        Rows i f o.

    Examples
    --------
    >>> import numpy as np, arraynn as ann
    >>> h, c = ann.nn.LSTMCell(10, 20)(np.zeros((3, 10), np.float32))
    >>> h.shape, c.shape
    ((3, 20), (3, 20))
    """

    _kernel = "lstm_cell"
    _gates = 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        output_activation: str | None = None,
        peepholes: bool = False,
        input_forget: bool = False,
        clip: float | None = None,
        cell_clip: float | None = None,
        layer_norm: bool = False,
        layer_norm_eps: float = 1e-5,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_activations(
            "LSTMCell",
            activation=activation,
            recurrent_activation=recurrent_activation,
            output_activation=output_activation,
        )
        check_clip("LSTMCell", clip=clip, cell_clip=cell_clip)
        self.activation = activation
        self.recurrent_activation = recurrent_activation
        self.output_activation = output_activation
        self.peepholes = peepholes
        self.input_forget = input_forget
        self.clip = clip
        self.cell_clip = cell_clip
        self._build(input_size, hidden_size, bias, layer_norm, layer_norm_eps, dtype, peepholes)

    def _options(self) -> dict[str, Any]:
        return {
            "activation": self.activation,
            "recurrent_activation": self.recurrent_activation,
            "output_activation": self.output_activation,
            "peepholes": self.weight_peephole if self.peepholes else None,
            "input_forget": self.input_forget,
            "clip": self.clip,
            "cell_clip": self.cell_clip,
        }


class GRUCell(_Cell):
    """One step of a GRU.

    Parameters
    ----------
    input_size, hidden_size, bias, clip, layer_norm, layer_norm_eps, dtype
        As for :class:`RNNCell`.
    activation, recurrent_activation, reset_after
        As for :class:`GRU`.

    Attributes
    ----------
    weight_ih, weight_hh, bias_ih, bias_hh : Parameter
        As PyTorch's, gates in the order r z n.

    Examples
    --------
    >>> import numpy as np, arraynn as ann
    >>> ann.nn.GRUCell(10, 20)(np.zeros(10, np.float32)).shape
    (20,)
    """

    _kernel = "gru_cell"
    _gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        reset_after: bool = True,
        clip: float | None = None,
        layer_norm: bool = False,
        layer_norm_eps: float = 1e-5,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_activations(
            "GRUCell", activation=activation, recurrent_activation=recurrent_activation
        )
        check_clip("GRUCell", clip=clip)
        if layer_norm and not reset_after:
            raise ValueError("[GRUCell] layer_norm: expected reset_after=True with layer norms")
        self.activation = activation
        self.recurrent_activation = recurrent_activation
        self.reset_after = reset_after
        self.clip = clip
        self._build(input_size, hidden_size, bias, layer_norm, layer_norm_eps, dtype)

    def _options(self) -> dict[str, Any]:
        return {
            "activation": self.activation,
            "recurrent_activation": self.recurrent_activation,
            "reset_after": self.reset_after,
            "clip": self.clip,
        }
