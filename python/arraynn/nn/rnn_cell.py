"""One step of the recurrent layers, with PyTorch's names, shapes and parameter names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from arraynn.autograd.elementwise import ACTIVATIONS
from arraynn.nn import functional as F
from arraynn.nn import init
from arraynn.nn.module import Parameter, check_floating, check_positive
from arraynn.nn.packing import PackableNetwork

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]


class Recurrent(PackableNetwork):
    """What layers and cells share: options of the kernel, layer norms, the first parameters."""

    _kernel: ClassVar[str]  # of the whole sequence
    hidden_size: int
    layer_norm: bool
    layer_norm_eps: float
    _option_names: tuple[str, ...]
    _norm_names: list[str]

    def _set_options(self, **options: Any) -> None:
        """Check the options of the kernel and keep each as the attribute of its name."""
        op = type(self).__name__
        for name, value in options.items():
            if value is not None and name.endswith("clip") and not 0 < value < math.inf:
                raise ValueError(
                    f"[{op}] {name}: expected a finite number > 0 or None, got {value}"
                )
            named = name.endswith(("activation", "nonlinearity"))
            if value is not None and named and value not in ACTIVATIONS:
                raise ValueError(
                    f"[{op}] {name}: expected one of {' '.join(ACTIVATIONS)}, got {value!r}"
                )
            setattr(self, name, value)
        self._option_names = tuple(options)

    def _options(self) -> dict[str, Any]:
        """Return the options of the kernel."""
        return {name: getattr(self, name) for name in self._option_names}

    def _norm_sizes(self) -> dict[str, int]:
        """Return the lengths of the layer norms' arrays, none without these."""
        rows = self._gates * self.hidden_size
        sizes = {"norm_ih": rows, "norm_hh": rows}
        if self._gates == 4:
            sizes |= {"norm_cell": self.hidden_size, "norm_cell_bias": self.hidden_size}
        return sizes if self.layer_norm else {}

    def _norms(self) -> dict[str, Any]:
        """Return the options of the kernel that are the layer norms."""
        if not self.layer_norm:
            return {}
        arrays = [getattr(self, name) for name in self._norm_names]
        return {"layer_norm": arrays, "layer_norm_eps": self.layer_norm_eps}

    def reset_parameters(self) -> None:
        """Draw all parameters anew; gains of layer norms become 1, their biases 0."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)
        for name in self._norm_names:
            init.constant_(getattr(self, name), 0.0 if "bias" in name else 1.0)


class ElmanOptions(Recurrent):
    """Of :class:`RNN` and :class:`RNNCell`."""

    _kernel = "rnn"
    _gates = 1
    nonlinearity: str
    clip: float | None


class LSTMOptions(Recurrent):
    """Of :class:`LSTM` and :class:`LSTMCell`."""

    _kernel = "lstm"
    _gates = 4
    activation: str
    recurrent_activation: str
    output_activation: str | None
    peepholes: bool
    input_forget: bool
    clip: float | None
    cell_clip: float | None


class GRUOptions(Recurrent):
    """Of :class:`GRU` and :class:`GRUCell`."""

    _kernel = "gru"
    _gates = 3
    activation: str
    recurrent_activation: str
    reset_after: bool
    clip: float | None

    def _check_reset(self, layer_norm: bool, reset_after: bool) -> None:
        if layer_norm and not reset_after:
            op = type(self).__name__
            raise ValueError(f"[{op}] layer_norm: expected reset_after=True with layer norms")


class _Cell(Recurrent):
    """One step of a recurrent layer."""

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
        sizes = self._norm_sizes()
        self._norm_names = list(sizes)
        for name, size in sizes.items():
            setattr(self, name, Parameter(np.empty(size, kind)))
        self.reset_parameters()

    def _to_pack(self) -> Sequence[Parameter]:
        weights = [self.weight_ih, self.weight_hh]
        if self.bias_ih is not None and self.bias_hh is not None:
            weights += [self.bias_ih, self.bias_hh]
        return weights

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Return the new state for (B, input_size) or (input_size,); zeros stand for None."""
        cell = getattr(F, f"{self._kernel}_cell")
        return cell(input, self.packed_weights(), hx, **self._norms(), **self._options())

    def extra_repr(self) -> str:
        """Return the sizes and the options that differ from their defaults."""
        text = f"{self.input_size}, {self.hidden_size}"
        if not self.bias:
            text += ", bias=False"
        return text + ", layer_norm=True" if self.layer_norm else text


class RNNCell(ElmanOptions, _Cell):
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
        self._set_options(nonlinearity=nonlinearity, clip=clip)
        self._build(input_size, hidden_size, bias, layer_norm, layer_norm_eps, dtype)


class LSTMCell(LSTMOptions, _Cell):
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
        self._set_options(
            activation=activation,
            recurrent_activation=recurrent_activation,
            output_activation=output_activation,
            input_forget=input_forget,
            clip=clip,
            cell_clip=cell_clip,
        )
        self.peepholes = peepholes
        self._build(input_size, hidden_size, bias, layer_norm, layer_norm_eps, dtype, peepholes)

    def _options(self) -> dict[str, Any]:
        """Return the options of the kernel."""
        return super()._options() | {"peepholes": self.weight_peephole if self.peepholes else None}


class GRUCell(GRUOptions, _Cell):
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
        self._check_reset(layer_norm, reset_after)
        self._set_options(
            activation=activation,
            recurrent_activation=recurrent_activation,
            reset_after=reset_after,
            clip=clip,
        )
        self._build(input_size, hidden_size, bias, layer_norm, layer_norm_eps, dtype)
