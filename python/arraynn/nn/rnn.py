"""Recurrent layers with PyTorch's names, shapes and parameter names."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from arraynn.autograd.tape import array_of
from arraynn.nn import _random
from arraynn.nn import functional as F
from arraynn.nn.module import Parameter, check_floating, check_positive
from arraynn.nn.rnn_cell import ElmanOptions, GRUOptions, LSTMOptions, Recurrent

__all__ = ["GRU", "LSTM", "RNN"]


class _Layer(Recurrent):
    """What the three sequence layers share."""

    def _build(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        reverse: bool,
        dtype: Any,
        random: dict[str, float],
        stateful: bool,
        layer_norm: bool,
        layer_norm_eps: float,
        proj_size: int = 0,
        peepholes: bool = False,
    ) -> None:
        op = type(self).__name__
        check_positive(op, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        kind = check_floating(op, dtype)
        for name, p in {"dropout": dropout, **random}.items():
            if not 0.0 <= p <= 1.0:
                raise ValueError(f"[{op}] {name}: expected a probability in [0, 1], got {p}")
        if dropout and num_layers == 1:
            warnings.warn(
                f"[{op}] dropout: acts between layers; with num_layers=1 it does nothing",
                stacklevel=3,
            )
        if not 0 <= proj_size < hidden_size:
            raise ValueError(
                f"[{op}] proj_size: expected a size in [0, {hidden_size}), got {proj_size}"
            )
        if reverse and bidirectional:
            raise ValueError(f"[{op}] reverse: expected False with bidirectional, got True")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        for name, p in random.items():
            setattr(self, name, float(p))
        self._random = tuple(random)
        self.stateful = stateful
        self._state: Any = None
        self.bidirectional = bidirectional
        self.reverse = reverse
        self.proj_size = proj_size
        self._weight_names: list[str] = []
        self._peephole_names: list[str] = []
        self._norm_names: list[str] = []
        self.layer_norm = layer_norm
        self.layer_norm_eps = layer_norm_eps
        rows, out = self._gates * hidden_size, proj_size or hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else out * (2 if bidirectional else 1)
            for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: 2 if bidirectional else 1]:
                shapes: dict[str, tuple[int, ...]] = {
                    "weight_ih": (rows, width),
                    "weight_hh": (rows, out),
                }
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                for name, shape in shapes.items():
                    setattr(self, name + suffix, Parameter(np.empty(shape, kind)))
                    self._weight_names.append(name + suffix)
                if peepholes:
                    name = "weight_peephole" + suffix
                    setattr(self, name, Parameter(np.empty((3, hidden_size), kind)))
                    self._peephole_names.append(name)
                for name, size in self._norm_sizes().items():
                    setattr(self, name + suffix, Parameter(np.empty(size, kind)))
                    self._norm_names.append(name + suffix)
        self.reset_parameters()

    def flatten_parameters(self) -> None:
        """Do nothing: the kernels take the parameters where they are."""

    def reset_state(self) -> None:
        """Forget the state that a stateful layer carries on: the next call begins with zeros."""
        self._state = None

    def _to_pack(self) -> Sequence[Parameter]:
        return [getattr(self, name) for name in self._weight_names]

    def _drawn(self) -> dict[str, Any]:
        """Probabilities and seed: all of them in training, the mean of zoneout otherwise."""
        found = {name: getattr(self, name) for name in self._random}
        found["dropout"] = self.dropout if self.num_layers > 1 else 0.0
        if not self.training:
            return {name: p for name, p in found.items() if name.startswith("zoneout")}
        return found | {"seed": _random.next_seed() if any(found.values()) else None}

    def forward(self, input: Any, hx: Any = None, *, lengths: Any = None, mask: Any = None) -> Any:
        """Apply the layer; returns (output, final state).

        Parameters
        ----------
        input : Tensor or array
            (T, B, input_size), (B, T, input_size) with ``batch_first``, or (T, input_size).
        hx : state to begin with, optional
            Of shape (num_layers * directions, B, size), without B for one sequence; zeros when
            None, or the final state of the call before if the layer is stateful. The pair
            (h_0, c_0) of an LSTM.
        lengths : array of B ints, optional
            Steps of each sequence, in any order, 0 allowed. Outputs behind a sequence's end are 0
            and its final state is that of its last step; what the padding holds does not matter.
        mask : array of bools, (T, B), (B, T) with ``batch_first``, or (T,), optional
            False: the sequence takes no part in the step, its state passes through, the output
            repeats h.
        """
        return self._call(input, hx, lengths, mask)

    def _call(self, input: Any, hx: Any, lengths: Any, mask: Any, **more: Any) -> Any:
        if hx is None and self.stateful:
            hx = self._state
        output, last, *cells = getattr(F, self._kernel)(
            input,
            self.packed_weights(),
            hx,
            num_layers=self.num_layers,
            bidirectional=self.bidirectional,
            batch_first=self.batch_first,
            reverse=self.reverse,
            lengths=array_of(lengths),
            mask=array_of(mask) if hasattr(mask, "shape") or mask is None else np.asarray(mask),
            **self._norms(),
            **self._drawn(),
            **self._options(),
            **more,
        )
        if self.stateful:
            parts = [part.detach() for part in (last if isinstance(last, tuple) else (last,))]
            self._state = tuple(parts) if len(parts) > 1 else parts[0]
        return (output, last, *cells)

    def extra_repr(self) -> str:
        """Return the sizes and the options that differ from their defaults."""
        text = f"{self.input_size}, {self.hidden_size}"
        defaults = {
            "proj_size": 0,
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
            "reverse": False,
            **dict.fromkeys(self._random, 0.0),
            "stateful": False,
            "layer_norm": False,
        }
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != default:
                text += f", {name}={value}"
        return text


class RNN(ElmanOptions, _Layer):
    """Elman network: h_t = f(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh) (Elman, 1990).

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
    nonlinearity : str
        tanh, relu, or any other activation of the library.
    bias : bool
        Whether there are ``bias_ih`` and ``bias_hh``.
    batch_first : bool
        Whether input and output are (B, T, size) in place of (T, B, size); states are not changed.
    dropout : float
        Probability with which elements between layers are zeroed in training.
    bidirectional : bool
        Whether a second network runs from the end; outputs are concatenated.
    reverse : bool
        Whether the only direction runs from the end.
    clip : float, optional
        Bound of the pre-activations.
    recurrent_dropout, weight_dropout : float
        Probabilities with which elements of h are dropped where ``weight_hh`` meets them (one mask
        for all steps), and elements of ``weight_hh``, in training.
    zoneout : float
        Probability with which elements of h keep their former value in training; their mean in
        inference.
    stateful : bool
        Whether a call without ``hx`` begins with the final state of the call before, until
        :meth:`reset_state`. Gradients do not go back into that call.
    layer_norm : bool
        Whether the products with the weights are normalised over all gates (Ba et al., 2016), with
        gains ``norm_ih_l[k]`` and ``norm_hh_l[k]``; the biases are those of the layer.
    layer_norm_eps : float
    dtype : dtype, optional
        float32 (default) or float64.

    Attributes
    ----------
    weight_ih_l[k], weight_hh_l[k], bias_ih_l[k], bias_hh_l[k] : Parameter
        Of layer k; with ``_reverse`` behind for the second direction. Drawn from
        U(-s, s) with s = 1 / sqrt(hidden_size).

    Raises
    ------
    ValueError, TypeError
        If a size, name or dtype is not supported.

    Examples
    --------
    >>> import numpy as np, arraynn as ann
    >>> layer = ann.nn.RNN(10, 20, 2, bidirectional=True)
    >>> layer
    RNN(10, 20, num_layers=2, bidirectional=True)
    >>> output, h_n = layer(np.zeros((5, 3, 10), np.float32), lengths=[5, 2, 4])
    >>> output.shape, h_n.shape
    ((5, 3, 40), (4, 3, 20))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reverse: bool = False,
        clip: float | None = None,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        zoneout: float = 0.0,
        stateful: bool = False,
        layer_norm: bool = False,
        layer_norm_eps: float = 1e-5,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self._set_options(nonlinearity=nonlinearity, clip=clip)
        random = {
            "recurrent_dropout": recurrent_dropout,
            "weight_dropout": weight_dropout,
            "zoneout": zoneout,
        }
        self._build(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            reverse, dtype, random, stateful, layer_norm, layer_norm_eps,
        )  # fmt: skip


class LSTM(LSTMOptions, _Layer):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997; Gers et al., 2000).

    The equations are in :func:`arraynn.kernels.lstm`; the state is the pair (h, c).

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, reverse, dtype
        As for :class:`RNN`.
    recurrent_dropout, weight_dropout, zoneout, stateful, layer_norm, layer_norm_eps
        As for :class:`RNN`.
    proj_size : int
        Size of h after a projection of it; 0 for none (Sak et al., 2014).
    activation, recurrent_activation, output_activation : str
        Of the new memory, of the three gates, and of c on its way out (``activation`` when None).
    peepholes : bool
        Whether the gates see the cell (Gers and Schmidhuber, 2000).
    input_forget : bool
        Whether the input gate is 1 minus the forget gate.
    clip, cell_clip : float, optional
        Bounds of the pre-activations and of c.
    zoneout_cell : float
        Zoneout of c. With `layer_norm` the output reads c through a norm of its own, with gain
        ``norm_cell_l[k]`` and bias ``norm_cell_bias_l[k]``.

    Attributes
    ----------
    weight_ih_l[k], weight_hh_l[k], bias_ih_l[k], bias_hh_l[k], weight_hr_l[k] : Parameter
        As PyTorch's, gates in the order i f g o.
    weight_peephole_l[k] : Parameter, (3, hidden_size)
        Rows i f o.

    Examples
    --------
    >>> import numpy as np, arraynn as ann
    >>> layer = ann.nn.LSTM(10, 20, 2, batch_first=True)
    >>> output, (h_n, c_n) = layer(np.zeros((3, 5, 10), np.float32))
    >>> output.shape, h_n.shape, c_n.shape
    ((3, 5, 20), (2, 3, 20), (2, 3, 20))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        reverse: bool = False,
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        output_activation: str | None = None,
        peepholes: bool = False,
        input_forget: bool = False,
        clip: float | None = None,
        cell_clip: float | None = None,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        zoneout: float = 0.0,
        zoneout_cell: float = 0.0,
        stateful: bool = False,
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
        random = {
            "recurrent_dropout": recurrent_dropout,
            "weight_dropout": weight_dropout,
            "zoneout": zoneout,
            "zoneout_cell": zoneout_cell,
        }
        self._build(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            reverse, dtype, random, stateful, layer_norm, layer_norm_eps, proj_size, peepholes,
        )  # fmt: skip

    def _options(self) -> dict[str, Any]:
        """Return the options of the kernel."""
        peepholes = [getattr(self, name) for name in self._peephole_names]
        return super()._options() | {"peepholes": peepholes or None}

    def forward(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        return_cells: bool = False,
    ) -> Any:
        """Apply the layer; returns (output, (h_n, c_n)), and every c with `return_cells`.

        Parameters
        ----------
        input, hx, lengths, mask
            As for :class:`RNN`; `hx` is the pair (h_0, c_0).
        return_cells : bool
            Whether every c of the last layer comes third, of the shape of the output with
            hidden_size in place of proj_size.
        """
        return self._call(input, hx, lengths, mask, return_cells=return_cells)


class GRU(GRUOptions, _Layer):
    """Gated recurrent unit (Cho et al., 2014); the equations are in :func:`arraynn.kernels.gru`.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, reverse, clip, \
dtype
        As for :class:`RNN`.
    recurrent_dropout, weight_dropout, zoneout, stateful, layer_norm, layer_norm_eps
        As for :class:`RNN`.
    activation, recurrent_activation : str
        Of the new state and of the two gates.
    reset_after : bool
        Whether the reset gate is applied after the product with the state, as in PyTorch and
        cuDNN, or before it, as in the paper.

    Attributes
    ----------
    weight_ih_l[k], weight_hh_l[k], bias_ih_l[k], bias_hh_l[k] : Parameter
        As PyTorch's, gates in the order r z n.

    Examples
    --------
    >>> import numpy as np, arraynn as ann
    >>> output, h_n = ann.nn.GRU(10, 20)(np.zeros((5, 3, 10), np.float32))
    >>> output.shape, h_n.shape
    ((5, 3, 20), (1, 3, 20))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reverse: bool = False,
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        reset_after: bool = True,
        clip: float | None = None,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        zoneout: float = 0.0,
        stateful: bool = False,
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
        random = {
            "recurrent_dropout": recurrent_dropout,
            "weight_dropout": weight_dropout,
            "zoneout": zoneout,
        }
        self._build(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            reverse, dtype, random, stateful, layer_norm, layer_norm_eps,
        )  # fmt: skip
