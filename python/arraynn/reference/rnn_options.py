"""What the recurrent references do beside the equations of a cell: steps left out, random masks.

Each kind of mask has a stream of its own: place i of stream s takes the seed ``seed + 2**32 s + i``
of :func:`dropout_mask`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._common import FloatArray
from .elementwise import dropout as drop
from .elementwise import dropout_mask
from .rnn_cell import Factors, Group


class Steps(NamedTuple):
    """Which steps a sample has, and which of them it takes part in; both (T, B)."""

    within: NDArray[np.bool_]
    active: NDArray[np.bool_]


def checked_steps(
    op: str,
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
    shape: tuple[int, int],
    batched: bool,
    batch_first: bool,
) -> Steps:
    """Check `lengths` (B,) and `mask` (T, B), (B, T) or (T,)."""
    steps, batch = shape
    within = np.ones(shape, bool)
    if lengths is not None:
        found = np.asarray(lengths)
        if found.dtype.kind not in "iu" or found.shape != (batch,):
            raise ValueError(f"[{op}] lengths: expected {batch} ints, got {found!r}")
        if found.size and not 0 <= found.min() <= found.max() <= steps:
            raise ValueError(f"[{op}] lengths: expected values in [0, {steps}], got {found!r}")
        within = np.arange(steps)[:, None] < found
    if mask is None:
        return Steps(within, within)
    given = np.asarray(mask)
    wanted = (shape[::-1] if batch_first else shape) if batched else shape[:1]
    if given.dtype != bool or given.shape != wanted:
        raise ValueError(f"[{op}] mask: expected bools of shape {wanted}, got {given!r}")
    if not batched:
        given = given[:, None]
    elif batch_first:
        given = given.T
    return Steps(within, within & given)


class Zone(NamedTuple):
    """Zoneout of h or c: the probability p of the former value; where it is new, (T, B, size).

    Without `fresh` it is the mean of both.
    """

    p: float
    fresh: NDArray[np.bool_] | None


class Extras(NamedTuple):
    """Factors (B, size) of h in the products, and the zoneout of h and c."""

    factors: FloatArray | None
    zones: tuple[Zone, ...]

    def factors_of(self, rows: NDArray[Any]) -> Factors:
        """Return those of some samples."""
        return 1 if self.factors is None else self.factors[rows]


NOTHING: Final = Extras(None, (Zone(0.0, None), Zone(0.0, None)))


def zoned(zone: Zone, t: int, rows: NDArray[Any], new: FloatArray, old: FloatArray) -> FloatArray:
    """Return the new value, the former one, or their mean (Krueger et al. 2017)."""
    if zone.p == 0:
        return new
    if zone.fresh is None:
        return new + new.dtype.type(zone.p) * (old - new)
    return np.where(zone.fresh[t, rows], new, old)


def unzoned(zone: Zone, t: int, rows: NDArray[Any], grad: FloatArray) -> FloatArray:
    """Return the share of a gradient that goes to the former value."""
    if zone.p == 0:
        return np.zeros_like(grad)
    if zone.fresh is None:
        return grad.dtype.type(zone.p) * grad
    return np.where(zone.fresh[t, rows], grad.dtype.type(0), grad)


@dataclass(frozen=True)
class Random:
    """The probabilities of a call, and its seed: None leaves zoneout its mean."""

    dropout: float
    recurrent_dropout: float
    weight_dropout: float
    zoneout: tuple[float, ...]
    seed: int | None

    def check(self, op: str, layers: int) -> None:
        """Raise for a probability outside [0, 1], and for dropout without a seed."""
        for p in (self.dropout, self.recurrent_dropout, self.weight_dropout, *self.zoneout):
            if not 0 <= p <= 1:
                raise ValueError(f"[{op}] expected a probability in [0, 1], got {p}")
        between = self.dropout if layers > 1 else 0.0
        if self.seed is None and (between or self.recurrent_dropout or self.weight_dropout):
            raise ValueError(f"[{op}] seed: expected an int (there is dropout), got None")

    def seed_of(self, stream: int, place: int) -> int:
        """Return the seed of a mask."""
        return (int(self.seed or 0) + 2**32 * stream + place) % 2**64

    def weights_of(self, index: int, group: Group) -> Group:
        """Drop elements of w_hh."""
        if not self.weight_dropout:
            return group
        w_hh = drop(group.w_hh, self.weight_dropout, self.seed_of(4, index))
        return group._replace(w_hh=w_hh)

    def weights_back(self, index: int, grads: list[FloatArray]) -> list[FloatArray]:
        """Undo :meth:`weights_of` for the gradients of a group."""
        if self.weight_dropout:
            grads[1] = drop(grads[1], self.weight_dropout, self.seed_of(4, index))
        return grads

    def extras(self, index: int, when: Steps, sizes: tuple[int, ...], dtype: Any) -> Extras:
        """Draw the masks of a layer and direction; `sizes` are those of h and c."""
        steps, batch = when.within.shape
        factors = None
        if self.recurrent_dropout:
            ones = np.ones((batch, sizes[0]), dtype)
            factors = drop(ones, self.recurrent_dropout, self.seed_of(1, index))
        zones = []
        for part, (p, size) in enumerate(zip(self.zoneout, sizes, strict=True)):
            fresh = None
            if p and self.seed is not None:
                fresh = dropout_mask((steps, batch, size), p, self.seed_of(2 + part, index))
            zones.append(Zone(p, fresh))
        return Extras(factors, tuple(zones))
