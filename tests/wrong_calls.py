"""What a wrong call is, and the ways in which arrays of any kernel can be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

V, T = ValueError, TypeError
F32, F64 = np.float32, np.float64
NAN, INF = float("nan"), float("inf")
TOO_LARGE: Any = (ValueError, MemoryError)


class Case(NamedTuple):
    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    exception: Any
    names: str  # a regular expression for the argument


def f32(*shape: int) -> Any:
    """Return small distinct numbers."""
    return (np.arange(np.prod(shape), dtype=F32).reshape(shape) % 7) - 3


def f64(*shape: int) -> Any:
    return f32(*shape).astype(F64)


def read_only(a: Any) -> Any:
    a.flags.writeable = False
    return a


def huge(*shape: int) -> Any:
    """View one number as an array too large for any memory; nothing is allocated."""
    return np.broadcast_to(np.zeros((), F32), shape)


def wrong_outs(
    op: str, args: tuple[Any, ...], shape: tuple[int, ...], **kwargs: Any
) -> Iterator[Case]:
    """Yield the ways in which `out` can be wrong; the first argument is no smaller than it."""
    x, rest = args[0], args[1:]
    yield Case(op, args, kwargs | {"out": f32(*shape, 1)}, V, "out")
    yield Case(op, args, kwargs | {"out": f32(*shape[:-1], shape[-1] + 1)}, V, "out")
    yield Case(op, args, kwargs | {"out": f64(*shape)}, T, "out")
    yield Case(op, args, kwargs | {"out": np.zeros(shape, np.int64)}, T, "out")
    yield Case(op, args, kwargs | {"out": f32(*shape).tolist()}, T, "out")
    yield Case(op, args, kwargs | {"out": read_only(f32(*shape))}, V, "out")
    big = f32(x.size + int(np.prod(shape)))
    for start in (1, x.size - 1):
        inside = big[: x.size].reshape(x.shape)
        out = big[start : start + int(np.prod(shape))].reshape(shape)
        yield Case(op, (inside, *rest), kwargs | {"out": out}, V, "out")
    # A strided input that shares memory with out is no better.
    twice = f32(2 * x.size + int(np.prod(shape)))
    inside = twice[: 2 * x.size : 2].reshape(x.shape)
    out = twice[1 : 1 + int(np.prod(shape))].reshape(shape)
    yield Case(op, (inside, *rest), kwargs | {"out": out}, V, "out")


def wrong_dtypes(
    op: str, args: tuple[Any, ...], names: tuple[str, ...], *, integers: bool = False, **kwargs: Any
) -> Iterator[Case]:
    """Yield every array argument in a wrong dtype, in another's dtype, and as no array at all.

    With `integers` the operation takes those, too.
    """
    for i, name in enumerate(names):
        for wrong in (np.int64, np.bool_, np.complex64, np.longdouble, ">f4", object):
            # The dtype of the first array rules: where it is wrong it is the one to blame.
            bad = (*args[:i], args[i].astype(wrong), *args[i + 1 :])
            if not (integers and wrong is np.int64):
                yield Case(op, bad, kwargs, T, name)
        for wrong_object in (args[i].tolist(), "array", None):
            if wrong_object is None and name in ("bias", "residual"):
                continue
            yield Case(op, (*args[:i], wrong_object, *args[i + 1 :]), kwargs, T, name)
        if i > 0:
            # Which of two dtypes is the wrong one is the operation's choice; it names both.
            for bits in (16, 64):
                bad = (*args[:i], args[i].astype(f"f{bits // 8}"), *args[i + 1 :])
                yield Case(op, bad, kwargs, T, rf"\w+: .*float(32.*float{bits}|{bits}.*float32)")
