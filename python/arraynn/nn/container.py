"""Modules that hold modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, overload

from arraynn.nn import activation
from arraynn.nn.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from arraynn.nn.linear import Linear
from arraynn.nn.module import Module
from arraynn.nn.norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, GroupNorm, LayerNorm, RMSNorm
from arraynn.nn.pooling import MaxPool2d

__all__ = ["ModuleList", "Sequential"]


# Exact types: a subclass may have a forward of its own.
_FUSED = frozenset(
    kind
    for kind in vars(activation).values()
    if isinstance(kind, type) and issubclass(kind, activation._Activation)
)
_FUSING = frozenset(
    (
        *(Linear, Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d),
        *(BatchNorm1d, BatchNorm2d, BatchNorm3d, GroupNorm, LayerNorm, RMSNorm),
    )
)


class _Container(Module):
    """Submodules in order, by position and by name."""

    def _items(self) -> list[tuple[str, Module]]:
        return [(k, m) for k, m in self.__dict__.items() if isinstance(m, Module)]

    def __len__(self) -> int:
        return len(self._items())

    def __iter__(self) -> Iterator[Module]:
        return iter([module for _, module in self._items()])

    def _name_at(self, index: int) -> str:
        items = self._items()
        if not -len(items) <= index < len(items):
            raise IndexError(
                f"[{type(self).__name__}] index: expected -{len(items)}..{len(items) - 1}, "
                f"got {index}"
            )
        return items[index][0]

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(self._name_at(index), module)

    def _renumber(self, modules: Iterable[Module]) -> None:
        for name, _ in self._items():
            del self.__dict__[name]
        for i, module in enumerate(modules):
            self.add_module(str(i), module)

    def append(self, module: Module) -> Any:
        """Add a module at the end and return the container."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add modules at the end and return the container."""
        for module in modules:
            self.append(module)
        return self


def _call(layer: Any, input: Any, name: str | None) -> Any:
    return layer.forward(input) if name is None else layer.forward_with(input, name)


def _may_pool(layer: Any, pool: Any) -> bool:
    return layer.layout == pool.layout and not pool.return_indices


class Sequential(_Container):
    """Calls its modules one after another.

    A :class:`Linear`, a convolution or a normalisation followed by an activation with its default
    parameters runs as one kernel with the activation in its epilogue; where no gradient is wanted,
    a :class:`Conv2d` takes a :class:`MaxPool2d` behind it as well. The results are the same.

    Parameters
    ----------
    *modules : Module, or one OrderedDict of names to modules

    Examples
    --------
    >>> import arraynn as ann
    >>> ann.nn.Sequential(ann.nn.Linear(4, 8), ann.nn.ReLU())
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): ReLU()
    )
    """

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], OrderedDict | dict):
            named = list(modules[0].items())
        else:
            named = [(str(i), module) for i, module in enumerate(modules)]
        for name, module in named:
            self.add_module(name, module)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            return Sequential(OrderedDict(self._items()[index]))
        found: Module = self.__dict__[self._name_at(index)]
        return found

    def forward(self, input: Any) -> Any:
        """Call the modules one after another."""
        layer: Any = None  # waits for what follows it
        name: str | None = None  # of an activation that waits with it
        for module in self.__dict__.values():
            if not isinstance(module, Module):
                continue
            # Exact types: a subclass may have a forward of its own. A hook wants its own call.
            kind = (
                type(module)
                if not module._forward_hooks and not module._forward_pre_hooks
                else None
            )
            if layer is not None:
                if kind in _FUSED and name is None:
                    name = module.fused_name()  # type: ignore[attr-defined]
                    if name is not None:
                        if type(layer) is not Conv2d:
                            input, layer, name = layer.forward_with(input, name), None, None
                        continue
                if kind is MaxPool2d and type(layer) is Conv2d and _may_pool(layer, module):
                    input = layer.forward_pooled(input, name, module.window())  # type: ignore[attr-defined]
                    layer = name = None
                    continue
                input, layer, name = _call(layer, input, name), None, None
            if kind in _FUSING:
                layer = module
            else:
                input = module(input)
        return input if layer is None else _call(layer, input, name)


class ModuleList(_Container):
    """A list of modules, whose parameters are found.

    Examples
    --------
    >>> import arraynn as ann
    >>> layers = ann.nn.ModuleList([ann.nn.Linear(4, 4) for _ in range(3)])
    >>> len(layers), len(list(layers.parameters()))
    (3, 6)
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> ModuleList: ...
    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            return ModuleList([module for _, module in self._items()[index]])
        found: Module = self.__dict__[self._name_at(index)]
        return found

    def insert(self, index: int, module: Module) -> None:
        """Insert a module before ``index``; those after it are renumbered."""
        modules = list(self)
        modules.insert(index, module)
        self._renumber(modules)
