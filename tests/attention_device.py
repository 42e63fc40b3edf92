"""Attention on a device beside the reference, and the options of its tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from arraynn import kernels, reference
from attention_problems import SHAPES, Sizes, computed, normal, to_layout, widened
from tolerances import assert_close_to_reference, native, widen

#: Options; arrays as the kinds that `fill` takes.
OPTIONS: list[dict[str, Any]] = [
    {"causal": True},
    {"causal": "top_left", "layout": "blhd"},
    {"causal": "bottom_right", "window": (9, -1), "softcap": 2.0},
    {"window": (3, 12), "alibi_slopes": True},
    {"kv_lengths": True, "causal": "bottom_right", "sinks": True},
    {"kv_lengths": False, "alibi_slopes": False, "scale": -0.2, "layout": "blhd"},
    {"dropout": 0.3, "sinks": True, "softcap": 0.5},
    {"dropout": 0.7, "causal": True, "mask": "full", "bias": "heads"},
    *({"mask": kind} for kind in SHAPES),
    *({"bias": kind, "softcap": 3.0} for kind in SHAPES),
]


def there(device: Any, value: Any) -> Any:
    return device.put(value) if isinstance(value, np.ndarray) else value


def put_all(device: Any, options: dict[str, Any]) -> dict[str, Any]:
    return {name: there(device, value) for name, value in options.items()}


def floor_of(dtype: Any) -> float:
    """Factors in two parts of bfloat16 are off by at most 2^-17 of themselves."""
    eps = float(np.finfo(np.float32).eps)
    return 4 + (2.0**-17 / eps if dtype.name == "bfloat16" else 0)


def check_forward(device: Any, q: Any, k: Any, v: Any, options: dict[str, Any]) -> Any:
    """Hold output and lse against the reference; return q, k, v, both and the options there."""
    layout = options.get("layout", "bhld")
    label = f"q {q.shape} k {k.shape} v {v.shape} {options}"
    sizes, given = Sizes(q, k, v, options), put_all(device, options)
    wide, plain = widened(options), computed(options)
    qkv = [to_layout(x, layout) for x in (q, k, v)]
    there_qkv = [device.put(x) for x in qkv]
    there_y, there_lse = kernels.attention(*there_qkv, **given, return_lse=True)
    y, lse = device.get(there_y), device.get(there_lse)
    ref_y, ref_lse = reference.attention(*widen(*qkv), **wide, return_lse=True)
    own_y, own_lse = reference.attention(*native(*qkv), **plain, return_lse=True)
    scale = to_layout(sizes.out(), layout)
    assert_close_to_reference(
        y, ref_y, own_y, scale=scale, floor=floor_of(q.dtype), label=f"out of {label}"
    )
    scale = np.broadcast_to(sizes.error[..., 0], lse.shape)
    assert_close_to_reference(lse, ref_lse, own_lse, scale=scale, label=f"lse of {label}")
    return *there_qkv, there_y, there_lse, given


def check(
    device: Any,
    rng: np.random.Generator,
    q: Any,
    k: Any,
    v: Any,
    options: dict[str, Any],
    gradient: float = 1.0,
) -> None:
    """Hold output, lse and every gradient against the reference."""
    *there_qkv, there_y, there_lse, given = check_forward(device, q, k, v, options)
    layout = options.get("layout", "bhld")
    label = f"q {q.shape} k {k.shape} v {v.shape} {options}"
    sizes, floor = Sizes(q, k, v, options), floor_of(q.dtype)
    wide, plain = widened(options), computed(options)
    qkv = [to_layout(x, layout) for x in (q, k, v)]
    y, lse = device.get(there_y), device.get(there_lse)
    grad = (gradient * normal(rng, q.dtype, *y.shape)).astype(q.dtype)
    needs = ("q", "k", "v", "bias", "sinks")
    given_back: Any = kernels.attention_backward(
        device.put(grad), *there_qkv, there_y, there_lse, **given, needs=needs
    )
    got: list[Any] = [None if g is None else device.get(g) for g in given_back]
    # The oracle starts from the rounded output and lse: they are the backward's inputs.
    ref = reference.attention_backward(*widen(grad, *qkv, y, lse), **wide, needs=needs)
    own = reference.attention_backward(*native(grad, *qkv, y, lse), **plain, needs=needs)
    *scales, ds = sizes.backward(to_layout(grad, layout))
    for name, g, r, o, s in zip("qkv", got, ref, own, scales, strict=False):
        s = to_layout(s, layout)
        by = f"gradient by {name} of {label}"
        assert_close_to_reference(g, r, o, scale=s, floor=floor, label=by)
    sinks, bias = options.get("sinks"), options.get("bias")
    assert (got[4] is None) == (sinks is None)
    assert (got[3] is None) == (bias is None)
    if sinks is not None:
        some = np.where(lse == -np.inf, 0, widen(lse))
        share = np.exp(np.minimum(widen(sinks)[:, None] - some, 0)) * sizes.error[..., 0]
        s = share * (np.abs(to_layout(widen(grad), layout)) * sizes.out()).sum(axis=-1)
        s = np.where(lse == -np.inf, 0, s).sum(axis=(0, 2))
        assert_close_to_reference(got[4], ref[4], own[4], scale=s, label=f"dsinks of {label}")
    if bias is not None:
        shape = (1,) * (4 - bias.ndim) + bias.shape
        axes = tuple(i for i in range(4) if shape[i] == 1)
        s = ds.sum(axis=axes, keepdims=True).reshape(bias.shape)
        assert_close_to_reference(got[3], ref[3], own[3], scale=s, label=f"dbias of {label}")
