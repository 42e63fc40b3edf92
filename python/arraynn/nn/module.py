"""The base of all layers: parameters, submodules, state, modes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from arraynn import _array
from arraynn.autograd.tape import Array, Variable
from arraynn.autograd.tensor import Tensor
from arraynn.nn.init import _store

__all__ = ["Module", "Parameter"]

_M = TypeVar("_M", bound="Module")


class Parameter(Tensor):
    """A tensor that a module trains; one assigned to a module's attribute is found by it.

    Examples
    --------
    >>> import arraynn as ann
    >>> ann.nn.Parameter([0.0, 1.0]).requires_grad
    True
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True, *, dtype: Any = None) -> None:
        super().__init__(data, requires_grad, dtype=dtype)

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()


class IncompatibleKeys(NamedTuple):
    """What ``load_state_dict`` did not find, and what it did not use."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return (
            f"IncompatibleKeys(missing_keys={self.missing_keys}, "
            f"unexpected_keys={self.unexpected_keys})"
        )


class RemovableHandle:
    """Removes the hook it was returned for."""

    __slots__ = ("_hooks", "_key")

    def __init__(self, hooks: dict[int, Any], key: int) -> None:
        self._hooks = hooks
        self._key = key

    def remove(self) -> None:
        """Take the hook out; a second call does nothing."""
        self._hooks.pop(self._key, None)


def _as_state(name: str, value: Any) -> Array:
    """Return the array of a state's entry: a tensor, an array, or one of another library."""
    if isinstance(value, Variable):
        return value.data
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # a tensor of PyTorch
        value = value.detach().cpu().numpy()
    if not hasattr(value, "dtype"):
        raise TypeError(
            f"[load_state_dict] {name}: expected a tensor or array, got {type(value).__name__}"
        )
    return value if hasattr(value, "__array_ufunc__") else np.asarray(value)


class Module:
    """Base of all layers and networks.

    Parameters (:class:`Parameter`), buffers and submodules are plain attributes, found in the
    order in which they were first assigned. A subclass defines ``forward``.

    Examples
    --------
    >>> import arraynn as ann
    >>> class Scale(ann.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = ann.nn.Parameter([2.0])
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> scale = Scale()
    >>> scale(ann.Tensor([1.0, 3.0])).data
    array([2., 6.], dtype=float32)
    >>> list(scale.state_dict())
    ['factor']
    """

    training: bool = True
    # Per class until one is registered, so that a subclass need not call super().__init__().
    _buffers: Mapping[str, bool] = {}  # name -> kept in the state
    _forward_hooks: Mapping[int, Callable[..., Any]] = {}
    _forward_pre_hooks: Mapping[int, Callable[..., Any]] = {}
    _hook_count: ClassVar[int] = 0

    def __init__(self) -> None:
        pass

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the result; a subclass defines it."""
        raise NotImplementedError(
            f"[{type(self).__name__}] forward: expected the class to define it, got none"
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._forward_hooks and not self._forward_pre_hooks:
            return self.forward(*args, **kwargs)
        for hook in tuple(self._forward_pre_hooks.values()):
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        result = self.forward(*args, **kwargs)
        for hook in tuple(self._forward_hooks.values()):
            changed = hook(self, args, result)
            if changed is not None:
                result = changed
        return result

    def __setattr__(self, name: str, value: Any) -> None:
        held = self.__dict__.get(name)
        if isinstance(held, Parameter) and not isinstance(value, Parameter) and value is not None:
            raise TypeError(
                f"[{type(self).__name__}] {name}: expected a Parameter or None (it holds a "
                f"Parameter), got {type(value).__name__}"
            )
        self.__dict__[name] = value

    # ---- hooks ---------------------------------------------------------------------------

    def _add_hook(self, kind: str, hook: Callable[..., Any]) -> RemovableHandle:
        if kind not in self.__dict__:
            self.__dict__[kind] = {}
        Module._hook_count += 1
        self.__dict__[kind][Module._hook_count] = hook
        return RemovableHandle(self.__dict__[kind], Module._hook_count)

    def register_forward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after every forward; a result replaces the output."""
        return self._add_hook("_forward_hooks", hook)

    def register_forward_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, args)`` before every forward; a result replaces the arguments."""
        return self._add_hook("_forward_pre_hooks", hook)

    # ---- contents ------------------------------------------------------------------------

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Set a parameter by name."""
        setattr(self, name, param)

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Set a tensor that is not trained; a persistent one is part of the state."""
        if "_buffers" not in self.__dict__:
            self.__dict__["_buffers"] = {}
        self.__dict__["_buffers"][name] = persistent
        setattr(self, name, tensor if tensor is None else Tensor(tensor))

    def add_module(self, name: str, module: Module | None) -> None:
        """Set a submodule by name."""
        if not isinstance(module, Module) and module is not None:
            raise TypeError(
                f"[{type(self).__name__}] {name}: expected a Module, got {type(module).__name__}"
            )
        setattr(self, name, module)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) of the direct submodules, each once."""
        seen = set()
        for name, value in self.__dict__.items():
            if isinstance(value, Module) and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def children(self) -> Iterator[Module]:
        """Yield the direct submodules, each once."""
        return (module for _, module in self.named_children())

    def _walk(self, prefix: str) -> Iterator[tuple[str, Module]]:
        """Yield all modules below and this one, as often as they are reached."""
        yield prefix, self
        for name, value in self.__dict__.items():
            if isinstance(value, Module):
                yield from value._walk(f"{prefix}.{name}" if prefix else name)

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield (dotted name, module) of this module and all below it, each once."""
        seen = set()
        for name, module in self._walk(prefix):
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def modules(self) -> Iterator[Module]:
        """Yield this module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def _named_state(self, prefix: str, buffers: bool | None) -> Iterator[tuple[str, Tensor]]:
        """Yield parameters (buffers False), buffers (True) or both as the state has them (None)."""
        for path, module in self._walk(prefix):
            lead = path + "." if path else ""
            if buffers is not True:
                for name, value in module.__dict__.items():
                    if isinstance(value, Parameter) and name not in module._buffers:
                        yield lead + name, value
            if buffers is not False:
                for name, kept in module._buffers.items():
                    value = module.__dict__.get(name)
                    if value is not None and (kept or buffers):
                        yield lead + name, value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, parameter), each once."""
        seen = set()
        for name, value in self._named_state(prefix, False):
            if not recurse and "." in name[len(prefix) + 1 if prefix else 0 :]:
                continue
            if id(value) not in seen and isinstance(value, Parameter):
                seen.add(id(value))
                yield name, value

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Yield the parameters, each once."""
        return (value for _, value in self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Yield (dotted name, buffer), each once."""
        seen = set()
        for name, value in self._named_state(prefix, True):
            if id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def buffers(self) -> Iterator[Tensor]:
        """Yield the buffers, each once."""
        return (value for _, value in self.named_buffers())

    # ---- state ---------------------------------------------------------------------------

    def state_dict(self, prefix: str = "") -> OrderedDict[str, Array]:
        """Return the arrays of parameters and persistent buffers by dotted name.

        The arrays are the model's own memory, as in PyTorch: training goes on changing them. Copy
        what shall stay. :func:`arraynn.io.save_file` writes the dictionary to a file.

        Returns
        -------
        OrderedDict of str to array
        """
        named = self._named_state("", None)
        return OrderedDict((prefix + name, value.data) for name, value in named)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True
    ) -> IncompatibleKeys:
        """Copy values into parameters and buffers; nothing is changed when it raises.

        Parameters
        ----------
        state_dict : mapping of str to array, Tensor or PyTorch tensor
            Values are cast to the parameter's dtype.
        strict : bool
            Whether the names must match exactly.

        Returns
        -------
        IncompatibleKeys
            ``missing_keys`` and ``unexpected_keys``.

        Raises
        ------
        RuntimeError
            If shapes differ, or names when strict; all differences in one message.
        TypeError
            If a value is no array.

        Examples
        --------
        >>> import arraynn as ann
        >>> a, b = ann.nn.Linear(3, 2), ann.nn.Linear(3, 2)
        >>> a.load_state_dict(b.state_dict())
        <All keys matched successfully>
        """
        own = dict(self._named_state("", None))
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        problems = []
        if strict and unexpected:
            quoted = ", ".join(f'"{name}"' for name in unexpected)
            problems.append(f"Unexpected key(s) in state_dict: {quoted}.")
        if strict and missing:
            quoted = ", ".join(f'"{name}"' for name in missing)
            problems.append(f"Missing key(s) in state_dict: {quoted}.")
        found: list[tuple[Tensor, Array]] = []
        for name, target in own.items():
            if name not in state_dict:
                continue
            value = _as_state(name, state_dict[name])
            if tuple(value.shape) != target.shape:
                problems.append(
                    f"size mismatch for {name}: expected {target.shape} (as in the model), "
                    f"got {tuple(value.shape)} from the state_dict."
                )
            found.append((target, value))
        if problems:
            raise RuntimeError(
                f"Error(s) in loading state_dict for {type(self).__name__}:\n\t"
                + "\n\t".join(problems)
            )
        for module in self.modules():
            module.unpack()
        for target, value in found:
            if value is not target.data:
                _store(target, value)
        return IncompatibleKeys(missing, unexpected)

    # ---- modes ---------------------------------------------------------------------------

    def train(self: _M, mode: bool = True) -> _M:
        """Set training mode on this module and all below it, and return it."""
        for module in self.modules():
            module.training = mode
            if mode:
                module.unpack()
        return self

    def unpack(self) -> None:
        """Drop weights that were packed for inference; a layer that packs some defines it."""

    def eval(self: _M) -> _M:
        """Set evaluation mode: dropout does nothing."""
        return self.train(False)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with 0."""
        for value in self.parameters():
            if set_to_none or value.grad is None:
                value.grad = None
            else:
                value.grad[...] = 0

    def requires_grad_(self: _M, requires_grad: bool = True) -> _M:
        """Say whether the parameters shall be trained, and return the module."""
        for value in self.parameters():
            value.requires_grad = requires_grad
        return self

    def apply(self: _M, fn: Callable[[Module], Any]) -> _M:
        """Call ``fn`` on every submodule, children first, then on this one, and return it."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def to(self: _M, device: Any = None, dtype: Any = None) -> _M:
        """Move parameters and buffers to a device, convert floating ones, and return the module.

        The :class:`Parameter` objects stay, so that optimizers keep them; make the optimizer
        afterwards, or its state stays where it is. Gradients move along; a new dtype drops them.
        Nothing is changed when it raises.

        Parameters
        ----------
        device : str or dtype
            As for :meth:`arraynn.Tensor.to`.
        dtype : dtype, optional
            A floating one.

        Raises
        ------
        RuntimeError
            If the device is not there.
        TypeError, ValueError
            If the dtype is not floating, or ``device`` names neither.
        """
        place, kind = _array.split_target("to", device, dtype)
        if kind is not None and not _array.is_floating(kind):
            raise TypeError(f"[to] dtype: expected a floating dtype, got {kind}")

        def moved(data: Array) -> Array:
            if kind is not None and _array.is_floating(data.dtype):
                data = data.astype(kind, copy=False)
            return data if place is None else _array.to_device("to", data, place)

        state = (*self._named_state("", False), *self._named_state("", True))
        found = []
        for value in {id(value): value for _, value in state}.values():  # each once
            data = moved(value.data)
            if data is not value.data:
                keeps = value.grad is not None and data.dtype == value.data.dtype
                found.append((value, data, moved(value.grad) if keeps else None))
        if found:
            for module in self.modules():
                module.unpack()
        for value, data, grad in found:
            value.data, value.grad = data, grad
            value.version[0] += 1
        return self

    def float(self: _M) -> _M:
        """Convert floating parameters and buffers to float32."""
        return self.to(np.float32)

    def double(self: _M) -> _M:
        """Convert floating parameters and buffers to float64."""
        return self.to(np.float64)

    # ---- text ----------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """Return the module's own parameters as text for ``repr``."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr().split("\n") if self.extra_repr() else []
        lines = []
        for name, value in self.__dict__.items():
            if isinstance(value, Module):
                text = repr(value).replace("\n", "\n  ")
                lines.append(f"({name}): {text}")
        if not lines and len(extra) <= 1:
            return f"{type(self).__name__}({''.join(extra)})"
        return f"{type(self).__name__}(\n  " + "\n  ".join(extra + lines) + "\n)"


def check_positive(op: str, **sizes: Any) -> None:
    """Raise unless every size is an int of at least 1."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"[{op}] {name}: expected an int, got {type(value).__name__}")
        if value < 1:
            raise ValueError(f"[{op}] {name}: expected an int of at least 1, got {value}")


def check_floating(op: str, dtype: Any) -> np.dtype[Any]:
    """Return the dtype of a layer's parameters, float32 when None."""
    kind = np.dtype(np.float32 if dtype is None else dtype)
    if kind.name not in ("float32", "float64", "float16", "bfloat16"):
        raise TypeError(f"[{op}] dtype: expected float16, bfloat16, float32 or float64, got {kind}")
    return kind


def pair_of(op: str, name: str, value: Any, minimum: int) -> tuple[int, int]:
    """Return an int or pair of ints as a pair, each at least ``minimum``."""
    pair: Iterable[Any] = (value, value) if isinstance(value, int | np.integer) else value
    found = tuple(pair) if isinstance(pair, tuple | list) else ()
    if len(found) != 2 or not all(isinstance(v, int | np.integer) for v in found):
        raise ValueError(f"[{op}] {name}: expected an int or a pair of ints, got {value!r}")
    if min(found) < minimum:
        raise ValueError(f"[{op}] {name}: expected at least {minimum}, got {value!r}")
    return int(found[0]), int(found[1])
