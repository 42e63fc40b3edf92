"""The CUDA side: whether there is one, which kernels it has, and checking while one debugs.

Kernels take CuPy arrays as they take NumPy's: results are CuPy arrays from CuPy's memory pool, work
is queued on CuPy's current stream, nothing is waited for. A call is made on the device of its first
array, where all of its arrays are. The kernels are compiled and emulated in tests, not yet measured
on a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from arraynn import _core
from arraynn import kernels as _kernels

__all__ = ["debug", "is_available", "kernels", "versions"]


def _module() -> ModuleType | None:
    """The compiled module, which needs neither driver nor CuPy to load; None when not built."""
    if not _core.cuda_built:
        return None
    try:
        return importlib.import_module("arraynn._cuda")
    except ImportError:
        return None


def is_available() -> bool:
    """Tell whether kernels can run on a GPU: they are built, CuPy is installed, a device is there.

    Never raises.

    Examples
    --------
    >>> import arraynn as ann
    >>> ann.cuda.is_available() in (True, False)
    True
    """
    module = _module()
    try:
        found = importlib.util.find_spec("cupy") is not None
    except ValueError:  # a module of that name without a spec, in sys.modules
        found = False
    return found and module is not None and int(module.device_count()) > 0


def debug(on: bool) -> None:
    """Wait for every launch and report its error where it happened, in all threads.

    An error of the device names the kernel, its launch and the shapes of the arguments then.
    Without it, such an error appears in a later call.

    Raises
    ------
    RuntimeError
        If this build has no CUDA kernels.
    """
    module = _module()
    if module is None:
        raise RuntimeError("[cuda.debug] this build has no CUDA kernels")
    module.set_debug(bool(on))


def kernels() -> list[str]:
    """Names of the functions of :mod:`arraynn.kernels` that take arrays on a GPU.

    Examples
    --------
    >>> import arraynn as ann
    >>> set(ann.cuda.kernels()) <= set(ann.kernels.__all__)
    True
    """
    module = _module()
    return [] if module is None else [n for n in _kernels.__all__ if hasattr(module, n)]


def versions() -> tuple[str, str, int]:
    """CUDA's version at build time, the newest that the driver takes, and the number of devices.

    ``"none"`` stands for no CUDA kernels, and for no driver.
    """
    module = _module()
    if module is None:
        return "none", "none", 0
    runtime, driver = (
        f"CUDA {v // 1000}.{v % 1000 // 10}" if v else "none" for v in module.versions()
    )
    return runtime, driver, int(module.device_count())
