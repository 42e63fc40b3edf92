// The checked arguments of the attention functions.
#pragma once
#include "attention/attention.hpp"
#include "bind/array.hpp"

namespace arraynn {

// As the caller gave them; a null handle is an option that the function does not have.
struct AttentionOptions {
  py::handle mask, bias, causal, scale, window, softcap, alibi_slopes, sinks, kv_lengths, dropout,
      seed;
};

// Of a rotary embedding; see rope.hpp.
struct DecodeAngles {
  py::handle cos, sin, interleaved;
};

struct AttentionArgs {
  // Arrays of 4 dimensions, "bhld" or "blhd".
  AttentionArgs(const char* op, py::handle q, py::handle k, py::handle v,
                const AttentionOptions& options, py::handle layout);
  // Packed sequences, 3 dimensions.
  AttentionArgs(const char* op, py::handle q, py::handle k, py::handle v, py::handle cu_seqlens_q,
                py::handle cu_seqlens_k, const AttentionOptions& options);
  // A cache of sequences, or of pages with a block table.
  AttentionArgs(const char* op, py::handle q, py::handle k_cache, py::handle v_cache,
                py::handle lengths, py::handle block_table, py::handle k, py::handle v,
                const DecodeAngles& angles, const AttentionOptions& options, py::handle layout);

  // Rows of an array of q's layout, whose last dimension is contiguous.
  RowStrides strides_of(const TensorView& view) const;
  template <class T>
  AttentionProblem<T> problem() const;
  // Of the output, in q's layout, and of lse.
  std::int64_t out_shape[4] = {}, lse_shape[3] = {};
  int ndim = 4;
  bool empty() const { return sizes_.batch == 0 || sizes_.seqlen_q == 0; }
  // Keys and values as well as queries, which always are (bind/wide.hpp).
  void widen(const char* op);
  // Writes the new keys and values of a decode call behind those of the cache.
  void append() const;

  Array q, k, v, mask, bias, slopes, sinks;

 private:
  void take_options(const char* op, const AttentionOptions& o);
  void take_scores(const char* op, const char* arg, const Array& a, ScoreStrides* strides);
  void check_heads(const char* op, const char* k_arg, const char* v_arg);
  void take_causal(const char* op, const AttentionOptions& o);
  void take_dropout(const char* op, const AttentionOptions& o);
  void take_new_rows(const char* op, py::handle new_k, py::handle new_v, py::handle lengths);
  void widen_queries(const char* op);
  void turn(const char* op, const DecodeAngles& angles);

  // Heads come before positions in memory.
  bool heads_first_ = true;
  AttentionProblem<float> sizes_;  // everything that has no dtype
  Array lengths_, cu_q_, cu_k_, pages_, new_k_, new_v_;
};

// A float array of `ndim` dimensions.
void require_rows(const char* op, const char* arg, const Array& a, int ndim);
// A float array of `ndim` dimensions, the last one contiguous; others are copied.
Array take_rows(const char* op, const char* arg, py::handle h, int ndim);
// The array itself, or a copy of it in int64, contiguous.
Array take_integers(const char* op, const char* arg, py::handle h, int ndim);

}  // namespace arraynn
