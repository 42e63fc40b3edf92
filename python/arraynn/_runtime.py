"""Threads, reproducibility switches and the report of what is in force."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from arraynn import _array, _core

#: What :func:`set_float32_precision` takes.
_PRECISIONS = ("highest", "tf32")


def get_num_threads() -> int:
    """Threads a kernel may use now, in this thread."""
    return _core.get_num_threads()


def set_num_threads(n: int) -> None:
    """Set the number of threads of every later kernel call in this process.

    Results do not depend on it, bit for bit.

    Raises
    ------
    ValueError
        If ``n`` is not between 1 and 4096.
    """
    _core.set_num_threads(n)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Use ``n`` threads inside the ``with`` block, in this Python thread only.

    Examples
    --------
    >>> import arraynn as ann
    >>> with ann.threads(1):
    ...     ann.get_num_threads()
    1
    """
    former = _core.push_threads(n)
    try:
        yield
    finally:
        _core.pop_threads(former)


@contextmanager
def batch_invariant() -> Iterator[None]:
    """Promise that a sample's result does not depend on the rest of its batch.

    Every plan of this version keeps the promise by default, so the block changes nothing; code
    that relies on it says so with this context.
    """
    yield


def get_float32_precision() -> str:
    """Tell how products of float32 are formed on a GPU: ``"highest"`` or ``"tf32"``."""
    return _PRECISIONS[_array.tf32_products()]


def set_float32_precision(precision: str) -> None:
    """Choose how products of float32 are formed on a GPU, in every later call of this process.

    It is for `linear`, `matmul`, the convolutions and recurrent networks, not for arrays on the
    CPU, other dtypes, or sums of fewer than 32 products.

    Parameters
    ----------
    precision : {"highest", "tf32"}
        ``"highest"``, the default, has the error of multiply-adds in float32: tensor cores take
        each operand in two parts of 11 bits. ``"tf32"`` rounds operands to 11 bits, an error of
        2**-11 of each, for a third of the work.

    Raises
    ------
    ValueError
        If ``precision`` is neither.

    Examples
    --------
    >>> import arraynn as ann
    >>> ann.set_float32_precision("tf32")
    >>> ann.get_float32_precision()
    'tf32'
    >>> ann.set_float32_precision("highest")
    """
    if precision not in _PRECISIONS:
        raise ValueError(
            f"[set_float32_precision] precision: expected 'highest' or 'tf32', got {precision!r}"
        )
    _array.set_tf32_products(precision == "tf32")


class Config(dict[str, Any]):
    """A dictionary that prints as an aligned table."""

    def __repr__(self) -> str:
        width = max(len(key) for key in self)
        return "\n".join(f"{key:<{width}}  {value}" for key, value in self.items())


def _isa_limit() -> str:
    """Tell what ARRAYNN_MAX_ISA asks for; a misspelt level limits nothing."""
    limit = os.environ.get("ARRAYNN_MAX_ISA")
    if limit is None:
        return "none (ARRAYNN_MAX_ISA)"
    known = limit in ("generic", "avx2", "avx512", "avx512_bf16")
    return limit if known else f"{limit!r} is no level and was ignored"


def _cuda_text() -> str:
    if not _core.cuda_built:
        return "not built"
    from arraynn import cuda

    runtime, driver, devices = cuda.versions()
    return (
        f"built with {runtime}, driver {driver}, {devices} devices; "
        f"{len(cuda.kernels())} kernels, compiled and emulated, not yet measured on a GPU"
    )


def show_config() -> Config:
    """Versions, instruction set in force, threads and why, and caches of this process.

    ``isa_extensions`` names what machine and operating system have beyond the levels: no kernel
    uses it yet.

    Returns
    -------
    Config
        A ``dict`` that prints as a table.

    Examples
    --------
    >>> import arraynn as ann
    >>> ann.show_config()["isa"] in ("generic", "avx2", "avx512", "avx512_bf16")
    True
    """
    cache = _core.block_cache()
    return Config(
        arraynn=_core.version,
        python=platform.python_version(),
        numpy=np.__version__,
        platform=platform.platform(),
        compiler=_core.compiler,
        isa=_core.isa(),
        isa_available=" ".join(_core.available_isas()),
        isa_limit=_isa_limit(),
        isa_extensions=" ".join(_core.isa_extensions()) or "none",
        threads=_core.get_num_threads(),
        threads_reason=_core.default_threads_reason(),
        cuda=_cuda_text(),
        float32_precision=f"{get_float32_precision()} (GPU)",
        kernels=len(_core.kernels()),
        block_cache=f"{cache['cached_bytes'] >> 20} of {cache['limit_bytes'] >> 20} MiB",
    )
