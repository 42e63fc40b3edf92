"""The CUDA kernels against PyTorch and CuPy on one GPU: ``python -m bench.gpu [--json FILE]``.

Every answer of ours is held against the reference in float64 before it is timed. Candidates take
turns; a turn is a run of calls between two CUDA events that goes round buffers of more than three
times the L2 cache, so that every call reads device memory. All libraries work on the same memory
and on the default stream. The limit is the copy rate measured in the same run, or the rate of the
vendor's products where arithmetic is what bounds a case.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import arraynn as ann
from arraynn import kernels as K
from arraynn import reference

ROUNDS = 11
TURN_SECONDS = 0.004
#: Elements that the reference is asked about.
PROBE = 4096
#: Largest errors of a kernel before it is timed.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-3, "bfloat16": 8e-3}


@dataclass
class Case:
    """Some work, and who does it: calls take the number of a buffer set."""

    name: str
    bytes: int  # that one call must move
    sets: int
    calls: dict[str, Callable[[int], Any]]
    #: The probe of set 0 after one call, and what it must be.
    answer: Callable[[str], tuple[Any, Any]]
    #: Errors are relative to the answer, where it is larger than this.
    floor: float = 1e-3
    microseconds: dict[str, float] = field(default_factory=dict)
    flop: float = 0.0  # of one call, where arithmetic is what bounds it
    products: str = ""  # whose rate is the limit then: a dtype's, or tf32's


def libraries() -> tuple[Any, Any]:
    """Import CuPy and, when it is there, PyTorch."""
    import cupy

    try:
        import torch
    except ImportError:
        return cupy, None
    return cupy, torch if torch.cuda.is_available() else None


def sixteen_bits(cupy: Any) -> list[Any]:
    """List the 16-bit dtypes; bfloat16 needs ml_dtypes and a CuPy that knows it."""
    try:
        import ml_dtypes

        cupy.from_dlpack(cupy.ones(1, ml_dtypes.bfloat16))
    except (ImportError, TypeError, ValueError, NotImplementedError) as error:
        print(f"no bfloat16: {error}", file=sys.stderr)
        return [np.dtype(np.float16)]
    return [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]


def normal(random: Any, dtype: Any, *shape: int) -> Any:
    """Draw standard normal numbers; CuPy draws none of 16 bits."""
    drawn = dtype if np.dtype(dtype).itemsize > 2 else np.float32
    return random.standard_normal(shape, dtype=drawn).astype(dtype)


def buffer_sets(cupy: Any, bytes_of_a_call: int) -> int:
    """Count the sets that together are more than three times the L2 cache."""
    cache = cupy.cuda.Device().attributes.get("L2CacheSize", 60 << 20)
    return max(2, -(-3 * cache // bytes_of_a_call))


Calls = dict[str, Callable[[int], Any]]


def candidates(
    torch: Any, compiled: bool, ours: Callable[[int], Any], eager: Any, inputs: Callable[[int], Any]
) -> Calls:
    """Ours, and PyTorch's function of ``inputs(i)``, eager and compiled where that works."""
    calls: Calls = {"arraynn": ours}
    if torch is None:
        return calls
    calls["torch"] = lambda i: eager(*inputs(i))
    if compiled:
        function = torch.compile(eager, dynamic=False)
        _add_compiled(calls, lambda i: function(*inputs(i)))
    return calls


def gradients(
    torch: Any,
    compiled: bool,
    ours: Callable[[int], Any],
    eager: Any,
    leaves: Sequence[Sequence[Any]],
    grads: Sequence[Any],
) -> Calls:
    """Ours, and what PyTorch's tape of ``eager(*leaves[i])`` gives for ``grads[i]``."""
    calls: Calls = {"arraynn": ours}
    if torch is None:
        return calls

    def backward(function: Any) -> Callable[[int], Any]:
        graphs = [function(*given) for given in leaves]
        return lambda i: torch.autograd.grad(graphs[i], leaves[i], grads[i], retain_graph=True)

    calls["torch"] = backward(eager)
    if compiled:
        try:
            # A graph that is gone through many times must keep what it holds.
            importlib.import_module("torch._functorch.config").donated_buffer = False
            again = backward(torch.compile(eager, dynamic=False))
        except Exception as error:
            _not_compiled(error)
        else:
            _add_compiled(calls, again)
    return calls


def _not_compiled(error: Exception) -> None:
    print(f"torch.compile: {type(error).__name__}", file=sys.stderr)


def _add_compiled(calls: Calls, call: Callable[[int], Any]) -> None:
    try:
        call(0)
    except Exception as error:  # what its compiler needs is not on every machine
        _not_compiled(error)
    else:
        calls["torch.compile"] = call


def pool_cases(
    cupy: Any,
    torch: Any,
    layout: str,
    n: int = 64,
    c: int = 64,
    size: int = 112,
    *,
    compiled: bool = False,
) -> list[Case]:
    """Poolings of a convolutional network, float32, forward and backward."""
    images = (n, c, size, size) if layout == "channels_first" else (n, size, size, c)
    elements = n * c * size * size
    sets = buffer_sets(cupy, 5 * elements)
    random = cupy.random.default_rng(3)
    x = [random.standard_normal(images, dtype=np.float32) for _ in range(sets)]
    stem: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 1}
    pools: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("max_pool2d", stem, {"return_indices": True}),
        ("max_pool2d", stem, {}),
        ("max_pool2d", {"kernel_size": 2}, {}),
        ("avg_pool2d", {"kernel_size": 2}, {}),
        ("global_avg_pool", {}, {}),
    ]
    cases = []
    for name, window, more in pools:
        forward, back = getattr(K, name), getattr(K, f"{name}_backward")
        formula, back_formula = getattr(reference, name), getattr(reference, f"{name}_backward")
        options = {**window, "layout": layout}
        given = [forward(v, **options, return_indices=True) for v in x] if more else None
        y = [pair[0] for pair in given] if given else [forward(v, **options) for v in x]
        grad = [random.standard_normal(v.shape, dtype=np.float32) for v in y]
        indices = [pair[1] for pair in given] if given else None

        def run(i: int, f: Any = forward, options: Any = options, more: Any = more) -> Any:
            return f(x[i], **options, **more)

        def run_back(
            i: int,
            f: Any = back,
            name: str = name,
            options: Any = options,
            grad: Any = grad,
            indices: Any = indices,
        ) -> Any:
            if not name.startswith("max"):
                return f(grad[i], x[i].shape, **options)
            return f(grad[i], x[i], **options, indices=None if indices is None else indices[i])

        def answer(
            _: str, run: Any = run, f: Any = formula, options: Any = options
        ) -> tuple[Any, Any]:
            got = run(0)
            got = got[0] if isinstance(got, tuple) else got
            return got[:1].get(), f(x[0][:1].get().astype(np.float64), **options)

        def answer_back(
            _: str,
            run: Any = run_back,
            name: str = name,
            f: Any = back_formula,
            options: Any = options,
            grad: Any = grad,
        ) -> tuple[Any, Any]:
            sample, wide = x[0][:1].get(), grad[0][:1].get().astype(np.float64)
            of = sample if name.startswith("max") else sample.shape
            return run(0)[:1].get(), f(wide, of, **options)

        calls: Calls = {"arraynn": run}
        back_calls: Calls = {"arraynn": run_back}
        if torch is not None:
            functional = torch.nn.functional
            tx, tg = (
                [torch.from_dlpack(a) for a in arrays]
                if layout == "channels_first"
                else [torch.from_dlpack(a).permute(0, 3, 1, 2) for a in arrays]
                for arrays in (x, grad)
            )
            leaves = [(v.detach().requires_grad_(),) for v in tx]
            if name == "global_avg_pool":
                call = partial(functional.adaptive_avg_pool2d, output_size=1)
            else:
                call = partial(getattr(functional, name), **window)
            calls = candidates(torch, compiled, run, call, lambda i, tx=tx: (tx[i],))
            back_calls = gradients(torch, compiled, run_back, call, leaves, tg)
        small, tag = y[0].size, " indices" if more else ""
        label = f"{name}{window.get('kernel_size', '')}{tag} {layout.removeprefix('channels_')}"
        both = 4 * (elements + small)
        cases.append(Case(label, both + 8 * small * bool(more), sets, calls, answer))
        # Without indices the maxima are found again, which reads x.
        moved = both + (8 * small if more else 4 * elements * name.startswith("max"))
        cases.append(Case(f"grad of {label}", moved, sets, back_calls, answer_back))
    return cases


class WrongAnswer(Exception):
    """A kernel is not timed before it is right."""


def error_of(case: Case) -> tuple[float, float]:
    """Run arraynn once on set 0: its largest error against the reference, and what is allowed."""
    case.calls["arraynn"](0)
    got, expected = case.answer("arraynn")
    scale = np.maximum(np.abs(expected), case.floor)
    worst = float(np.max(np.abs(got.astype(np.float64) - expected) / scale))
    return worst, TOLERANCES[got.dtype.name]


def prove(case: Case) -> None:
    """Raise WrongAnswer unless arraynn's answer is that of the reference."""
    worst, allowed = error_of(case)
    if not worst < allowed:
        raise WrongAnswer(f"{case.name}: error {worst:.3g} of arraynn")


def elapsed(cupy: Any, call: Callable[[int], Any], sets: int, count: int, start: int) -> float:
    """Seconds per call between two events."""
    first, last = cupy.cuda.Event(), cupy.cuda.Event()
    first.record()
    for i in range(count):
        call((start + i) % sets)
    last.record()
    last.synchronize()
    return float(cupy.cuda.get_elapsed_time(first, last)) / 1e3 / count


def measure(cupy: Any, case: Case) -> None:
    """Interleaved turns of all candidates; medians go to the case."""
    counts, samples = {}, {name: [] for name in case.calls}
    for name, call in case.calls.items():
        elapsed(cupy, call, case.sets, 3, 0)
        once = elapsed(cupy, call, case.sets, 10, 0)
        counts[name] = max(case.sets, min(2000, int(TURN_SECONDS / max(once, 1e-6))))
    for r in range(ROUNDS):
        for name, call in case.calls.items():
            samples[name].append(elapsed(cupy, call, case.sets, counts[name], r))
    case.microseconds = {k: 1e6 * statistics.median(v) for k, v in samples.items()}


def copy_rate(cupy: Any) -> float:
    """Bytes per second read and written by a large copy on the device."""
    n = 1 << 30
    source, target = cupy.ones(n, np.uint8), cupy.empty(n, np.uint8)
    call = lambda _: cupy.cuda.runtime.memcpyAsync(target.data.ptr, source.data.ptr, n, 3, 0)  # noqa: E731
    elapsed(cupy, call, 1, 3, 0)
    return 2 * n / statistics.median(elapsed(cupy, call, 1, 5, 0) for _ in range(ROUNDS))


def product_rates(cupy: Any, torch: Any, n: int = 8192) -> dict[str, float]:
    """Multiply-adds, counted twice, a second of a large product of the vendor's, by dtype.

    float32 may be made of three products of tf32, which is faster on tensor cores.
    """
    found: dict[str, float] = {}
    if torch is None:
        return found
    kinds = [("float16", n), ("bfloat16", n), ("tf32", n), ("float32", n // 2), ("float64", n // 2)]
    for name, size in kinds:
        kind = getattr(torch, "float32" if name == "tf32" else name)
        random = cupy.random.default_rng(1)
        drawn = [normal(random, np.float32, size, size) for _ in "ab"]
        a, b = (torch.from_dlpack(x).to(kind) for x in drawn)
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"

        def call(_: int, a: Any = a, b: Any = b) -> Any:
            return a @ b

        elapsed(cupy, call, 1, 2, 0)
        took = statistics.median(elapsed(cupy, call, 1, 3, 0) for _ in range(5))
        found[name] = 2.0 * size**3 / took
    torch.backends.cuda.matmul.allow_tf32 = False
    found["float32"] = max(found["float32"], found["tf32"] / 3)
    return found


def overheads(cupy: Any, torch: Any) -> dict[str, float]:
    """Microseconds of the CPU per call on tiny arrays, launches included, nothing waited for."""
    x, out = cupy.ones(32, np.float32), cupy.empty(32, np.float32)
    lists = [[cupy.ones(32, np.float32) for _ in range(1000)] for _ in range(4)]
    calls: dict[str, tuple[Callable[[], Any], int]] = {
        "arraynn relu": (lambda: K.relu(x), 500),
        "arraynn relu out": (lambda: K.relu(x, out=out), 500),
        "cupy maximum": (lambda: cupy.maximum(x, 0), 500),
        "arraynn adam_step, 1000 tensors": (lambda: K.adam_step(*lists, 1), 10),
    }
    if torch is not None:
        t = torch.from_dlpack(x)
        calls["torch relu"] = (lambda: torch.relu(t), 500)
    found = {}
    for name, (call, count) in calls.items():
        best = []
        for _ in range(7):
            cupy.cuda.Device().synchronize()
            start = time.perf_counter()
            for _ in range(count):
                call()
            best.append((time.perf_counter() - start) / count)
        cupy.cuda.Device().synchronize()
        found[name] = 1e6 * statistics.median(best)
    return found


def memory_growth(cupy: Any) -> int:
    """Bytes that the pool grows by over ten thousand calls."""
    x = cupy.ones(1000, np.float32)
    K.gelu(x)
    before = cupy.get_default_memory_pool().total_bytes()
    for _ in range(10_000):
        K.gelu(x)
    return int(cupy.get_default_memory_pool().total_bytes() - before)


Makers = list[Callable[[], list[Case]]]


def plain_makers(cupy: Any, torch: Any) -> Makers:
    """Return what makes each group of cases."""
    from . import gpu_elements, gpu_products, gpu_rows, gpu_sequences, gpu_steps

    makers: Makers = [
        *gpu_elements.makers(cupy, torch),
        *gpu_steps.makers(cupy, torch),
        *gpu_products.makers(cupy, torch),
        *gpu_rows.makers(cupy, torch),
        *gpu_sequences.makers(cupy, torch),
        lambda: pool_cases(cupy, torch, "channels_first"),
        lambda: pool_cases(cupy, torch, "channels_last"),
    ]
    for half in sixteen_bits(cupy):
        makers += [
            *gpu_elements.makers_of(cupy, torch, half),
            *gpu_steps.makers_of(cupy, torch, half),
            lambda half=half: gpu_rows.row_cases(cupy, torch, half, 16_384, 4096),
            *gpu_products.makers_of(cupy, torch, half),
        ]
    return makers


def compiled_makers(cupy: Any, torch: Any) -> Makers:
    """Return the same of one shape of every family, with torch.compile, which takes its time."""
    from . import gpu_elements, gpu_products, gpu_rows, gpu_sequences, gpu_steps

    makers: Makers = []
    for module in (gpu_rows, gpu_elements, gpu_steps, gpu_products, gpu_sequences):
        makers += module.compiled_makers(cupy, torch)
    return [*makers, lambda: pool_cases(cupy, torch, "channels_first", compiled=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="one shape of every family, with torch.compile as one more peer",
    )
    options = parser.parse_args(arguments)
    if not ann.cuda.is_available():
        print("no GPU, no CuPy, or no CUDA kernels in this build", file=sys.stderr)
        return 1
    cupy, torch = libraries()
    rate = copy_rate(cupy)
    ceilings = product_rates(cupy, torch)
    makers = compiled_makers(cupy, torch) if options.compiled else plain_makers(cupy, torch)
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    found: dict[str, Any] = {
        "device": properties["name"].decode(),
        "config": dict(ann.show_config()),
        "copy_bytes_per_second": rate,
        "products_flop_per_second": ceilings,
        "cases": [],
        "failures": [],
    }

    def save() -> None:
        # After every group: what is there is kept when the time runs out.
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")

    print(f"copy rate {rate / 1e9:.0f} GB/s")
    for name, ceiling in ceilings.items():
        print(f"products of {name} {ceiling / 1e12:.1f} TFLOP/s")
    print(f"{'case':40} {'us':>9} {'GB/s':>6} {'limit':>6} {'ratio':>6}  peers (us)")
    for maker in makers:
        for case in maker():
            try:
                prove(case)
            except WrongAnswer as error:
                print(error, flush=True)
                found["failures"].append(str(error))
                continue
            measure(cupy, case)
            print(row(case, rate, ceilings), flush=True)
            found["cases"].append(
                {
                    "name": case.name,
                    "bytes": case.bytes,
                    "flop": case.flop,
                    "limit": share_of_limit(case, rate, ceilings),
                    "us": case.microseconds,
                }
            )
        save()
        cupy.get_default_memory_pool().free_all_blocks()
    found["cpu_microseconds"] = overheads(cupy, torch)
    for name, microseconds in found["cpu_microseconds"].items():
        print(f"{name:40} {microseconds:9.2f} us of the CPU")
    found["memory_growth_bytes"] = memory_growth(cupy)
    print(f"memory growth over 10^4 calls: {found['memory_growth_bytes']} bytes")
    save()
    return 1 if found["failures"] else 0


def share_of_limit(case: Case, rate: float, ceilings: dict[str, float]) -> float:
    """Tell how near arraynn is to what bounds the case, as measured in this run."""
    seconds = case.microseconds["arraynn"] * 1e-6
    ceiling = ceilings.get(case.products, 0.0)
    return case.flop / seconds / ceiling if ceiling else case.bytes / seconds / rate


def row(case: Case, rate: float, ceilings: dict[str, float]) -> str:
    """Write a line of the table."""
    ours = case.microseconds["arraynn"]
    peers = {k: v for k, v in case.microseconds.items() if not k.startswith("arraynn")}
    ratio = min(peers.values()) / ours if peers else float("nan")
    bandwidth = case.bytes / ours * 1e6
    rest = {k: round(v, 2) for k, v in case.microseconds.items() if k != "arraynn"}
    if case.flop:
        rest["TFLOP/s"] = round(case.flop / ours * 1e-6, 1)
    return (
        f"{case.name:40} {ours:9.2f} {bandwidth / 1e9:6.0f} "
        f"{share_of_limit(case, rate, ceilings):6.0%} {ratio:6.2f}  {rest}"
    )


if __name__ == "__main__":
    sys.exit(main())
