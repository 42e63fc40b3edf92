"""Cases of ``bench.gpu`` that are bound by arithmetic: linear layers, convolutions, attention.

Every case counts its multiply-adds twice (`flop`). PyTorch runs with TF32 off, but in the cases of
TF32: of the same precision as ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import arraynn as ann
from arraynn import kernels as K
from arraynn import reference

from .gpu import Case, Makers, buffer_sets, candidates, gradients, normal
from .gpu_elements import fused

#: Answers are divided by the root of the length of their sums: of the size of normal numbers, whose
#: errors are relative to the largest of them.
FLOOR = 4.0
#: Rows, or a sample, that the reference is asked about.
PROBE_ROWS = 4


def _plain_float32(torch: Any) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def _in_tf32(torch: Any, call: Callable[[int], Any]) -> Callable[[int], Any]:
    """Make a call with products of float32 in TF32, in both libraries."""

    def changed(i: int) -> Any:
        ann.set_float32_precision("tf32")
        if torch is not None:
            torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return call(i)
        finally:
            ann.set_float32_precision("highest")
            if torch is not None:
                _plain_float32(torch)

    return changed


def linear_cases(
    cupy: Any,
    torch: Any,
    dtype: Any,
    m: int,
    k: int,
    n: int,
    *,
    tf32: bool = False,
    compiled: bool = False,
) -> list[Case]:
    """``linear`` with bias and GELU, and the two products of its backward."""
    size = np.dtype(dtype).itemsize
    moved = size * (m * k + n * k + m * n)
    sets = buffer_sets(cupy, moved)
    random = cupy.random.default_rng(3)
    x = [normal(random, dtype, m, k) for _ in range(sets)]
    weight = [normal(random, dtype, n, k) for _ in range(sets)]
    grad = [normal(random, dtype, m, n) for _ in range(sets)]
    bias = normal(random, dtype, n)
    products = "tf32" if tf32 else np.dtype(dtype).name
    label = f"{products} {m}x{k}x{n}"
    tx, tw, tg, tb, functional = [], [], [], None, None
    if torch is not None:
        _plain_float32(torch)
        tx, tw, tg = ([torch.from_dlpack(a) for a in arrays] for arrays in (x, weight, grad))
        tb, functional = torch.from_dlpack(bias), torch.nn.functional
    forward = candidates(
        torch,
        compiled,
        lambda i: K.linear(x[i], weight[i], bias, activation="gelu"),
        lambda a, w, b: functional.gelu(functional.linear(a, w, b)),
        lambda i: (tx[i], tw[i], tb),
    )
    backward = candidates(
        torch,
        compiled,
        lambda i: K.linear_backward(grad[i], x[i], weight[i], needs=("x", "weight")),
        lambda g, a, w: (g @ w, g.T @ a),
        lambda i: (tg[i], tx[i], tw[i]),
    )
    if not tf32 and (gelu := fused(cupy).get("gelu")):
        forward["cupy"] = lambda i: gelu(x[i] @ weight[i].T + bias)
    if not tf32:
        backward["cupy"] = lambda i: (grad[i] @ weight[i], grad[i].T @ x[i])
    # Operands of 11 bits instead of 24: errors 2**13 times as large, of single products.
    floor = FLOOR * 2**7 if tf32 else FLOOR
    if tf32:
        forward, backward = (
            {name: _in_tf32(torch, call) for name, call in calls.items()}
            for calls in (forward, backward)
        )

    def answer(_: str) -> tuple[Any, Any]:
        rows = x[0][:PROBE_ROWS]
        got = forward["arraynn"](0)[:PROBE_ROWS].get()
        wide = [a.get().astype(np.float64) for a in (rows, weight[0], bias)]
        scale = float(np.sqrt(k))
        return got / got.dtype.type(scale), reference.linear(*wide, activation="gelu") / scale

    def answer_backward(_: str) -> tuple[Any, Any]:
        got = backward["arraynn"](0)[0][:PROBE_ROWS].get()
        wide = [a.get().astype(np.float64) for a in (grad[0][:PROBE_ROWS], weight[0])]
        scale = float(np.sqrt(n))
        return got / got.dtype.type(scale), wide[0] @ wide[1] / scale

    flop = 2.0 * m * k * n
    return [
        Case(
            f"linear gelu {label}",
            moved,
            sets,
            forward,
            answer,
            flop=flop,
            floor=floor,
            products=products,
        ),
        Case(
            f"linear_backward {label}",
            2 * moved,
            sets,
            backward,
            answer_backward,
            flop=2 * flop,
            floor=floor,
            products=products,
        ),
    ]


def conv_cases(
    cupy: Any,
    torch: Any,
    n: int,
    channels: int,
    size: int,
    *,
    groups: int,
    layout: str,
    dtype: Any = np.float32,
    compiled: bool = False,
) -> list[Case]:
    """A 3x3 convolution of padding 1, and its backward."""
    shape = (n, channels, size, size)
    last = layout == "channels_last"
    taps = channels // groups * 9
    moved = np.dtype(dtype).itemsize * (2 * n * channels * size * size + channels * taps)
    sets = buffer_sets(cupy, moved)
    random = cupy.random.default_rng(4)

    def image() -> Any:
        a = normal(random, dtype, *shape)
        return cupy.ascontiguousarray(cupy.moveaxis(a, 1, -1)) if last else a

    x, grad = ([image() for _ in range(sets)] for _ in range(2))
    weight = normal(random, dtype, channels, channels // groups, 3, 3)
    options: dict[str, Any] = {"padding": 1, "groups": groups, "layout": layout}
    tx, tg, tw = [], [], None
    if torch is not None:
        _plain_float32(torch)
        tx, tg = ([torch.from_dlpack(a) for a in arrays] for arrays in (x, grad))
        tw = torch.from_dlpack(weight)
        if last:
            tx, tg = ([t.permute(0, 3, 1, 2) for t in arrays] for arrays in (tx, tg))
            tw = tw.to(memory_format=torch.channels_last)
    forward = candidates(
        torch,
        compiled,
        lambda i: K.conv2d(x[i], weight, **options),
        lambda a, w: torch.nn.functional.conv2d(a, w, padding=1, groups=groups),
        lambda i: (tx[i], tw),
    )
    backward = candidates(
        torch,
        compiled,
        lambda i: K.conv2d_backward(grad[i], x[i], weight, **options, needs=("x", "weight")),
        lambda g, a, w: torch.ops.aten.convolution_backward(
            *(g, a, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], groups), [True, True, False]
        ),
        lambda i: (tg[i], tx[i], tw),
    )

    def answer(_: str) -> tuple[Any, Any]:
        got = K.conv2d(x[0], weight, **options)[:1].get()
        wide = (a.get().astype(np.float64) for a in (x[0][:1], weight))
        scale = float(np.sqrt(taps))
        return got / got.dtype.type(scale), reference.conv2d(*wide, **options) / scale

    def answer_backward(_: str) -> tuple[Any, Any]:
        got = K.conv2d_backward(grad[0], x[0], weight, **options, needs=("x",))[0][:1].get()
        wide = (a.get().astype(np.float64) for a in (grad[0][:1], x[0][:1], weight))
        scale = float(np.sqrt(taps))
        return got / got.dtype.type(scale), reference.conv2d_backward(*wide, **options)[0] / scale

    flop = 2.0 * n * channels * size * size * taps
    label = f"{np.dtype(dtype).name} {n}x{channels}x{size}x{size} groups {groups} {layout}"
    return [
        Case(
            f"conv2d {label}",
            moved,
            sets,
            forward,
            answer,
            flop=flop,
            floor=FLOOR,
            products=np.dtype(dtype).name,
        ),
        Case(
            f"conv2d_backward {label}",
            2 * moved,
            sets,
            backward,
            answer_backward,
            flop=2 * flop,
            floor=FLOOR,
            products=np.dtype(dtype).name,
        ),
    ]


def attention_cases(
    cupy: Any,
    torch: Any,
    batch: int,
    heads: int,
    length: int,
    dim: int,
    *,
    causal: bool,
    dtype: Any = np.float32,
    compiled: bool = False,
) -> list[Case]:
    """Attention and its backward; hidden pairs are not counted."""
    shape = (batch, heads, length, dim)
    moved = 4 * np.dtype(dtype).itemsize * batch * heads * length * dim
    sets = buffer_sets(cupy, moved)
    random = cupy.random.default_rng(5)
    q, k, v, grad = ([normal(random, dtype, *shape) for _ in range(sets)] for _ in range(4))
    results = [
        K.attention(*qkv, causal=causal, return_lse=True) for qkv in zip(q, k, v, strict=True)
    ]
    there, leaves, tg = [], [], []
    if torch is not None:
        _plain_float32(torch)
        there = [[torch.from_dlpack(a) for a in arrays] for arrays in (q, k, v)]
        leaves = [[t.clone().requires_grad_() for t in qkv] for qkv in zip(*there, strict=True)]
        tg = [torch.from_dlpack(g) for g in grad]

    def attend(*qkv: Any) -> Any:
        return torch.nn.functional.scaled_dot_product_attention(*qkv, is_causal=causal)

    forward = candidates(
        torch,
        compiled,
        lambda i: K.attention(q[i], k[i], v[i], causal=causal, return_lse=True),
        attend,
        lambda i: [t[i] for t in there],
    )
    backward = gradients(
        torch,
        compiled,
        lambda i: K.attention_backward(grad[i], q[i], k[i], v[i], *results[i], causal=causal),
        attend,
        leaves,
        tg,
    )

    def answer(_: str) -> tuple[Any, Any]:
        got = K.attention(q[0], k[0], v[0], causal=causal)[:1, :1].get()
        wide = (a[0][:1, :1].get().astype(np.float64) for a in (q, k, v))
        return got, reference.attention(*wide, causal=causal)

    def answer_backward(_: str) -> tuple[Any, Any]:
        got = K.attention_backward(grad[0], q[0], k[0], v[0], *results[0], causal=causal)
        parts = (grad[0], q[0], k[0], v[0], *results[0])
        wide = (a[:1, :1].get().astype(np.float64) for a in parts)
        return got[0][:1, :1].get(), reference.attention_backward(*wide, causal=causal)[0]

    flop = 4.0 * batch * heads * length * length * dim * (0.5 if causal else 1.0)
    label = f"{np.dtype(dtype).name} {batch}x{heads}x{length}x{dim}{' causal' if causal else ''}"
    return [
        Case(
            f"attention {label}",
            moved,
            sets,
            forward,
            answer,
            flop=flop,
            floor=FLOOR,
            products=np.dtype(dtype).name,
        ),
        Case(
            f"attention_backward {label}",
            2 * moved,
            sets,
            backward,
            answer_backward,
            flop=2.5 * flop,
            floor=FLOOR,
            products=np.dtype(dtype).name,
        ),
    ]


def makers(cupy: Any, torch: Any) -> Makers:
    """Return what makes each group of cases."""
    first, last = "channels_first", "channels_last"
    return [
        lambda: linear_cases(cupy, torch, np.float32, 4096, 4096, 4096),
        lambda: linear_cases(cupy, torch, np.float32, 32, 4096, 4096),
        lambda: linear_cases(cupy, torch, np.float32, 8192, 8192, 8192),
        lambda: linear_cases(cupy, torch, np.float32, 4096, 4096, 4096, tf32=True),
        lambda: linear_cases(cupy, torch, np.float64, 2048, 2048, 2048),
        lambda: conv_cases(cupy, torch, 32, 128, 28, groups=1, layout=first),
        lambda: conv_cases(cupy, torch, 32, 128, 28, groups=1, layout=last),
        lambda: conv_cases(cupy, torch, 32, 256, 28, groups=256, layout=first),
        lambda: attention_cases(cupy, torch, 4, 16, 2048, 64, causal=False),
        lambda: attention_cases(cupy, torch, 4, 16, 2048, 64, causal=True),
    ]


def compiled_makers(cupy: Any, torch: Any) -> Makers:
    """Return the same with torch.compile."""
    last = "channels_last"
    return [
        lambda: linear_cases(cupy, torch, np.float32, 4096, 4096, 4096, compiled=True),
        lambda: conv_cases(cupy, torch, 32, 128, 28, groups=1, layout=last, compiled=True),
        lambda: attention_cases(cupy, torch, 4, 16, 2048, 64, causal=True, compiled=True),
    ]


def makers_of(cupy: Any, torch: Any, half: Any) -> Makers:
    """The same in 16 bits."""
    last = "channels_last"
    return [
        lambda: linear_cases(cupy, torch, half, 4096, 4096, 4096),
        lambda: linear_cases(cupy, torch, half, 8192, 8192, 8192),
        lambda: conv_cases(cupy, torch, 32, 128, 28, groups=1, layout=last, dtype=half),
        lambda: attention_cases(cupy, torch, 4, 16, 2048, 64, causal=True, dtype=half),
    ]
