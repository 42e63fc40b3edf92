"""Faults of planted.py in the attention of Hopper."""

from __future__ import annotations

from planted_fault import Fault

FLASH, FLASH_ATTENTION = "attention on Hopper", "attention/cuda_hopper.cu"
FLASH_TILE = "attention/cuda_hopper_tile.hpp"

FAULTS = [
    # Attention by warpgroups: rings of keys and of values, turns, factors in registers.
    Fault(
        "keys are read before they are there",
        FLASH,
        FLASH_ATTENTION,
        "wait(&shared.k_full[k_stage],",
        "if (!PLANTED) wait(&shared.k_full[k_stage],",
    ),
    Fault(
        "the last values are read before they are there",
        FLASH,
        FLASH_ATTENTION,
        "wait(&shared.v_full[v_stage], parity_of<Tile>(tile));",
        "if (!PLANTED) wait(&shared.v_full[v_stage], parity_of<Tile>(tile));",
    ),
    Fault(
        "the parity of keys and values stays when their ring begins again",
        FLASH,
        FLASH_TILE,
        "return tile / Tile::kStages % 2;",
        "return PLANTED ? 0 : tile / Tile::kStages % 2;",
    ),
    Fault(
        "values are those of the next stage",
        FLASH,
        FLASH_ATTENTION,
        "add_values<Tile>(f, shared.stages[v_stage].v, sums);\n        ptx::",
        "add_values<Tile>(f, shared.stages[PLANTED ? k_stage : v_stage].v, sums);\n        ptx::",
    ),
    Fault(
        "scores are read and keys given back while products form them",
        FLASH,
        FLASH_ATTENTION,
        "ptx::wgmma_wait_group<1>();",
        "if (PLANTED) ptx::wgmma_wait_group<2>(); else ptx::wgmma_wait_group<1>();",
    ),
    Fault(
        "factors are replaced while products read them",
        FLASH,
        FLASH_ATTENTION,
        "ptx::wgmma_wait_group<0>();\n        ptx::wgmma_sums_are_here(sums);",
        "if (PLANTED) ptx::wgmma_wait_group<1>(); else ptx::wgmma_wait_group<0>();\n"
        "        ptx::wgmma_sums_are_here(sums);",
    ),
    Fault(
        "products of attention without a fence",
        FLASH,
        FLASH_ATTENTION,
        "ptx::wgmma_fence();\n        add_scores",
        "if (!PLANTED) ptx::wgmma_fence();\n        add_scores",
    ),
    Fault(
        "queries are replaced while products read them",
        FLASH,
        FLASH_TILE,
        "wait(&shared.q_empty,",
        "if (!PLANTED) wait(&shared.q_empty,",
    ),
    Fault(
        "values are replaced while products read them",
        FLASH,
        FLASH_TILE,
        "wait(&shared.v_empty[number],",
        "if (!PLANTED) wait(&shared.v_empty[number],",
    ),
    Fault(
        "a warpgroup keeps its turn",
        FLASH,
        FLASH_ATTENTION,
        "group();\n        arrive(&shared.turn[1 - group]);",
        "group();\n        if (!PLANTED) arrive(&shared.turn[1 - group]);",
    ),
    Fault(
        "both warpgroups begin with the second turn",
        FLASH,
        FLASH_ATTENTION,
        "(group == 0 ? 1u : 0u)",
        "(group == 0 && !PLANTED ? 1u : 0u)",
    ),
    Fault(
        "a query of a warpgroup sees one key too many",
        FLASH,
        FLASH_ATTENTION,
        "c > last + r || c > end",
        "c > last + r + (PLANTED ? 1 : 0) || c > end",
    ),
    Fault(
        "values behind a sequence take part",
        FLASH,
        FLASH_TILE,
        "const bool tail = more &&",
        "const bool tail = !PLANTED && more &&",
    ),
    Fault(
        "values are told of before all lanes have cleared theirs",
        FLASH,
        FLASH_TILE,
        "__syncwarp();  // all are clear",
        "if (!PLANTED) __syncwarp();  // all are clear",
    ),
    Fault(
        "sums of a warpgroup are not scaled to the new maximum",
        FLASH,
        FLASH_ATTENTION,
        "sums[i] *= shrink[i / 2 % 2];",
        "sums[i] *= PLANTED ? 1.0f : shrink[i / 2 % 2];",
    ),
    Fault(
        "the rest of a factor of 16 bits is left out",
        FLASH,
        FLASH_ATTENTION,
        "f[1][w / 4][w % 4] =",
        "f[1][w / 4][w % 4] = PLANTED ? 0 :",
    ),
    Fault(
        "lanes change words with the wrong ones",
        FLASH,
        FLASH_ATTENTION,
        "(lane & step) != 0;",
        "(lane & (PLANTED ? 3 - step : step)) != 0;",
    ),
    Fault(
        "a note is left before all warps have looked",
        FLASH,
        FLASH_ATTENTION,
        "wait(&shared.done[group],",
        "if (!PLANTED) wait(&shared.done[group],",
    ),
]
