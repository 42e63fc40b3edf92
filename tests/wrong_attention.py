"""Every wrong call of the attention family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from wrong_calls import (
    INF,
    NAN,
    TOO_LARGE,
    Case,
    T,
    V,
    f32,
    f64,
    huge,
    read_only,
    wrong_dtypes,
    wrong_outs,
)

Row = tuple[tuple[Any, ...], dict[str, Any], Any, str]

#: Keywords that every function but the decode takes.
COMMON: list[tuple[dict[str, Any], Any, str]] = [
    *(({"scale": v}, V, "scale") for v in (NAN, INF)),
    ({"scale": "1"}, T, "scale"),
    *(({"softcap": v}, V, "softcap") for v in (0.0, -1.0, NAN)),
    *(({"window": v}, V, "window") for v in ((1,), (1, 2, 3), (-2, 0), (0, -2))),
    *(({"window": v}, T, "window") for v in (3, "ab", (1.5, 1))),
    ({"alibi_slopes": f32(3)}, V, "alibi_slopes"),
    ({"alibi_slopes": f32(5, 4)}, V, "alibi_slopes"),
    ({"alibi_slopes": f64(4)}, T, "alibi_slopes"),
    *(({"sinks": v}, V, "sinks") for v in (f32(3), f32(1, 4), f32())),
    *(({"sinks": v}, T, "sinks") for v in (f64(4), [0.0] * 4, np.zeros(4, np.int64))),
]
TRAINING: list[tuple[dict[str, Any], Any, str]] = [
    *(({"causal": v}, V, "causal") for v in (True, "left")),
    *(({"causal": v}, T, "causal") for v in (1, None)),
    *(({"dropout": v, "seed": 1}, V, "dropout") for v in (-0.1, 1.1, NAN)),
    ({"dropout": "0.1", "seed": 1}, T, "dropout"),
    ({"dropout": 0.5}, V, "seed"),
    ({"dropout": 0.5, "seed": 1.5}, T, "seed"),
    ({"dropout": 0.5, "seed": 2**70}, V, "seed"),
]
SCORES: list[tuple[dict[str, Any], Any, str]] = [
    *(({"mask": np.ones(s, np.bool_)}, V, "mask") for s in ((), (6,), (3, 5), (2, 4, 1, 3, 5, 1))),
    ({"mask": np.ones((3, 5), np.uint8)[:, :5]}, T, "mask"),
    ({"mask": f32(2, 4, 3, 7)}, T, "mask"),
    ({"mask": [True]}, T, "mask"),
    *(({"bias": f32(*s)}, V, "bias") for s in ((2,), (2, 2, 3, 7), (1, 1, 1, 3, 7))),
    ({"bias": f64(3, 7)}, T, "bias"),
    ({"bias": np.ones((3, 7), np.bool_)}, T, "bias"),
    *(({"kv_lengths": np.array(v)}, V, "kv_lengths") for v in ([1], [8, 1], [-1, 1], [[1, 1]])),
    ({"kv_lengths": f32(2)}, T, "kv_lengths"),
    ({"layout": "bdhl"}, V, "layout"),
    ({"layout": 3}, T, "layout"),
]


def shapes(*first: Any) -> Iterator[Row]:
    q, k, v = f32(2, 4, 3, 6), f32(2, 2, 7, 6), f32(2, 2, 7, 5)
    yield (*first, q[0], k, v), {}, V, "q"
    yield (*first, q, k[0], v), {}, V, "k"
    yield (*first, q, k, v[0]), {}, V, "v"
    yield (*first, q[..., :0], k[..., :0], v), {}, V, "q"
    yield (*first, q[:, :0], k, v), {}, V, "q"
    yield (*first, q, k[:, :0], v[:, :0]), {}, V, "k"
    yield (*first, q[:, :3], k, v), {}, V, "k: .* divides 3"
    yield (*first, q, k[..., :5], v), {}, V, "k"
    yield (*first, q, k[:1], v[:1]), {}, V, "k"
    yield (*first, q, k, v[:, :, :6]), {}, V, "v"
    yield (*first, q, k, v[:, :1]), {}, V, "v"


def dense() -> Iterator[Case]:
    q, k, v = f32(2, 4, 3, 6), f32(2, 2, 7, 6), f32(2, 2, 7, 5)
    y, lse = f32(2, 4, 3, 5), f32(2, 4, 3)
    yield from wrong_outs("attention", (q, k, v), (2, 4, 3, 5))
    yield from wrong_dtypes("attention", (q, k, v), ("q", "k", "v"))
    names = ("grad_out", "q", "k", "v", "out", "lse")
    rest = ("q", "k", "v")
    for case in wrong_dtypes("attention_backward", (y, q, k, v, y, lse), names):
        # q is the array that the others are held against.
        blame = case.names if case.names.startswith(r"\w") else "|".join((case.names, *rest))
        yield case._replace(names=blame)
    for op, first, last in (("attention", (), ()), ("attention_backward", (y,), (y, lse))):
        for options, exception, name in (*COMMON, *TRAINING, *SCORES):
            yield Case(op, (*first, q, k, v, *last), options, exception, name)
        for args, options, exception, name in shapes(*first):
            yield Case(op, (*args, *last), options, exception, name)
    rows: list[Row] = [
        ((y[..., :4], q, k, v, y, lse), {}, V, "grad_out"),
        ((y[0], q, k, v, y, lse), {}, V, "grad_out"),
        ((y, q, k, v, y[:, :2], lse), {}, V, "out"),
        ((y, q, k, v, y, y), {}, V, "lse"),
        ((y, q, k, v, y, lse[:, :, :2]), {}, V, "lse"),
        ((y, q, k, v, y, lse), {"needs": ("x",)}, V, "needs"),
        ((y, q, k, v, y, lse), {"needs": "q"}, T, "needs"),
    ]
    yield from (Case("attention_backward", *row) for row in rows)
    yield Case("attention", (q, k, v), {"return_lse": 1}, T, "return_lse")


def offsets(op: str, args: tuple[Any, ...], full: tuple[int, ...]) -> Iterator[Case]:
    """Masks and biases that do not broadcast to `full`, and those of other dtypes."""
    longer = (*full[:-1], full[-1] + 1)
    for name, make in (("mask", lambda *shape: np.ones(shape, np.bool_)), ("bias", f32)):
        for shape in (longer, (1, *full), (), (full[0] + 1, *full[1:])):
            yield Case(op, args, {name: make(*shape)}, V, f"{name}: .* broadcasts")
    yield Case(op, args, {"mask": f32(*full)}, T, "mask: .* bias")
    yield Case(op, args, {"bias": f64(*full)}, T, "bias")


def varlen() -> Iterator[Case]:
    q, k, v = f32(6, 4, 6), f32(14, 2, 6), f32(14, 2, 5)
    cu_q, cu_k = np.array([0, 3, 6]), np.array([0, 7, 14])
    y, lse = f32(6, 4, 5), f32(4, 6)
    yield from wrong_outs("attention_varlen", (q, k, v, cu_q, cu_k), (6, 4, 5))
    cu = {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k}
    yield from wrong_dtypes("attention_varlen", (q, k, v), ("q", "k", "v"), **cu)
    backward = "attention_varlen_backward"
    for op, first, last in (("attention_varlen", (), ()), (backward, (y,), (y, lse))):
        tail = (*last, cu_q, cu_k)
        for options, exception, name in (*COMMON, *TRAINING):
            yield Case(op, (*first, q, k, v, *tail), options, exception, name)
        rows: list[tuple[tuple[Any, ...], Any, str]] = [
            ((q[None], k, v, *tail), V, "q"),
            ((q, k[:, :, :5], v, *tail), V, "k"),
            ((q, k, v[:13], *tail), V, "v"),
            ((q, k, v.astype(np.float64), *tail), T, "v"),
            ((q, k, v, *last, cu_q + 1, cu_k), V, "cu_seqlens_q"),
            ((q, k, v, *last, cu_q[:2], cu_k[:2]), V, "cu_seqlens_q"),
            ((q, k, v, *last, cu_q[:0], cu_k), V, "cu_seqlens_q"),
            ((q, k, v, *last, cu_q[None], cu_k), V, "cu_seqlens_q"),
            ((q, k, v, *last, f32(3), cu_k), T, "cu_seqlens_q"),
            ((q, k, v, *last, cu_q, np.array([0, 14])), V, "cu_seqlens_k"),
            ((q, k, v, *last, cu_q, np.array([0, 15, 14])), V, "cu_seqlens_k"),
            ((q, k, v, *last, cu_q, cu_k.tolist()), T, "cu_seqlens_k"),
        ]
        yield from (Case(op, (*first, *args), {}, e, n) for args, e, n in rows)
    yield Case(backward, (y[:5], q, k, v, y, lse, cu_q, cu_k), {}, V, "grad_out")
    yield Case(backward, (y, q, k, v, y, lse.T, cu_q, cu_k), {}, V, "lse")
    yield Case(backward, (y, q, k, v, y, lse, cu_q, cu_k), {"needs": ("bias", 1)}, T, "needs")
    yield from offsets("attention_varlen", (q, k, v, cu_q, cu_k), (4, 6, 7))
    yield from offsets(backward, (y, q, k, v, y, lse, cu_q, cu_k), (4, 6, 7))


def decode() -> Iterator[Case]:
    op = "attention_decode"
    q, k, v = f32(2, 4, 1, 6), f32(2, 2, 7, 6), f32(2, 2, 7, 5)
    lengths, table = np.array([3, 6]), np.array([[0, 1], [1, 0]])
    new_k, new_v = f32(2, 2, 1, 6), f32(2, 2, 1, 5)
    yield from wrong_outs(op, (f32(2, 4, 1, 6), k, v, lengths), (2, 4, 1, 5))
    yield from wrong_dtypes(op, (q, k, v), ("q", "k_cache", "v_cache"), lengths=lengths)
    for options, exception, name in COMMON:
        yield Case(op, (q, k, v, lengths), options, exception, name)
    both = {"k": new_k, "v": new_v}
    angles = {"cos": f32(7, 3), "sin": f32(7, 3)}
    rows: list[Row] = [
        ((q[0], k, v, lengths), {}, V, "q"),
        ((q, k[:1], v[:1], lengths), {}, V, "k_cache"),
        ((q, k[..., :5], v, lengths), {}, V, "k_cache"),
        ((q, k, v[:, :, :6], lengths), {}, V, "v_cache"),
        ((q, np.asfortranarray(k), v, lengths), {}, V, "k_cache"),
        ((q, k, v, lengths[:1]), {}, V, "lengths"),
        ((q, k, v, lengths - 4), {}, V, "lengths"),
        ((q, k, v, lengths + 2), {}, V, "lengths"),
        ((q, k, v, lengths + 1), both, V, "lengths"),
        ((q, k, v, f32(2)), {}, T, "lengths"),
        ((q, k, v, lengths), {"k": new_k}, V, "v"),
        ((q, k, v, lengths), {"v": new_v}, V, "k"),
        ((q, k, v, lengths), {"k": new_k, "v": new_k}, V, "v"),
        ((q, k, v, lengths), {"k": new_k[:, :1], "v": new_v}, V, "k"),
        ((q, k, v, lengths), {"k": f64(2, 2, 1, 6), "v": new_v}, T, "k"),
        ((q, read_only(k.copy()), v, lengths), both, V, "k_cache"),
        ((q, k, v, lengths), {"block_table": table[:1]}, V, "block_table"),
        ((q, k, v, lengths), {"block_table": table[0]}, V, "block_table"),
        ((q, k, v, lengths), {"block_table": table + 1}, V, "block_table"),
        ((q, k, v, lengths), {"block_table": table - 1}, V, "block_table"),
        ((q, k, v, lengths), {"block_table": f32(2, 2)}, T, "block_table"),
        ((q, k, v, lengths + 10), {"block_table": table}, V, "lengths"),
        ((q, k, v, lengths), {"cos": f32(7, 3)}, V, "sin"),
        ((q, k, v, lengths), {"sin": f32(7, 3)}, V, "cos"),
        ((q, k, v, lengths), {"cos": f32(5, 3), "sin": f32(5, 3)}, V, "cos: .* 6 positions, got 5"),
        ((q, k, v, lengths), {"cos": f32(7, 4), "sin": f32(7, 4)}, V, "cos"),
        ((q, k, v, lengths), {"cos": f32(1, 7, 3), "sin": f32(1, 7, 3)}, V, "cos"),
        ((q, k, v, lengths), {**angles, "sin": f32(7, 2)}, V, "sin"),
        ((q, k, v, lengths), {**angles, "sin": f64(7, 3)}, T, "sin"),
        ((q, k, v, lengths), {**angles, "cos": [[1.0]]}, T, "cos"),
        ((q, k, v, lengths), {**angles, "interleaved": 1}, T, "interleaved"),
        ((q, k, v, lengths), {"layout": "hbld"}, V, "layout"),
        ((q, k, v, lengths), {"return_lse": None}, T, "return_lse"),
    ]
    yield from (Case(op, *row) for row in rows)
    yield from offsets(op, (q, k, v, lengths), (2, 4, 1, 7))


def attention() -> Iterator[Case]:
    yield from dense()
    yield from varlen()
    yield from decode()
    yield Case("attention", (huge(1, 1, 2**43, 4),) * 3, {}, TOO_LARGE, "")
