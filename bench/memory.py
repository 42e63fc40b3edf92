"""By how much a process grows at most while it attends to sequences of growing length.

One head of 64 features, causal, each library in a process of its own that holds nothing but the
arrays of the call. The growth is the highest resident size during the call less the size before
it: results, gradients and scratch. It is linear in the length, or it is not. The time is that of
the one call. Proved are the first queries and the last one.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import peers
from .case import Array, Arrays, Candidate, Case, Prepared, dot_bound, reference, uniform
from .case import unit_roundoff as roundoff
from .peak import growth_of

LENGTHS = (1024, 4096, 16384, 65536)
TINY = (9,)
DIM = 64
# Queries whose results are looked at, at the beginning.
FIRST = 4
LIBRARIES = ("arraynn", "torch")


@dataclass(frozen=True)
class Problem:
    """One length, forward or with the backward pass."""

    length: int
    backward: bool
    dtype: str

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"{'fwd_bwd' if self.backward else 'fwd'} h1 l{self.length} d{DIM} causal"

    def arrays(self) -> list[Array]:
        """q, k, v and the gradient, (1, 1, L, D)."""
        return [uniform(self.dtype, 1, 1, self.length, DIM, seed=i) for i in range(4)]


def _call(p: Problem, library: str) -> Callable[[], Sequence[Any]]:
    q, k, v, grad = p.arrays()
    if library == "torch":
        torch = peers.load("torch")
        leaves = [torch.from_numpy(x).requires_grad_(p.backward) for x in (q, k, v)]

        def call() -> Sequence[Any]:
            y = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True)
            found = torch.autograd.grad(y, leaves, torch.from_numpy(grad)) if p.backward else ()
            return (y.detach(), *found)

        return call
    from arraynn import kernels

    def ours() -> Sequence[Any]:
        if not p.backward:
            return (kernels.attention(q, k, v, causal=True),)
        y, lse = kernels.attention(q, k, v, causal=True, return_lse=True)
        return (y, *kernels.attention_backward(grad, q, k, v, y, lse, causal=True)[:3])

    return ours


def proved(p: Problem, results: Sequence[Any]) -> Arrays:
    """Return the rows that are compared: of the output first and last, of the gradient by q."""
    y = np.asarray(results[0])
    found = [y[:, :, :FIRST], y[:, :, -1:]]
    return (*found, np.asarray(results[1])[:, :, :FIRST]) if p.backward else tuple(found)


def run(p: Problem, library: str, file: str) -> None:
    """Call once, in a process that does nothing else, and save what was found."""
    # Threads, code and the cache of blocks exist before.
    small = Problem(256, p.backward, p.dtype)
    _call(small, library)()
    call = _call(p, library)
    start = time.perf_counter()
    growth, results = growth_of(call, calls=1)
    seconds = time.perf_counter() - start
    rows = {f"row{i}": a for i, a in enumerate(proved(p, results))}
    np.savez(file, growth=growth, seconds=seconds, **rows)


@functools.cache
def measured(p: Problem, library: str, threads: int) -> tuple[float, int, Arrays]:
    """Return seconds, growth in bytes and the rows to prove, from a process of its own."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    environment = {**os.environ, **peers.environment(threads), "PYTHONPATH": path}
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "found.npz")
        arguments = [library, str(p.length), str(int(p.backward)), p.dtype, file]
        command = [sys.executable, "-m", f"{__package__}.memory", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        with np.load(file) as found:
            rows = tuple(found[f"row{i}"] for i in range(len(found.files) - 2))
            return float(found["seconds"]), int(found["growth"]), rows


def prepare(p: Problem, libraries: Sequence[str], threads: int) -> Prepared:
    """Measure every library once; the timing repeats what was found."""
    candidates = []
    for library in LIBRARIES:
        if library not in libraries:
            continue
        seconds, growth, rows = measured(p, library, threads)
        candidates.append(
            Candidate(
                library,
                partial(float, seconds),
                answer=partial(tuple, rows),
                self_timed=True,
                kept=growth,
            )
        )
    q, k, v, grad = (a.astype(np.float64) for a in p.arrays())
    ref = reference()
    head = [a[:, :, :FIRST] for a in (q, k, v)]
    y, lse = ref.attention(*head, causal="top_left", return_lse=True)
    expected = [y, ref.attention(q[:, :, -1:], k, v)]
    # As in bench.attention.
    grain = 2 * dot_bound(DIM + 2, p.dtype) / DIM**0.5
    grain += (16 + 8 * p.length**0.5) * roundoff(p.dtype)
    bounds: list[Any] = [3 * grain, 3 * grain]
    if p.backward:
        first = grad[:, :, :FIRST]
        expected.append(ref.attention_backward(first, *head, y, lse, causal="top_left")[0])
        bounds.append(3 * (grain * DIM + dot_bound(DIM, p.dtype)) / DIM**0.5)
    return Prepared(candidates, tuple(expected), bounds)


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the lengths, forward and with the backward pass."""
    problems = [
        Problem(length, backward, dtype)
        for backward in (False, True)
        for length in (TINY if tiny else LENGTHS)
    ]
    found = []
    for p in problems:
        pairs = p.length * (p.length + 1) / 2
        flops = 4.0 * DIM * pairs * (3.5 if p.backward else 1.0)
        found.append(Case("memory", p.name, dtype, partial(prepare, p), flops, 0.0, "fma"))
    return found


if __name__ == "__main__":
    library, length, backward, dtype, file = sys.argv[1:]
    run(Problem(int(length), bool(int(backward)), dtype), library, file)
