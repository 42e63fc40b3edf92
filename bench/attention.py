"""Attention: forward, forward with backward, options, and one query against a cache.

Work: 4 D multiply-adds' FLOP for every visible pair of a query and a key forward, and 2.5 times
that backward. Traffic of a decode: the cache is read once, and held against the bandwidth of
reading alone. Answers are proved on the heads that share the first head of the keys: at 4096 the
reference's scores of all heads would fill memory.

An option has a row against our own kernel without it as well ("plain"): a ratio of 0.8 is a
cost of 25 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from . import peers
from .case import (
    HALVES,
    PLAIN,
    Array,
    Arrays,
    Candidate,
    Case,
    Prepared,
    as_arrays,
    collect,
    dot_bound,
    kernels,
    reference,
    uniform,
    unit_roundoff,
)

LENGTHS = (1, 128, 197, 512, 1024, 4096)
DIMS = (32, 64, 80, 128)
CACHES = ((12, 12, 1024, 64), (16, 16, 4096, 128), (16, 4, 4096, 128), (16, 4, 32768, 128))
OPTIONS = ("mask", "padding", "bias", "softcap", "dropout", "alibi", "window")
# Above it the plain NumPy reference takes seconds and gigabytes.
NUMPY_LIMIT = 1024


@dataclass(frozen=True)
class Problem:
    """One call; `kind` is "fwd", "fwd_bwd" or "decode", `option` one of OPTIONS or ""."""

    kind: str
    heads: int
    kv_heads: int
    length: int
    dim: int
    causal: bool
    option: str
    dtype: str

    @property
    def name(self) -> str:
        """Name of the case."""
        heads = f"h{self.heads}" + (f"/{self.kv_heads}" if self.kv_heads != self.heads else "")
        words = [self.kind, heads, f"l{self.length}", f"d{self.dim}"]
        return " ".join(
            [*words, *(["causal"] if self.causal else []), *filter(None, [self.option])]
        )

    @property
    def group(self) -> int:
        """Heads of the query for each head of the keys."""
        return self.heads // self.kv_heads

    @property
    def pairs(self) -> int:
        """Visible pairs of a query and a key."""
        if self.kind == "decode":
            return self.length
        full = self.length * self.length
        return self.length * (self.length + 1) // 2 if self.causal else full


@dataclass(frozen=True)
class Data:
    """q, k, v and grad, (1, H, L, D); the options of our call."""

    q: Array
    k: Array
    v: Array
    grad: Array
    options: dict[str, Any]


def options_of(p: Problem) -> dict[str, Any]:
    """Keyword arguments of the kernel."""
    found: dict[str, Any] = {"causal": True} if p.causal else {}
    rng = np.random.default_rng(5)
    shape = (1, p.heads, p.length, p.length)
    more: dict[str, Any] = {
        "mask": lambda: {"mask": rng.random(shape) < 0.9},
        "padding": lambda: {"mask": rng.random((1, 1, 1, p.length)) < 0.9},
        "bias": lambda: {"bias": uniform(p.dtype, *shape, seed=6)},
        "softcap": lambda: {"softcap": 30.0},
        "dropout": lambda: {"dropout": 0.1, "seed": 1},
        "alibi": lambda: {"alibi_slopes": np.full(p.heads, 0.01, p.dtype)},
        "window": lambda: {"window": (256, 256)},
    }
    return found | (more[p.option]() if p.option else {})


def first_heads(p: Problem, result: Any) -> Arrays:
    """Return the heads that the proof looks at: of the output (and q), then of k and v."""
    arrays = as_arrays(result)
    counts = (p.group, p.group, 1, 1)
    return tuple(a[:, :n] for a, n in zip(arrays, counts, strict=False))


def call_of(module: Any, p: Problem, d: Data, options: dict[str, Any]) -> Callable[[], Any]:
    """Return the call of `p` with our names."""
    if p.kind == "decode":
        return partial(module.attention_decode, d.q, d.k, d.v, np.array([p.length]))
    if p.kind == "fwd":
        return partial(module.attention, d.q, d.k, d.v, **options)

    def both() -> Any:
        y, lse = module.attention(d.q, d.k, d.v, **options, return_lse=True)
        # Of a bias as well would be a gradient that the peers are not asked for.
        needs = ("q", "k", "v")
        saved = (d.q, d.k, d.v, y, lse)
        return y, *module.attention_backward(d.grad, *saved, **options, needs=needs)[:3]

    return both


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """Our kernels; for an option our kernel without it, too."""
    del threads
    call = call_of(kernels(), p, d, d.options)
    found = [Candidate("arraynn", call, arrays=partial(first_heads, p))]
    if p.option:
        # Its answer is that of a case of its own.
        plain = call_of(kernels(), p, d, {"causal": True} if p.causal else {})
        found.append(Candidate(PLAIN, plain, group="without", check=lambda _: None))
    return found


def run_numpy(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """The plain NumPy reference, up to NUMPY_LIMIT."""
    del threads
    if p.length > NUMPY_LIMIT and p.kind != "decode":
        return []
    call = call_of(reference(), p, d, d.options)
    return [Candidate("numpy", call, arrays=partial(first_heads, p))]


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """PyTorch's scaled_dot_product_attention; gradients through autograd."""
    del threads
    if p.option in ("softcap", "dropout", "alibi", "window"):
        return []  # it has none of them, or another mask of dropout
    torch = peers.load("torch")
    function = torch.nn.functional.scaled_dot_product_attention
    q, k, v, grad = (peers.tensor(x) for x in (d.q, d.k, d.v, d.grad))
    extra = d.options.get("mask", d.options.get("bias"))
    how: dict[str, Any] = {"is_causal": p.causal, "enable_gqa": p.group > 1}
    if extra is not None:
        how["attn_mask"] = peers.tensor(extra)
    if p.kind != "fwd_bwd":
        call = partial(function, q, k, v, **how)
    else:
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]

        def call() -> Any:
            y = function(*leaves, **how)
            return y, *torch.autograd.grad(y, leaves, grad)

    return [Candidate("torch", call, arrays=partial(first_heads, p))]


def run_jax(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """JAX's dot_product_attention, jitted, on arrays in its own order (B, L, H, D)."""
    del threads
    if p.option not in ("", "bias") or p.dtype == "float64":
        return []  # its softmax is in float32, whatever the arrays are
    jax = peers.load("jax")
    turned = [jax.numpy.asarray(np.swapaxes(x, 1, 2)) for x in (d.q, d.k, d.v, d.grad)]
    bias = d.options.get("bias")

    def forward(q: Any, k: Any, v: Any) -> Any:
        return jax.nn.dot_product_attention(q, k, v, bias=bias, is_causal=p.causal)

    def both(q: Any, k: Any, v: Any, grad: Any) -> Any:
        y, pull = jax.vjp(forward, q, k, v)
        return y, *pull(grad)

    backward = p.kind == "fwd_bwd"
    compiled = jax.jit(both if backward else forward)
    args = turned if backward else turned[:3]

    def arrays(result: Any) -> Arrays:
        return first_heads(p, [np.swapaxes(a, 1, 2) for a in as_arrays(result)])

    return [Candidate("jax", lambda: jax.block_until_ready(compiled(*args)), arrays=arrays)]


def run_onnxruntime(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """ONNX Runtime's Attention, forward only; its causal mask is ours where lengths are equal."""
    if p.kind != "fwd" or p.option not in ("", "mask", "padding", "bias", "softcap"):
        return []
    if p.dtype == "float64":
        return []  # its softmax is in float32, whatever the arrays are
    inputs = {"Q": d.q, "K": d.k, "V": d.v}
    extra = d.options.get("mask", d.options.get("bias"))
    if extra is not None:
        rows = (*extra.shape[:2], p.length, p.length)
        inputs["attn_mask"] = np.ascontiguousarray(np.broadcast_to(extra, rows))
    how: dict[str, Any] = {"is_causal": int(p.causal)}
    if p.option == "softcap":
        how["softcap"] = d.options["softcap"]
    call = peers.onnx_call("Attention", inputs, threads, opset=23, **how)
    return [Candidate("onnxruntime", call, arrays=partial(first_heads, p))]


RUNNERS = {
    "arraynn": run_arraynn,
    "numpy": run_numpy,
    "torch": run_torch,
    "jax": run_jax,
    "onnxruntime": run_onnxruntime,
}


def first_options(p: Problem, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options for the first heads, in float64."""
    found = dict(options)
    for name in ("mask", "bias"):
        if name in found and found[name].shape[1] > 1:
            found[name] = found[name][:, : p.group]
    if "alibi_slopes" in found:
        found["alibi_slopes"] = found["alibi_slopes"][: p.group].astype(np.float64)
    if "bias" in found:
        found["bias"] = found["bias"].astype(np.float64)
    return found


def prepare(p: Problem, libraries: Sequence[str], threads: int) -> Prepared:
    """Make the data, the candidates and the reference answer of `p`."""
    queries = 1 if p.kind == "decode" else p.length
    shapes = (
        (p.heads, queries),
        (p.kv_heads, p.length),
        (p.kv_heads, p.length),
        (p.heads, queries),
    )
    q, k, v, grad = (uniform(p.dtype, 1, *shape, p.dim, seed=i) for i, shape in enumerate(shapes))
    d = Data(q, k, v, grad, options_of(p))
    ref = reference()
    wide = [x[:, :n].astype(np.float64) for x, n in ((q, p.group), (k, 1), (v, 1))]
    how = first_options(p, d.options)
    # Dropout goes by the place among all heads, of which these are the first.
    y, lse = ref.attention(*wide, **how, return_lse=True)
    u = unit_roundoff(p.dtype)
    # A probability carries twice the error of a score, and the roundings of its exponential and
    # of the sum.
    grain = 2 * dot_bound(p.dim + 2, p.dtype) / p.dim**0.5 + (16 + 8 * p.length**0.5) * u
    expected: list[Any] = [y]
    bounds: list[Any] = [3 * grain]
    if p.kind == "fwd_bwd":
        wide_grad = grad[:, : p.group].astype(np.float64)
        expected += ref.attention_backward(wide_grad, *wide, y, lse, **how)[:3]
        # As in cli/_checks_attention.py; a key's probabilities sum to a few, at most the queries.
        ds = 3 * (grain * p.dim + dot_bound(p.dim, p.dtype)) / p.dim**0.5
        column = p.group * (8.0 + np.log(p.length + 1.0)) if p.length > 1 else p.group
        bounds += [ds, column * ds, column * 4 * grain]
    found = collect(RUNNERS, libraries, p, d, threads)
    return Prepared(found, tuple(expected), bounds)


def problems(dtype: str, tiny: bool) -> list[Problem]:
    """Return the grid."""
    # Gradients in 16 bits go by an output that was rounded: theirs is not the reference's.
    kinds = ("fwd",) if dtype in HALVES else ("fwd", "fwd_bwd")
    if tiny:
        small = [Problem(k, 2, 1, 9, 8, c, "", dtype) for k in kinds for c in (False, True)]
        return [
            *small,
            *(
                Problem(kind, 2, 2, 9, 8, False, option, dtype)
                for kind in kinds
                for option in OPTIONS
            ),
            Problem("decode", 2, 1, 9, 8, False, "", dtype),
        ]
    shapes = [(12, 12, length, dim) for length in LENGTHS for dim in DIMS]
    shapes += [(h, h, length, 64) for h in (8, 16) for length in LENGTHS]
    shapes += [(16, 4, length, dim) for length in (128, 1024) for dim in (64, 128)]
    return [
        *(
            Problem(kind, *shape, causal, "", dtype)
            for kind in kinds
            for shape in shapes
            for causal in (False, True)
        ),
        *(
            Problem(kind, 12, 12, 1024, 64, False, option, dtype)
            for kind in kinds
            for option in OPTIONS
        ),
        *(Problem("decode", *cache, False, "", dtype) for cache in CACHES),
    ]


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the family's grid, or its tiny shapes."""
    item = np.dtype(dtype).itemsize
    found = []
    for p in problems(dtype, tiny):
        flops = 4.0 * p.heads * p.pairs * p.dim * (3.5 if p.kind == "fwd_bwd" else 1.0)
        cache = 2.0 * item * p.kv_heads * p.length * p.dim
        decode = p.kind == "decode"
        nbytes = cache if decode else 0.0
        limit: Any = "read" if decode else "fma"
        found.append(Case("attention", p.name, dtype, partial(prepare, p), flops, nbytes, limit))
    return found
