"""Fused neural-network kernels for NumPy and CuPy arrays, and a thin layer API on top.

``arraynn.kernels`` holds the kernels (arrays in, arrays out), ``arraynn.reference`` the same
functions in plain NumPy, ``arraynn.nn`` and ``arraynn.optim`` layers and optimizers with
PyTorch's names. Subpackages are imported on first use, so ``import arraynn`` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from arraynn import _core, kernels
from arraynn._runtime import (
    batch_invariant,
    get_float32_precision,
    get_num_threads,
    set_float32_precision,
    set_num_threads,
    show_config,
    threads,
)

if TYPE_CHECKING:
    from arraynn import autograd, cuda, io, nn, optim, reference, train
    from arraynn.autograd import Tensor, gradcheck, no_grad
    from arraynn.nn.init import manual_seed

__version__: str = _core.version

_SUBMODULES = frozenset({"autograd", "cuda", "io", "nn", "optim", "reference", "train"})
_ATTRIBUTES = {
    "Tensor": "arraynn.autograd",
    "gradcheck": "arraynn.autograd",
    "no_grad": "arraynn.autograd",
    "manual_seed": "arraynn.nn.init",
}

__all__ = [
    "Tensor",
    "__version__",
    "autograd",
    "batch_invariant",
    "cuda",
    "get_float32_precision",
    "get_num_threads",
    "gradcheck",
    "io",
    "kernels",
    "manual_seed",
    "nn",
    "no_grad",
    "optim",
    "reference",
    "set_float32_precision",
    "set_num_threads",
    "show_config",
    "threads",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        value: Any = importlib.import_module(f"arraynn.{name}")
    elif name in _ATTRIBUTES:
        value = getattr(importlib.import_module(_ATTRIBUTES[name]), name)
    else:
        raise AttributeError(f"module 'arraynn' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
