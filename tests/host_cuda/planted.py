"""Faults to be planted in the kernels of csrc, each of them to be caught under some schedule.

``python planted.py DIRECTORY``, a step of the build of ``planted``, writes copies of the sources
there in which fault number k, counted from 1, is made where ``host_cuda::planted(k)``. A text that
is not exactly once in its file is an error: the list goes with the kernels. Kernels are made for
float32 alone, so that compiling them takes less.
"""

from __future__ import annotations

import sys
from pathlib import Path

import planted_hopper
from planted_fault import BARRIER, Fault, no_barrier

CSRC = Path(__file__).parents[2] / "csrc"
#: What is compiled: the kernels that have a fault, or are called by those.
KERNELS = [
    "attention/cuda.cu",
    "attention/cuda_backward.cu",
    "attention/cuda_decode.cu",
    "attention/cuda_forward.cu",
    "attention/cuda_hopper.cu",
    "attention/cuda_hopper_backward.cu",
    "conv/cuda.cu",
    "conv/cuda_hopper.cu",
    "elementwise/cuda.cu",
    "gemm/cuda.cu",
    "gemm/cuda_hopper.cu",
    "norm/cuda_channels.cu",
    "norm/cuda_rows.cu",
    "optim/cuda.cu",
    "pool/cuda_backward.cu",
    "pool/cuda_max.cu",
    "rnn/cuda.cu",
    "rnn/cuda_backward.cu",
    "rnn/cuda_moves.cu",
    "softmax/cuda_softmax.cu",
]

TILE, GATHER = "core/cuda_tile.hpp", "conv/cuda_gather.hpp"
MMA, MMA_GEMM = "core/cuda_mma.hpp", "gemm on tensor cores"
MMA_CONV = "conv on tensor cores"
GRID, SCAN = "core/cuda_grid.hpp", "rnn/cuda_scan.hpp"
LSTM, LSTM_BACKWARD, GRU = "lstm", "lstm backward", "gru with the reset before"
APART = "lstm by blocks that are apart"
ROWS, SQUARE = "core/cuda_rows.hpp", "attention/cuda_tile.hpp"
CLUSTER = "softmax of a cluster"
DECODE, FORWARD = "attention/cuda_decode.cu", "attention/cuda_forward.cu"
BACKWARD = "attention/cuda_backward.cu"
CHUNKS, REPAIRED = "attention/cuda_mma.hpp", "attention repaired"
OPTIM, ADAM, CLIPPED = "optim/cuda.cu", "adam", "clipped sgd"
REDUCE, WINDOWS, STATS = "pool/cuda_reduce.hpp", "pool/cuda_windows.hpp", "softmax/cuda_stats.hpp"

FAULTS = [
    # The tiles of products: two stages, filled asynchronously.
    Fault(
        "a stage is read before it is there",
        "gemm",
        TILE,
        "    ptx::cp_async_wait_group<1>();\n",
        "    if (PLANTED) ptx::cp_async_wait_group<2>(); else ptx::cp_async_wait_group<1>();\n",
    ),
    no_barrier(
        "a stage is read before others have filled it",
        "gemm",
        TILE,
        f"    {BARRIER}\n    const auto& now = shared.stages[stage];",
    ),
    no_barrier(
        "a stage is filled while others read it",
        "gemm",
        TILE,
        f"{BARRIER}  // the stage is filled again, or the sums take its place",
    ),
    no_barrier(
        "sums are stored before all are there",
        "gemm",
        TILE,
        f"    {BARRIER}\n    store_rows<",
    ),
    Fault(
        "the column beside is stored",
        "gemm",
        TILE,
        "store_sums(sums + r * kStride + c, count",
        "store_sums(sums + r * kStride + c + (PLANTED ? 1 : 0), count",
    ),
    # The tiles on tensor cores: four stages.
    Fault(
        "a stage of four is read before it is there",
        MMA_GEMM,
        MMA,
        "ptx::cp_async_wait_group<kAhead - 1>();",
        "if (PLANTED) ptx::cp_async_wait_group<kAhead>();"
        " else ptx::cp_async_wait_group<kAhead - 1>();",
    ),
    no_barrier(
        "a stage of four is read or filled before the others are ready",
        MMA_GEMM,
        MMA,
        f"{BARRIER}  // the stage is there, the one before has been read and is filled again",
    ),
    no_barrier(
        "sums take the place of stages that others read",
        "gemm in tf32",
        MMA,
        f"{BARRIER}  // all stages have been read: the sums take their place",
    ),
    no_barrier(
        "sums take the place of stages that others read again",
        "gemm of the largest number",
        MMA,
        f"{BARRIER}  // and here again",
    ),
    no_barrier(
        "sums of tensor cores are stored before all are there",
        MMA_GEMM,
        MMA,
        f"  {BARRIER}\n  store_rows<",
    ),
    Fault(
        "packs of a stage lie elsewhere for who reads them",
        MMA_GEMM,
        MMA,
        "from + Stage::at(8 * outer_half(square) + row,",
        "from + Stage::at(8 * outer_half(square) + (row ^ (PLANTED ? 2 : 0)),",
    ),
    Fault(
        "the small part of an operand is left out",
        MMA_GEMM,
        MMA,
        "multiply_row(small_a, b);",
        "if (!PLANTED) multiply_row(small_a, b);",
    ),
    Fault(
        "a thread alone forms its sums again",
        "gemm of the largest number",
        MMA,
        "__syncthreads_or(all ? 0 : 1) != 0",
        "(PLANTED ? !all : __syncthreads_or(all ? 0 : 1) != 0)",
    ),
    Fault(
        "sums that are not finite stay so",
        "gemm of the largest number",
        MMA,
        "if (!finite(sum[i][j][r])) sum",
        "if (!PLANTED && !finite(sum[i][j][r])) sum",
    ),
    Fault(
        "parts of a product begin at its beginning",
        "gemm over samples",
        "gemm/cuda.cu",
        "begin = rest * call.part;",
        "begin = PLANTED ? 0 : rest * call.part;",
    ),
    no_barrier(
        "sums of columns are added before all are there",
        "column sums",
        "gemm/cuda.cu",
        f"  {BARRIER}\n  if (r == 0 && column < n) {{",
    ),
    Fault(
        "packs of a thread fill neighbouring rows",
        MMA_GEMM,
        TILE,
        "i * (kThreads / Stage::kPacks);",
        "i * (PLANTED ? 1 : kThreads / Stage::kPacks);",
    ),
    # What convolutions gather.
    Fault(
        "a patch reaches one beyond the image",
        "conv",
        GATHER,
        "static_cast<std::uint32_t>(size);",
        "static_cast<std::uint32_t>(size + (PLANTED ? 1 : 0));",
    ),
    Fault(
        "a row of pixels begins at its second",
        "conv",
        GATHER,
        "return false;\n    p->w = 0;\n",
        "return false;\n    p->w = PLANTED ? 1 : 0;\n",
    ),
    Fault(
        "channels of the next place begin at the second",
        MMA_CONV,
        GATHER,
        "    p->first = 0;\n",
        "    p->first = PLANTED ? 1 : 0;\n",
    ),
    Fault(
        "a tap beyond the last is gathered",
        MMA_CONV,
        GATHER,
        "if (!inside) f.d",
        "if (!inside && !PLANTED) f.d",
    ),
    Fault(
        "rows of weights are no whole packs apart",
        MMA_CONV,
        "conv/cuda.cu",
        "call.out[at.quotient * call.stride + at.remainder]",
        "call.out[at.quotient * (PLANTED ? call.depth : call.stride) + at.remainder]",
    ),
    Fault(
        "what the stride does not divide has a source",
        "conv by x",
        GATHER,
        "!= position) return false;",
        "!= position) return PLANTED != 0;",
    ),
    Fault(
        "parts of a gradient by weight take each other's place",
        "conv by weight",
        "conv/cuda.cu",
        "group * call.move_result + part * call.move_part;",
        "group * call.move_result + (PLANTED ? 0 : part) * call.move_part;",
    ),
    # Attention on tensor cores: a ring of chunks, factors that become operands.
    Fault(
        "a query sees one key too many",
        "attention",
        SQUARE,
        "j - i <= high;",
        "j - i <= high + (PLANTED ? 1 : 0);",
    ),
    Fault(
        "a chunk is read before it is there",
        "attention",
        CHUNKS,
        "    ptx::cp_async_wait_group<Tile::kStages - 2>();\n",
        "    if (PLANTED) ptx::cp_async_wait_group<Tile::kStages - 1>();\n"
        "    else ptx::cp_async_wait_group<Tile::kStages - 2>();\n",
    ),
    no_barrier(
        "a chunk is read before others have filled it, and filled while others read it",
        "attention",
        CHUNKS,
        f"{BARRIER}  // the chunk is there,",
    ),
    Fault(
        "a chunk takes the place of one that is not read yet",
        "attention",
        CHUNKS,
        "copy_next(stage_ == 0 ? Tile::kStages - 1 : stage_ - 1);",
        "copy_next(PLANTED ? stage_ : stage_ == 0 ? Tile::kStages - 1 : stage_ - 1);",
    ),
    Fault(
        "factors have the order of the sums",
        "attention",
        CHUNKS,
        "&s[i][step][r % 2 * 2 + r / 2]",
        "&s[i][step][PLANTED ? r : r % 2 * 2 + r / 2]",
    ),
    Fault(
        "the rest of a factor is left out",
        "attention",
        CHUNKS,
        "f.v[1][i][step][r] = split(&x);",
        "f.v[1][i][step][r] = PLANTED ? split(&x), 0 : split(&x);",
    ),
    Fault(
        "a row's maximum is that of half its lanes",
        "attention",
        CHUNKS,
        "  x = combine(x, __shfl_xor_sync(kWholeWarp, x, 1));\n",
        "  if (!PLANTED) x = combine(x, __shfl_xor_sync(kWholeWarp, x, 1));\n",
    ),
    Fault(
        "sums on tensor cores are not scaled to the new maximum",
        "attention",
        FORWARD,
        "{ o *= shrink; }",
        "{ o *= PLANTED ? 1.0f : shrink; }",
    ),
    Fault(
        "a query before the first that sees a key is the first",
        "attention by v",
        SQUARE,
        "max_i(0, key - s.offset - p.right)",
        "max_i(0, key - s.offset - p.right + (PLANTED ? 32 : 0))",
    ),
    Fault(
        "scores and their gradients are turned apart",
        "attention by k",
        BACKWARD,
        "const int query = kQueryRows ? r : c, key = kQueryRows ? c : r;",
        "const int query = kQueryRows || PLANTED ? r : c, key = kQueryRows || PLANTED ? c : r;",
    ),
    Fault(
        "delta is that of another query",
        "attention by q",
        BACKWARD,
        "statistics(call.delta, r);",
        "statistics(call.delta, r + (PLANTED ? 1 : 0));",
    ),
    # Tiles of scores.
    no_barrier(
        "vectors are replaced while others read them",
        REPAIRED,
        SQUARE,
        f"{BARRIER}  // what was there has been read",
    ),
    no_barrier(
        "vectors are read before they are there",
        REPAIRED,
        SQUARE,
        f"    {BARRIER}\n#pragma unroll\n    for (int d = 0; d < S::kDepth; ++d) {{",
    ),
    no_barrier(
        "exponentials are read before they are there",
        REPAIRED,
        SQUARE,
        f"{BARRIER}  // m is written, or the rows before these have been read",
    ),
    Fault(
        "what is not finite stays",
        REPAIRED,
        CHUNKS,
        "finite ? 0 : 1",
        "finite || PLANTED ? 0 : 1",
    ),
    Fault(
        "sums are not scaled to the new maximum",
        REPAIRED,
        "attention/cuda.cu",
        "        out[i][j] = out[i][j] * shrink;",
        "        out[i][j] = out[i][j] * (PLANTED ? C(1) : shrink);",
    ),
    no_barrier(
        "flags are turned while others read them",
        "attention by k repaired",
        "attention/cuda.cu",
        f"{BARRIER}  // all have read what they hid",
    ),
    no_barrier(
        "scores are read before they are there",
        "attention of one query",
        DECODE,
        f"    {BARRIER}\n    for (int g = 0; g < heads; ++g) {{\n      C most",
    ),
    Fault(
        "a split misses its last key",
        "attention of one query",
        DECODE,
        "min_i(seen.end, (split + 1) * kDecodeSplit) - begin);",
        "min_i(seen.end, (split + 1) * kDecodeSplit) - begin - (PLANTED ? 1 : 0));",
    ),
    # Rows in registers.
    no_barrier(
        "partial results of warps are read before they are there",
        "layer norm",
        ROWS,
        f"      {BARRIER}\n#pragma unroll\n"
        "      for (int k = 0; k < kCount; ++k) values[k] = partial",
    ),
    Fault(
        "one buffer of partial results for two reductions",
        "rms norm",
        ROWS,
        "      turn_ ^= 1;",
        "      turn_ ^= PLANTED ? 0 : 1;",
    ),
    Fault(
        "lanes of a shuffle that are not in its mask",
        "softmax",
        ROWS,
        "__shfl_xor_sync(kWholeWarp, values[k], step)",
        "__shfl_xor_sync(PLANTED ? 0xFFFFu : kWholeWarp, values[k], step)",
    ),
    # Rows of a cluster.
    Fault(
        "a block writes into one that may not have begun",
        CLUSTER,
        ROWS,
        "cluster_barrier();  // all have begun",
        "if (!PLANTED) cluster_barrier();  // all have begun",
    ),
    Fault(
        "partial results of a cluster are read before they are there",
        CLUSTER,
        ROWS,
        "    cluster_barrier();\n    const int all",
        "    if (!PLANTED) cluster_barrier();\n    const int all",
    ),
    Fault(
        "a thread arrives and does not wait",
        CLUSTER,
        ROWS,
        "  ptx::barrier_cluster_wait();",
        "  if (!PLANTED) ptx::barrier_cluster_wait();",
    ),
    Fault(
        "the last block of a cluster is told nothing",
        CLUSTER,
        ROWS,
        "if (lane < blocks) {",
        "if (lane < blocks - (PLANTED ? 1 : 0)) {",
    ),
    Fault(
        "a rank beyond the cluster",
        CLUSTER,
        ROWS,
        "ptx::mapa_shared_cluster(&partial[own][k], static_cast<std::uint32_t>(lane))",
        "ptx::mapa_shared_cluster(&partial[own][k],"
        " static_cast<std::uint32_t>(lane + (PLANTED ? 1 : 0)))",
    ),
    Fault(
        "blocks of a cluster take each other's place",
        CLUSTER,
        ROWS,
        "static_cast<int>(ptx::cluster_ctarank()) * kWarps +",
        "static_cast<int>(ptx::cluster_ctarank()) * (PLANTED ? 0 : kWarps) +",
    ),
    Fault(
        "parts of a row overlap",
        CLUSTER,
        ROWS,
        "std::int64_t{ptx::cluster_ctarank()} * part;",
        "std::int64_t{ptx::cluster_ctarank()} * (part - (PLANTED ? 4 : 0));",
    ),
    Fault(
        "sums of the parts of a row are those of its first",
        "layer norm by weight of a cluster",
        "norm/cuda_rows.cu",
        "chunk.begin + (i < n ? i : p.n + i - n);",
        "(PLANTED ? 0 : chunk.begin) + (i < n ? i : p.n + i - n);",
    ),
    no_barrier(
        "rows of a part are added up before all are done",
        "layer norm by weight",
        "norm/cuda_rows.cu",
        f"      {BARRIER}\n      const C* all = dynamic_shared<C>();",
    ),
    Fault(
        "the rows of a part are counted twice at its end",
        "layer norm by weight",
        "norm/cuda_rows.cu",
        "        if (!chunk.inside) return;",
        "        if (!chunk.inside && !PLANTED) return;",
    ),
    no_barrier(
        "moments of a column are merged before all are there",
        "batch norm",
        "norm/cuda_channels.cu",
        f"    storage.m2[down][across] = all.m2;\n    {BARRIER}",
    ),
    no_barrier(
        "sums of a column are added before all are there",
        "batch norm backward",
        "norm/cuda_channels.cu",
        f"    storage.product[down][across] = second;\n    {BARRIER}",
    ),
    no_barrier(
        "what a column has is replaced while others read it",
        "softmax of columns",
        STATS,
        f"{BARRIER}  // the storage is used again",
    ),
    no_barrier(
        "what a column has is read before it is there",
        "softmax of columns",
        STATS,
        f"  {BARRIER}\n#pragma unroll\n  for (int k = 0; k < kCount; ++k) values[k] = storage",
    ),
    # Windows.
    no_barrier(
        "lanes of a window are merged before they are done",
        "long max pool",
        REDUCE,
        f"      {BARRIER}\n      if (lane < half) {{",
    ),
    no_barrier(
        "lanes of the next window begin while others merge",
        "long max pool",
        REDUCE,
        f"{BARRIER}  // the storage is used again",
    ),
    Fault(
        "a window lacks its last tap",
        "max pool",
        WINDOWS,
        "      return {first + low, high > low ? high - low : 0};",
        "      return {first + low, high > low ? high - low - (PLANTED ? 1 : 0) : 0};",
    ),
    Fault(
        "a gradient lacks the last window",
        "max pool backward",
        WINDOWS,
        "last >= first ? last - first + 1 : 0}",
        "last >= first ? last - first + (PLANTED ? 0 : 1) : 0}",
    ),
    # Optimizer steps: chunks of the tensors of a table, and the norm over them.
    Fault(
        "a tensor's first chunk is the last of the one before",
        ADAM,
        OPTIM,
        "(table.first_chunk[middle] <= chunk ? low : high)",
        "(table.first_chunk[middle] + (PLANTED ? 1 : 0) <= chunk ? low : high)",
    ),
    Fault(
        "chunks of a tensor overlap",
        ADAM,
        OPTIM,
        "std::int64_t{chunk - table.first_chunk[low]} * kOptimChunk,",
        "std::int64_t{chunk - table.first_chunk[low]} * (kOptimChunk - (PLANTED ? 1 : 0)),",
    ),
    Fault(
        "a tensor's last element is left out",
        ADAM,
        OPTIM,
        "table.tail(low) : static_cast<int>(kOptimChunk)",
        "table.tail(low) - (PLANTED ? 1 : 0) : static_cast<int>(kOptimChunk)",
    ),
    Fault(
        "a pack reaches one beyond its tensor",
        ADAM,
        OPTIM,
        "kStep + kPack<T> <= n;",
        "kStep + kPack<T> <= n + (PLANTED ? 1 : 0);",
    ),
    Fault(
        "gradients are stored as well",
        ADAM,
        OPTIM,
        "if ((stored >> a & 1) != 0) store_pack(arrays[a] + i + u * kStep, in[u][a], packed[a]);",
        "if ((stored >> a & 1) != 0)"
        " store_pack(arrays[PLANTED && a == 2 ? 1 : a] + i + u * kStep, in[u][a], packed[a]);",
    ),
    no_barrier(
        "a rule is read before it is there",
        "adam of numbers on the device",
        OPTIM,
        f"      shared.rule = rule;\n    }}\n    {BARRIER}",
    ),
    no_barrier(
        "sums of warps are added before they are there",
        CLIPPED,
        "core/cuda_reduce.hpp",
        f"storage.partial[warp] = value;\n  {BARRIER}",
    ),
    no_barrier(
        "sums of the next chunk take the place of those that are added",
        CLIPPED,
        OPTIM,
        f"{BARRIER}  // the storage is used again",
    ),
    Fault(
        "the norm lacks the last chunk",
        CLIPPED,
        OPTIM,
        "i < chunks; i += kThreads) sum += clipping.sums[i];",
        "i < chunks - (PLANTED ? 1 : 0); i += kThreads) sum += clipping.sums[i];",
    ),
    # Recurrent networks: blocks that wait for each other.
    Fault(
        "a step begins before all blocks have ended the one before",
        LSTM_BACKWARD,
        SCAN,
        "if (goes_on && !plan.apart) grid_barrier(",
        "if (goes_on && !plan.apart && !PLANTED) grid_barrier(",
    ),
    Fault(
        "a step begins before the warps of a block that is apart have ended the one before",
        APART,
        SCAN,
        "if (goes_on && plan.apart) __syncthreads();",
        "if (goes_on && plan.apart && !PLANTED) __syncthreads();",
    ),
    Fault(
        "a block does not wait for the last one",
        GRU,
        GRID,
        "const std::uint32_t all = barriers * gridDim.x;",
        "const std::uint32_t all = barriers * gridDim.x - (PLANTED ? 1 : 0);",
    ),
    no_barrier(
        "threads go on before the one that waits for other blocks",
        LSTM,
        GRID,
        f"    }}\n  }}\n  {BARRIER}\n",
    ),
    no_barrier(
        "a block arrives before all of its threads have written",
        LSTM_BACKWARD,
        GRID,
        f"  {BARRIER}\n  ++barriers;",
    ),
    Fault(
        "sums of chains are added before all are there",
        LSTM,
        SCAN,
        "wait();  // the sums of all chains are there",
        "if (!PLANTED) wait();  // all are there",
    ),
    Fault(
        "sums of the next tile take the place of some that others read",
        LSTM,
        SCAN,
        "if (sums_there) wait();  // and have been read",
        "if (sums_there && !PLANTED) wait();  // and have been read",
    ),
    no_barrier(
        "weights are read before they are there",
        LSTM,
        SCAN,
        f"keep_weights(plan, plan.second, resident);\n  {BARRIER}",
    ),
    Fault(
        "weights of the panel before are taken",
        LSTM,
        SCAN,
        "    resident += apart ? kScanWarps * of_panel : of_panel;",
        "    if (!PLANTED) resident += apart ? kScanWarps * of_panel : of_panel;",
    ),
    Fault(
        "a warp takes the weights of another's panel",
        APART,
        SCAN,
        "if (apart) resident += share.panel * of_panel;",
        "if (apart) resident += (PLANTED ? 0 : share.panel) * of_panel;",
    ),
    Fault(
        "a lane reads sums before the others of its warp have written theirs",
        APART,
        SCAN,
        "    if (apart) {\n      __syncwarp();",
        "    if (apart) {\n      if (!PLANTED) __syncwarp();",
    ),
    Fault(
        "a lane splits another's columns of a group",
        GRU,
        SCAN,
        "const std::int64_t of_lane = lane % 4 * kPack<T>,",
        "const std::int64_t of_lane = (lane + (PLANTED ? 1 : 0)) % 4 * kPack<T>,",
    ),
    *planted_hopper.FAULTS,
]


def planted_text(text: str, right: str, wrong: str, where: str) -> str:
    """Change the one place that holds a text."""
    if text.count(right) != 1:
        raise SystemExit(f"{where}: {text.count(right)} times, expected once:\n{right}")
    return text.replace(right, wrong)


def main(directory: Path) -> None:
    """Write the changed sources, and the kernels that include them."""
    texts: dict[str, str] = {}

    def change(file: str, right: str, wrong: str) -> None:
        text = texts.get(file) or (CSRC / file).read_text(encoding="utf-8")
        texts[file] = planted_text(text, right, wrong, file)

    for number, fault in enumerate(FAULTS, 1):
        wrong = fault.wrong.replace("PLANTED", f"host_cuda::planted({number})")
        change(fault.file, fault.right, wrong)
    storage = "instantiate(float) instantiate(double) instantiate(Half) instantiate(Bfloat16)"
    change("core/dtype.hpp", storage, "instantiate(float)")
    change("gemm/cuda.cu", "ARRAYNN_DEFINE(Half)\nARRAYNN_DEFINE(Bfloat16)\n", "")
    # Of either way a scan may go, the one that its problem names.
    change(SCAN, "apart < together;", "host_cuda::planted_apart();")
    for kernel in KERNELS:
        texts.setdefault(kernel, (CSRC / kernel).read_text(encoding="utf-8"))
    # Ninja knows of the kernels alone: they are written anew after a header.
    anew = False
    for file in sorted(texts, key=lambda name: name.endswith(".cu")):
        plain = texts[file]
        text = f'#include "planted.hpp"\n{plain}' if "planted(" in plain else plain
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if anew or not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            anew = anew or not file.endswith(".cu")


if __name__ == "__main__":
    if sys.argv[1] == "--list":  # for CMake
        print(";".join(KERNELS), end="")
    else:
        main(Path(sys.argv[1]))
