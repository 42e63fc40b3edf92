"""The baseline of character models: an interpolated n-gram."""

from __future__ import annotations

from typing import Any

import numpy as np

from arraynn._proof import Array


def _table(keys: Array) -> tuple[Array, Array]:
    """Return the sorted distinct keys and how often each occurs."""
    return np.unique(keys, return_counts=True)


def _look_up(table: tuple[Array, Array], keys: Array) -> Array:
    """Return the counts of keys, 0 for those not in the table."""
    known, counts = table
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[at] == keys, counts[at], 0)


class NGram:
    r"""Probability of a symbol from the `order` symbols before it, smoothed by Witten and Bell.

    .. math:: p_k(s | c) = \frac{n(c s) + d(c)\, p_{k-1}(s | c')}{n(c) + d(c)}

    n counts in the training text, d(c) is the number of distinct symbols seen after c, c' is c
    without its first symbol, and p below order 0 is uniform (I. Witten, T. Bell, "The
    zero-frequency problem", IEEE Trans. Inf. Theory 37(4), 1991).

    Parameters
    ----------
    symbols : int64 array (n,), values in [0, size)
    size : int
        Number of symbols; ``size ** (order + 1)`` must fit 63 bits.
    order : int

    Examples
    --------
    >>> model = NGram(np.array([0, 1, 0, 1, 0]), 2, order=1)
    >>> bits = model.bits(np.array([0, 1, 0, 1]))
    >>> bool(bits.mean() < 1)
    True
    """

    def __init__(self, symbols: Array, size: int, order: int = 3) -> None:
        if size ** (order + 1) >= 2**63:
            raise ValueError(f"[NGram] size: expected size**{order + 1} < 2**63, got {size}")
        self.size = size
        self.order = order
        self._tables: list[tuple[Any, Any, Any]] = []
        for k in range(order + 1):
            grams = _table(self._keys(symbols, k)[k:])
            contexts = grams[0] // size
            known, first = np.unique(contexts, return_index=True)
            totals = np.add.reduceat(grams[1], first) if len(first) else first
            kinds = np.diff(np.append(first, len(contexts)))
            self._tables.append((grams, (known, totals), (known, kinds)))

    def _keys(self, symbols: Array, k: int) -> Array:
        """Number every position by its k symbols before and its own; wrong for the first k."""
        keys = np.asarray(symbols, np.int64)
        for back in range(1, k + 1):
            keys = keys + np.roll(symbols, back).astype(np.int64) * self.size**back
        return keys

    def bits(self, symbols: Array) -> Array:
        """Return -log2 of the probability of ``symbols[order:]``, each after those before it."""
        p = np.full(len(symbols), 1 / self.size)
        for k, (grams, totals, kinds) in enumerate(self._tables):
            keys = self._keys(symbols, k)
            n, d = _look_up(totals, keys // self.size), _look_up(kinds, keys // self.size)
            # A context never seen has n = d = 0: the shorter one decides.
            blended = (_look_up(grams, keys) + d * p) / np.maximum(n + d, 1)
            p = np.where(n > 0, blended, p)
        return np.asarray(-np.log2(p[self.order :]))
