"""``python -m arraynn check``: every registered kernel against its reference, at every ISA."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from arraynn._proof import Arrays, compare
from arraynn.cli._errors import CliError

HELP = "Hold every kernel against its NumPy reference on this machine, at every instruction set."

#: What the checks are written for. float16 and bfloat16 are the arithmetic of float32, but at a
#: level that has kernels of bfloat16 alone.
CHECKED = ("float32", "float64")

_EPILOG = """\
One line per kernel and instruction set: the largest error as a share of its bound, in float32
and float64 (0 where the answer is exact; over 1 is a failure).

examples:
  python -m arraynn check
  python -m arraynn check --isa avx2 --filter conv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("--isa", metavar="LEVEL", help="only this instruction set")
    parser.add_argument(
        "--filter", default="", metavar="REGEX", help="only kernels whose name it is found in"
    )


def _stored_bounds(got: Arrays, expected: Arrays, bounds: Sequence[Any]) -> list[Any]:
    """Allow for the rounding of results in bfloat16."""
    return [
        bound + (np.abs(want) + bound) * (2.0**-8 if result.dtype.itemsize == 2 else 0.0)
        for result, want, bound in zip(got, expected, bounds, strict=True)
    ]


def check_kernel(name: str, dtype: str) -> tuple[str | None, float]:
    """Run a kernel's checks in one dtype at the instruction set in force.

    Returns
    -------
    complaint : str or None
    worst : the largest error as a share of its bound
    """
    from arraynn.cli._checks import CHECKS

    if name not in CHECKS:
        return "no check is written for it", float("inf")
    worst = 0.0
    try:
        for got, expected, bounds in CHECKS[name](dtype):
            complaint, share = compare(got, expected, _stored_bounds(got, expected, bounds))
            worst = max(worst, share)
            if complaint:
                return complaint, worst
            # Statistics are float32 where arrays have 16 bits; ml_dtypes' kind is "V".
            known = {dtype, "float32"} if dtype == "bfloat16" else {dtype}
            if any(array.dtype.name not in known for array in got if array.dtype.kind in "fV"):
                return f"expected results of {dtype}", float("inf")
    except Exception as error:
        # A kernel that raises has failed its check; the others are still run.
        return f"{type(error).__name__}: {error}", float("inf")
    return None, worst


def _lines(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Yield one line, with its complaints, per registered kernel."""
    for row in rows:
        cells, complaints = [], []
        for dtype in [d for d in CHECKED if d in row["dtypes"]] or row["dtypes"]:
            complaint, worst = check_kernel(row["name"], dtype)
            cells.append(f"{dtype} {worst:8.2g}")
            if complaint:
                complaints.append(f"{row['name']} {row['isa']} {dtype}: {complaint}")
        verdict = "FAIL" if complaints else "ok"
        yield f"{row['name']:<28} {row['isa']:<8} {'  '.join(cells)}  {verdict}", complaints


def run(args: argparse.Namespace) -> int:
    """Check the kernels; 1 when one fails."""
    from arraynn import _core

    levels = _core.available_isas()
    if args.isa is not None and args.isa not in levels:
        raise CliError(f"--isa: expected one of {', '.join(levels)}, got {args.isa!r}", 2)
    try:
        pattern = re.compile(args.filter)
    except re.error as error:
        raise CliError(f"--filter: not a regular expression: {error}", 2) from None
    found = [row for row in _core.kernels() if pattern.search(row["name"])]
    if importlib.util.find_spec("ml_dtypes") is None:
        found = [row for row in found if row["dtypes"] != ["bfloat16"]]
    else:
        importlib.import_module("ml_dtypes")  # NumPy knows bfloat16 from then on
    if not found:
        raise CliError("--filter: no kernel matches", 2)
    start, failed, count = time.perf_counter(), 0, 0
    former = _core.isa()
    try:
        for level in [args.isa] if args.isa else levels:
            _core.set_isa(level)
            for text, complaints in _lines([row for row in found if row["isa"] == level]):
                print(text, flush=True)
                for complaint in complaints:
                    print(f"  {complaint}", flush=True)
                failed += bool(complaints)
                count += 1
    finally:
        _core.set_isa(former)
    seconds = time.perf_counter() - start
    print(f"{count - failed} of {count} kernels agree with the reference ({seconds:.1f} s)")
    if failed:
        raise CliError(f"{failed} of {count} kernels differ from the reference")
    return 0
