"""``python -m arraynn info``."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
from typing import Any

HELP = "Versions, instruction set, threads, memory cache and extras of this installation."

_EXTRAS = ("scikit-learn", "tqdm", "matplotlib", "ml_dtypes", "threadpoolctl")
_PEERS = ("torch", "jax", "onnx", "onnxruntime", "cupy")
_EPILOG = """\
examples:
  python -m arraynn info
  python -m arraynn info --json | python -m json.tool
  ARRAYNN_MAX_ISA=avx2 python -m arraynn info
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("--json", action="store_true", help="print JSON")


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def openmp_runtimes() -> list[dict[str, Any]] | None:
    """OpenMP and BLAS thread pools in this process; None without threadpoolctl."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return None
    import threadpoolctl

    pools: list[dict[str, Any]] = threadpoolctl.threadpool_info()
    return pools


def collect() -> dict[str, Any]:
    """Everything the command tells, as JSON-ready values."""
    import arraynn
    from arraynn import _core

    kernels: dict[str, int] = {}
    for row in _core.kernels():
        kernels[row["isa"]] = kernels.get(row["isa"], 0) + 1
    return {
        "config": dict(arraynn.show_config()),
        "kernels": kernels,
        "block_cache": dict(_core.block_cache()),
        "extras": {name: version_of(name) for name in _EXTRAS},
        "peers": {name: version_of(name) for name in _PEERS},
        "thread_pools": openmp_runtimes(),
    }


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    found = collect()
    if args.json:
        print(json.dumps(found, indent=1, default=str))
        return 0
    rows = list(found["config"].items())
    rows += [("kernels at each level", _pairs(found["kernels"]))]
    rows += [("extras", _pairs(found["extras"])), ("peers", _pairs(found["peers"]))]
    pools = found["thread_pools"]
    if pools is None:
        rows.append(("thread pools", "unknown (pip install threadpoolctl)"))
    for i, pool in enumerate(pools or []):
        text = f"{pool['user_api']} {pool['internal_api']}, {pool['num_threads']} threads"
        rows.append(("thread pools" if i == 0 else "", f"{text}, {pool['filepath']}"))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}".rstrip())
    return 0


def _pairs(values: dict[str, Any]) -> str:
    """Names and values in one line; what is absent is said to be."""
    return ", ".join(f"{name} {'absent' if v is None else v}" for name, v in values.items()) or "-"
