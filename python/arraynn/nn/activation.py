"""Activations, softmax and dropout as modules."""

from __future__ import annotations

from typing import Any, ClassVar

from arraynn.autograd import elementwise
from arraynn.nn import functional as F
from arraynn.nn._dropout import check_probability
from arraynn.nn.module import Module

__all__ = [
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "AlphaDropout",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSoftmax",
    "Mish",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
]


class _Activation(Module):
    """An activation without parameters; ``inplace`` is accepted as in PyTorch and has no effect."""

    _fused: ClassVar[str | None] = None

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def fused_name(self) -> str | None:
        """Return the name under which the layer before applies this activation, None: it cannot."""
        return self._fused


class ReLU(_Activation):
    """max(x, 0)."""

    _fused = "relu"

    def forward(self, input: Any) -> Any:
        """Apply the activation."""
        return F.relu(input)


class Hardtanh(_Activation):
    """x limited to ``[min_val, max_val]``."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.min_val = min_val
        self.max_val = max_val

    def forward(self, input: Any) -> Any:
        """Apply the activation."""
        return F.hardtanh(input, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        """Return the limits."""
        return f"min_val={self.min_val}, max_val={self.max_val}"


class ReLU6(_Activation):
    """min(max(x, 0), 6)."""

    def forward(self, input: Any) -> Any:
        """Apply the activation."""
        return F.relu6(input)


class LeakyReLU(_Activation):
    """x for x > 0, ``negative_slope * x`` elsewhere."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.negative_slope = negative_slope

    def fused_name(self) -> str | None:
        """Return the name the layer before knows, for the default parameters."""
        return "leaky_relu" if self.negative_slope == 0.01 else None

    def forward(self, input: Any) -> Any:
        """Apply the activation."""
        return F.leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        """Return the slope."""
        return f"negative_slope={self.negative_slope}"


class ELU(_Activation):
    """x for x > 0, ``alpha * (exp(x) - 1)`` elsewhere."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.alpha = alpha

    def fused_name(self) -> str | None:
        """Return the name the layer before knows, for the default parameters."""
        return "elu" if self.alpha == 1.0 else None

    def forward(self, input: Any) -> Any:
        """Apply the activation."""
        return F.elu(input, self.alpha)

    def extra_repr(self) -> str:
        """Return alpha."""
        return f"alpha={self.alpha}"


class SELU(_Activation):
    """The self-normalising ELU."""

    _fused = "selu"

    def forward(self, input: Any) -> Any:
        """Apply the activation."""
        return F.selu(input)


class Sigmoid(_Activation):
    """1 / (1 + exp(-x))."""

    _fused = "sigmoid"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, input: Any) -> Any:
        """Apply the activation."""
        return F.sigmoid(input)


class Tanh(_Activation):
    """The hyperbolic tangent."""

    _fused = "tanh"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, input: Any) -> Any:
        """Apply the activation."""
        return F.tanh(input)


class Hardsigmoid(_Activation):
    """min(max(x + 3, 0), 6) / 6."""

    _fused = "hardsigmoid"

    def forward(self, input: Any) -> Any:
        """Apply the activation."""
        return F.hardsigmoid(input)


class Hardswish(_Activation):
    """x * min(max(x + 3, 0), 6) / 6."""

    _fused = "hardswish"

    def forward(self, input: Any) -> Any:
        """Apply the activation."""
        return F.hardswish(input)


class SiLU(_Activation):
    """x * sigmoid(x), also known as swish."""

    _fused = "silu"

    def forward(self, input: Any) -> Any:
        """Apply the activation."""
        return F.silu(input)


class GELU(_Activation):
    """x * Phi(x), exact or by the approximation with tanh."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ValueError(f"[GELU] approximate: expected none or tanh, got {approximate!r}")
        self.approximate = approximate

    def fused_name(self) -> str | None:
        """Return the name the layer before knows, for the default parameters."""
        return "gelu" if self.approximate == "none" else "gelu_tanh"

    def forward(self, input: Any) -> Any:
        """Apply the activation."""
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        """Return which of the two it is."""
        return f"approximate={self.approximate!r}"


class Mish(_Activation):
    """x * tanh(softplus(x))."""

    _fused = "mish"

    def forward(self, input: Any) -> Any:
        """Apply the activation."""
        return F.mish(input)


class Softplus(_Activation):
    """log(1 + exp(beta * x)) / beta; x itself where beta * x > threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def fused_name(self) -> str | None:
        """Return the name the layer before knows, for the default parameters."""
        return "softplus" if self.beta == 1.0 and self.threshold == 20.0 else None

    def forward(self, input: Any) -> Any:
        """Apply the activation."""
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        """Return both parameters."""
        return f"beta={self.beta}, threshold={self.threshold}"


class GLU(Module):
    """The first half of the axis ``dim`` times an activation of the second.

    A sigmoid as in PyTorch; ``activation`` ``"silu"`` is SwiGLU, ``"gelu"`` GEGLU, ``"relu"``
    ReGLU, None bilinear.
    """

    def __init__(self, dim: int = -1, *, activation: str | None = "sigmoid") -> None:
        super().__init__()
        if activation is not None:
            elementwise.activation_of("GLU", activation)
        self.dim = dim
        self.activation = activation

    def forward(self, input: Any) -> Any:
        """Apply the gate."""
        return F.glu(input, self.dim, activation=self.activation)

    def extra_repr(self) -> str:
        """Return the axis, and the activation where it is not PyTorch's."""
        text = f"dim={self.dim}"
        return text if self.activation == "sigmoid" else f"{text}, activation={self.activation!r}"


class Softmax(Module):
    """exp(x) / sum(exp(x)) over the axis ``dim``."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Any) -> Any:
        """Apply the softmax."""
        return F.softmax(input, self.dim)

    def extra_repr(self) -> str:
        """Return the axis."""
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """The logarithm of softmax over the axis ``dim``."""

    def forward(self, input: Any) -> Any:
        """Apply the logarithm of softmax."""
        return F.log_softmax(input, self.dim)


class Dropout(Module):
    """Zeroes elements with probability ``p`` in training, scales the others by 1 / (1 - p).

    Masks follow from :func:`arraynn.manual_seed`.

    Raises
    ------
    ValueError
        If ``p`` is outside [0, 1].
    """

    _apply: ClassVar[Any] = staticmethod(F.dropout)

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        check_probability(type(self).__name__, p)
        self.p = p
        self.inplace = inplace

    def forward(self, input: Any) -> Any:
        """Apply a new mask, or nothing outside training."""
        return self._apply(input, self.p, self.training)

    def extra_repr(self) -> str:
        """Return the probability."""
        return f"p={self.p}, inplace={self.inplace}"


class Dropout1d(Dropout):
    """Zeroes whole channels of (N, C, L) or (C, L)."""

    _apply = staticmethod(F.dropout1d)


class Dropout2d(Dropout):
    """Zeroes whole channels of (N, C, H, W) or (N, C, L)."""

    _apply = staticmethod(F.dropout2d)


class Dropout3d(Dropout):
    """Zeroes whole channels of (N, C, D, H, W) or (C, D, H, W)."""

    _apply = staticmethod(F.dropout3d)


class AlphaDropout(Dropout):
    """Sets elements to the limit of SELU, keeping mean 0 and variance 1."""

    _apply = staticmethod(F.alpha_dropout)


class FeatureAlphaDropout(Dropout):
    """Drops whole channels of (N, C, ...) as :class:`AlphaDropout` drops elements."""

    _apply = staticmethod(F.feature_alpha_dropout)
