"""One step of the recurrent cells in plain NumPy: the equations and their gradients.

Gates lie in PyTorch's order along the first axis of every weight: i f g o for the LSTM, r z n for
the GRU. The products with w_hh read h times `factors`; the GRU blends with h itself. Arithmetic is
done in the dtype of the inputs; pass float64 for an oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from . import elementwise
from ._common import FloatArray, quiet

#: (h,) of an RNN or GRU, (h, c) of an LSTM; each (batch, size).
State: TypeAlias = tuple[FloatArray, ...]
#: Recurrent dropout: what h is multiplied by where w_hh meets it, (batch, size); 1 is none.
Factors: TypeAlias = FloatArray | int


class Workspace:
    """What a forward pass keeps for its backward pass; ``nbytes`` counts the arrays in `saved`."""

    def __init__(self, saved: Any, **how: Any) -> None:
        self.saved: Final = saved
        self.how: Final = how

    @property
    def nbytes(self) -> int:
        """Bytes of the saved arrays, each counted once."""
        found: dict[int, int] = {}
        waiting: list[Any] = [self.saved]
        while waiting:
            value = waiting.pop()
            if isinstance(value, np.ndarray):
                found[id(value)] = value.nbytes
            elif isinstance(value, list | tuple):
                waiting.extend(value)
        return sum(found.values())


class Group(NamedTuple):
    """Weights of one layer in one direction.

    w_ih (gates * hidden, input), w_hh (gates * hidden, output), at most two biases
    (gates * hidden), and w_hr (output, hidden) where the output is projected. Layer norms: gains
    (gates * hidden) of both products, then gain and bias (hidden) of an LSTM's c.
    """

    w_ih: FloatArray
    w_hh: FloatArray
    biases: tuple[FloatArray, ...]
    w_hr: FloatArray | None
    peephole: FloatArray | None
    norms: tuple[FloatArray, ...] = ()
    eps: float = 0.0

    @property
    def arrays(self) -> tuple[FloatArray, ...]:
        """The arrays as they stand in the flat list, then the layer norms'."""
        projection = () if self.w_hr is None else (self.w_hr,)
        return (self.w_ih, self.w_hh, *self.biases, *projection, *self.norms)

    @property
    def output(self) -> int:
        """Size of h."""
        return int(self.w_hh.shape[1])


def split_weights(
    op: str,
    weights: Sequence[FloatArray],
    groups: int,
    gates: int,
    peepholes: Sequence[FloatArray] | None = None,
    layer_norm: Sequence[FloatArray] | None = None,
    eps: float = 1e-5,
) -> list[Group]:
    """Cut PyTorch's flat list into `groups` of two matrices, biases and perhaps a projection."""
    each, rest = divmod(len(weights), groups)
    if rest or not 2 <= each <= 5:
        raise ValueError(
            f"[{op}] weights: expected 2 to 5 arrays for each of {groups} layers and directions, "
            f"got {len(weights)}"
        )
    if peepholes is not None and len(peepholes) != groups:
        raise ValueError(f"[{op}] peepholes: expected {groups} arrays, got {len(peepholes)}")
    norms = 4 if op.startswith("lstm") else 2
    if layer_norm is not None and len(layer_norm) != norms * groups:
        raise ValueError(
            f"[{op}] layer_norm: expected {norms * groups} arrays, got {len(layer_norm)}"
        )
    found = []
    for index in range(groups):
        w_ih, w_hh, *others = weights[index * each : (index + 1) * each]
        w_hr = others.pop() if others and others[-1].ndim == 2 else None
        hidden = w_ih.shape[0] // gates
        output = hidden if w_hr is None else w_hr.shape[0]
        peephole = None if peepholes is None else peepholes[index]
        own = () if layer_norm is None else tuple(layer_norm[norms * index :][:norms])
        fits = (
            w_ih.shape[0] == gates * hidden
            and w_hh.shape == (gates * hidden, output)
            and all(b.shape == (gates * hidden,) for b in others)
            and (w_hr is None or (w_hr.shape == (output, hidden) and op.startswith("lstm")))
            and (peephole is None or peephole.shape == (3, hidden))
            and all(g.shape == (gates * hidden,) for g in own[:2])
            and all(g.shape == (hidden,) for g in own[2:])
            and len(others) <= 2
        )
        if not fits:
            raise ValueError(
                f"[{op}] weights: expected w_ih ({gates} * H, I), w_hh ({gates} * H, H), biases "
                f"({gates} * H), got {[w.shape for w in weights[index * each :][:each]]}"
            )
        found.append(Group(w_ih, w_hh, tuple(others), w_hr, peephole, own, eps))
    return found


def check_norms(op: str, cell: Any, layer_norm: Any) -> None:
    """Raise for a GRU that would have a norm within its reset."""
    if layer_norm is not None and not getattr(cell, "reset_after", True):
        raise ValueError(f"[{op}] layer_norm: expected reset_after=True with layer norms")


def split_norms(
    groups: Sequence[Group], grads: Sequence[list[FloatArray]]
) -> tuple[list[FloatArray], list[FloatArray]]:
    """Cut gradients of the groups' arrays into those of the flat list and those of the norms."""
    weights, norms = [], []
    for group, grad in zip(groups, grads, strict=True):
        cut = len(grad) - len(group.norms)
        weights += grad[:cut]
        norms += grad[cut:]
    return weights, norms


def clipped(z: FloatArray, limit: float | None) -> FloatArray:
    """Return z bounded to [-limit, limit]; NaN stays NaN."""
    return z if limit is None else np.clip(z, -limit, limit)


def unclipped(grad: FloatArray, z: FloatArray, limit: float | None) -> FloatArray:
    """Let `grad` pass where clipping left z as it was."""
    return grad if limit is None else np.where(np.abs(z) <= limit, grad, 0)


def activate(name: str, z: FloatArray) -> FloatArray:
    """Return the activation `name` of z."""
    if name not in elementwise.ACTIVATIONS:
        raise ValueError(
            f"activation: expected one of {sorted(elementwise.ACTIVATIONS)}, got {name!r}"
        )
    return np.asarray(elementwise.ACTIVATIONS[name](z))


def activate_backward(name: str, grad: FloatArray, z: FloatArray) -> FloatArray:
    """Return ``grad * f'(z)`` of the activation `name`."""
    if name == "gelu_tanh":
        return elementwise.gelu_backward(grad, z, approximate="tanh")
    return np.asarray(getattr(elementwise, f"{name}_backward")(grad, z))


def _layer_norm(
    x: FloatArray, gain: FloatArray, bias: FloatArray | int, eps: float
) -> tuple[FloatArray, tuple[FloatArray, FloatArray]]:
    """Return the layer norm of rows (Ba et al. 2016), and x normalised and 1 / deviation."""
    centred = x - x.mean(axis=1, keepdims=True)
    rstd = 1 / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + x.dtype.type(eps))
    return centred * rstd * gain + bias, (centred * rstd, rstd)


def _layer_norm_backward(
    grad: FloatArray, gain: FloatArray, kept: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the gradients of x, the gain and the bias."""
    xhat, rstd = kept
    g = grad * gain
    along = xhat * (g * xhat).mean(axis=1, keepdims=True)
    dx = rstd * (g - g.mean(axis=1, keepdims=True) - along)
    return dx, (grad * xhat).sum(0), grad.sum(0)


def _products(x: FloatArray, h: FloatArray, group: Group) -> tuple[FloatArray, FloatArray, Any]:
    """Return ``x W_ih'`` and ``h W_hh'``, normalised where there are norms, and what they keep."""
    products = x @ group.w_ih.T, h @ group.w_hh.T
    if not group.norms:
        return *products, None
    (zx, kept_x), (zh, kept_h) = (
        _layer_norm(z, gain, 0, group.eps)
        for z, gain in zip(products, group.norms[:2], strict=True)
    )
    return zx, zh, (kept_x, kept_h)


def _affine_backward(
    dz_input: FloatArray,
    dz_hidden: FloatArray,
    x: FloatArray,
    h: FloatArray,
    group: Group,
    kept: Any,
) -> tuple[FloatArray, FloatArray, list[FloatArray], list[FloatArray]]:
    """Gradients of x, h, the group's matrices and biases, and its gains, from those of both sides.

    The two sides are the products with x and h, normalised or not, and their biases.
    """
    biases = [dz.sum(0) for dz in (dz_input, dz_hidden)][: len(group.biases)]
    gains = []
    if kept is not None:
        dz_input, gain_x, _ = _layer_norm_backward(dz_input, group.norms[0], kept[0])
        dz_hidden, gain_h, _ = _layer_norm_backward(dz_hidden, group.norms[1], kept[1])
        gains = [gain_x, gain_h]
    grads = [dz_input.T @ x, dz_hidden.T @ h, *biases]
    return dz_input @ group.w_ih, dz_hidden @ group.w_hh, grads, gains


def _bias(group: Group, index: int) -> FloatArray | int:
    return group.biases[index] if index < len(group.biases) else 0


@dataclass(frozen=True)
class RnnCell:
    """``h' = f(x W_ih' + b_ih + h W_hh' + b_hh)`` (Elman 1990)."""

    nonlinearity: str
    clip: float | None
    gates: Final = 1

    def step(
        self, x: FloatArray, state: State, group: Group, factors: Factors = 1
    ) -> tuple[State, Any]:
        """Return the new state and what :meth:`back` needs."""
        h = state[0] * factors
        zx, zh, norms = _products(x, h, group)
        z = zx + _bias(group, 0) + zh + _bias(group, 1)
        return (activate(self.nonlinearity, clipped(z, self.clip)),), (x, h, z, norms)

    def back(
        self, grad: State, saved: Any, group: Group, factors: Factors = 1
    ) -> tuple[FloatArray, State, list[FloatArray], FloatArray | None]:
        """Return the gradients of x, the state, the group's arrays and the peephole."""
        x, h, z, norms = saved
        dz = activate_backward(self.nonlinearity, grad[0], clipped(z, self.clip))
        dz = unclipped(dz, z, self.clip)
        dx, dh, grads, gains = _affine_backward(dz, dz, x, h, group, norms)
        return dx, (dh * factors,), grads + gains, None


@dataclass(frozen=True)
class LstmCell:
    r"""Long short-term memory (Hochreiter and Schmidhuber 1997; Gers et al. 2000).

    .. math::
        i, f, g &= \sigma(z_i + p_i c),\ \sigma(z_f + p_f c),\ a(z_g) \\
        c' &= f c + i g \\
        o &= \sigma(z_o + p_o c') \\
        h' &= W_{hr}\,(o\ a_{out}(c'))

    with z = x W_ih' + b_ih + h W_hh' + b_hh; p and W_hr where there are any. With layer norms the
    products and the c' that :math:`a_{out}` reads are normalised. With `input_forget`
    i = 1 - f and z_i is not used. `clip` bounds the arguments of :math:`\sigma` and a, `cell_clip`
    bounds c' before o and h' read it.
    """

    activation: str
    recurrent_activation: str
    output_activation: str
    input_forget: bool
    clip: float | None
    cell_clip: float | None
    gates: Final = 4

    def step(
        self, x: FloatArray, state: State, group: Group, factors: Factors = 1
    ) -> tuple[State, Any]:
        """Return the new state and what :meth:`back` needs."""
        h, c = state[0] * factors, state[1]
        p = group.peephole
        zx, zh, norms = _products(x, h, group)
        z = zx + _bias(group, 0) + zh + _bias(group, 1)
        zi, zf, zg, zo = np.split(z, 4, axis=1)
        if p is not None:
            zi, zf = zi + p[0] * c, zf + p[1] * c
        f = activate(self.recurrent_activation, clipped(zf, self.clip))
        g = activate(self.activation, clipped(zg, self.clip))
        i = 1 - f if self.input_forget else self._gate(zi)
        whole = f * c + i * g
        c_new = clipped(whole, self.cell_clip)
        if p is not None:
            zo = zo + p[2] * c_new
        o = self._gate(zo)
        read, norm = c_new, None
        if group.norms:
            read, norm = _layer_norm(c_new, group.norms[2], group.norms[3], group.eps)
        m = o * activate(self.output_activation, read)
        h_new = m if group.w_hr is None else m @ group.w_hr.T
        kept = (x, h, c, (zi, zf, zg, zo), (i, f, g, o), whole, c_new, read, m, norms, norm)
        return (h_new, c_new), kept

    def _gate(self, z: FloatArray) -> FloatArray:
        return activate(self.recurrent_activation, clipped(z, self.clip))

    def _before(self, name: str, grad: FloatArray, z: FloatArray) -> FloatArray:
        return unclipped(activate_backward(name, grad, clipped(z, self.clip)), z, self.clip)

    def back(
        self, grad: State, saved: Any, group: Group, factors: Factors = 1
    ) -> tuple[FloatArray, State, list[FloatArray], FloatArray | None]:
        """Return the gradients of x, the state, the group's arrays and the peephole."""
        x, h, c, (zi, zf, zg, zo), (i, f, g, o), whole, c_new, read, m, norms, norm = saved
        p = group.peephole
        dh, dc = grad
        dm = dh if group.w_hr is None else dh @ group.w_hr
        do = dm * activate(self.output_activation, read)
        d_read = activate_backward(self.output_activation, dm * o, read)
        of_cell: list[FloatArray] = []
        if norm is not None:
            d_read, *of_cell = _layer_norm_backward(d_read, group.norms[2], norm)
        dc = dc + d_read
        dzo = self._before(self.recurrent_activation, do, zo)
        if p is not None:
            dc = dc + p[2] * dzo
        dc = unclipped(dc, whole, self.cell_clip)
        di, df, dg = dc * g, dc * c, dc * i
        if self.input_forget:
            df, dzi = df - di, np.zeros_like(di)
        else:
            dzi = self._before(self.recurrent_activation, di, zi)
        dzf = self._before(self.recurrent_activation, df, zf)
        dzg = self._before(self.activation, dg, zg)
        dc_old = dc * f
        dp = None
        if p is not None:
            dc_old = dc_old + p[0] * dzi + p[1] * dzf
            dp = np.stack([(dzi * c).sum(0), (dzf * c).sum(0), (dzo * c_new).sum(0)])
        dz = np.concatenate([dzi, dzf, dzg, dzo], axis=1)
        dx, dh_old, grads, gains = _affine_backward(dz, dz, x, h, group, norms)
        if group.w_hr is not None:
            grads.append(dh.T @ m)
        return dx, (dh_old * factors, dc_old), [*grads, *gains, *of_cell], dp


@dataclass(frozen=True)
class GruCell:
    r"""Gated recurrent unit (Cho et al. 2014).

    .. math::
        r, z &= \sigma(x W_{ir}' + b_{ir} + h W_{hr}' + b_{hr}),\ \sigma(\ldots) \\
        n &= a(x W_{in}' + b_{in} + r (h W_{hn}' + b_{hn})) \\
        h' &= (1 - z) n + z h

    With `reset_after` False the reset comes before the product: n = a(x W_in' + b_in
    + (r h) W_hn' + b_hn). `clip` bounds the arguments of :math:`\sigma` and a.
    """

    activation: str
    recurrent_activation: str
    reset_after: bool
    clip: float | None
    gates: Final = 3

    def step(
        self, x: FloatArray, state: State, group: Group, factors: Factors = 1
    ) -> tuple[State, Any]:
        """Return the new state and what :meth:`back` needs."""
        h = state[0] * factors
        cut = 2 * group.output
        zx, zh, norms = _products(x, h, group)
        zx = zx + _bias(group, 0)
        hidden_bias = np.zeros(len(group.w_hh), x.dtype) + _bias(group, 1)
        gates_z = zx[:, :cut] + zh[:, :cut] + hidden_bias[:cut]
        r, z = np.split(activate(self.recurrent_activation, clipped(gates_z, self.clip)), 2, axis=1)
        w_n, b_n = group.w_hh[cut:], hidden_bias[cut:]
        inner = zh[:, cut:] + b_n if self.reset_after else r * h
        zn = zx[:, cut:] + (r * inner if self.reset_after else inner @ w_n.T + b_n)
        n = activate(self.activation, clipped(zn, self.clip))
        kept = (x, state[0], h, gates_z, r, z, inner, zn, n, norms)
        return ((1 - z) * n + z * state[0],), kept

    def back(
        self, grad: State, saved: Any, group: Group, factors: Factors = 1
    ) -> tuple[FloatArray, State, list[FloatArray], FloatArray | None]:
        """Return the gradients of x, the state, the group's arrays and the peephole."""
        x, whole, h, gates_z, r, z, inner, zn, n, norms = saved
        (dh,) = grad
        cut = 2 * group.output
        w_n = group.w_hh[cut:]
        dzn = activate_backward(self.activation, dh * (1 - z), clipped(zn, self.clip))
        dzn = unclipped(dzn, zn, self.clip)
        d_inner = dzn * r if self.reset_after else dzn @ w_n
        dr = dzn * inner if self.reset_after else d_inner * h
        d_gates = activate_backward(
            self.recurrent_activation,
            np.concatenate([dr, dh * (n * -1 + whole)], axis=1),
            clipped(gates_z, self.clip),
        )
        d_gates = unclipped(d_gates, gates_z, self.clip)
        dz_input = np.concatenate([d_gates, dzn], axis=1)
        dz_hidden = np.concatenate([d_gates, d_inner if self.reset_after else dzn], axis=1)
        dx, dh_old, grads, gains = _affine_backward(dz_input, dz_hidden, x, h, group, norms)
        if not self.reset_after:  # the product with W_hn read r h in place of h
            grads[1][cut:] = dzn.T @ inner
            dh_old = d_gates @ group.w_hh[:cut] + d_inner * r
        return dx, (dh_old * factors + dh * z,), grads + gains, None


def _step(
    op: str,
    cell: Any,
    x: FloatArray,
    weights: Sequence[FloatArray],
    state: Sequence[FloatArray] | None,
    layer_norm: Sequence[FloatArray] | None,
    eps: float,
    peephole: FloatArray | None = None,
) -> tuple[State, Workspace]:
    batched = x.ndim == 2
    rows = x if batched else x[None]
    peepholes = None if peephole is None else [peephole]
    (group,) = split_weights(op, weights, 1, cell.gates, peepholes, layer_norm, eps)
    check_norms(op, cell, layer_norm)
    sizes = (group.output, group.w_ih.shape[0] // 4)[: 2 if cell.gates == 4 else 1]
    if state is None:
        state = [np.zeros((len(rows), size), x.dtype) for size in sizes]
    elif not batched:
        state = [part[None] for part in state]
    for part, size in zip(state, sizes, strict=True):
        if part.shape != (len(rows), size):
            raise ValueError(f"[{op}] state: expected {(len(rows), size)}, got {part.shape}")
    new, saved = cell.step(rows, tuple(state), group)
    kept = Workspace(saved, cell=cell, group=group, batched=batched)
    return (new if batched else tuple(part[0] for part in new)), kept


def _step_backward(grad: Sequence[FloatArray | None], workspace: Workspace) -> tuple[Any, ...]:
    cell, group, batched = (workspace.how[name] for name in ("cell", "group", "batched"))
    rows = len(workspace.saved[0])
    sizes = (group.output, group.w_ih.shape[0] // 4)
    full = [
        np.zeros((rows, size), group.w_ih.dtype) if part is None else part.reshape(rows, size)
        for part, size in zip(grad, sizes, strict=False)
    ]
    dx, state, grads, dp = cell.back(tuple(full), workspace.saved, group)
    weights, norms = split_norms([group], [grads])
    more = (() if dp is None else (dp,)) + ((norms,) if norms else ())
    if batched:
        return dx, state, weights, *more
    return dx[0], tuple(part[0] for part in state), weights, *more


@quiet
def rnn_cell(
    x: FloatArray,
    weights: Sequence[FloatArray],
    h0: FloatArray | None = None,
    *,
    nonlinearity: str = "tanh",
    clip: float | None = None,
    layer_norm: Sequence[FloatArray] | None = None,
    layer_norm_eps: float = 1e-5,
    return_workspace: bool = False,
) -> Any:
    """One step of :func:`rnn` on (batch, input) or (input,).

    >>> rnn_cell(np.ones(1), [np.ones((1, 1)), np.ones((1, 1))], np.ones(1), nonlinearity="relu")
    array([2.])
    """
    cell = RnnCell(nonlinearity, clip)
    (h,), kept = _step(
        "rnn_cell", cell, x, weights, None if h0 is None else [h0], layer_norm, layer_norm_eps
    )
    return (h, kept) if return_workspace else h


@quiet
def rnn_cell_backward(grad_h: FloatArray, workspace: Workspace) -> tuple[Any, ...]:
    """Return grad_x, grad_h0, the gradients of `weights` and, if any, of `layer_norm`."""
    dx, (dh,), *grads = _step_backward([grad_h], workspace)
    return dx, dh, *grads


@quiet
def lstm_cell(
    x: FloatArray,
    weights: Sequence[FloatArray],
    state: tuple[FloatArray, FloatArray] | None = None,
    *,
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
    output_activation: str | None = None,
    peepholes: FloatArray | None = None,
    input_forget: bool = False,
    clip: float | None = None,
    cell_clip: float | None = None,
    layer_norm: Sequence[FloatArray] | None = None,
    layer_norm_eps: float = 1e-5,
    return_workspace: bool = False,
) -> Any:
    """One step of :func:`lstm` on (batch, input) or (input,): the pair (h, c).

    `peepholes` is one (3, hidden) array.
    """
    cell = LstmCell(
        activation,
        recurrent_activation,
        activation if output_activation is None else output_activation,
        input_forget,
        clip,
        cell_clip,
    )
    new, kept = _step("lstm_cell", cell, x, weights, state, layer_norm, layer_norm_eps, peepholes)
    return (new, kept) if return_workspace else new


@quiet
def lstm_cell_backward(
    grad_state: tuple[FloatArray | None, FloatArray | None], workspace: Workspace
) -> tuple[Any, ...]:
    """Return grad_x, (grad_h0, grad_c0), the gradients of `weights`.

    Then, if there are any, those of `peepholes` and of `layer_norm`.
    """
    return _step_backward(grad_state, workspace)


@quiet
def gru_cell(
    x: FloatArray,
    weights: Sequence[FloatArray],
    h0: FloatArray | None = None,
    *,
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
    reset_after: bool = True,
    clip: float | None = None,
    layer_norm: Sequence[FloatArray] | None = None,
    layer_norm_eps: float = 1e-5,
    return_workspace: bool = False,
) -> Any:
    """One step of :func:`gru` on (batch, input) or (input,)."""
    cell = GruCell(activation, recurrent_activation, reset_after, clip)
    (h,), kept = _step(
        "gru_cell", cell, x, weights, None if h0 is None else [h0], layer_norm, layer_norm_eps
    )
    return (h, kept) if return_workspace else h


@quiet
def gru_cell_backward(grad_h: FloatArray, workspace: Workspace) -> tuple[Any, ...]:
    """Return grad_x, grad_h0, the gradients of `weights` and, if any, of `layer_norm`."""
    dx, (dh,), *grads = _step_backward([grad_h], workspace)
    return dx, dh, *grads
