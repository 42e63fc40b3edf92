"""``python -m arraynn bench``."""

from __future__ import annotations

import argparse

from arraynn.cli import _benchmarks
from arraynn.cli._errors import CliError

HELP = "Time the kernels against NumPy, PyTorch, JAX and ONNX Runtime; answers are proved first."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments, which are the benchmark package's own."""
    try:
        _benchmarks.load("run").add_arguments(parser)
    except CliError as error:
        parser.set_defaults(missing=str(error))


def run(args: argparse.Namespace) -> int:
    """Run the benchmarks."""
    missing = getattr(args, "missing", None)
    if missing:
        raise CliError(missing)
    code: int = _benchmarks.load("run").execute(args)
    return code
