"""Problems of attention, and the magnitudes that their roundings are relative to."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np

from arraynn import reference
from tolerances import compute_dtype, native, widen

#: Of the mask, of the bias: what it is broadcast along.
SHAPES = ("full", "heads", "batch", "keys", "queries", "plane")


def score_shape(kind: str, b: int, h: int, lq: int, lk: int) -> tuple[int, ...]:
    return {
        "full": (b, h, lq, lk),
        "heads": (b, 1, lq, lk),
        "batch": (1, h, lq, lk),
        "keys": (b, 1, 1, lk),
        "queries": (h, lq, 1),
        "plane": (lq, lk),
    }[kind]


def to_layout(x: Any, layout: str) -> Any:
    return x if layout == "bhld" else np.ascontiguousarray(np.swapaxes(x, 1, 2))


def widened(options: dict[str, Any]) -> dict[str, Any]:
    return {name: widen(v) for name, v in options.items()}


def computed(options: dict[str, Any]) -> dict[str, Any]:
    """Arrays in the dtype that kernels compute in."""
    return {name: native(v) for name, v in options.items()}


class Sizes:
    """Magnitudes behind a result, in the oracle's dtype: what its rounding is relative to."""

    def __init__(self, q: Any, k: Any, v: Any, options: dict[str, Any]) -> None:
        dtype = q.dtype
        q, k, v = widen(q, k, v)
        group, lk = q.shape[1] // k.shape[1], k.shape[2]
        self.group = group
        eye = np.broadcast_to(np.eye(lk, dtype=q.dtype), (*k.shape[:2], lk, lk))
        plain = {n: o for n, o in options.items() if n not in ("dropout", "seed", "layout")}
        self.p = reference.attention(q, k, eye, **widened(plain))
        self.q, self.k, self.v = np.abs(q), *(np.repeat(np.abs(x), group, axis=1) for x in (k, v))
        factor = options.get("scale")
        self.factor = abs(factor) if factor is not None else q.shape[-1] ** -0.5
        scores = self.factor * (self.q @ np.swapaxes(self.k, 2, 3))
        # The soft cap's tanh adds three ULP of a number below the score.
        scores = scores * (4 if options.get("softcap") else 1)
        bias = options.get("bias")
        if bias is not None:
            scores = scores + np.where(np.isfinite(bias), np.abs(widen(bias)), 0)
        slopes = options.get("alibi_slopes")
        if slopes is not None:
            scores = scores + np.max(widen(slopes)) * (q.shape[2] + lk)
        sinks = options.get("sinks")
        if sinks is not None:
            finite = np.where(np.isfinite(sinks), np.abs(widen(sinks)), 0)
            scores = scores + finite[:, None, None]
        # A rounding of a score is a relative error of its exponential, and of the sum of them.
        self.error = 1 + scores.max(axis=-1, keepdims=True, initial=0)
        self.keep = 1 / (1 - options.get("dropout", 0.0))
        # An exponential below the smallest normal number is flushed.
        info = np.finfo(compute_dtype(dtype))
        self.p_error = self.p * self.error + float(info.tiny) / float(info.eps)

    def out(self) -> Any:
        return (self.p_error @ self.v) * self.keep

    def backward(self, grad: Any) -> tuple[Any, ...]:
        """Return the magnitudes of dq, dk, dv and ds."""
        grad = np.abs(widen(grad))
        p = self.p_error
        terms = (grad @ np.swapaxes(self.v, 2, 3)) * self.keep
        ds = p * (terms + (self.p * terms).sum(axis=-1, keepdims=True))
        dq = self.factor * (ds @ self.k)
        dk = self.factor * (np.swapaxes(ds, 2, 3) @ self.q)
        dv = np.swapaxes(p * self.keep, 2, 3) @ grad
        return dq, self.join(dk), self.join(dv), ds

    def join(self, x: Any) -> Any:
        b, h, *rest = x.shape
        return x.reshape(b, h // self.group, self.group, *rest).sum(axis=2)


def normal(rng: np.random.Generator, dtype: Any, *shape: int) -> Any:
    return rng.standard_normal(shape).astype(dtype)


def fill(rng: np.random.Generator, dtype: Any, sizes: Any, options: dict[str, Any]) -> Any:
    """Make q, k, v and the arrays among the options."""
    b, h, hkv, lq, lk, d, dv = sizes
    q, k, v = (normal(rng, dtype, *s) for s in ((b, h, lq, d), (b, hkv, lk, d), (b, hkv, lk, dv)))
    options = dict(options)
    if "mask" in options:
        options["mask"] = rng.random(score_shape(options["mask"], *sizes[:2], lq, lk)) < 0.8
    if "bias" in options:
        shape = score_shape(options["bias"], *sizes[:2], lq, lk)
        options["bias"] = normal(rng, dtype, *shape)
        options["bias"][rng.random(shape) < 0.05] = -np.inf
    if "alibi_slopes" in options:
        shape = (b, h) if options["alibi_slopes"] else (h,)
        options["alibi_slopes"] = rng.uniform(0, 0.2, shape).astype(dtype)
    if "sinks" in options:
        none = options["sinks"] and rng.random(h) < 0.5
        options["sinks"] = np.where(none, -np.inf, 2 * normal(rng, dtype, h)).astype(dtype)
    if "kv_lengths" in options:
        kind = np.int32 if options["kv_lengths"] else np.int64
        options["kv_lengths"] = rng.integers(0, lk + 1, b).astype(kind)
    if "dropout" in options:
        options["seed"] = int(rng.integers(2**63))
    return q, k, v, options


@st.composite
def problems(draw: Any) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Draw (batch, heads, kv_heads, Lq, Lk, D, Dv) and options, their arrays as kinds."""
    kv_heads = draw(st.integers(1, 2))
    heads = kv_heads * draw(st.integers(1, 3))
    lk = draw(st.one_of(st.integers(1, 40), st.integers(120, 140)))
    causal = draw(st.sampled_from([False, True, "top_left", "bottom_right"]))
    lq = lk if causal is True else draw(st.integers(1, 70))
    sizes = (draw(st.integers(1, 2)), heads, kv_heads, lq, lk)
    sizes += (draw(st.integers(1, 36)), draw(st.integers(1, 36)))
    options: dict[str, Any] = {"causal": causal}
    for name, values in (
        ("mask", st.sampled_from(SHAPES)),
        ("bias", st.sampled_from(SHAPES)),
        ("window", st.tuples(st.integers(-1, 30), st.integers(-1, 30))),
        ("softcap", st.sampled_from([0.5, 20.0])),
        ("alibi_slopes", st.booleans()),
        ("sinks", st.booleans()),
        ("kv_lengths", st.booleans()),
        ("scale", st.sampled_from([0.3, -0.2])),
        ("dropout", st.sampled_from([0.2, 0.7])),
        ("layout", st.just("blhd")),
    ):
        if draw(st.booleans()):
            options[name] = draw(values)
    return sizes, options
