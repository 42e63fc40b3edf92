"""Initialisation of parameters in place, with PyTorch's names and distributions.

Each function fills the tensor it is given and returns it. Values are drawn in float64 from the
generator of :func:`arraynn.manual_seed`, or from ``generator=``, and cast to the tensor's dtype.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from arraynn.autograd.tape import Variable
from arraynn.nn._random import default_generator, manual_seed

__all__ = [
    "calculate_gain",
    "constant_",
    "eye_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "manual_seed",
    "normal_",
    "ones_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]


def _store(tensor: Any, values: Any) -> Any:
    """Write ``values`` into the memory of a tensor or array and return it."""
    data = tensor.data if isinstance(tensor, Variable) else tensor
    elsewhere = hasattr(values, "shape") and not isinstance(values, np.ndarray | np.generic)
    if isinstance(data, np.ndarray):
        data[...] = values.get() if elsewhere else values
    elif elsewhere:
        data[...] = values
    else:
        data.set(np.asarray(np.broadcast_to(values, data.shape), dtype=data.dtype))
    if isinstance(tensor, Variable):
        tensor.version[0] += 1
    return tensor


def _draw(generator: np.random.Generator | None) -> np.random.Generator:
    return default_generator() if generator is None else generator


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the recommended gain of a nonlinearity.

    Parameters
    ----------
    nonlinearity : str
        linear, conv1d, conv2d, conv3d, sigmoid, tanh, relu, leaky_relu or selu.
    param : float, optional
        Negative slope of leaky_relu, 0.01 when None.

    Raises
    ------
    ValueError
        If the name is none of these.

    Examples
    --------
    >>> round(calculate_gain("relu") ** 2, 12)
    2.0
    """
    gains = {
        "linear": 1.0,
        "conv1d": 1.0,
        "conv2d": 1.0,
        "conv3d": 1.0,
        "sigmoid": 1.0,
        "tanh": 5.0 / 3,
        "relu": math.sqrt(2.0),
        "leaky_relu": math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2)),
        "selu": 3.0 / 4,
    }
    if nonlinearity not in gains:
        raise ValueError(
            f"[calculate_gain] nonlinearity: expected one of {' '.join(gains)}, "
            f"got {nonlinearity!r}"
        )
    return gains[nonlinearity]


def fans(tensor: Any) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weight (out, in, kernel...)."""
    shape = tensor.shape
    if len(shape) < 2:
        raise ValueError(f"[init] tensor: expected at least two axes for a fan, got shape {shape}")
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def _fan(op: str, tensor: Any, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"[{op}] mode: expected fan_in or fan_out, got {mode!r}")
    return fans(tensor)[mode == "fan_out"]


def uniform_(
    tensor: Any, a: float = 0.0, b: float = 1.0, generator: np.random.Generator | None = None
) -> Any:
    """Fill with values uniform in [a, b)."""
    return _store(tensor, _draw(generator).uniform(a, b, tensor.shape))


def normal_(
    tensor: Any, mean: float = 0.0, std: float = 1.0, generator: np.random.Generator | None = None
) -> Any:
    """Fill with values of a normal distribution."""
    return _store(tensor, _draw(generator).normal(mean, std, tensor.shape))


def trunc_normal_(
    tensor: Any,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: np.random.Generator | None = None,
) -> Any:
    """Fill with values of a normal distribution, drawn again while outside [a, b].

    Raises
    ------
    ValueError
        If [a, b] holds less than a hundredth of the distribution's mass.
    """
    low, high = (0.5 * (1 + math.erf((x - mean) / (std * math.sqrt(2)))) for x in (a, b))
    if not high - low >= 0.01:
        raise ValueError(
            f"[trunc_normal_] a, b: expected an interval with at least 1 % of the distribution "
            f"N({mean}, {std}), got [{a}, {b}]"
        )
    rng = _draw(generator)
    values = rng.normal(mean, std, tensor.shape)
    outside = np.flatnonzero((values < a) | (values > b))
    flat = values.reshape(-1)
    while outside.size:
        flat[outside] = rng.normal(mean, std, outside.size)
        outside = outside[(flat[outside] < a) | (flat[outside] > b)]
    return _store(tensor, flat.reshape(tensor.shape))


def constant_(tensor: Any, val: float) -> Any:
    """Fill with one value."""
    return _store(tensor, val)


def zeros_(tensor: Any) -> Any:
    """Fill with 0."""
    return _store(tensor, 0.0)


def ones_(tensor: Any) -> Any:
    """Fill with 1."""
    return _store(tensor, 1.0)


def eye_(tensor: Any) -> Any:
    """Fill a matrix with the identity."""
    if len(tensor.shape) != 2:
        raise ValueError(f"[eye_] tensor: expected two axes, got shape {tensor.shape}")
    return _store(tensor, np.eye(*tensor.shape))


def xavier_uniform_(
    tensor: Any, gain: float = 1.0, generator: np.random.Generator | None = None
) -> Any:
    """Fill with U(-b, b), b = gain * sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    bound = gain * math.sqrt(6.0 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(
    tensor: Any, gain: float = 1.0, generator: np.random.Generator | None = None
) -> Any:
    """Fill with N(0, s^2), s = gain * sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(fans(tensor))), generator)


def kaiming_uniform_(
    tensor: Any,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: np.random.Generator | None = None,
) -> Any:
    """Fill with U(-b, b), b = gain * sqrt(3 / fan) (He et al., 2015).

    Parameters
    ----------
    tensor : Tensor or array, (out, in, kernel...)
    a : float
        Negative slope of the leaky_relu that follows.
    mode : {"fan_in", "fan_out"}
        Keep the variance of the forward or of the backward pass.
    nonlinearity : str
        As in :func:`calculate_gain`.
    generator : numpy.random.Generator, optional

    Raises
    ------
    ValueError
        If the tensor has fewer than two axes, or a name is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> w = kaiming_uniform_(np.empty((4, 6)), generator=np.random.default_rng(0))
    >>> bool(abs(w).max() <= 1)
    True
    """
    gain = calculate_gain(nonlinearity, a)
    fan = _fan("kaiming_uniform_", tensor, mode)
    bound = gain * math.sqrt(3.0 / fan) if fan else 0.0
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Any,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: np.random.Generator | None = None,
) -> Any:
    """Fill with N(0, s^2), s = gain / sqrt(fan) (He et al., 2015); as :func:`kaiming_uniform_`."""
    gain = calculate_gain(nonlinearity, a)
    fan = _fan("kaiming_normal_", tensor, mode)
    return normal_(tensor, 0.0, gain / math.sqrt(fan) if fan else 0.0, generator)
