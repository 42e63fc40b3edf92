"""attention_decode on a device: the checks of the CPU, and what nobody reads on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import kernels
from kernels.problems import normal
from kernels.test_attention_cache import (
    CACHES,
    check_decode,
    check_the_end,
    check_turned,
    pages_of,
)
from tolerances import assert_same_bits


@pytest.mark.parametrize(("heads", "new", "page", "layout"), CACHES, ids=str)
def test_decode(
    dtype: Any, heads: Any, new: int, page: Any, layout: str, device: Any, rng: Any
) -> None:
    check_decode(dtype, heads, new, page, layout, rng, device.kernels)


def test_reads_nothing_past_the_end(dtype: Any, device: Any, rng: np.random.Generator) -> None:
    check_the_end(dtype, rng, device.kernels)


@pytest.mark.parametrize("layout", ["bhld", "blhd"])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("new", [0, 3])
def test_turns_queries_and_new_keys(
    dtype: Any, new: int, interleaved: bool, layout: str, device: Any, rng: np.random.Generator
) -> None:
    check_turned(dtype, new, interleaved, layout, rng, device.kernels)


def test_same_bits_at_every_schedule(dtype: Any, device: Any, rng: np.random.Generator) -> None:
    """Of rows and of pages, of a sequence alone, and of attention with as many keys."""
    k, v = (normal(rng, dtype, 2, 2, 1100, 12) for _ in range(2))
    q, lengths = normal(rng, dtype, 2, 10, 1, 12), np.array([1100, 700])
    decode = device.kernels.attention_decode
    y = decode(q, k, v, lengths)
    pages, table = pages_of(k, 64, "bhld", rng)
    values = pages_of(v, 64, "bhld", rng, table)[0]
    for schedule in device.schedules():
        assert_same_bits(decode(q, k, v, lengths), y, schedule)
    assert_same_bits(decode(q, pages, values, lengths, block_table=table), y, "pages")
    assert_same_bits(decode(q[1:], k[1:], v[1:], lengths[1:]), y[1:], "alone")
    assert_same_bits(device.kernels.attention(q, k, v, kv_lengths=lengths), y, "attention")
    shorter = decode(q[1:], k[1:, :, :800].copy(), v[1:, :, :800].copy(), lengths[1:])
    assert_same_bits(shorter, y[1:], "a smaller cache")
    q[0, 3] = np.nan
    bad = decode(q, k, v, lengths)
    assert np.isnan(bad[0, 3]).all()
    bad[0, 3] = y[0, 3]
    assert_same_bits(bad, y, "no other head sees the NaN")


def test_lengths_and_pages_stay_within_the_cache(device: Any, rng: np.random.Generator) -> None:
    # Elements are not looked at before the launch: what is beyond is the end.
    cache = [normal(rng, np.float32, 3, 2, 16, 8) for _ in range(2)]
    q, more = (normal(rng, np.float32, 2, 2, 1, 8) for _ in range(2))
    results = []
    for lengths, table in (
        ([10**12, -(10**12)], [[10**9, 1], [-5, 2]]),
        ([31, 0], [[2, 1], [0, 2]]),
    ):
        caches = [x.copy() for x in cache]
        y = device.kernels.attention_decode(
            q, *caches, np.array(lengths), block_table=np.array(table), k=more, v=more
        )
        results.append((y, *caches))
    for a, b in zip(*results, strict=True):
        assert_same_bits(a, b)


def test_wrong_calls(device: Any) -> None:
    q, k = (device.put(np.ones((2, 2, n, 8), np.float32)) for n in (1, 4))
    lengths = device.put(np.array([2, 3]))
    new = device.put(np.ones((2, 2, 5, 8), np.float32))
    with pytest.raises(ValueError, match=r"\[attention_decode\] k: expected at most 4 positions"):
        kernels.attention_decode(q, k, k, lengths, k=new, v=new)
    with pytest.raises(TypeError, match=r"\[attention_decode\] lengths: expected an array on the"):
        kernels.attention_decode(q, k, k, np.array([2, 3]))
    with pytest.raises(ValueError, match=r"\[attention_decode\] lengths: expected 2 elements"):
        kernels.attention_decode(q, k, k, device.put(np.array([2])))
