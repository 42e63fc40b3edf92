"""The generator that initialisation and dropout draw from."""

from __future__ import annotations

import numpy as np

__all__ = ["default_generator", "manual_seed", "next_seed"]

_generator: np.random.Generator | None = None  # made at first use: numpy.random loads slowly


def manual_seed(seed: int) -> np.random.Generator:
    """Restart the library's random generator; everything drawn after it follows from ``seed``.

    Parameters
    ----------
    seed : int
        Not negative.

    Returns
    -------
    numpy.random.Generator
        The generator, a PCG64.

    Raises
    ------
    ValueError
        If the seed is negative.

    Examples
    --------
    >>> import arraynn as ann
    >>> _ = ann.manual_seed(0)
    >>> first = ann.nn.Linear(2, 2).weight.data
    >>> _ = ann.manual_seed(0)
    >>> bool((ann.nn.Linear(2, 2).weight.data == first).all())
    True
    """
    global _generator
    if seed < 0:
        raise ValueError(f"[manual_seed] seed: expected an int of at least 0, got {seed}")
    _generator = np.random.default_rng(seed)
    return _generator


def default_generator() -> np.random.Generator:
    """Return the generator in use, seeded by the operating system unless manual_seed was called."""
    global _generator
    if _generator is None:
        _generator = np.random.default_rng()
    return _generator


def next_seed() -> int:
    """Draw a seed of 63 bits for one dropout mask."""
    return int(default_generator().integers(0x7FFF_FFFF_FFFF_FFFF))
