"""The benchmark's command line: choose cases, prove, time, report.

Every thread count runs in a process of its own, started with that count in the environment,
since some libraries read it only once.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import (
    attention,
    conv,
    conv_other,
    conv_pool,
    elementwise,
    embedding,
    fold,
    gemm,
    glu,
    gpt,
    machine,
    memory,
    model,
    models,
    norm,
    optim,
    overhead,
    peak,
    peers,
    pool,
    pool_other,
    report,
    rnn,
    rope,
    softmax,
)
from .case import HALVES, Candidate, Case, first_line, prove
from .report import Row
from .timing import QUICK, Settings, measure

FAMILIES: dict[str, Callable[[str, bool], list[Case]]] = {
    "gemm": gemm.cases,
    "conv": lambda dtype, tiny: [
        case
        for part in ((conv,) if dtype in HALVES else (conv, conv_pool, conv_other, fold))
        for case in part.cases(dtype, tiny)
    ],
    "pool": lambda dtype, tiny: pool.cases(dtype, tiny) + pool_other.cases(dtype, tiny),
    "elementwise": lambda dtype, tiny: elementwise.cases(dtype, tiny) + glu.cases(dtype, tiny),
    "softmax": softmax.cases,
    "norm": norm.cases,
    "embedding": embedding.cases,
    "attention": attention.cases,
    "memory": memory.cases,
    "rope": rope.cases,
    "rnn": rnn.cases,
    "rnn_options": rnn.option_cases,
    "rnn_grid": rnn.whole_grid,
    "optim": optim.cases,
    "model": model.cases,
    "models": lambda dtype, tiny: models.cases(dtype, tiny) + gpt.cases(dtype, tiny),
    "overhead": overhead.cases,
}
# Too long to be run unasked.
ON_REQUEST = ("rnn_grid", "memory")
# With rows of 16 bits. NumPy computes in them element by element, JAX adds up in them, and ONNX
# Runtime has none of these operators for bfloat16.
OF_HALVES = ("gemm", "conv", "attention", "norm", "softmax")
PEERS_OF_HALVES = ("arraynn", "torch")

EPILOG = """\
Every answer is proved against arraynn.reference before it is timed. The table gives, for each
of our candidates, the median time of a call, its rate as a share of the machine's limit (FMA
rate, copy or read bandwidth, measured in this run), the fastest peer, and the median over rounds of
peer's time / our time: above 1 ours is faster. "fresh" outputs are allocated by the call,
"reused" ones given by out=; "prepacked" weights were packed before the timing. Families of several
parts have geometric means of each, over the best peer and over every peer alone. --memory adds what
the first calls of a candidate add to the peak of a process of its own: some 2 s a candidate.

examples:
  python -m arraynn bench                                   everything, against NumPy
  python -m arraynn bench gemm conv --peers torch,onnxruntime
  python -m arraynn bench --peers all --threads 1,2 --json results.json
  python -m arraynn bench conv --filter 'bwd n8 .*3x3' --quick
"""


def default_threads() -> str:
    """One thread, and as many as arraynn would use."""
    import arraynn

    return ",".join(dict.fromkeys(("1", str(arraynn.get_num_threads()))))


def _peer_list(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in (*peers.PEERS, "all", "none")]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown peer {unknown[0]!r} (choose from {', '.join(peers.PEERS)}, all, none)"
        )
    return names


def _thread_list(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"expected positive counts such as 1,2, got {text!r}")
    return list(dict.fromkeys(counts))


def _rounds(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return int(text)


def _regex(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"not a regular expression: {error}") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments to `parser`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    add = parser.add_argument
    add(
        "families",
        nargs="*",
        metavar="FAMILY",
        help=f"of {', '.join(FAMILIES)}; default: all but {', '.join(ON_REQUEST)}",
    )
    add(
        "--peers",
        type=_peer_list,
        default=["numpy"],
        metavar="LIST",
        help="numpy, torch, jax, onnxruntime; all (those installed) or none; default: numpy",
    )
    add("--threads", type=_thread_list, metavar="LIST", help="default: 1 and the library's default")
    add("--dtype", choices=("float32", "float64", *HALVES), default="float32")
    add(
        "--filter",
        "--shapes",
        type=_regex,
        metavar="REGEX",
        help="only cases whose name it is found in",
    )
    add("--quick", action="store_true", help="few rounds: figures within some 20 %%")
    add("--rounds", type=_rounds, metavar="N", help="visits to each candidate; default: 15")
    add("--tiny", action="store_true", help="tiny shapes: proves that everything runs")
    add("--json", type=Path, metavar="FILE", help="write rows, limits and machine to FILE")
    add("--memory", action="store_true", help="measure the memory of every call as well")
    add("--list", action="store_true", help="list the cases and stop")
    add("--in-process", action="store_true", help=argparse.SUPPRESS)
    add("--memory-of", metavar="LIBRARY:INDEX", help=argparse.SUPPRESS)


def selected(args: argparse.Namespace) -> list[Case]:
    """Cases that the arguments ask for."""
    known = OF_HALVES if args.dtype in HALVES else tuple(FAMILIES)
    unknown = [name for name in args.families if name not in known]
    if unknown:
        of = "" if unknown[0] not in FAMILIES else f" of {args.dtype}"
        raise UsageError(f"unknown family {unknown[0]!r}{of} (choose from {', '.join(known)})")
    cases = [
        case
        for family in args.families or [name for name in known if name not in ON_REQUEST]
        for case in FAMILIES[family](args.dtype, args.tiny)
        if args.filter is None or args.filter.search(case.name)
    ]
    if not cases:
        raise UsageError("no case matches (try --list)")
    return cases


class UsageError(Exception):
    """The command line asks for something that does not exist."""


class Failure(Exception):
    """The run cannot go on; the message is for the user."""


def chosen_libraries(asked: Sequence[str]) -> list[str]:
    """arraynn and the peers asked for."""
    if "all" in asked:
        return ["arraynn", *(name for name in peers.PEERS if peers.installed(name))]
    names = [name for name in asked if name != "none"]
    for name in names:
        if not peers.installed(name):
            raise Failure(f"{name} is not installed: {peers.install_hint(name)}")
    return ["arraynn", *names]


def libraries_for(asked: Sequence[str], dtype: str) -> list[str]:
    """arraynn and the peers asked for that compute in `dtype`."""
    found = chosen_libraries(asked)
    return [name for name in found if name in PEERS_OF_HALVES] if dtype in HALVES else found


def run_case(
    case: Case,
    libraries: Sequence[str],
    threads: int,
    settings: Settings,
    limits: Callable[[Case], float | None],
    full_speed: Callable[[], bool] | None = None,
    peaks: Callable[[Case, Sequence[Candidate]], list[int | None]] | None = None,
) -> tuple[list[Row], list[str]]:
    """Prove and time one case.

    Returns
    -------
    rows : one per candidate of ours (and per group that only peers have)
    complaints : answers that are wrong, calls of ours that raise
    """
    where = f"{case.family} {case.name}"
    try:
        prepared = case.prepare(libraries, threads)
    except Exception as error:
        return [], [f"{where}: {first_line(error)}"]
    proved: list[Candidate] = []
    errors: list[float] = []
    taken: list[int | None] = []
    complaints = []
    found = peaks(case, prepared.candidates) if peaks else [None] * len(prepared.candidates)
    for candidate, bytes_taken in zip(prepared.candidates, found, strict=True):
        try:
            complaint, worst = prove(candidate, prepared, case.dtype)
        except Exception as error:
            if candidate.library != "arraynn":
                print(f"bench: {candidate.label} left out: {first_line(error)}", file=sys.stderr)
                continue
            complaint = first_line(error)
        if complaint:
            complaints.append(f"{where}: {candidate.label}: {complaint}")
            continue
        proved.append(candidate)
        errors.append(worst)
        taken.append(bytes_taken)
    samples = measure(
        [candidate.call for candidate in proved],
        settings,
        self_timed=[candidate.self_timed for candidate in proved],
        full_speed=full_speed,
    )
    rows = report.rows_of(case, threads, proved, samples, errors, limits(case), taken)
    return rows, complaints


def run_here(args: argparse.Namespace, threads: int) -> int:
    """Run all cases with one thread count in this process."""
    if args.memory_of:
        family = FAMILIES[args.families[0]]
        cases, tiny = family(args.dtype, args.tiny), family(args.dtype, True)[0]
        return peak.run_child(cases, tiny, args.memory_of, args.filter, threads)
    libraries = libraries_for(args.peers, args.dtype)
    cases = selected(args)
    peers.set_threads(libraries, threads)
    quick = args.quick or args.tiny
    settings = QUICK if quick else Settings()
    if args.rounds:
        settings = dataclasses.replace(settings, rounds=args.rounds)
    full_speed = None if quick else machine.FullSpeed(threads)
    fma_rate = functools.cache(machine.fma_rate)
    arithmetic = "float32" if args.dtype in HALVES else args.dtype

    def limit_of(case: Case) -> float | None:
        if case.limit == "fma":
            return fma_rate(arithmetic, threads)
        if case.limit == "read":
            return machine.read_bandwidth(int(case.nbytes), threads)
        return machine.copy_bandwidth(int(case.nbytes), threads) if case.limit else None

    peaks = functools.partial(peak.peaks_of, args, threads=threads) if args.memory else None
    rows: list[Row] = []
    complaints: list[str] = []
    limits: list[dict[str, Any]] = []
    family = ""
    for case in cases:
        if case.family != family:
            family = case.family
            fma_rate.cache_clear()
            rate = fma_rate(arithmetic, threads)
            limits.append(
                {"family": family, "threads": threads, "dtype": case.dtype, "fma_flops": rate}
            )
            known = f", FMA rate {rate / 1e9:.1f} GFLOP/s" if rate else ""
            print(f"\n{family}, {case.dtype}, threads {threads}{known}\n{report.header()}")
        found, wrong = run_case(case, libraries, threads, settings, limit_of, full_speed, peaks)
        for row in found:
            print(report.row_text(row), flush=True)
        for complaint in wrong:
            print(f"bench: failed: {complaint}", file=sys.stderr, flush=True)
        rows += found
        complaints += wrong
    print()
    for text in report.summary(rows):
        print(text)
    if args.json:
        report.write_json(args.json, report.to_json(machine.describe(), limits, rows))
    return 1 if complaints else 0


def _child(args: argparse.Namespace, threads: int, json_file: str) -> int:
    """Run one thread count in a process of its own."""
    command = [sys.executable, "-m", __package__ or "bench", *args.families, "--in-process"]
    command += ["--threads", str(threads), "--dtype", args.dtype, "--peers", ",".join(args.peers)]
    command += ["--json", json_file]
    command += ["--rounds", str(args.rounds)] if args.rounds else []
    command += ["--filter", args.filter.pattern] if args.filter else []
    command += [f"--{name}" for name in ("quick", "tiny", "memory") if getattr(args, name)]
    # The child finds the packages where this process found them, whatever its own start adds.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    environment = {**os.environ, **peers.environment(threads), "PYTHONPATH": path}
    sys.stdout.flush()
    return subprocess.run(command, env=environment, check=False).returncode


def execute(args: argparse.Namespace) -> int:
    """Run what the arguments ask for; return the exit code."""
    if args.dtype == "bfloat16":
        importlib.import_module("ml_dtypes")  # NumPy knows bfloat16 from then on
    try:
        if args.list:
            for case in selected(args):
                print(f"{case.family:12} {case.name}")
            return 0
        counts = args.threads or _thread_list(default_threads())
        if args.in_process:
            return run_here(args, counts[0])
        selected(args)
        libraries = chosen_libraries(args.peers)
        if args.json and not args.json.resolve().parent.is_dir():
            raise Failure(f"{args.json}: no such directory")
        found = machine.describe()
        print(f"{found['cpu']}, {found['cores']} cores, {found['isa']}; peers: ", end="")
        print(
            ", ".join(f"{n} {found['versions'].get(n, '')}".strip() for n in libraries[1:]) or "-"
        )
        return _all_counts(args, counts)
    except UsageError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except (Failure, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def _all_counts(args: argparse.Namespace, counts: Sequence[int]) -> int:
    """Run every thread count and join their JSON."""
    code, rows, limits = 0, [], []
    with tempfile.TemporaryDirectory() as folder:
        for threads in counts:
            part = Path(folder) / f"{threads}.json"
            returned = _child(args, threads, str(part))
            if returned in (130, -2):
                return 130
            code = max(code, min(abs(returned), 1))
            if not part.exists():
                raise Failure(f"the run with {threads} threads ended with code {returned}")
            body = json.loads(part.read_text(encoding="utf-8"))
            rows += [report.row_from_dict(row) for row in body["rows"]]
            limits += body["limits"]
    if args.json:
        report.write_json(args.json, report.to_json(machine.describe(), limits, rows))
        print(f"{len(rows)} rows written to {args.json}")
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Time arraynn's kernels against other libraries."
    )
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        return execute(args)
    except KeyboardInterrupt:
        return 130
