// The problems of planted_main.cpp that are attention.
#include <cmath>

#include "attention/attention.hpp"
#include "attention/cuda_hopper.hpp"
#include "attention/cuda_hopper_backward.hpp"
#include "planted.hpp"
#include "planted_numbers.hpp"
#include "ptx.hpp"

namespace {

using namespace arraynn;
using namespace host_cuda;

std::vector<Half> halves(std::int64_t n, std::uint32_t seed = 1) {
  std::vector<Half> x;
  for (const float v : numbers(n, seed)) x.push_back({host_ptx::cvt_rn_f16_f32(v)});
  return x;
}

struct Attention {
  static constexpr std::int64_t kHeads = 2, kLength = 70, kDim = 20;
  static constexpr std::int64_t kSize = kHeads * kLength * kDim;
  Floats q = numbers(kSize), k = numbers(kSize, 2), v = numbers(kSize, 3);
  Floats out = result(kSize), lse = result(kHeads * kLength);
  RowStrides rows;
  AttentionProblem<float> p;

  // Not finite where most queries, or the keys after the first, do not look: what they see is formed again.
  enum class Hidden { kNothing, kLastValue, kFirstQuery };

  explicit Attention(std::int64_t queries = kLength, Hidden hidden = Hidden::kNothing) {
    if (hidden == Hidden::kLastValue) {  // and scores of the second tile are the largest
      for (std::int64_t i = 64 * kDim; i < kLength * kDim; ++i) k[static_cast<std::size_t>(i)] *= 4;
    }
    for (std::int64_t d = 0; d < kDim; ++d) {
      if (hidden == Hidden::kLastValue) v[static_cast<std::size_t>((kLength - 1) * kDim + d)] = NAN;
      if (hidden == Hidden::kFirstQuery) q[static_cast<std::size_t>(d)] = NAN;
    }
    rows.b = kSize;
    rows.h = kLength * kDim;
    rows.l = kDim;
    p.batch = 1;
    p.heads = p.kv_heads = kHeads;
    p.seqlen_q = queries;
    p.seqlen_k = kLength;
    p.head_dim = p.head_dim_v = kDim;
    p.q = q.data();
    p.k = k.data();
    p.v = v.data();
    p.out = out.data();
    p.lse = lse.data();
    p.q_strides = p.k_strides = p.v_strides = p.out_strides = rows;
    p.lse_strides.b = kHeads * kLength;
    p.lse_strides.h = kLength;
    p.lse_strides.l = 1;
    if (queries > 1) p.right = 0;  // causal
    run_attention(kOp, p);
  }
};

Floats run_attention_with(Attention::Hidden hidden) {
  Attention a(Attention::kLength, hidden);
  append(a.out, a.lse);
  return a.out;
}
Floats run_attention_forward() { return run_attention_with(Attention::Hidden::kNothing); }
Floats run_attention_repaired() { return run_attention_with(Attention::Hidden::kLastValue); }

Floats run_attention_of_one_query() { return Attention(1).out; }

// On one multiprocessor: four tiles of the result with six of keys each, which go round the ring of 4. Behind
// the last key are values that nobody may read, and the results of one query are not finite.
Floats run_attention_on_hopper() {
  constexpr std::int64_t kHeads = 2, kQueries = 140, kArray = 720, kDim = 64;
  static constexpr std::int64_t kKeys = 690;
  auto q = bfloat16s(kHeads * kQueries * kDim), k = bfloat16s(kHeads * kArray * kDim, 2),
       v = bfloat16s(kHeads * kArray * kDim, 3);
  constexpr Bfloat16 kNan{0x7FFF};
  q[static_cast<std::size_t>(20 * kDim)] = kNan;
  for (std::int64_t h = 0; h < kHeads; ++h) {
    for (std::int64_t i = kKeys * kDim; i < kArray * kDim; ++i) {
      v[static_cast<std::size_t>(h * kArray * kDim + i)] = kNan;
    }
  }
  std::vector<Bfloat16> out(kHeads * kQueries * kDim, {0xFFFF});
  Floats lse = result(kHeads * kQueries);
  std::vector<std::uint8_t> notes(kHeads * 3, 0xFF);
  AttentionProblem<Bfloat16> p;
  p.batch = 1;
  p.heads = p.kv_heads = kHeads;
  p.seqlen_q = kQueries;
  p.seqlen_k = kArray;
  p.kv_lengths = &kKeys;
  p.head_dim = p.head_dim_v = kDim;
  p.q = q.data();
  p.k = k.data();
  p.v = v.data();
  p.out = out.data();
  p.lse = lse.data();
  p.q_strides = p.out_strides = {kHeads * kQueries * kDim, kQueries * kDim, kDim};
  p.k_strides = p.v_strides = {kHeads * kArray * kDim, kArray * kDim, kDim};
  p.lse_strides = {kHeads * kQueries, kQueries, 1};
  p.scale = 0.125;
  p.right = 0;
  p.alignment = Alignment::kLengthEnd;
  be_hopper(true);
  const bool launched = cuda::attention_on_hopper(p, notes.data());
  be_hopper(false);
  if (!launched) return {};
  for (const Bfloat16 x : out) lse.push_back(static_cast<float>(x.bits));
  for (const std::uint8_t x : notes) lse.push_back(x);
  return lse;
}

Floats run_attention_gradient(Attention::Hidden hidden,
                              float* AttentionGradients<float>::* gradient) {
  const Attention a(Attention::kLength, hidden);
  const Floats dout = numbers(Attention::kSize, 4);
  Floats dx = result(Attention::kSize);
  AttentionGradients<float> g;
  g.dout = dout.data();
  g.dout_strides = g.dq_strides = g.dk_strides = g.dv_strides = a.rows;
  g.*gradient = dx.data();
  run_attention_backward(kOp, a.p, g);
  return dx;
}
Floats run_attention_by_q() {
  return run_attention_gradient(Attention::Hidden::kNothing, &AttentionGradients<float>::dq);
}
Floats run_attention_by_k() {
  return run_attention_gradient(Attention::Hidden::kNothing, &AttentionGradients<float>::dk);
}
Floats run_attention_by_v() {
  return run_attention_gradient(Attention::Hidden::kNothing, &AttentionGradients<float>::dv);
}
Floats run_attention_by_k_repaired() {
  return run_attention_gradient(Attention::Hidden::kFirstQuery, &AttentionGradients<float>::dk);
}
// In float16, whose factors are scaled: by two blocks of keys, each of which meets three or more tiles of queries of
// two heads, which go round the ring of 4; or by two blocks of queries of each head. Behind the last key are vectors
// that nobody may read, and one query and one value, which most queries do not see, are not finite.
Floats run_gradients_on_hopper(std::int64_t dim, bool by_key, bool options) {
  constexpr std::int64_t kHeads = 2, kQueries = 230, kArray = 150;
  static constexpr std::int64_t kKeys[] = {100, 140};
  const std::int64_t keys = kKeys[by_key ? 1 : 0];
  auto q = halves(kHeads * kQueries * dim), k = halves(kArray * dim, 2),
       v = halves(kArray * dim, 3), dout = halves(kHeads * kQueries * dim, 4);
  constexpr Half kNan{0x7FFF};
  q[static_cast<std::size_t>(20 * dim)] = kNan;
  for (std::int64_t i = keys * dim; i < kArray * dim; ++i) {
    k[static_cast<std::size_t>(i)] = v[static_cast<std::size_t>(i)] = kNan;
  }
  v[static_cast<std::size_t>((keys - 10) * dim)] = kNan;
  Floats lse = numbers(kHeads * kQueries, 5);
  const Floats delta = numbers(kHeads * kQueries, 6);
  AttentionProblem<Half> p;
  p.batch = p.kv_heads = 1;
  p.heads = kHeads;
  p.seqlen_q = kQueries;
  p.seqlen_k = kArray;
  p.kv_lengths = &kKeys[by_key ? 1 : 0];
  p.head_dim = p.head_dim_v = dim;
  p.q = q.data();
  p.k = k.data();
  p.v = v.data();
  p.lse = lse.data();
  p.q_strides = {kHeads * kQueries * dim, kQueries * dim, dim};
  p.k_strides = p.v_strides = {kArray * dim, kArray * dim, dim};
  p.lse_strides = {kHeads * kQueries, kQueries, 1};
  p.scale = 0.125;
  p.right = 5;
  p.alignment = Alignment::kLengthEnd;
  if (options) {
    p.softcap = 2;
    p.dropout.on = true;
    p.dropout.threshold = 1u << 30;
    p.dropout.b = kHeads * kQueries;
    p.dropout.h = kQueries;
    p.dropout.row = kArray;
  }
  std::vector<Half> dq(q.size(), {0xFFFF}), dk(k.size(), {0xFFFF}), dv(v.size(), {0xFFFF});
  AttentionGradients<Half> g;
  g.dout = dout.data();
  g.dout_strides = g.dq_strides = p.q_strides;
  g.dk_strides = g.dv_strides = p.k_strides;
  std::vector<std::uint8_t> notes(3 * 64, 0xFF);
  const cuda::GradientNotes of{notes.data(), &notes[64], &notes[128]};
  be_hopper(true);
  bool launched = false;
  if (by_key) {
    g.dk = dk.data();
    g.dv = dv.data();
    launched = cuda::key_gradients_on_hopper(p, g, delta.data(), of);
  } else {
    g.dq = dq.data();
    launched = cuda::query_gradient_on_hopper(p, g, delta.data(), of);
  }
  be_hopper(false);
  Floats all;
  if (!launched) return all;
  for (const std::vector<Half>* d : {&dq, &dk, &dv}) {
    for (const Half x : *d) all.push_back(static_cast<float>(x.bits));
  }
  for (const std::uint8_t x : notes) all.push_back(x);
  return all;
}
Floats run_by_q_on_hopper() { return run_gradients_on_hopper(64, false, false); }
Floats run_by_k_and_v_on_hopper() { return run_gradients_on_hopper(64, true, false); }
Floats run_options_by_q_on_hopper() { return run_gradients_on_hopper(64, false, true); }
Floats run_options_by_k_on_hopper() { return run_gradients_on_hopper(64, true, true); }

}  // namespace

const std::map<std::string, host_cuda::Problem>& host_cuda::attention_problems() {
  static const std::map<std::string, Problem> kProblems = {
      {"attention", &run_attention_forward},
      {"attention on Hopper", &run_attention_on_hopper},
      {"attention of one query", &run_attention_of_one_query},
      {"attention by q", &run_attention_by_q},
      {"attention by k", &run_attention_by_k},
      {"attention by v", &run_attention_by_v},
      {"attention repaired", &run_attention_repaired},
      {"attention by k repaired", &run_attention_by_k_repaired},
      {"attention by q on Hopper", &run_by_q_on_hopper},
      {"attention by k and v on Hopper", &run_by_k_and_v_on_hopper},
      {"attention by q on Hopper, options", &run_options_by_q_on_hopper},
      {"attention by k and v on Hopper, options", &run_options_by_k_on_hopper},
  };
  return kProblems;
}
