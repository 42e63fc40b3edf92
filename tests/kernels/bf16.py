"""What the tests of level avx512_bf16 share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .problems import normal

BF16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
LEVEL = "avx512_bf16"


def numbers(rng: np.random.Generator, *shape: int) -> Any:
    """Return normal numbers of bfloat16."""
    return normal(rng, BF16, *shape)
