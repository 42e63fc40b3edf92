"""Cases of ``bench.gpu`` that go step by step or move windows.

Recurrent networks, attention of one query to a cache, unfold and fold.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arraynn import kernels as K
from arraynn import reference

from .gpu import Calls, Case, Makers, buffer_sets, candidates, normal

#: Samples that the reference is asked about.
PROBE_SAMPLES = 2
#: A sum of gradients over all steps: errors are relative to its largest elements.
FLOOR = 1.0


def lstm_cases(
    cupy: Any, torch: Any, dtype: Any, steps: int, batch: int, size: int, hidden: int
) -> list[Case]:
    """A whole sequence, and its gradients; the multiply-adds of both products are counted."""
    random = cupy.random.default_rng(6)
    rows = 4 * hidden

    def uniform(*shape: int) -> Any:
        drawn = (2 * random.random(shape, dtype=np.float32) - 1) / np.float32(hidden**0.5)
        return drawn.astype(dtype)

    name, item = np.dtype(dtype).name, np.dtype(dtype).itemsize
    moved = item * (steps * batch * (size + hidden) + rows * (size + hidden))
    sets = buffer_sets(cupy, moved)
    weights = [uniform(rows, size), uniform(rows, hidden), uniform(rows), uniform(rows)]
    x = [normal(random, dtype, steps, batch, size) for _ in range(sets)]
    kept = [K.lstm(a, weights, return_workspace=True) for a in x[:2]]  # as large as many of x
    forward: Calls = {
        "arraynn": lambda i: K.lstm(x[i], weights),
        "arraynn training": lambda i: K.lstm(x[i], weights, return_workspace=True),
    }
    backward: Calls = {"arraynn": lambda i: K.lstm_backward(kept[i % 2][0], None, kept[i % 2][2])}
    if torch is not None:
        torch.backends.cudnn.allow_tf32 = False
        first = torch.from_dlpack(weights[0])
        module = torch.nn.LSTM(size, hidden, device=first.device, dtype=first.dtype)
        with torch.no_grad():
            for p, w in zip(module.parameters(), weights, strict=True):
                p.copy_(torch.from_dlpack(w))
        tx = [torch.from_dlpack(a) for a in x]

        def inference(i: int) -> Any:
            with torch.no_grad():
                return module(tx[i])

        forward["torch"] = inference
        results = [module(a.clone().requires_grad_()) for a in tx[:2]]
        ty = [torch.from_dlpack(k[0]) for k in kept]
        backward["torch"] = lambda i: torch.autograd.backward(
            results[i % 2][0], ty[i % 2], retain_graph=True
        )

    def wide(*arrays: Any) -> list[Any]:
        return [a.get().astype(np.float64) for a in arrays]

    def answer(_: str) -> tuple[Any, Any]:
        y = K.lstm(x[0], weights)[0][:, :PROBE_SAMPLES]
        return y.get(), reference.lstm(*wide(x[0][:, :PROBE_SAMPLES]), wide(*weights))[0]

    def answer_backward(_: str) -> tuple[Any, Any]:
        grad = kept[0][0][:, :PROBE_SAMPLES].get().astype(np.float64)
        got = K.lstm_backward(kept[0][0], None, kept[0][2])[0][:, :PROBE_SAMPLES]
        part = wide(x[0][:, :PROBE_SAMPLES])[0]
        *_, own = reference.lstm(part, wide(*weights), return_workspace=True)
        return got.get(), reference.lstm_backward(grad, None, own)[0]

    flop = 2.0 * steps * batch * rows * (size + hidden)
    # In 16 bits h is rounded at every step.
    floor = FLOOR if item > 2 else 8 * FLOOR
    label = f"{name} T {steps} B {batch} {size} to {hidden}"
    return [
        Case(
            f"lstm {label}", moved, sets, forward, answer,
            flop=flop, floor=floor, products=name,
        ),
        Case(
            f"lstm_backward {label}", 2 * moved, sets, backward, answer_backward,
            flop=2 * flop, floor=floor, products=name,
        ),
    ]  # fmt: skip


def decode_cases(
    cupy: Any,
    torch: Any,
    dtype: Any,
    batch: int,
    heads: int,
    groups: int,
    length: int,
    dim: int,
    *,
    compiled: bool = False,
) -> list[Case]:
    """One query of every sequence to a cache of ``groups`` heads, which must be read."""
    moved = 2 * np.dtype(dtype).itemsize * batch * groups * length * dim
    sets = buffer_sets(cupy, moved)
    random = cupy.random.default_rng(8)
    q = normal(random, dtype, batch, heads, 1, dim)
    k, v = ([normal(random, dtype, batch, groups, length, dim) for _ in range(sets)] for _ in "kv")
    lengths = cupy.asarray(np.full(batch, length))
    out = cupy.empty(q.shape, dtype)
    tq, tk, tv = None, [], []
    if torch is not None:
        tq, tk, tv = torch.from_dlpack(q), *([torch.from_dlpack(a) for a in kv] for kv in (k, v))

    def attend(*qkv: Any) -> Any:
        function = torch.nn.functional.scaled_dot_product_attention
        return function(*qkv, enable_gqa=heads != groups)

    calls = candidates(
        torch,
        compiled,
        lambda i: K.attention_decode(q, k[i], v[i], lengths, out=out),
        attend,
        lambda i: (tq, tk[i], tv[i]),
    )

    def answer(_: str) -> tuple[Any, Any]:
        wide = [a[:1].get().astype(np.float64) for a in (q, k[0], v[0])]
        return out[:1].get(), reference.attention_decode(*wide, np.array([length]))

    name = f"attention_decode {np.dtype(dtype).name} {batch}x{heads}:{groups}x{length}x{dim}"
    return [Case(name, moved, sets, calls, answer, floor=FLOOR)]


def fold_cases(
    cupy: Any, torch: Any, dtype: Any, n: int, c: int, side: int, *, compiled: bool = False
) -> list[Case]:
    """Windows of 3x3 with stride 1 and padding: nine times the image."""
    item = np.dtype(dtype).itemsize
    image = n * c * side * side * item
    sets = buffer_sets(cupy, 10 * image)
    random = cupy.random.default_rng(7)
    drawn = dtype if item > 2 else np.float32
    x = [random.standard_normal((n, c, side, side), dtype=drawn).astype(dtype) for _ in range(sets)]
    y = [K.unfold(a, 3, 1, 1) for a in x]
    tx, ty, functional = [], [], None
    if torch is not None:
        tx, ty = ([torch.from_dlpack(a) for a in arrays] for arrays in (x, y))
        functional = torch.nn.functional
    unfolds = candidates(
        torch,
        compiled,
        lambda i: K.unfold(x[i], 3, 1, 1, out=y[i]),
        lambda a: functional.unfold(a, 3, 1, 1),
        lambda i: (tx[i],),
    )
    folds = candidates(
        torch,
        compiled,
        lambda i: K.fold(y[i], side, 3, 1, 1, out=x[i]),
        lambda a: functional.fold(a, (side, side), 3, 1, 1),
        lambda i: (ty[i],),
    )

    def unfold_of_cupy(i: int) -> Any:
        padded = cupy.pad(x[i], ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = cupy.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
        # (n, c, h, w, 3, 3) to (n, c 9, h w), in one copy.
        windows = windows.transpose(0, 1, 4, 5, 2, 3)
        return cupy.ascontiguousarray(windows).reshape(n, 9 * c, side * side)

    unfolds["cupy"] = unfold_of_cupy

    def answer(_: str) -> tuple[Any, Any]:
        got = K.unfold(x[0], 3, 1, 1)[:1].get()
        return got, reference.unfold(x[0][:1].get().astype(np.float64), 3, 1, 1)

    def answer_fold(_: str) -> tuple[Any, Any]:
        got = K.fold(y[0], side, 3, 1, 1)[:1].get()
        return got, reference.fold(y[0][:1].get().astype(np.float64), side, 3, 1, 1)

    label = f"{np.dtype(dtype).name} {n}x{c}x{side}x{side} 3x3/1"
    return [
        Case(f"unfold {label}", 10 * image, sets, unfolds, answer),
        Case(f"fold {label}", 10 * image, sets, folds, answer_fold, floor=FLOOR),
    ]


def compiled_makers(cupy: Any, torch: Any) -> Makers:
    """Return cases with torch.compile, which leaves recurrent networks as they are."""
    return [
        lambda: decode_cases(cupy, torch, np.float32, 8, 32, 8, 4096, 128, compiled=True),
        lambda: fold_cases(cupy, torch, np.float32, 16, 64, 56, compiled=True),
    ]


def makers(cupy: Any, torch: Any) -> Makers:
    """Return what makes each group of cases."""
    return [
        lambda: lstm_cases(cupy, torch, np.float32, 100, 64, 512, 512),
        lambda: lstm_cases(cupy, torch, np.float32, 100, 16, 768, 768),
        lambda: lstm_cases(cupy, torch, np.float16, 100, 16, 768, 768),
        lambda: lstm_cases(cupy, torch, np.float16, 100, 16, 64, 64),
        lambda: decode_cases(cupy, torch, np.float32, 8, 32, 8, 4096, 128),
        lambda: decode_cases(cupy, torch, np.float16, 16, 32, 8, 4096, 128),
        lambda: fold_cases(cupy, torch, np.float32, 16, 64, 56),
        lambda: fold_cases(cupy, torch, np.float16, 16, 64, 56),
    ]
