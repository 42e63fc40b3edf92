"""Finds the benchmark package: ``arraynn.bench`` when installed, ``bench`` in a checkout."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from arraynn.cli._errors import CliError


def load(name: str) -> ModuleType:
    """Import module `name` of the benchmark package.

    Raises
    ------
    CliError
        If the package is neither installed nor beside the sources.
    """
    if importlib.util.find_spec("arraynn.bench") is not None:
        return importlib.import_module(f"arraynn.bench.{name}")
    root = Path(__file__).resolve().parents[3]
    if not (root / "bench" / "run.py").is_file():
        raise CliError("the benchmarks are not part of this installation")
    if str(root) not in sys.path:
        sys.path.append(str(root))
    return importlib.import_module(f"bench.{name}")
