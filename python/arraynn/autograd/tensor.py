"""The tensor: an array, its gradient, and the operators that record on the tape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from arraynn import _array
from arraynn.autograd import (
    arithmetic,
    elementwise,
    placement,
    pointwise,
    reductions,
    shaping,
    softmax,
)
from arraynn.autograd.tape import (
    Array,
    Variable,
    array_of,
    grad_mode,
    make,
    register_tensor_class,
    run_backward,
)

__all__ = ["Tensor"]

_RELU = elementwise.ACTIVATIONS["relu"]
_SIGMOID = elementwise.ACTIVATIONS["sigmoid"]
_TANH = elementwise.ACTIVATIONS["tanh"]


def _intake(data: Any, dtype: Any) -> Array:
    """Return ``data`` as an array, without a copy where it is one already."""
    if isinstance(data, Variable):
        data = data.data
    elif isinstance(data, np.generic):
        data = np.asarray(data)
    elif not (hasattr(data, "dtype") and hasattr(data, "__array_ufunc__")):
        there = _array.device_view(data)
        if there is not None:
            data = there
        elif hasattr(data, "__dlpack__"):
            data = np.from_dlpack(data)
        else:
            plain = not hasattr(data, "dtype")
            data = np.asarray(data)
            if plain and data.dtype == np.float64:
                data = data.astype(np.float32)  # Python floats, as in PyTorch
    if data.dtype.kind not in "fiub" and data.dtype.name not in ("bfloat16", "float16"):
        raise TypeError(f"[Tensor] data: expected numbers or bools, got {data.dtype}")
    return data if dtype is None else data.astype(dtype, copy=False)


def _check_floating(data: Array) -> None:
    if data.dtype.kind in "iub":
        raise TypeError(
            f"[Tensor] requires_grad: expected a floating dtype for a gradient, got {data.dtype}"
        )


def _pick(name: str, value: Any, alias: Any, default: Any) -> Any:
    """Resolve PyTorch's keyword against NumPy's."""
    if alias is None:
        return value
    if value is not default:
        raise TypeError(f"[{name}] axis, dim: expected one of the two, got both")
    return alias


@register_tensor_class
class Tensor(Variable):
    """An array that records what is done with it, so that gradients can be computed.

    Parameters
    ----------
    data : array_like
        Any shape. An array of NumPy or CuPy is taken as it is, without a copy; Python floats
        become float32, NumPy's float64 stays. Objects with ``__dlpack__`` are taken without a copy.
    requires_grad : bool
        Whether ``backward`` shall leave a gradient in ``.grad``; floating dtypes only.
    dtype : dtype, optional
        Convert to this dtype.

    Attributes
    ----------
    data : array
        The values. Writing into it directly is not seen by the tape: a value that a recorded
        operation has saved must not be changed before ``backward`` (the tensor's own in-place
        operators and the optimizers are checked, and raise).
    grad : array or None
        The gradient, an array like ``data``; ``backward`` adds to it.

    Raises
    ------
    TypeError
        If the data is not numbers, or a gradient is asked for of integers.

    Notes
    -----
    Reverse-mode differentiation as in Griewank and Walther, *Evaluating Derivatives* (2008), ch. 3.
    Gradients of gradients are not recorded. Floating dtypes never mix silently: an operation that
    would promote a floating operand raises TypeError; Python and NumPy scalars never promote.

    Examples
    --------
    >>> import arraynn as ann
    >>> x = ann.Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> y = (x * x).sum()
    >>> y.backward()
    >>> x.grad
    array([2., 4., 6.], dtype=float32)
    """

    __slots__ = ()
    # NumPy's operators give way, so that array + tensor is a tensor.
    __array_ufunc__ = None

    def __init__(self, data: Any, requires_grad: bool = False, *, dtype: Any = None) -> None:
        array = _intake(data, dtype)
        if requires_grad:
            _check_floating(array)
        self.data = array
        self.grad = None
        self.node = None
        self.version = [0]
        self._requires_grad = bool(requires_grad)

    # ---- state ---------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient flows to or through this tensor."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self.node is not None and not value:
            raise RuntimeError(
                "[Tensor] requires_grad: only a leaf's can be turned off; use .detach()"
            )
        if value:
            _check_floating(self.data)
        self._requires_grad = bool(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set ``requires_grad`` and return self."""
        self.requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor was made by the user and not by a recorded operation."""
        return self.node is None

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return self.data.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self.data.dtype  # type: ignore[no-any-return]

    @property
    def device(self) -> str:
        """Where the values are: ``cpu``, or ``cuda:0`` and on."""
        return _array.device_of(self.data)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.data.ndim  # type: ignore[no-any-return]

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.data.size  # type: ignore[no-any-return]

    @property
    def T(self) -> Tensor:
        """View with the axes reversed."""
        return shaping.transpose(self)

    def backward(self, grad: Any = None, retain_graph: bool = False) -> None:
        """Compute the gradient of this tensor in all leaves it was made from.

        Parameters
        ----------
        grad : array or Tensor, optional
            Gradient of the result in this tensor, of its shape and dtype; 1 for one element.
        retain_graph : bool
            Keep what the operations saved, so that ``backward`` can run again.

        Raises
        ------
        RuntimeError
            If no gradient was recorded, a second ``backward`` meets freed values, or a saved
            array was changed in place.
        ValueError, TypeError
            If ``grad`` is missing for more than one element, or of another shape or dtype.
        """
        data = self.data
        if not self._requires_grad:
            raise RuntimeError(
                "[backward] tensor: expected one that requires a gradient, got one without "
                "(made from data alone, detached, or under no_grad)"
            )
        if grad is None:
            if data.size != 1:
                raise ValueError(
                    f"[backward] grad: expected an array of shape {data.shape}, got None; "
                    "it can be left out for one element only"
                )
            grad = np.ones_like(data)
        else:
            grad = array_of(grad)
            if not hasattr(grad, "dtype"):
                grad = np.asarray(grad, dtype=data.dtype)
            if grad.shape != data.shape:
                raise ValueError(f"[backward] grad: expected shape {data.shape}, got {grad.shape}")
            if grad.dtype != data.dtype:
                raise TypeError(f"[backward] grad: expected {data.dtype}, got {grad.dtype}")
        with np.errstate(all="ignore"):  # an infinite slope is a value, not a warning
            run_backward(self, grad, retain_graph)

    def detach(self) -> Tensor:
        """Return a tensor of the same memory through which no gradient flows."""
        result = make(self.data, None)
        result.version = self.version
        return result

    def clone(self) -> Tensor:
        """Return a copy through which the gradient flows."""
        return pointwise.astype(self, self.data.dtype)

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return the values as a NumPy array: the array itself, or a copy from a GPU."""
        data = self.data
        return data if isinstance(data, np.ndarray) else data.get()

    def item(self) -> Any:
        """Return the value of a tensor of one element as a Python number."""
        if self.data.size != 1:
            raise ValueError(f"[item] tensor: expected one element, got shape {self.data.shape}")
        return self.data.item()

    def tolist(self) -> Any:
        """Return the values as nested Python lists."""
        return self.data.tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        lines = np.array2string(self.numpy(), separator=", ", prefix="Tensor(")
        text = f"Tensor({lines}, dtype={self.data.dtype}"
        if self.node is not None:
            text += f", node={self.node.name}"
        elif self._requires_grad:
            text += ", requires_grad=True"
        return text + ")"

    def __len__(self) -> int:
        return len(self.data)

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __iter__(self) -> Iterator[Tensor]:
        if self.data.ndim == 0:
            raise TypeError("[Tensor] iter: expected at least one axis, got a scalar")
        return (self[i] for i in range(len(self.data)))

    __hash__ = object.__hash__

    # ---- operators -----------------------------------------------------------------------

    def __add__(self, other: Any) -> Tensor:
        return arithmetic.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return arithmetic.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return arithmetic.subtract(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return arithmetic.subtract(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return arithmetic.multiply(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return arithmetic.multiply(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return arithmetic.divide(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return arithmetic.divide(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return arithmetic.power(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return arithmetic.power(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return arithmetic.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return arithmetic.matmul(other, self)

    def __neg__(self) -> Tensor:
        return arithmetic.negative(self)

    def __abs__(self) -> Tensor:
        return pointwise.absolute(self)

    # Comparisons have no gradient: they return arrays of bool.

    def __eq__(self, other: object) -> Any:
        return self.data == array_of(other)

    def __ne__(self, other: object) -> Any:
        return self.data != array_of(other)

    def __lt__(self, other: Any) -> Any:
        return self.data < array_of(other)

    def __le__(self, other: Any) -> Any:
        return self.data <= array_of(other)

    def __gt__(self, other: Any) -> Any:
        return self.data > array_of(other)

    def __ge__(self, other: Any) -> Any:
        return self.data >= array_of(other)

    # ---- in place ------------------------------------------------------------------------

    def _in_place(self, name: str, other: Any) -> Array | None:
        """Return the operand for an in-place change; None when it has to be recorded instead."""
        recorded = grad_mode.enabled and (
            self._requires_grad or (isinstance(other, Variable) and other._requires_grad)
        )
        if recorded:
            if self.node is None and self._requires_grad:
                raise RuntimeError(
                    f"[{name}] tensor: expected no in-place change of a leaf that requires a "
                    "gradient; do it under no_grad"
                )
            return None
        value = arithmetic.operands(name, self, other)
        if value is None:
            raise TypeError(
                f"[{name}] other: expected a tensor, array or number, got {type(other).__name__}"
            )
        self.version[0] += 1
        return value[1]

    def __iadd__(self, other: Any) -> Tensor:
        value = self._in_place("add", other)
        if value is None:
            return arithmetic.add(self, other)
        self.data += value
        return self

    def __isub__(self, other: Any) -> Tensor:
        value = self._in_place("subtract", other)
        if value is None:
            return arithmetic.subtract(self, other)
        self.data -= value
        return self

    def __imul__(self, other: Any) -> Tensor:
        value = self._in_place("multiply", other)
        if value is None:
            return arithmetic.multiply(self, other)
        self.data *= value
        return self

    def __itruediv__(self, other: Any) -> Tensor:
        value = self._in_place("divide", other)
        if value is None:
            return arithmetic.divide(self, other)
        self.data /= value
        return self

    def __getitem__(self, index: Any) -> Tensor:
        return shaping.getitem(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        flows = self._requires_grad or (isinstance(value, Variable) and value._requires_grad)
        if flows and grad_mode.enabled:
            raise RuntimeError(
                "[setitem] tensor: expected no in-place change where a gradient is recorded; "
                "do it under no_grad, or use where()"
            )
        self.version[0] += 1
        self.data[shaping.plain_index(index)] = array_of(value)

    # ---- shape ---------------------------------------------------------------------------

    def reshape(self, *shape: Any) -> Tensor:
        """Return the elements in ``shape`` (one length may be -1)."""
        full = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        return shaping.reshape(self, tuple(full))

    view = reshape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Join the axes ``start_dim`` to ``end_dim``, both included, into one."""
        return shaping.flatten(self, start_dim, end_dim)

    def squeeze(self, axis: int | tuple[int, ...] | None = None) -> Tensor:
        """Drop axes of length one: all of them, or those of ``axis`` that have that length."""
        return shaping.squeeze(self, axis)

    def unsqueeze(self, axis: int) -> Tensor:
        """Insert an axis of length one before ``axis``."""
        return shaping.unsqueeze(self, axis)

    def transpose(self, *axes: int) -> Tensor:
        """Reverse the axes (none given), exchange two (PyTorch) or order all of them (NumPy)."""
        return shaping.transpose(self, *axes)

    def permute(self, *axes: Any) -> Tensor:
        """Return a view with the axes in the order given."""
        full = axes[0] if len(axes) == 1 and isinstance(axes[0], tuple | list) else axes
        return shaping.permute(self, full)

    def swapaxes(self, axis0: int, axis1: int) -> Tensor:
        """Return a view with two axes exchanged."""
        return shaping.swapaxes(self, axis0, axis1)

    def expand(self, *shape: Any) -> Tensor:
        """Return a read-only view repeated to ``shape``; -1 keeps an axis."""
        full = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        return shaping.broadcast_to(self, tuple(full))

    # ---- reductions ----------------------------------------------------------------------

    def sum(
        self, axis: Any = None, keepdims: bool = False, *, dim: Any = None, keepdim: Any = None
    ) -> Tensor:
        """Return the sum over ``axis`` (PyTorch: ``dim``), all axes when None."""
        axis, keepdims = _pick("sum", axis, dim, None), _pick("sum", keepdims, keepdim, False)
        return reductions.sum(self, axis, keepdims)

    def mean(
        self, axis: Any = None, keepdims: bool = False, *, dim: Any = None, keepdim: Any = None
    ) -> Tensor:
        """Return the mean over ``axis`` (PyTorch: ``dim``), all axes when None."""
        axis, keepdims = _pick("mean", axis, dim, None), _pick("mean", keepdims, keepdim, False)
        return reductions.mean(self, axis, keepdims)

    def var(
        self, axis: Any = None, correction: int = 1, keepdims: bool = False, *, dim: Any = None
    ) -> Tensor:
        """Return the variance over ``axis``, divided by ``count - correction``."""
        return reductions.var(self, _pick("var", axis, dim, None), correction, keepdims)

    def max(
        self, axis: Any = None, keepdims: bool = False, *, dim: Any = None, keepdim: Any = None
    ) -> Tensor:
        """Return the largest values over ``axis`` (values alone; positions: ``argmax``)."""
        axis, keepdims = _pick("max", axis, dim, None), _pick("max", keepdims, keepdim, False)
        return reductions.max(self, axis, keepdims)

    def min(
        self, axis: Any = None, keepdims: bool = False, *, dim: Any = None, keepdim: Any = None
    ) -> Tensor:
        """Return the smallest values over ``axis`` (values alone; positions: ``argmin``)."""
        axis, keepdims = _pick("min", axis, dim, None), _pick("min", keepdims, keepdim, False)
        return reductions.min(self, axis, keepdims)

    def logsumexp(self, axis: Any, keepdims: bool = False) -> Tensor:
        """Return log(sum(exp(x))) over ``axis``."""
        return reductions.logsumexp(self, axis, keepdims)

    def argmax(self, axis: int | None = None) -> Array:
        """Return the positions of the largest values, an array of int64."""
        return self.data.argmax(axis=axis)

    def argmin(self, axis: int | None = None) -> Array:
        """Return the positions of the smallest values, an array of int64."""
        return self.data.argmin(axis=axis)

    # ---- element by element --------------------------------------------------------------

    def exp(self) -> Tensor:
        """Return e to the power of every element."""
        return pointwise.exp(self)

    def log(self) -> Tensor:
        """Return the natural logarithm of every element."""
        return pointwise.log(self)

    def log1p(self) -> Tensor:
        """Return log(1 + x) of every element."""
        return pointwise.log1p(self)

    def sqrt(self) -> Tensor:
        """Return the square root of every element."""
        return pointwise.sqrt(self)

    def square(self) -> Tensor:
        """Return the square of every element."""
        return pointwise.square(self)

    def sin(self) -> Tensor:
        """Return the sine of every element."""
        return pointwise.sin(self)

    def cos(self) -> Tensor:
        """Return the cosine of every element."""
        return pointwise.cos(self)

    def abs(self) -> Tensor:
        """Return the absolute value of every element."""
        return pointwise.absolute(self)

    def clip(self, low: float | None = None, high: float | None = None) -> Tensor:
        """Limit every element to ``[low, high]``."""
        return pointwise.clip(self, low, high)

    clamp = clip

    def astype(self, dtype: Any) -> Tensor:
        """Return a copy in ``dtype``; between floating dtypes the gradient passes."""
        return pointwise.astype(self, dtype)

    def float(self) -> Tensor:
        """Return a copy in float32."""
        return pointwise.astype(self, np.float32)

    def double(self) -> Tensor:
        """Return a copy in float64."""
        return pointwise.astype(self, np.float64)

    def to(self, device: Any = None, dtype: Any = None) -> Tensor:
        """Return the tensor on a device, in a dtype, or itself where nothing changes.

        Parameters
        ----------
        device : str or dtype
            ``"cpu"``, ``"cuda"`` (the current GPU of CuPy), ``"cuda:1"``; or the dtype alone, as
            in PyTorch. The gradient goes back to the device it came from.
        dtype : dtype, optional

        Raises
        ------
        RuntimeError
            If the device is not there: no CUDA kernels in this build, no CuPy, no driver, no GPU.
        ValueError
            If ``device`` names neither.

        Examples
        --------
        >>> import arraynn as ann
        >>> x = ann.Tensor([1.0, 2.0])
        >>> x.to("cpu") is x
        True
        """
        return placement.to(self, device, dtype)

    def relu(self) -> Tensor:
        """Return max(x, 0)."""
        return elementwise.activate(self, _RELU)

    def sigmoid(self) -> Tensor:
        """Return 1 / (1 + exp(-x))."""
        return elementwise.activate(self, _SIGMOID)

    def tanh(self) -> Tensor:
        """Return the hyperbolic tangent."""
        return elementwise.activate(self, _TANH)

    def softmax(self, dim: int = -1) -> Tensor:
        """Return exp(x) / sum(exp(x)) over ``dim``."""
        return softmax.softmax(self, dim)

    def log_softmax(self, dim: int = -1) -> Tensor:
        """Return the logarithm of softmax over ``dim``."""
        return softmax.log_softmax(self, dim)
