"""Fully connected layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from arraynn.nn import functional as F
from arraynn.nn import init
from arraynn.nn.module import Module, Parameter, check_floating, check_positive
from arraynn.nn.packing import PackableLayer

__all__ = ["Flatten", "Identity", "Linear"]


def reset_weight_and_bias(weight: Parameter, bias: Parameter | None) -> None:
    """Fill both with U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for layers.

    For the weight it is Kaiming's uniform distribution with the slope a = sqrt(5).
    """
    init.kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        fan_in = init.fans(weight)[0]
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        init.uniform_(bias, -bound, bound)


class Linear(PackableLayer):
    """y = x @ weight.T + bias.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
        Whether to add a bias.
    dtype : dtype, optional
        float32 (default), float64, float16 or bfloat16.

    Attributes
    ----------
    weight : Parameter, (out_features, in_features)
    bias : Parameter, (out_features,), or None

    Raises
    ------
    ValueError, TypeError
        If a size or the dtype is not supported.

    Examples
    --------
    >>> import arraynn as ann
    >>> layer = ann.nn.Linear(20, 30)
    >>> layer
    Linear(in_features=20, out_features=30, bias=True)
    >>> import numpy as np
    >>> layer(ann.Tensor(np.zeros((128, 20), np.float32))).shape
    (128, 30)
    """

    _op = "linear"

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, dtype: Any = None
    ) -> None:
        super().__init__()
        check_positive("Linear", in_features=in_features, out_features=out_features)
        kind = check_floating("Linear", dtype)
        self.in_features = in_features
        self.out_features = out_features
        self.weight = Parameter(np.empty((out_features, in_features), kind))
        self.bias = Parameter(np.empty(out_features, kind)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        reset_weight_and_bias(self.weight, self.bias)

    def forward(self, input: Any) -> Any:
        """Apply the layer to (..., in_features)."""
        return F.linear(input, self.packed_weight(), self.bias)

    def forward_with(self, input: Any, activation: str) -> Any:
        """Apply the layer and an activation in one pass."""
        return F.linear(input, self.packed_weight(), self.bias, activation=activation)

    def extra_repr(self) -> str:
        """Return sizes and whether there is a bias."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class Identity(Module):
    """Returns its input; takes and ignores any arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        del args, kwargs

    def forward(self, input: Any) -> Any:
        """Return the input."""
        return input


class Flatten(Module):
    """Joins the axes ``start_dim`` to ``end_dim``, both included, into one.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.Flatten()(np.zeros((8, 3, 4, 4), np.float32)).shape
    (8, 48)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Any) -> Any:
        """Return the input in its new shape."""
        return F.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        """Return the joined axes."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
