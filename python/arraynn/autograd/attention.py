"""Attention on the tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from arraynn import kernels as K
from arraynn.autograd.tape import Array, Node, array_of, edge_of, guard, make, recording

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

__all__ = ["attention", "packed_attention"]

_NAMES = ("q", "k", "v", "bias", "sinks")


class AttentionNode(Node):
    """Attention of q, k, v, a bias and sinks; saves (q, k, v, out, lse, bias, sinks)."""

    __slots__ = ("options",)
    fresh = True

    options: dict[str, Any]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        *arrays, bias, sinks = self.saved
        needs = tuple(n for n, edge in zip(_NAMES, self.edges, strict=True) if edge is not None)
        return K.attention_backward(
            grad, *arrays, bias=bias, sinks=sinks, **self.options, needs=needs
        )


def attention(
    q: Any, k: Any, v: Any, bias: Any = None, sinks: Any = None, **options: Any
) -> Tensor:
    """Return ``kernels.attention``, differentiable in q, k, v, bias and sinks.

    ``options`` are the kernel's keyword arguments but for ``bias``, ``sinks``, ``return_lse`` and
    ``out``.
    """
    inputs = (q, k, v, bias, sinks)
    *qkv, plain_bias, plain_sinks = (array_of(x) for x in inputs)
    given = {"bias": plain_bias, "sinks": plain_sinks, **options}
    if not recording(*inputs):
        return make(K.attention(*qkv, **given), None)
    out, lse = K.attention(*qkv, **given, return_lse=True)
    result = make(out, None)
    node = AttentionNode(
        tuple(edge_of(x) for x in inputs),
        (*qkv, out, lse, plain_bias, plain_sinks),
        guard(*inputs, result),
    )
    node.options = options
    result.node = node
    result._requires_grad = True
    return result


class PackedAttentionNode(Node):
    """Attention of the slices of one projection; saves (qkv, out, lse)."""

    __slots__ = ("options",)
    fresh = True

    options: dict[str, Any]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        qkv, out, lse = self.saved
        q, k, v = (qkv[:, :, i] for i in range(3))
        grads = K.attention_backward(
            grad, q, k, v, out, lse, **self.options, layout="blhd", needs=("q", "k", "v")
        )
        # Laid out as the projection made it, which is what its backward wants.
        order = np.argsort([-abs(s) for s in qkv.strides], kind="stable")
        packed = np.empty([qkv.shape[i] for i in order], qkv.dtype, like=qkv)
        packed = packed.transpose(np.argsort(order))
        for i in range(3):
            packed[:, :, i] = grads[i]
        return (packed,)


def packed_attention(qkv: Tensor, **options: Any) -> Tensor:
    """Return attention of the three slices ``qkv[:, :, i]`` of a (B, L, 3, H, D) array.

    The slices are read where they lie, and their gradients written to one array.
    """
    parts = tuple(qkv.data[:, :, i] for i in range(3))
    if not recording(qkv):
        return make(K.attention(*parts, **options, layout="blhd"), None)
    out, lse = K.attention(*parts, **options, layout="blhd", return_lse=True)
    result = make(out, None)
    node = PackedAttentionNode((edge_of(qkv),), (qkv.data, out, lse), guard(qkv, result))
    node.options = options
    result.node = node
    result._requires_grad = True
    return result
