"""Cases of ``bench.gpu`` by elements and rows: activations, gated units, lookups, rotations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from arraynn import kernels as K
from arraynn import reference

from .gpu import PROBE, Case, Makers, buffer_sets, candidates, normal


def fused(cupy: Any) -> dict[str, Any]:
    """Return the formulas as CuPy's users write them: one kernel each."""
    try:
        from cupyx.scipy.special import erf
    except ImportError:
        return {}
    root, scale = 2**-0.5, (2 * np.pi) ** -0.5

    def sigmoid(x: Any) -> Any:
        return 1 / (1 + cupy.exp(-x))

    def gelu_backward(g: Any, x: Any) -> Any:
        return g * (0.5 * (1 + erf(x * root)) + x * scale * cupy.exp(-0.5 * x * x))

    formulas = {
        "relu": lambda x: cupy.maximum(x, 0),
        "gelu": lambda x: 0.5 * x * (1 + erf(x * root)),
        "silu": lambda x: x * sigmoid(x),
        "gelu_backward": gelu_backward,
        "silu_backward": lambda g, x: g * sigmoid(x) * (1 + x * (1 - sigmoid(x))),
        "swiglu": lambda a, b: a * b * sigmoid(b),
    }
    return {name: cupy.fuse()(formula) for name, formula in formulas.items()}


def elementwise_cases(
    cupy: Any, torch: Any, dtype: Any, n: int, *, compiled: bool = False
) -> list[Case]:
    """Activations forward and backward, and dropout."""
    size = np.dtype(dtype).itemsize
    sets = buffer_sets(cupy, 2 * n * size)
    random = cupy.random.default_rng(1)
    x, grad = ([normal(random, dtype, n) for _ in range(sets)] for _ in range(2))
    out = [cupy.empty(n, dtype) for _ in range(sets)]
    formulas = fused(cupy)
    tx, tg = [], []
    if torch is not None:
        tx, tg = ([torch.from_dlpack(a) for a in arrays] for arrays in (x, grad))
    cases = []
    for name in ("relu", "gelu", "silu", "dropout", "gelu_backward", "silu_backward"):
        backward = name.endswith("_backward")
        kernel, formula = getattr(K, name), getattr(reference, name)
        given = (lambda i: (grad[i], x[i])) if backward else (lambda i: (x[i],))
        there = (lambda i: (tg[i], tx[i])) if backward else (lambda i: (tx[i],))
        if name == "dropout":
            kernel = partial(K.dropout, p=0.1, seed=7)
        eager = None
        if torch is not None:
            eager = getattr(torch.ops.aten if backward else torch.nn.functional, name)
            if name == "dropout":
                eager = partial(eager, p=0.1, training=True)

        def ours(i: int, f: Any = kernel, given: Any = given) -> Any:
            return f(*given(i), out=out[i])

        calls = candidates(torch, compiled, ours, eager, there)
        if not backward:
            calls["arraynn fresh"] = lambda i, f=kernel: f(x[i])
        if name in formulas:
            calls["cupy"] = lambda i, f=formulas[name], given=given: f(*given(i))

        def answer(
            _: str, f: Any = formula, backward: bool = backward, name: str = name
        ) -> tuple[Any, Any]:
            hx, hg = (a[0][:PROBE].get().astype(np.float64) for a in (x, grad))
            got = out[0][:PROBE].get()
            if name == "dropout":
                return got, f(hx, 0.1, 7)
            return got, f(hg, hx) if backward else f(hx)

        arrays = 3 if backward else 2
        label = f"{name} {np.dtype(dtype).name} n{n}"
        # A derivative is a difference, of numbers about 1, where it passes through 0.
        floor = 1.0 if backward else 1e-3
        cases.append(Case(label, arrays * n * size, sets, calls, answer, floor=floor))
    return cases


def glu_cases(
    cupy: Any, torch: Any, dtype: Any, rows: int, n: int, *, compiled: bool = False
) -> list[Case]:
    """SwiGLU of rows of 2 n, forward and backward."""
    size = np.dtype(dtype).itemsize
    sets = buffer_sets(cupy, 3 * rows * n * size)
    random = cupy.random.default_rng(3)
    x = [normal(random, dtype, rows, 2 * n) for _ in range(sets)]
    grad = [normal(random, dtype, rows, n) for _ in range(sets)]
    y, dx = [cupy.empty_like(g) for g in grad], [cupy.empty_like(a) for a in x]
    how = {"activation": "silu"}
    tx, tg = [], []
    if torch is not None:
        tx, tg = ([torch.from_dlpack(a) for a in arrays] for arrays in (x, grad))

    def composed(joined: Any) -> Any:
        a, b = joined.chunk(2, -1)
        return a * torch.nn.functional.silu(b)

    def composed_backward(g: Any, joined: Any) -> Any:
        a, b = joined.chunk(2, -1)
        s = torch.sigmoid(b)
        return torch.cat((g * b * s, g * a * s * (1 + b * (1 - s))), -1)

    forward = candidates(
        torch, compiled, lambda i: K.glu(x[i], out=y[i], **how), composed, lambda i: (tx[i],)
    )
    backward = candidates(
        torch,
        compiled,
        lambda i: K.glu_backward(grad[i], x[i], out=dx[i], **how),
        composed_backward,
        lambda i: (tg[i], tx[i]),
    )
    if formula := fused(cupy).get("swiglu"):
        forward["cupy"] = lambda i: formula(x[i][:, :n], x[i][:, n:])

    def answer(of: Any, expected: Callable[[Any, Any], Any]) -> Callable[[str], tuple[Any, Any]]:
        def ask(_: str) -> tuple[Any, Any]:
            hx, hg = (a[0][:4].get().astype(np.float64) for a in (x, grad))
            return of[0][:4].get(), expected(hg, hx)

        return ask

    label = f"{np.dtype(dtype).name} {rows} x {n}"
    there = answer(y, lambda _, hx: reference.glu(hx, **how))
    back = answer(dx, lambda hg, hx: reference.glu_backward(hg, hx, **how))
    return [
        Case(f"swiglu {label}", 3 * rows * n * size, sets, forward, there, 1.0),
        Case(f"swiglu_backward {label}", 5 * rows * n * size, sets, backward, back, 1.0),
    ]


def _scatter_add(cupy: Any, rows: int, indices: Any, grad: Any) -> Any:
    sums = cupy.zeros((rows, grad.shape[1]), grad.dtype)
    cupy.add.at(sums, indices, grad)
    return sums


def lookup_cases(
    cupy: Any,
    torch: Any,
    dtype: Any,
    words: int = 16_384,
    rows: int = 50_257,
    *,
    compiled: bool = False,
) -> list[Case]:
    """Embedding of words, Zipf's, in a table of 1024 columns, both ways; rope of 32 heads."""
    size, columns = np.dtype(dtype).itemsize, 1024
    random, sets = cupy.random.default_rng(4), buffer_sets(cupy, 2 * words * columns * size)
    host = np.minimum(np.random.default_rng(4).zipf(1.2, (sets, words)) - 1, rows - 1)
    indices = [cupy.asarray(i) for i in host]
    weight = normal(random, dtype, rows, columns)
    # Not negative: long sums do not cancel.
    grad = [random.random((words, columns), dtype=np.float32).astype(dtype) for _ in range(sets)]
    y = [cupy.empty_like(g) for g in grad]
    angles = np.arange(4096)[:, None] * 10000.0 ** (-np.arange(64) / 64)
    cos, sin = (cupy.asarray(f(angles).astype(np.float32)).astype(dtype) for f in (np.cos, np.sin))
    x = [g.reshape(4, words * columns // (4 * 32 * 128), 32, 128) for g in grad]
    turned = [a.reshape(x[0].shape) for a in y]
    ti, tg, tx, parts = [], [], [], ()
    aten, functional, tw = None, None, None
    if torch is not None:
        aten, functional = torch.ops.aten, torch.nn.functional
        ti, tg, tx = ([torch.from_dlpack(a) for a in arrays] for arrays in (indices, grad, x))
        tw = torch.from_dlpack(weight)
        length = x[0].shape[1]
        parts = tuple(torch.from_dlpack(a)[None, :length, None] for a in (cos, sin))

    def turn(a: Any, c: Any, s: Any) -> Any:
        first, second = a.chunk(2, -1)
        return torch.cat((first * c - second * s, second * c + first * s), -1)

    forward = candidates(
        torch,
        compiled,
        lambda i: K.embedding(indices[i], weight, out=y[i]),
        lambda i, w: functional.embedding(i, w),
        lambda i: (ti[i], tw),
    )
    backward = candidates(
        torch,
        compiled,
        lambda i: K.embedding_backward(grad[i], indices[i], rows),
        lambda g, i: aten.embedding_dense_backward(g, i, rows, -1, False),
        lambda i: (tg[i], ti[i]),
    )
    rope = candidates(
        torch,
        compiled,
        lambda i: K.rope(x[i], cos, sin, layout="blhd", out=turned[i]),
        turn,
        lambda i: (tx[i], *parts),
    )
    forward["cupy"] = lambda i: weight[indices[i]]
    if np.dtype(dtype).itemsize > 2:  # its atomics of 16 bits lose sums
        backward["cupy"] = lambda i: _scatter_add(cupy, rows, indices[i], grad[i])

    def looked_up(_: str) -> tuple[Any, Any]:
        return y[0][:4].get(), weight[indices[0][:4]].get().astype(np.float64)

    def summed(_: str) -> tuple[Any, Any]:
        got = K.embedding_backward(grad[0][:, :4], indices[0], rows).get()
        wide = grad[0][:, :4].get().astype(np.float64)
        return got, reference.embedding_backward(wide, host[0], rows)

    def rotated(_: str) -> tuple[Any, Any]:
        hx, hc, hs = (a.get().astype(np.float64) for a in (x[0][:1, :4], cos[:4], sin[:4]))
        return turned[0][:1, :4].get(), reference.rope(hx, hc, hs, layout="blhd")

    name, moved = np.dtype(dtype).name, words * columns * size
    return [
        Case(f"embedding {name}", 2 * moved, sets, forward, looked_up),
        Case(
            f"embedding_backward {name}", moved + rows * columns * size, sets, backward, summed, 1.0
        ),
        Case(f"rope {name}", 2 * moved, sets, rope, rotated, 1.0),
    ]


def makers(cupy: Any, torch: Any) -> Makers:
    """Return what makes each group of cases."""
    return [
        lambda: elementwise_cases(cupy, torch, np.float32, 1 << 26),
        lambda: elementwise_cases(cupy, torch, np.float32, 1 << 20),
        lambda: elementwise_cases(cupy, torch, np.float64, 1 << 25),
        lambda: glu_cases(cupy, torch, np.float32, 8192, 4096),
        lambda: lookup_cases(cupy, torch, np.float32),
    ]


def makers_of(cupy: Any, torch: Any, half: Any) -> Makers:
    """Return the same in 16 bits."""
    return [
        lambda: elementwise_cases(cupy, torch, half, 1 << 27),
        lambda: glu_cases(cupy, torch, half, 8192, 8192),
        lambda: lookup_cases(cupy, torch, half),
    ]


def compiled_makers(cupy: Any, torch: Any) -> Makers:
    """Return the same with torch.compile."""
    return [
        lambda: elementwise_cases(cupy, torch, np.float32, 1 << 26, compiled=True),
        lambda: glu_cases(cupy, torch, np.float32, 8192, 4096, compiled=True),
        lambda: lookup_cases(cupy, torch, np.float32, compiled=True),
    ]
