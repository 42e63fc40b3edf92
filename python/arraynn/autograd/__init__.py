"""Automatic differentiation: the tensor, the tape, and functions of several tensors."""

from arraynn.autograd.arithmetic import maximum, minimum, where
from arraynn.autograd.gradient_check import gradcheck
from arraynn.autograd.shaping import broadcast_to, concatenate, stack
from arraynn.autograd.tape import enable_grad, is_grad_enabled, no_grad
from arraynn.autograd.tensor import Tensor

__all__ = [
    "Tensor",
    "broadcast_to",
    "concatenate",
    "enable_grad",
    "gradcheck",
    "is_grad_enabled",
    "maximum",
    "minimum",
    "no_grad",
    "stack",
    "where",
]
