"""What a call costs beyond its arithmetic: tiny arrays, and the time of the import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from . import peers
from .case import Array, Candidate, Case, Prepared, collect, dot_bound, kernels, reference, uniform

Call = Callable[[], Any]


def _data(dtype: str) -> dict[str, Array]:
    """Arrays of a few elements."""
    return {
        "row": uniform(dtype, 1, 4, seed=1),
        "weight": uniform(dtype, 4, 4, seed=2),
        "image": uniform(dtype, 1, 1, 4, 4, seed=3),
        "filter": uniform(dtype, 1, 1, 3, 3, seed=4),
        "plane": uniform(dtype, 1, 1, 4, 4, seed=5),
        "logits": uniform(dtype, 2, 10, seed=6),
        "target": np.array([3, 7]),
    }


NAMES = (
    *("linear", "matmul", "conv2d", "max_pool2d", "avg_pool2d", "relu", "gelu", "softmax"),
    *("cross_entropy", "adam_step"),
)


def _call(module: Any, name: str, d: dict[str, Array]) -> Call:
    """Call `name` of `module`, the compiled kernels or their references."""
    function = getattr(module, name)
    if name == "adam_step":
        state = [[np.ones(10, d["row"].dtype)] for _ in range(4)]

        def step() -> Array:
            function(*state, 1)
            return state[0][0]

        return step
    args: dict[str, tuple[Any, ...]] = {
        "linear": (d["row"], d["weight"]),
        "matmul": (d["row"], d["weight"]),
        "conv2d": (d["image"], d["filter"]),
        "max_pool2d": (d["plane"], 2),
        "avg_pool2d": (d["plane"], 2),
        "relu": (d["row"],),
        "gelu": (d["row"],),
        "softmax": (d["logits"],),
        "cross_entropy": (d["logits"], d["target"]),
    }
    return partial(function, *args[name])


def run_arraynn(name: str, d: dict[str, Array], threads: int) -> list[Candidate]:
    """Our kernels."""
    del threads
    return [Candidate("arraynn", _call(kernels(), name, d))]


def run_numpy(name: str, d: dict[str, Array], threads: int) -> list[Candidate]:
    """The plain NumPy reference."""
    del threads
    return [Candidate("numpy", _call(reference(), name, d))]


def run_torch(name: str, d: dict[str, Array], threads: int) -> list[Candidate]:
    """PyTorch eager on tensors that need no gradient."""
    del threads
    torch = peers.load("torch")
    t = {key: torch.from_numpy(value) for key, value in d.items()}
    f = torch.nn.functional
    adam = [[torch.ones(10, dtype=t["row"].dtype)] for _ in range(4)]
    steps = [torch.ones(())]

    def step() -> Any:
        torch._fused_adam_(
            *(*adam, [], steps),
            lr=1e-3,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )
        return adam[0][0]

    calls: dict[str, Call] = {
        "linear": partial(f.linear, t["row"], t["weight"]),
        "matmul": partial(torch.matmul, t["row"], t["weight"]),
        "conv2d": partial(f.conv2d, t["image"], t["filter"]),
        "max_pool2d": partial(f.max_pool2d, t["plane"], 2),
        "avg_pool2d": partial(f.avg_pool2d, t["plane"], 2),
        "relu": partial(torch.relu, t["row"]),
        "gelu": partial(f.gelu, t["row"]),
        "softmax": partial(torch.softmax, t["logits"], -1),
        "cross_entropy": partial(f.cross_entropy, t["logits"], t["target"]),
        "adam_step": step,
    }
    return [Candidate("torch", calls[name])]


RUNNERS = {"arraynn": run_arraynn, "numpy": run_numpy, "torch": run_torch}


def prepare(name: str, dtype: str, libraries: Sequence[str], threads: int) -> Prepared:
    """Make the data, the candidates and the reference answer of one tiny call."""
    d = _data(dtype)
    wide = {key: a.astype(np.float64) if a.dtype.kind == "f" else a for key, a in d.items()}
    expected = (np.asarray(_call(reference(), name, wide)()),)
    found = collect(RUNNERS, libraries, name, d, threads)
    return Prepared(found, expected, [dot_bound(10, dtype)])


_IMPORT = """
import sys, time
import numpy
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""


def import_seconds(module: str) -> float:
    """Seconds of ``import module`` in a new process that has imported NumPy already."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT.format(module=module)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def prepare_import(libraries: Sequence[str], threads: int) -> Prepared:
    """Time of the import beyond NumPy's own."""
    del threads
    modules = ["arraynn", *(name for name in ("torch", "jax") if name in libraries)]

    def positive(arrays: Any) -> str | None:
        return None if float(arrays[0]) > 0 else "expected a positive time"

    return Prepared(
        [
            Candidate(name, partial(import_seconds, name), check=positive, self_timed=True)
            for name in modules
        ],
        (),
        [],
    )


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return one case per tiny call, and the import."""
    found = [
        Case("overhead", f"tiny {name}", dtype, partial(prepare, name, dtype)) for name in NAMES
    ]
    if not tiny:
        found.append(Case("overhead", "import beyond NumPy's", dtype, prepare_import))
    return found
