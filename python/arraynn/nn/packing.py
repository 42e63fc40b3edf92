"""Layers that keep their weight packed while nothing is recorded."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from arraynn import kernels as K
from arraynn.autograd.tape import Array, Variable, grad_mode
from arraynn.nn.module import Module, Parameter

__all__ = ["PackableLayer", "pack_weights", "unpack_weights"]

_M = TypeVar("_M", bound=Module)


class _Packed(Variable):
    """A constant whose ``data`` is a packed weight, and what it was made from."""

    __slots__ = ("source", "source_version")

    def __init__(self, weight: Parameter, op: str) -> None:
        self.data = K.pack(weight.data, op)
        self.grad = self.node = None
        self.version = [0]
        self._requires_grad = False
        self.source: Array = weight.data
        self.source_version = weight.version[0]
        self.source.flags.writeable = False

    def is_of(self, weight: Parameter) -> bool:
        """Whether the parameter still is what was packed."""
        return self.source is weight.data and self.source_version == weight.version[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Copies of a layer start without."""


class PackableLayer(Module):
    """A layer whose ``weight`` a kernel takes packed; ``_op`` names the kernel."""

    _op: ClassVar[str]
    weight: Parameter
    _packed: _Packed | None = None

    def pack(self) -> None:
        """Pack the weight and make its array read-only."""
        self.unpack()
        self._packed = _Packed(self.weight, self._op)

    def unpack(self) -> None:
        """Give up what :meth:`pack` made."""
        if self._packed is not None:
            self._packed.source.flags.writeable = True
            self._packed = None

    def packed_weight(self) -> Variable:
        """Return the packed weight where there is one and nothing is recorded, else the weight."""
        packed = self._packed
        if packed is None or grad_mode.enabled:
            return self.weight
        if not packed.is_of(self.weight):
            self.unpack()
            return self.weight
        return packed


def pack_weights(module: _M) -> _M:
    """Pack the weights of all linear and convolution layers for inference.

    While no gradient is recorded (:class:`arraynn.no_grad`) these layers then take weights that
    :func:`arraynn.kernels.pack` arranged, with the same bits: much faster where a call has few
    rows or pixels. Costs about twice a weight's memory, five times that of a 3x3 convolution.

    The arrays of packed weights are read-only, so that no write to them is missed. ``train()``,
    ``load_state_dict`` and :func:`unpack_weights` make them writeable again and drop what was
    packed. A layer whose parameter got another array goes on with that one, unpacked.

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
        if isinstance(layer, PackableLayer):
            layer.pack()
    return module


def unpack_weights(module: _M) -> _M:
    """Drop what :func:`pack_weights` made, and return the module."""
    for layer in module.modules():
        if isinstance(layer, PackableLayer):
            layer.unpack()
    return module
