"""The cases of :mod:`bench.gpu` of softmax, cross entropy and the norms."""

from __future__ import annotations

from typing import Any

import numpy as np

from arraynn import kernels as K
from arraynn import reference

from .gpu import PROBE, Case, Makers, buffer_sets, candidates, normal


def row_cases(
    cupy: Any, torch: Any, dtype: Any, rows: int, n: int, *, compiled: bool = False
) -> list[Case]:
    """Softmax, cross entropy and the norms of rows, forward and backward."""
    size = rows * n * np.dtype(dtype).itemsize
    sets = buffer_sets(cupy, 2 * size)
    random = cupy.random.default_rng(3)
    x, grad = ([normal(random, dtype, rows, n) for _ in range(sets)] for _ in range(2))
    out = [cupy.empty((rows, n), dtype) for _ in range(sets)]
    w, b, one = normal(random, dtype, n), normal(random, dtype, n), cupy.ones((), dtype)
    target = random.integers(0, n, rows)
    y = [K.softmax(a) for a in x]
    stats = [K.layer_norm(a, n, w, b, return_stats=True)[1:] for a in x]
    few = max(1, PROBE // n)
    hx, hg, hy = (a[0][:few].get().astype(np.float64) for a in (x, grad, y))
    hw, hb, ht = w.get().astype(np.float64), b.get().astype(np.float64), target[:few].get()
    eps, computed = 1e-6, np.float64 if dtype == np.float64 else np.float32
    there, functional = (None, None) if torch is None else (torch.from_dlpack, torch.nn.functional)
    given = []
    if torch is not None:
        for i in range(sets):
            moments = (there(s.astype(computed).reshape(rows, 1)) for s in stats[i])
            given.append((there(grad[i]), there(x[i]), *moments, there(w), there(b)))

    def layer_norm_backward(g: Any, a: Any, mean: Any, rstd: Any, v: Any, u: Any) -> Any:
        wanted = [True, True, True]
        return torch.ops.aten.native_layer_norm_backward(g, a, (n,), mean, rstd, v, u, wanted)

    try:
        from cupyx.scipy.special import softmax
    except ImportError:
        softmax = None
    # Name, arrays of x's size that must move, ours, PyTorch's, its inputs, the answer, its floor.
    table: list[tuple[str, int, Any, Any, Any, Any, float]] = [
        (
            "softmax",
            2,
            lambda i: K.softmax(x[i], out=out[i]),
            lambda a: torch.softmax(a, -1),
            lambda i: (there(x[i]),),
            lambda: reference.softmax(hx),
            1e-3,
        ),
        (
            "softmax_backward",
            3,
            lambda i: K.softmax_backward(grad[i], y[i], out=out[i]),
            lambda g, a: torch.ops.aten._softmax_backward_data(g, a, -1, a.dtype),
            lambda i: (there(grad[i]), there(y[i])),
            lambda: reference.softmax_backward(hg, hy),
            1e-3,
        ),
        (
            "cross_entropy",
            1,
            lambda i: K.cross_entropy(x[i], target, reduction="none"),
            lambda a, t: functional.cross_entropy(a, t, reduction="none"),
            lambda i: (there(x[i]), there(target)),
            lambda: reference.cross_entropy(hx, ht, reduction="none"),
            1.0,
        ),
        (
            "cross_entropy_backward",
            2,
            lambda i: K.cross_entropy_backward(one, x[i], target, reduction="sum"),
            lambda a, t: torch.softmax(a, -1).index_put_(
                (torch.arange(rows, device=a.device), t), -torch.ones_like(a[0, 0]), True
            ),
            lambda i: (there(x[i]), there(target)),
            lambda: reference.cross_entropy_backward(1.0, hx, ht, reduction="sum"),
            1e-3,
        ),
        (
            "layer_norm",
            2,
            lambda i: K.layer_norm(x[i], n, w, b, out=out[i]),
            lambda a, v, u: functional.layer_norm(a, (n,), v, u),
            lambda i: (there(x[i]), there(w), there(b)),
            lambda: reference.layer_norm(hx, n, hw, hb),
            1.0,
        ),
        (
            "rms_norm",
            2,
            lambda i: K.rms_norm(x[i], n, w, eps, out=out[i]),
            lambda a, v: functional.rms_norm(a, (n,), v, eps),
            lambda i: (there(x[i]), there(w)),
            lambda: reference.rms_norm(hx, n, hw, eps),
            1.0,
        ),
        (
            "layer_norm_backward",
            3,
            lambda i: K.layer_norm_backward(grad[i], x[i], n, w, stats=stats[i])[0],
            layer_norm_backward,
            lambda i: given[i],
            lambda: reference.layer_norm_backward(hg, hx, n, hw)[0],
            1.0,
        ),
    ]
    cases = []
    for name, passes, ours, eager, inputs, expected, floor in table:
        held: dict[str, Any] = {}

        def call(i: int, ours: Any = ours, held: Any = held) -> None:
            held["result"] = ours(i)

        def answer(candidate: str, expected: Any = expected, held: Any = held) -> tuple[Any, Any]:
            if candidate != "arraynn":
                return None, None
            return held["result"][:few].get(), expected()

        calls = candidates(torch, compiled, call, eager, inputs)
        if name == "softmax" and softmax is not None:
            calls["cupy"] = lambda i: softmax(x[i], -1)
        label = f"{name} {np.dtype(dtype).name} {rows}x{n}"
        cases.append(Case(label, passes * size, sets, calls, answer, floor=floor))
    return cases


def image_cases(
    cupy: Any, torch: Any, shape: tuple[int, ...], layout: str, *, compiled: bool = False
) -> list[Case]:
    """Batch norm in training, forward and backward, and group norm; float32."""
    total, last = int(np.prod(shape)), layout == "channels_last"
    sets = buffer_sets(cupy, 8 * total)
    random = cupy.random.default_rng(4)
    x, grad = (
        [random.standard_normal(shape, dtype=np.float32) for _ in range(sets)] for _ in range(2)
    )
    out = [cupy.empty(shape, np.float32) for _ in range(sets)]
    w, b = (random.random(shape[-1 if last else 1], dtype=np.float32) for _ in range(2))
    wide = [a.get().astype(np.float64) for a in (x[0], grad[0], w, b)]
    training: dict[str, Any] = {"training": True, "layout": layout}

    def there(a: Any) -> Any:
        t = torch.from_dlpack(a)
        return t.movedim(-1, 1) if last else t  # the memory format that PyTorch calls channels_last

    functional = None if torch is None else torch.nn.functional
    vectors = () if torch is None else (torch.from_dlpack(w), torch.from_dlpack(b))
    if torch is not None:
        forward = torch.native_batch_norm
        moments = [forward(there(a), *vectors, None, None, True, 0.1, 1e-5)[1:] for a in x]
    table: list[tuple[str, int, Any, Any, Any, Any]] = [
        (
            "batch_norm",
            2,
            lambda i: K.batch_norm(x[i], weight=w, bias=b, out=out[i], **training),
            lambda a: functional.batch_norm(a, None, None, *vectors, True),
            lambda i: (there(x[i]),),
            lambda: reference.batch_norm(wide[0], weight=wide[2], bias=wide[3], **training),
        ),
        (
            "batch_norm_backward",
            3,
            lambda i: K.batch_norm_backward(grad[i], x[i], weight=w, **training)[0],
            lambda g, a, mean, rstd: torch.ops.aten.native_batch_norm_backward(
                *(g, a, vectors[0], None, None, mean, rstd, True, 1e-5), [True, True, True]
            ),
            lambda i: (there(grad[i]), there(x[i]), *moments[i]),
            lambda: reference.batch_norm_backward(wide[1], wide[0], weight=wide[2], **training)[0],
        ),
        (
            "group_norm",
            2,
            lambda i: K.group_norm(x[i], 32, w, b, layout=layout, out=out[i]),
            lambda a: functional.group_norm(a, 32, *vectors),
            lambda i: (there(x[i]),),
            lambda: reference.group_norm(wide[0], 32, wide[2], wide[3], layout=layout),
        ),
    ]
    cases = []
    for name, passes, ours, theirs, inputs, expected in table:
        held: dict[str, Any] = {}

        def call(i: int, ours: Any = ours, held: Any = held) -> None:
            held["result"] = ours(i)

        def answer(candidate: str, expected: Any = expected, held: Any = held) -> tuple[Any, Any]:
            if candidate != "arraynn":
                return None, None
            return held["result"][:1].get(), expected()[:1]

        calls = candidates(torch, compiled, call, theirs, inputs)
        label = f"{name} {layout} {'x'.join(map(str, shape))}"
        cases.append(Case(label, 4 * passes * total, sets, calls, answer, floor=1.0))
    return cases


def compiled_makers(cupy: Any, torch: Any) -> Makers:
    """Return cases with torch.compile."""
    shape = (32, 28, 28, 256)
    return [
        lambda: row_cases(cupy, torch, np.float32, 16_384, 4096, compiled=True),
        lambda: row_cases(cupy, torch, np.float32, 2048, 32_768, compiled=True),
        lambda: image_cases(cupy, torch, shape, "channels_last", compiled=True),
    ]


def makers(cupy: Any, torch: Any) -> Makers:
    """Return functions that make the cases of one shape."""
    return [
        lambda: row_cases(cupy, torch, np.float32, 16_384, 4096),
        lambda: row_cases(cupy, torch, np.float32, 131_072, 128),
        lambda: row_cases(cupy, torch, np.float32, 2048, 32_768),
        lambda: row_cases(cupy, torch, np.float64, 8192, 1024),
        lambda: image_cases(cupy, torch, (32, 256, 28, 28), "channels_first"),
        lambda: image_cases(cupy, torch, (32, 28, 28, 256), "channels_last"),
    ]
