"""What is done to layers as a whole."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from arraynn.nn.conv import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from arraynn.nn.module import Module, Parameter
from arraynn.nn.norm import BatchNorm1d, BatchNorm2d
from arraynn.nn.packing import pack_weights, unpack_weights

__all__ = ["fuse_conv_bn", "pack_weights", "unpack_weights"]

# Kinds of layers that fit, and the axis of the weight with the output channels of a group.
_PAIRS = (((Conv1d, ConvTranspose1d), BatchNorm1d), ((Conv2d, ConvTranspose2d), BatchNorm2d))


def fuse_conv_bn(conv: Any, bn: Any) -> Any:
    r"""Return a convolution that does what ``bn(conv(x))`` does in evaluation.

    .. math:: w' = w \, \gamma / \sqrt{v + \epsilon}, \quad
              b' = (b - m) \, \gamma / \sqrt{v + \epsilon} + \beta

    Computed in float64 and rounded once.

    Parameters
    ----------
    conv : Conv1d, Conv2d, ConvTranspose1d or ConvTranspose2d
    bn : BatchNorm1d or BatchNorm2d
        With running statistics.

    Returns
    -------
    Module
        A new layer of the kind of ``conv``, in evaluation mode and without its hooks; the
        arguments stay as they are.

    Raises
    ------
    TypeError
        If the layers are not such a pair.
    ValueError
        If either is in training mode, the channels, layouts or dtypes differ, or ``bn`` has no
        running statistics.

    Examples
    --------
    >>> import arraynn as ann
    >>> conv, bn = ann.nn.Conv2d(3, 8, 3, bias=False), ann.nn.BatchNorm2d(8)
    >>> ann.nn.utils.fuse_conv_bn(conv.eval(), bn.eval())
    Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
    """
    op = "fuse_conv_bn"
    kinds = next((b for a, b in _PAIRS if isinstance(conv, a)), None)
    if kinds is None:
        raise TypeError(f"[{op}] conv: expected a convolution, got {type(conv).__name__}")
    if not isinstance(bn, kinds):
        raise TypeError(f"[{op}] bn: expected a {kinds.__name__}, got {type(bn).__name__}")
    for name, layer in (("conv", conv), ("bn", bn)):
        if layer.training:
            raise ValueError(f"[{op}] {name}: expected evaluation mode, got training mode")
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError(f"[{op}] bn: expected running statistics, got none")
    if bn.num_features != conv.out_channels:
        raise ValueError(
            f"[{op}] bn: expected {conv.out_channels} channels (those of conv), "
            f"got {bn.num_features}"
        )
    if bn.layout != conv.layout:
        raise ValueError(f"[{op}] bn: expected layout {conv.layout}, got {bn.layout}")
    kind = conv.weight.data.dtype
    if bn.running_mean.data.dtype != kind:
        raise ValueError(f"[{op}] bn: expected {kind}, got {bn.running_mean.data.dtype}")
    scale = 1 / np.sqrt(_wide(bn.running_var) + bn.eps)
    if bn.weight is not None:
        scale = scale * _wide(bn.weight)
    bias = (0 if conv.bias is None else _wide(conv.bias)) - _wide(bn.running_mean)
    bias = bias * scale
    if bn.bias is not None:
        bias = bias + _wide(bn.bias)
    weight = _wide(conv.weight)
    if isinstance(conv, ConvTranspose1d | ConvTranspose2d):
        # (in, out / groups, ...): the rows of a group make its output channels.
        groups = conv.groups
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        per_group = scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        weight = (grouped * per_group).reshape(weight.shape)
    else:
        weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    fused: Module = copy.copy(conv)
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        fused.__dict__.pop(hooks, None)
    fused.__dict__["weight"] = Parameter(weight.astype(kind))
    fused.__dict__["bias"] = Parameter(bias.astype(kind))
    return fused


def _wide(tensor: Any) -> Any:
    return tensor.data.astype(np.float64)
