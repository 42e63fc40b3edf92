"""Weights of recurrent layers between the layouts of PyTorch, Keras, ONNX and cuDNN."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["convert_rnn_weights"]

Array = np.ndarray[Any, Any]

_OP = "[convert_rnn_weights]"

#: Gates of each cell in our order, PyTorch's: LSTM i f g o, GRU r z n.
_GATES = {"rnn": 1, "lstm": 4, "gru": 3}

#: Where each layout has our gates; those not named have them where we do.
_ORDERS = {
    ("keras", "gru"): (1, 0, 2),  # z r h
    ("onnx", "gru"): (1, 0, 2),  # z r h
    ("onnx", "lstm"): (0, 2, 3, 1),  # i o f c
}


class _Group(NamedTuple):
    """Weights of one layer and direction as PyTorch has them; no, one or two biases."""

    w_ih: Array
    w_hh: Array
    biases: tuple[Array, ...]
    w_hr: Array | None


class _Layout(NamedTuple):
    """What readers and writers have to know."""

    name: str
    cell: str
    bidirectional: bool
    reset_after: bool

    @property
    def gates(self) -> int:
        return _GATES[self.cell]

    def order(self) -> tuple[int, ...]:
        return _ORDERS.get((self.name, self.cell), tuple(range(self.gates)))

    def to_ours(self, rows: Array) -> Array:
        """Return blocks of rows in our order."""
        if len(rows) % self.gates:
            raise _reject(f"{self.gates} gates of equal size ({self.cell})", f"{len(rows)} rows")
        blocks = np.split(rows, self.gates)
        return np.concatenate([blocks[k] for k in self.order()])

    def from_ours(self, rows: Array) -> Array:
        """Undo :meth:`to_ours`."""
        blocks = np.split(rows, self.gates)
        back = np.argsort(self.order())
        return np.concatenate([blocks[k] for k in back])


def _reject(expected: str, got: Any) -> ValueError:
    return ValueError(f"{_OP} weights: expected {expected}, got {got}")


def _shapes(weights: Iterable[Array]) -> list[tuple[int, ...]]:
    return [w.shape for w in weights]


def _checked(layout: _Layout, group: _Group) -> _Group:
    """Raise unless the shapes of a group fit each other."""
    gates = layout.gates
    rows = group.w_ih.shape[0]
    hidden = rows // gates
    out = hidden if group.w_hr is None else group.w_hr.shape[0]
    biases_fit = len(group.biases) <= 2 and all(b.shape == (rows,) for b in group.biases)
    if rows != gates * hidden or group.w_hh.shape != (rows, out) or not biases_fit:
        raise _reject(
            f"arrays of a {layout.cell} in {layout.name}'s layout ({gates} gates) that fit each "
            "other",
            _shapes([group.w_ih, group.w_hh, *group.biases]),
        )
    return group


def _take_torch(weights: list[Array], layout: _Layout) -> list[_Group]:
    groups = []
    left = list(weights)
    while left:
        if len(left) < 2 or left[0].ndim != 2 or left[1].ndim != 2:
            raise _reject("w_ih and w_hh of two axes each", _shapes(left[:2]))
        w_ih, w_hh = left.pop(0), left.pop(0)
        biases = []
        while left and left[0].ndim == 1:
            biases.append(left.pop(0))
        shape = (w_hh.shape[1], w_ih.shape[0] // layout.gates)
        projected = layout.cell == "lstm" and shape[0] != shape[1]
        w_hr = left.pop(0) if projected and left and left[0].shape == shape else None
        groups.append(_Group(w_ih, w_hh, tuple(biases), w_hr))
    return groups


def _give_torch(groups: list[_Group], layout: _Layout) -> list[Array]:
    del layout
    found: list[Array] = []
    for group in groups:
        biases = group.biases
        if len(biases) == 1:  # PyTorch has two or none
            biases = (biases[0], np.zeros_like(biases[0]))
        found += [group.w_ih, group.w_hh, *biases]
        if group.w_hr is not None:
            found.append(group.w_hr)
    return found


def _take_keras(weights: list[Array], layout: _Layout) -> list[_Group]:
    groups = []
    left = list(weights)
    while left:
        if len(left) < 2 or left[0].ndim != 2 or left[1].ndim != 2:
            raise _reject("kernel and recurrent_kernel of two axes each", _shapes(left[:2]))
        kernel, recurrent = (layout.to_ours(left.pop(0).T) for _ in range(2))
        biases: tuple[Array, ...] = ()
        pair = (2, kernel.shape[0])
        if left and left[0].ndim == 1:
            biases = (layout.to_ours(left.pop(0)),)
        elif left and layout.cell == "gru" and layout.reset_after and left[0].shape == pair:
            biases = tuple(layout.to_ours(b) for b in left.pop(0))
        groups.append(_Group(kernel, recurrent, biases, None))
    return groups


def _give_keras(groups: list[_Group], layout: _Layout) -> list[Array]:
    found: list[Array] = []
    for group in groups:
        found += [layout.from_ours(group.w_ih).T, layout.from_ours(group.w_hh).T]
        biases = [layout.from_ours(b) for b in group.biases]
        if biases and layout.cell == "gru" and layout.reset_after:
            found.append(np.stack(biases if len(biases) == 2 else [*biases, 0 * biases[0]]))
        elif biases:
            found.append(biases[0] if len(biases) == 1 else biases[0] + biases[1])
    return found


def _take_onnx(weights: list[Array], layout: _Layout) -> list[_Group]:
    groups = []
    left = list(weights)
    directions = 2 if layout.bidirectional else 1
    while left:
        if len(left) < 2 or left[0].ndim != 3 or left[1].ndim != 3:
            raise _reject("W and R of three axes each", _shapes(left[:2]))
        w, r = left.pop(0), left.pop(0)
        b = left.pop(0) if left and left[0].ndim == 2 else None
        if len(w) != directions or len(r) != directions or (b is not None and len(b) != directions):
            raise _reject(f"arrays of {directions} directions", _shapes([w, r]))
        if b is not None and b.shape[1] != 2 * w.shape[1]:
            raise _reject(f"B ({directions}, {2 * w.shape[1]})", b.shape)
        for d in range(directions):
            biases = () if b is None else tuple(layout.to_ours(v) for v in np.split(b[d], 2))
            groups.append(_Group(layout.to_ours(w[d]), layout.to_ours(r[d]), biases, None))
    return groups


def _give_onnx(groups: list[_Group], layout: _Layout) -> list[Array]:
    found: list[Array] = []
    directions = 2 if layout.bidirectional else 1
    if len(groups) % directions:
        raise _reject("two directions of every layer", f"{len(groups)} groups of arrays")
    for first in range(0, len(groups), directions):
        layer = groups[first : first + directions]
        found.append(np.stack([layout.from_ours(group.w_ih) for group in layer]))
        found.append(np.stack([layout.from_ours(group.w_hh) for group in layer]))
        if any(group.biases for group in layer):
            rows = []
            for group in layer:
                none = np.zeros_like(group.w_ih[:, 0])
                pair = (*group.biases, none, none)[:2]
                rows.append(np.concatenate([layout.from_ours(v) for v in pair]))
            found.append(np.stack(rows))
    return found


def _take_cudnn(weights: list[Array], layout: _Layout) -> list[_Group]:
    groups = []
    gates = layout.gates
    left = list(weights)
    while left:
        if len(left) < 2 * gates or any(w.ndim != 2 for w in left[: 2 * gates]):
            raise _reject(f"{2 * gates} matrices of two axes each", _shapes(left[: 2 * gates]))
        matrices, left = left[: 2 * gates], left[2 * gates :]
        w_ih, w_hh = np.concatenate(matrices[:gates]), np.concatenate(matrices[gates:])
        shape = (w_hh.shape[1], w_ih.shape[0] // gates)
        projected = layout.cell == "lstm" and shape[0] != shape[1]
        w_hr = left.pop(0) if projected and left and left[0].shape == shape else None
        count = 0
        while count < len(left) and left[count].ndim == 1:
            count += 1
        if count % gates:
            raise _reject(f"biases in multiples of {gates}", f"{count} of them")
        biases = [np.concatenate(left[k : k + gates]) for k in range(0, count, gates)]
        left = left[count:]
        groups.append(_Group(w_ih, w_hh, tuple(biases), w_hr))
    return groups


def _give_cudnn(groups: list[_Group], layout: _Layout) -> list[Array]:
    found: list[Array] = []
    for group in groups:
        for matrix in (group.w_ih, group.w_hh):
            found += np.split(matrix, layout.gates)
        if group.w_hr is not None:
            found.append(group.w_hr)
        for bias in group.biases:
            found += np.split(bias, layout.gates)
    return found


_READERS: dict[str, Callable[[list[Array], _Layout], list[_Group]]] = {
    "torch": _take_torch,
    "keras": _take_keras,
    "onnx": _take_onnx,
    "cudnn": _take_cudnn,
}
_WRITERS: dict[str, Callable[[list[_Group], _Layout], list[Array]]] = {
    "torch": _give_torch,
    "keras": _give_keras,
    "onnx": _give_onnx,
    "cudnn": _give_cudnn,
}


def convert_rnn_weights(
    weights: Iterable[Any],
    cell: str,
    *,
    src: str,
    dst: str,
    bidirectional: bool = False,
    reset_after: bool = True,
) -> list[Array]:
    """Copy the weights of recurrent layers from one system's layout into another's.

    A layout is a flat list of arrays, one group after the other; G gates of H units, I inputs:

    ======== =========================================================================== =========
    layout   a group                                                                     LSTM, GRU
    ======== =========================================================================== =========
    torch    w_ih (G H, I), w_hh (G H, H), b_ih, b_hh (G H); then w_hr (P, H) and        i f g o,
             w_hh (G H, P) with a projection. One per layer and direction, forward       r z n
             before backward: the order of ``state_dict()`` and of our kernels
    keras    kernel (I, G H), recurrent_kernel (H, G H), bias (G H), or (2, G H) of a    i f c o,
             GRU with reset_after: ``layer.get_weights()``. One per layer and direction  z r h
    onnx     W (D, G H, I), R (D, G H, H), B (D, 2 G H): inputs of an RNN, LSTM or GRU   i o f c,
             node of D directions. One per layer                                         z r h
    cudnn    the G matrices (H, I), the G matrices (H, H), then w_hr (P, H) with a       i f g o,
             projection, then G or 2 G biases (H): those of cudnnGetRNNWeightParams by   r z n
             linLayerID. One per layer and direction
    ======== =========================================================================== =========

    Biases may be missing in each. Where a system has one bias and the source two, it gets their
    sum, and where it has two the second is 0: going there and back keeps the layer's function.

    ONNX' peepholes P (D, 3 H) have the order i o f: ``[p.reshape(3, -1)[[0, 2, 1]] for p in P]``
    are those of :func:`arraynn.kernels.lstm`. With ``input_forget`` ONNX Runtime takes f = 1 - i
    and we i = 1 - f; as 1 - sigmoid(z) = sigmoid(-z), minus its rows of i are our rows of f.

    Parameters
    ----------
    weights : iterable of arrays
        In the layout `src`.
    cell : {"rnn", "lstm", "gru"}
    src, dst : {"torch", "keras", "onnx", "cudnn"}
    bidirectional : bool
        Whether every layer has two directions; matters to onnx, which stacks them.
    reset_after : bool
        Of a GRU: whether its reset gate comes after the product (ONNX' linear_before_reset = 1),
        when Keras has a bias of two rows. ONNX' default is False.

    Returns
    -------
    list of C-ordered arrays
        Copies in the layout `dst`, of the dtypes given.

    Raises
    ------
    ValueError
        If a name is unknown, shapes do not fit the layout, or `dst` has no projection.

    Examples
    --------
    >>> import numpy as np
    >>> kernel, recurrent = np.arange(6.0).reshape(1, 6), np.zeros((2, 6))
    >>> convert_rnn_weights([kernel, recurrent], "gru", src="keras", dst="torch")[0].ravel()
    array([2., 3., 0., 1., 4., 5.])
    """
    if cell not in _GATES:
        raise ValueError(f"{_OP} cell: expected one of {' '.join(_GATES)}, got {cell!r}")
    for name, value in (("src", src), ("dst", dst)):
        if value not in _READERS:
            raise ValueError(f"{_OP} {name}: expected one of {' '.join(_READERS)}, got {value!r}")
    arrays = [np.asarray(w) for w in weights]
    layouts = [_Layout(name, cell, bidirectional, reset_after) for name in (src, dst)]
    for w in arrays:
        if w.ndim == 0:
            raise _reject("arrays of at least one axis", w.shape)
    groups = _READERS[src](arrays, layouts[0])
    for group in groups:
        _checked(layouts[0], group)
        if group.w_hr is not None and dst in ("keras", "onnx"):
            raise _reject(f"no projection, which {dst} does not have", f"{group.w_hr.shape}")
    return [np.array(w, order="C") for w in _WRITERS[dst](groups, layouts[1])]
