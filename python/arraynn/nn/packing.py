"""Layers that keep their weights packed while nothing is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np

from arraynn import kernels as K
from arraynn.autograd.tape import Array, Variable, grad_mode
from arraynn.nn.module import Module, Parameter

__all__ = ["PackableLayer", "PackableNetwork", "pack_weights", "unpack_weights"]

_M = TypeVar("_M", bound=Module)
_NETWORKS = {1: "rnn", 3: "gru", 4: "lstm"}  # by their gates


def _protect(arrays: Sequence[Array], read_only: bool) -> None:
    """Let nobody write to arrays, or anybody; those on a GPU know no such thing."""
    for array in arrays:
        if isinstance(array, np.ndarray):
            array.flags.writeable = not read_only


class _Packed(Variable):
    """A constant whose ``data`` are packed weights, and what they were made from."""

    __slots__ = ("source_versions", "sources")

    def __init__(self, weights: Sequence[Parameter], data: Any) -> None:
        self.data = data
        self.grad = self.node = None
        self.version = [0]
        self._requires_grad = False
        self.sources: list[Array] = [weight.data for weight in weights]
        self.source_versions = [weight.version[0] for weight in weights]
        _protect(self.sources, True)

    def is_of(self, weights: Sequence[Parameter]) -> bool:
        """Whether the parameters still are what was packed."""
        return all(
            source is weight.data and version == weight.version[0]
            for source, version, weight in zip(
                self.sources, self.source_versions, weights, strict=True
            )
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Copies of a layer start without."""


class Packable(Module):
    """A layer whose weights a kernel takes packed."""

    _packed: _Packed | None = None

    def _to_pack(self) -> Sequence[Parameter]:
        """Return the parameters that are packed together."""
        raise NotImplementedError

    def _pack(self, weights: Sequence[Parameter]) -> Any:
        """Return what the kernel takes in the place of `weights`."""
        raise NotImplementedError

    def pack(self) -> None:
        """Pack the weights and make their arrays read-only."""
        self.unpack()
        weights = self._to_pack()
        self._packed = _Packed(weights, self._pack(weights))

    def unpack(self) -> None:
        """Give up what :meth:`pack` made."""
        if self._packed is not None:
            _protect(self._packed.sources, False)
            self._packed = None

    def packed(self) -> Variable | None:
        """Return the packed weights where there are any that hold and nothing is recorded."""
        packed = self._packed
        if packed is None or grad_mode.enabled:
            return None
        if not packed.is_of(self._to_pack()):
            self.unpack()
            return None
        return packed


class PackableLayer(Packable):
    """A layer whose ``weight`` a kernel takes packed; ``_op`` names the kernel."""

    _op: ClassVar[str]
    weight: Parameter

    def _to_pack(self) -> Sequence[Parameter]:
        return (self.weight,)

    def _pack(self, weights: Sequence[Parameter]) -> Any:
        return K.pack(weights[0].data, self._op)

    def packed_weight(self) -> Variable:
        """Return the packed weight where there is one and nothing is recorded, else the weight."""
        packed = self.packed()
        return self.weight if packed is None else packed


class PackableNetwork(Packable):
    """A recurrent layer or cell, whose kernel takes its list of weights packed."""

    _gates: ClassVar[int]

    def _pack(self, weights: Sequence[Parameter]) -> Any:
        return K.pack([weight.data for weight in weights], _NETWORKS[self._gates])

    def packed_weights(self) -> Any:
        """Return the packed weights where there are any and nothing is recorded, else the list."""
        packed = self.packed()
        return self._to_pack() if packed is None else packed


def pack_weights(module: _M) -> _M:
    """Pack the weights of all linear, convolution and recurrent layers for inference.

    While no gradient is recorded (:class:`arraynn.no_grad`) these layers then take weights that
    :func:`arraynn.kernels.pack` arranged, with the same bits: much faster where a call has few
    rows, pixels or steps. Costs about twice a weight's memory, five times that of a 3x3
    convolution.

    The arrays of packed weights are read-only, so that no write to them is missed (CuPy has no
    such arrays: do not write into those on a GPU). ``train()``, ``load_state_dict`` and
    :func:`unpack_weights` make them writeable again and drop what was packed. A layer whose
    parameter got another array goes on with that one, unpacked.

    Parameters
    ----------
    module : Module

    Returns
    -------
    Module
        The module itself.

    Raises
    ------
    RuntimeError
        If the module is in training mode.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> layer = ann.nn.utils.pack_weights(ann.nn.Linear(4, 3).eval())
    >>> with ann.no_grad():
    ...     layer(ann.Tensor(np.ones((2, 4), np.float32))).shape
    (2, 3)
    """
    if module.training:
        raise RuntimeError("[pack_weights] module: expected evaluation mode, got training mode")
    for layer in module.modules():
        if isinstance(layer, Packable):
            layer.pack()
    return module


def unpack_weights(module: _M) -> _M:
    """Drop what :func:`pack_weights` made, and return the module."""
    for layer in module.modules():
        if isinstance(layer, Packable):
            layer.unpack()
    return module
