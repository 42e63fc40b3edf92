"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from arraynn.autograd.tensor import Tensor
from arraynn.nn import functional as F
from arraynn.nn import init
from arraynn.nn.conv import check_layout
from arraynn.nn.module import Module, Parameter, check_floating, check_positive

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "RMSNorm",
]


class _Norm(Module):
    """What the layers share: a weight of ones and a bias of zeros."""

    weight: Parameter | None
    bias: Parameter | None

    def _make_parameters(
        self, shape: tuple[int, ...], weight: bool, bias: bool, dtype: Any
    ) -> np.dtype[Any]:
        kind = check_floating(type(self).__name__, dtype)
        self.weight = Parameter(np.ones(shape, kind)) if weight else None
        self.bias = Parameter(np.zeros(shape, kind)) if bias else None
        return kind

    def reset_parameters(self) -> None:
        """Set the weight to ones and the bias to zeros."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def _apply(self, input: Any, activation: str | None) -> Any:
        raise NotImplementedError

    def forward(self, input: Any) -> Any:
        """Normalise the input."""
        return self._apply(input, None)

    def forward_with(self, input: Any, activation: str) -> Any:
        """Normalise the input and apply an activation in one pass."""
        return self._apply(input, activation)


class LayerNorm(_Norm):
    """Normalises along the last axes (Ba, Kiros, Hinton, 2016).

    Parameters
    ----------
    normalized_shape : int or sequence of int
        The last sizes of the input.
    eps : float
    elementwise_affine : bool
        Whether there are a weight and a bias.
    bias : bool
        Whether there is a bias beside the weight.
    dtype : dtype, optional
        float32 (default), float64, float16 or bfloat16.

    Attributes
    ----------
    weight, bias : Parameter of normalized_shape, or None

    Raises
    ------
    ValueError, TypeError
        If a size or the dtype is not supported.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> layer = ann.nn.LayerNorm(8)
    >>> layer
    LayerNorm((8,), eps=1e-05, elementwise_affine=True)
    >>> layer(np.zeros((2, 3, 8), np.float32)).shape
    (2, 3, 8)
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape_of(self, normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        affine = elementwise_affine
        self._make_parameters(self.normalized_shape, affine, affine and bias, dtype)

    def _apply(self, input: Any, activation: str | None) -> Any:
        return F.layer_norm(
            input, self.normalized_shape, self.weight, self.bias, self.eps, activation=activation
        )

    def extra_repr(self) -> str:
        """Return the shape and the settings."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        )


class RMSNorm(_Norm):
    """Divides by the root mean square along the last axes (Zhang, Sennrich, 2019).

    Parameters
    ----------
    normalized_shape : int or sequence of int
        The last sizes of the input.
    eps : float, optional
        The machine epsilon of the input's dtype when None.
    elementwise_affine : bool
        Whether there is a weight.
    dtype : dtype, optional
        float32 (default), float64, float16 or bfloat16.

    Attributes
    ----------
    weight : Parameter of normalized_shape, or None

    Raises
    ------
    ValueError, TypeError
        If a size or the dtype is not supported.

    Examples
    --------
    >>> import arraynn as ann
    >>> ann.nn.RMSNorm(8)
    RMSNorm((8,), eps=None, elementwise_affine=True)
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape_of(self, normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self._make_parameters(self.normalized_shape, elementwise_affine, False, dtype)

    def _apply(self, input: Any, activation: str | None) -> Any:
        shape = self.normalized_shape
        return F.rms_norm(input, shape, self.weight, self.eps, activation=activation)

    def extra_repr(self) -> str:
        """Return the shape and the settings."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        )


def _shape_of(module: Module, shape: int | Sequence[int]) -> tuple[int, ...]:
    found = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    op = type(module).__name__
    if not found:
        raise ValueError(f"[{op}] normalized_shape: expected at least one size, got {shape!r}")
    for size in found:
        check_positive(op, normalized_shape=size)
    return tuple(int(size) for size in found)


def _bias_text(layer: _Norm) -> str:
    """Return what a layer's text tells of a weight without a bias."""
    return ", bias=False" if layer.weight is not None and layer.bias is None else ""


class GroupNorm(_Norm):
    """Normalises groups of channels in every sample (Wu, He, 2018).

    Parameters
    ----------
    num_groups : int
        Divides the channels.
    num_channels : int
    eps : float
    affine : bool
        Whether there are a weight and a bias.
    bias : bool
        Whether there is a bias beside the weight.
    layout : {"channels_first", "channels_last"}
    dtype : dtype, optional
        float32 (default), float64, float16 or bfloat16.

    Attributes
    ----------
    weight, bias : Parameter (num_channels,), or None

    Raises
    ------
    ValueError, TypeError
        If a size, the layout or the dtype is not supported.

    Examples
    --------
    >>> import arraynn as ann
    >>> ann.nn.GroupNorm(2, 8)
    GroupNorm(2, 8, eps=1e-05, affine=True)
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        layout: str = "channels_first",
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_positive("GroupNorm", num_groups=num_groups, num_channels=num_channels)
        if num_channels % num_groups:
            raise ValueError(
                f"[GroupNorm] num_channels: expected a multiple of num_groups ({num_groups}), "
                f"got {num_channels}"
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        self.layout = check_layout("GroupNorm", layout)
        self._make_parameters((num_channels,), affine, affine and bias, dtype)

    def _apply(self, input: Any, activation: str | None) -> Any:
        return F.group_norm(
            input,
            self.num_groups,
            self.weight,
            self.bias,
            self.eps,
            activation=activation,
            layout=self.layout,
        )

    def extra_repr(self) -> str:
        """Return sizes and settings."""
        text = f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"
        return text + _bias_text(self)


class _Running(_Norm):
    """Batch and instance normalisation: per channel, with running statistics."""

    _op: ClassVar[str]
    _counts: ClassVar[bool]  # instance normalisation does not, as PyTorch's
    _dimensions: ClassVar[tuple[int, ...]]  # of an input
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        bias: bool,
        layout: str,
        dtype: Any,
    ) -> None:
        super().__init__()
        op = type(self).__name__
        check_positive(op, num_features=num_features)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.layout = check_layout(op, layout)
        kind = self._make_parameters((num_features,), affine, affine and bias, dtype)
        tracked = track_running_stats
        self.register_buffer("running_mean", np.zeros(num_features, kind) if tracked else None)
        self.register_buffer("running_var", np.ones(num_features, kind) if tracked else None)
        self.register_buffer("num_batches_tracked", np.zeros((), np.int64) if tracked else None)

    def reset_running_stats(self) -> None:
        """Set the running statistics to mean 0 and variance 1."""
        if self.running_mean is not None and self.running_var is not None:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
        if self.num_batches_tracked is not None:
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Reset parameters and running statistics."""
        super().reset_parameters()
        self.reset_running_stats()

    def _run(self, input: Any, activation: str | None) -> Any:
        """Apply the kernel ``_op`` to a batch."""
        channels = input.shape[-1 if self.layout == "channels_last" else 1]
        if channels != self.num_features:
            raise ValueError(
                f"[{type(self).__name__}] input: expected {self.num_features} channels, got "
                f"{channels} ({self.layout}, shape {tuple(input.shape)})"
            )
        counted = self.num_batches_tracked if self.training and self._counts else None
        momentum = self.momentum
        if momentum is None:  # the mean over all batches, where they are counted
            momentum = 0.0 if counted is None else 1.0 / (counted.item() + 1)
        result = getattr(F, self._op)(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            momentum,
            self.eps,
            activation=activation,
            layout=self.layout,
        )
        if counted is not None:  # a call that failed counts for nothing
            counted += 1
        return result

    def _check_dimensions(self, input: Any) -> None:
        if len(input.shape) not in self._dimensions:
            several = " or ".join(str(n) for n in self._dimensions)
            raise ValueError(
                f"[{type(self).__name__}] input: expected {several} dimensions, got "
                f"{len(input.shape)} (shape {tuple(input.shape)})"
            )

    def extra_repr(self) -> str:
        """Return size and settings."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}{_bias_text(self)}, "
            f"track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_Running):
    """Statistics of the batch in training, the running ones in evaluation."""

    _op = "batch_norm"
    _counts = True

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        layout: str = "channels_first",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias, layout, dtype
        )

    def _apply(self, input: Any, activation: str | None) -> Any:
        self._check_dimensions(input)
        return self._run(input, activation)


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (n, c) or (n, c, l); parameters as of :class:`BatchNorm2d`."""

    _dimensions = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Normalises every channel of images (n, c, h, w) over the batch (Ioffe, Szegedy, 2015).

    In training by the batch's own statistics, which also move the running ones; in evaluation by
    the running ones.

    Parameters
    ----------
    num_features : int
        Channels.
    eps : float
    momentum : float or None
        Share of a batch in the running statistics; None for the mean over all batches.
    affine : bool
        Whether there are a weight and a bias.
    track_running_stats : bool
        Without it the batch's own statistics are used in evaluation too.
    bias : bool
        Whether there is a bias beside the weight.
    layout : {"channels_first", "channels_last"}
    dtype : dtype, optional
        float32 (default), float64, float16 or bfloat16.

    Attributes
    ----------
    weight, bias : Parameter (num_features,), or None
    running_mean, running_var : Tensor (num_features,), or None
    num_batches_tracked : Tensor (), int64, or None

    Raises
    ------
    ValueError, TypeError
        If a size, the layout or the dtype is not supported.

    Examples
    --------
    >>> import arraynn as ann
    >>> layer = ann.nn.BatchNorm2d(8)
    >>> layer
    BatchNorm2d(8, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    >>> list(layer.state_dict())
    ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    """

    _dimensions = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of (n, c, d, h, w); parameters as of :class:`BatchNorm2d`."""

    _dimensions = (5,)


class _InstanceNorm(_Running):
    """Statistics of the sample, or running ones in evaluation where they are tracked."""

    _op = "instance_norm"
    _counts = False

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
        layout: str = "channels_first",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias, layout, dtype
        )

    def _apply(self, input: Any, activation: str | None) -> Any:
        self._check_dimensions(input)
        shape = tuple(input.shape)
        if len(shape) == self._dimensions[0]:  # a single sample
            return self._run(input.reshape((1, *shape)), activation).reshape(shape)
        return self._run(input, activation)


class InstanceNorm1d(_InstanceNorm):
    """Instance normalisation of (n, c, l) or (c, l); parameters as of :class:`InstanceNorm2d`."""

    _dimensions = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Normalises every channel of every image (n, c, h, w) or (c, h, w) (Ulyanov et al., 2016).

    Parameters
    ----------
    num_features : int
        Channels.
    eps : float
    momentum : float or None
        Share of a batch in the running statistics; None leaves them as they are.
    affine : bool
        Whether there are a weight and a bias.
    track_running_stats : bool
        Whether to keep running statistics and to use them in evaluation.
    bias : bool
        Whether there is a bias beside the weight.
    layout : {"channels_first", "channels_last"}
    dtype : dtype, optional
        float32 (default), float64, float16 or bfloat16.

    Attributes
    ----------
    weight, bias : Parameter (num_features,), or None
    running_mean, running_var : Tensor (num_features,), or None
    num_batches_tracked : Tensor (), int64, or None
        Stays 0, as PyTorch's.

    Raises
    ------
    ValueError, TypeError
        If a size, the layout or the dtype is not supported.

    Examples
    --------
    >>> import arraynn as ann
    >>> ann.nn.InstanceNorm2d(8)
    InstanceNorm2d(8, eps=1e-05, momentum=0.1, affine=False, track_running_stats=False)
    """

    _dimensions = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """Instance normalisation of (n, c, d, h, w); parameters as of :class:`InstanceNorm2d`."""

    _dimensions = (4, 5)
