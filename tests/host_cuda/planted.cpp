// The problems of planted_main.cpp: calls of kernels on numbers that show a fault.
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "conv/conv.hpp"
#include "conv/cuda_hopper.hpp"
#include "core/cuda_precision.hpp"
#include "core/cuda_scratch.hpp"
#include "gemm/cuda_hopper.hpp"
#include "gemm/gemm.hpp"
#include "norm/norm.hpp"
#include "optim/cuda.hpp"
#include "planted.hpp"
#include "planted_numbers.hpp"
#include "pool/pool.hpp"
#include "rnn/stack.hpp"
#include "runtime.hpp"
#include "softmax/softmax.hpp"

namespace {

using namespace arraynn;
using namespace host_cuda;

Floats run_gemm_of(std::int64_t m, std::int64_t n, std::int64_t k, float first = 1.0f) {
  Floats a = numbers(m * k), b = numbers(k * n, 2);
  a[0] = first;
  for (std::int64_t j = 0; j < n; ++j) b[static_cast<std::size_t>(j * k)] /= first;
  Floats c = result(m * n);
  GemmProblem<float> p;
  p.m = m;
  p.n = n;
  p.k = k;
  p.a = a.data();
  p.rs_a = k;
  p.cs_a = 1;
  p.b = b.data();
  p.rs_b = 1;
  p.cs_b = k;
  p.c = c.data();
  p.rs_c = n;
  gemm(kOp, p);
  return c;
}

// Too few of k for tensor cores, in two stages of a large tile.
Floats run_gemm() { return run_gemm_of(70, 70, 31); }
// More stages than are in shared memory.
Floats run_gemm_on_tensor_cores() { return run_gemm_of(37, 70, 100); }
// Its leading bits are infinite, its products are not; the last stage is whole, and sums take its place.
Floats run_gemm_of_the_largest() { return run_gemm_of(37, 70, 112, FLT_MAX); }

Floats run_gemm_in_tf32() {
  cuda::set_tf32_products(true);
  const Floats c = run_gemm_on_tensor_cores();
  cuda::set_tf32_products(false);
  return c;
}

Floats run_gemm_over_samples() {  // in two parts
  constexpr std::int64_t kM = 5, kN = 7, kK = 2100;
  const Floats a = numbers(kM * kK), b = numbers(kK * kN, 2);
  Floats c = result(kM * kN);
  GemmProblem<float> p{kM, kN, kK, a.data(), 1, kM, b.data(), kN, 1, c.data(), kN, {}};
  p.over_samples = true;
  cuda::set_tf32_products(true);
  gemm(kOp, p);
  cuda::set_tf32_products(false);
  return c;
}

// On one multiprocessor: two tiles of 128 x 128, whose 10 stages go round the ring of 6.
Floats run_gemm_on_hopper() {
  constexpr std::int64_t kM = 140, kN = 80, kK = 600;
  const auto a = bfloat16s(kM * kK), b = bfloat16s(kK * kN, 2);
  std::vector<Bfloat16> c(kM * kN, {0xFFFF});
  const GemmProblem<Bfloat16> p{kM, kN, kK, a.data(), kK, 1, b.data(), kN, 1, c.data(), kN, {}};
  be_hopper(true);
  const bool launched = cuda::gemm_on_hopper(p, GemmResult{p.c, p.epilogue}, GemmBatch{});
  be_hopper(false);
  Floats all;
  for (const Bfloat16 v : c) all.push_back(launched ? static_cast<float>(v.bits) : -1.0f);
  return all;
}

Floats run_gemm_over_samples_on_hopper() {  // in two parts
  constexpr std::int64_t kM = 8, kN = 16, kK = 2104;
  const auto a = bfloat16s(kM * kK), b = bfloat16s(kK * kN, 2);
  const cuda::Parts parts = cuda::parts_of(kM, kN, 1, kK);
  Floats sums = result(parts.count * kM * kN);
  const GemmProblem<Bfloat16> p{kM, kN, kK, a.data(), 1, kM, b.data(), kN, 1, nullptr, kN, {}};
  be_hopper(true);
  const bool launched = cuda::gemm_parts_on_hopper(p, parts, sums.data());
  be_hopper(false);
  return launched ? sums : Floats{};
}

Floats run_column_sums() {
  const Floats x = numbers(1100 * 40);
  Floats sums = result(40);
  column_sums(x.data(), 1100, 40, sums.data());
  return sums;
}

// 3 x 3 windows with a border of 1.
Conv2dProblem conv_problem(std::int64_t n, std::int64_t channels, std::int64_t size) {
  Conv2dProblem p{};
  p.op = kOp;
  p.n = n;
  p.ic = channels;
  p.oc = 5;
  p.ih = p.iw = p.oh = p.ow = size;
  p.kh = p.kw = 3;
  p.stride_h = p.stride_w = p.pad_h = p.pad_w = p.dilation_h = p.dilation_w = p.groups = 1;
  p.id = p.od = p.kd = p.stride_d = p.dilation_d = 1;
  return p;
}

Floats run_conv() {
  const Conv2dProblem p = conv_problem(2, 3, 11);
  const Floats x = numbers(p.x_size()), weight = numbers(p.oc * p.ic * p.taps(), 2);
  Floats y = result(p.y_size());
  conv2d(p, x.data(), weight.data(), ConvEpilogue<float>{}, y.data());
  return y;
}

// No whole packs of channels; what is infinite must not meet the zeros beyond the last tap.
Floats run_conv_on_tensor_cores() {
  Conv2dProblem p = conv_problem(1, 5, 7);
  Floats x = numbers(p.x_size()), y = result(p.y_size()), all;
  x[0] = std::numeric_limits<float>::infinity();
  const Floats weight = numbers(p.oc * p.ic * p.taps(), 2);
  for (const bool last : {false, true}) {
    p.channels_last = last;
    conv2d(p, x.data(), weight.data(), ConvEpilogue<float>{}, y.data());
    append(all, y);
  }
  return all;
}

Floats run_conv_by_x() {
  Conv2dProblem p = conv_problem(1, 3, 9);
  p.stride_h = p.stride_w = 2;
  p.oh = p.ow = 5;
  const Floats dy = numbers(p.y_size()), weight = numbers(p.oc * p.ic * p.taps(), 2);
  Floats dx = result(p.x_size());
  conv2d_backward(p, dy.data(), dy.data(), weight.data(), {dx.data(), nullptr, nullptr});
  return dx;
}

Floats run_conv_by_weight() {  // in two parts of the pixels
  const Conv2dProblem p = conv_problem(3, 2, 27);
  const Floats x = numbers(p.x_size()), dy = numbers(p.y_size(), 2);
  Floats dw = result(p.oc * p.ic * p.taps());
  conv2d_backward(p, dy.data(), x.data(), x.data(), {nullptr, dw.data(), nullptr});
  return dw;
}

// Two groups of 48 channels, two tiles of pixels; gradients by weight in boxes that are not full.
struct ConvOnHopper {
  Conv2dProblem p = conv_problem(2, 96, 9);
  std::vector<Bfloat16> x, weight, dy;
  ConvOnHopper() {
    p.oc = 32;
    p.groups = 2;
    p.channels_last = true;
    x = bfloat16s(p.x_size());
    weight = bfloat16s(p.oc * p.ic / 2 * p.taps(), 2);
    dy = bfloat16s(p.y_size(), 3);
  }
};

Floats run_conv_on_hopper() {
  const ConvOnHopper c;
  std::vector<Bfloat16> y(static_cast<std::size_t>(c.p.y_size()), {0xFFFF});
  be_hopper(true);
  const bool launched = cuda::conv_on_hopper(c.p, false, c.x.data(), c.weight.data(),
                                             c.p.ic / 2 * c.p.taps(), {}, y.data());
  be_hopper(false);
  Floats all;
  for (const Bfloat16 v : y) all.push_back(launched ? static_cast<float>(v.bits) : -1.0f);
  return all;
}

// A stride of 2 and one row of the kernel: every other row of dx has no product.
Floats run_conv_by_x_on_hopper() {
  Conv2dProblem p = conv_problem(1, 16, 9);
  p.oc = 16;
  p.channels_last = true;
  p.kh = 1;
  p.stride_h = p.stride_w = 2;
  p.pad_h = 0;
  p.oh = p.ow = 5;
  const auto dy = bfloat16s(p.y_size()), weight = bfloat16s(16 * 16 * p.taps(), 2);
  std::vector<Bfloat16> dx(static_cast<std::size_t>(p.x_size()), {0xFFFF});
  be_hopper(true);
  const bool launched =
      cuda::conv_on_hopper(p, true, dy.data(), weight.data(), 16 * p.taps(), {}, dx.data());
  be_hopper(false);
  Floats all;
  for (const Bfloat16 v : dx) all.push_back(launched ? static_cast<float>(v.bits) : -1.0f);
  return all;
}

Floats run_conv_by_weight_on_hopper() {
  const ConvOnHopper c;
  const std::int64_t size = c.p.oc * c.p.ic / 2 * c.p.taps();
  const cuda::Parts parts = cuda::parts_of(c.p.oc / 2, c.p.ic / 2 * c.p.taps(), 2, c.p.n * 81);
  Floats sums = result(parts.count * size + 256);  // room for channels that are none
  be_hopper(true);
  const bool launched =
      cuda::conv_weight_on_hopper(c.p, c.dy.data(), c.x.data(), parts, sums.data());
  be_hopper(false);
  return launched ? sums : Floats{};
}

constexpr std::int64_t kRows = 20;

Floats run_row_norm(bool centred, std::int64_t n) {
  const RowNorm p{kRows, n, 1e-5, centred, {}};
  const Floats x = numbers(kRows * n), w = numbers(n, 2);
  Floats y = result(kRows * n);
  row_norm<float>(p, x.data(), w.data(), nullptr, y.data(), nullptr, nullptr);
  return y;
}
Floats run_layer_norm() { return run_row_norm(true, 300); }
Floats run_rms_norm() { return run_row_norm(false, 300); }

Floats run_layer_norm_by_weight_of(std::initializer_list<std::int64_t> lengths) {
  Floats all;
  for (const std::int64_t n : lengths) {
    const RowNorm p{kRows, n, 1e-5, true, {}};
    const Floats x = numbers(kRows * n), dy = numbers(kRows * n, 2);
    std::vector<double> mean(kRows), rstd(kRows);
    row_norm<float>(p, x.data(), nullptr, nullptr, nullptr, mean.data(), rstd.data());
    Floats dw = result(n), db = result(n);
    row_norm_backward<float>(kOp, p, dy.data(), x.data(), nullptr, mean.data(), rstd.data(),
                             nullptr, dw.data(), db.data());
    append(all, dw);
    append(all, db);
  }
  return all;
}

// Several rows of a block, and one.
Floats run_layer_norm_by_weight() { return run_layer_norm_by_weight_of({12, 300}); }
Floats run_layer_norm_by_weight_of_a_cluster() {
  be_hopper(true);
  const Floats all = run_layer_norm_by_weight_of({8200});
  be_hopper(false);
  return all;
}

Floats run_batch_norm(bool backward) {
  constexpr std::int64_t kChannels = 40, kPositions = 150;
  const ChannelNorm p{1, kChannels, kPositions, 0, true, 1e-5, {}};
  const Floats x = numbers(kChannels * kPositions), dy = numbers(kChannels * kPositions, 2);
  std::vector<double> mean(kChannels), rstd(kChannels);
  Floats y = result(kChannels * kPositions), dw = result(kChannels);
  channel_norm<float>(kOp, p, x.data(), nullptr, nullptr, y.data(), mean.data(), rstd.data(), false,
                      {nullptr, nullptr, 0, 0, 0.0});
  if (!backward) return y;
  channel_norm_backward<float>(kOp, p, dy.data(), x.data(), nullptr, mean.data(), rstd.data(),
                               false, y.data(), dw.data(), nullptr);
  append(y, dw);
  return y;
}
Floats run_batch_norm_forward() { return run_batch_norm(false); }
Floats run_batch_norm_backward() { return run_batch_norm(true); }

Floats run_softmax_of(const SoftmaxShape& shape) {
  const Floats x = numbers(shape.outer * shape.n * shape.inner);
  Floats y = result(shape.outer * shape.n * shape.inner);
  run_softmax(SoftmaxKind::kSoftmax, shape, x.data(), y.data());
  return y;
}
Floats run_softmax_of_rows() { return run_softmax_of({5, 40, 1}); }
Floats run_softmax_of_a_cluster() {  // of two blocks
  be_hopper(true);
  const Floats y = run_softmax_of({2, 16400, 1});
  be_hopper(false);
  return y;
}
// More tiles of columns than blocks: some take two.
Floats run_softmax_of_columns() { return run_softmax_of({2, 140, 80}); }

// More chunks than blocks, tensors of several chunks, packs that are cut. All lie in one array, where a
// fault that takes another tensor's place reads something.
struct Steps {
  Floats all;
  std::vector<OptimTensor<float>> tensors;

  Steps() : all(numbers(300000)) {
    float* next = all.data();
    std::int64_t at = 0;
    for (const std::int64_t size : {5, 40000, 2047, 1, 17000}) {
      float* p[4];
      for (float*& start : p) {
        start = next;
        next += (size + 64) / 4 * 4;
      }
      for (std::int64_t i = 0; i < size; ++i) p[3][i] = std::fabs(p[3][i]);
      tensors.push_back({p[0], p[1], p[2], p[3], nullptr, at, at + size});
      at += size;
    }
  }
};

constexpr AdamOptions kAdam{0.9, 0.99, 1e-3, 0.1, true, false};

Floats run_adam_of(const cuda::StepNumber& step, const cuda::StepNumber& lr) {
  const Steps s;
  cuda::step(s.tensors, cuda::StepOptions<AdamOptions>{kAdam, step, lr, 1, nullptr});
  return s.all;
}
Floats run_adam() { return run_adam_of({3, nullptr, Dtype::kF64}, {0.1, nullptr, Dtype::kF64}); }
Floats run_adam_of_device_numbers() {
  const double step = 3, lr = 0.1;
  return run_adam_of({0, &step, Dtype::kF64}, {0, &lr, Dtype::kF64});
}

Floats run_clipped_sgd() {
  const Steps s;
  std::vector<double> sums(static_cast<std::size_t>(cuda::chunk_count(s.tensors)));
  double norm = 0, factor = 0;
  cuda::clip(s.tensors, {sums.data(), &norm, &factor, 1, 1});
  const SgdOptions options{0.9, 0, 0, false};
  cuda::step(s.tensors, cuda::StepOptions<SgdOptions>{
                            options, {2, nullptr, {}}, {0.1, nullptr, {}}, 1, &factor});
  Floats all = s.all;
  all.push_back(static_cast<float>(norm));
  return all;
}

constexpr PoolProblem kImages{2, 3, {9, 3, 2, 1, 1, 1, 5}, {10, 3, 2, 1, 1, 1, 5}, false};

Floats run_max_pool() {
  const Floats x = numbers(2 * 3 * 9 * 10);
  Floats y = result(2 * 3 * 5 * 5);
  max_pool(kOp, kImages, x.data(), y.data(), nullptr);
  return y;
}

Floats run_max_pool_backward() {
  const Floats x = numbers(2 * 3 * 9 * 10), dy = numbers(2 * 3 * 5 * 5, 2);
  Floats y = result(2 * 3 * 5 * 5), dx = result(2 * 3 * 9 * 10);
  std::vector<std::int64_t> indices(y.size());
  max_pool(kOp, kImages, x.data(), y.data(), indices.data());
  max_pool_backward(kOp, kImages, dy.data(), x.data(), indices.data(), dx.data());
  return dx;
}

// Lanes share a window; positions of 64 bits, which take one launch, and more tiles than blocks.
Floats run_long_max_pool() {
  constexpr std::int64_t kPlanes = 600, kWindow = 40, kLength = 41, kStride = std::int64_t{1} << 40;
  const PoolAxis across{kLength, kWindow, kStride, 1, 0, 0, 1};
  const PoolProblem p{kPlanes, 1, {1, 1, 1, 1, 0, 0, 1}, across, false};
  const Floats x = numbers(kPlanes * kLength);
  Floats y = result(kPlanes);
  max_pool(kOp, p, x.data(), y.data(), nullptr);
  return y;
}

// Five panels of two tiles for three blocks, deep enough for tensor cores.
constexpr std::int64_t kSteps = 3, kBatch = 64, kHidden = 35;

struct Recurrent {
  Floats w, gates, h0, c0, y, cells, wide;
  RnnScan<float> s;

  explicit Recurrent(RnnKind kind) {
    RnnCell& cell = s.cell;
    cell.kind = kind;
    cell.reset_after = false;
    cell.main.kind = cell.output.kind = ActivationKind::kTanh;
    cell.gate.kind = ActivationKind::kSigmoid;
    const std::int64_t state = kBatch * kHidden, width = cell.gates() * kHidden;
    w = numbers(width * kHidden, 2);
    for (float& v : w) v *= 0.2f;
    gates = numbers(kSteps * kBatch * width, 3);
    h0 = numbers(state, 4);
    c0 = numbers(state, 5);
    y = result(kSteps * state);
    cells = wide = y;
    s.steps = s.last = kSteps;
    s.batch = kBatch;
    s.hidden = s.out = kHidden;
    s.w_hh = w.data();
    s.h0 = h0.data();
    s.c0 = c0.data();
    s.gates = gates.data();
    s.keep_gates = true;
    s.y = y.data();
    s.y_row = kHidden;
    s.y_step = s.cells_step = s.wide_step = state;
    s.cells = cells.data();
    s.wide = wide.data();
  }

  void run() {
    host_cuda::set_multiprocessors(3);
    cuda::forget_devices();
    RnnMemory memory(kOp);
    void* prepared = prepare_scan(kOp, &s, nullptr, &memory);
    run_scan(kOp, s, false, prepared);
    reset();
  }
  static void reset() {
    host_cuda::set_multiprocessors(1);
    cuda::forget_devices();
  }
};

Floats run_lstm() {
  Recurrent lstm(RnnKind::kLstm);
  lstm.run();
  append(lstm.y, lstm.cells);
  return lstm.y;
}

Floats run_lstm_apart() {
  host_cuda::scan_apart = true;
  Floats y = run_lstm();
  host_cuda::scan_apart = false;
  return y;
}

Floats run_gru() {
  Recurrent gru(RnnKind::kGru);
  gru.run();
  append(gru.y, gru.gates);
  return gru.y;
}

// From what is anything but a forward's.
Floats run_lstm_backward() {
  Recurrent lstm(RnnKind::kLstm);
  const std::int64_t state = kBatch * kHidden;
  lstm.cells = numbers(kSteps * state, 6);
  lstm.s.cells = lstm.cells.data();
  const Floats dy = numbers(kSteps * state, 7);
  Floats dh = numbers(state, 8), dc = numbers(state, 9), dz = result(4 * kSteps * state);
  RnnScanBackward<float> back;
  back.scan = lstm.s;
  back.dy = dy.data();
  back.dy_row = kHidden;
  back.dh = dh.data();
  back.dc = dc.data();
  back.dz = dz.data();
  host_cuda::set_multiprocessors(3);
  cuda::forget_devices();
  RnnMemory memory(kOp);
  run_scan_backward(kOp, back, &memory);
  Recurrent::reset();
  append(dz, dh);
  return dz;
}

}  // namespace

const std::map<std::string, host_cuda::Problem>& host_cuda::problems() {
  static const std::map<std::string, Problem> kProblems = [] {
    std::map<std::string, Problem> all = {
        {"gemm", &run_gemm},
        {"gemm on tensor cores", &run_gemm_on_tensor_cores},
        {"gemm of the largest number", &run_gemm_of_the_largest},
        {"gemm in tf32", &run_gemm_in_tf32},
        {"gemm over samples", &run_gemm_over_samples},
        {"gemm on Hopper", &run_gemm_on_hopper},
        {"gemm over samples on Hopper", &run_gemm_over_samples_on_hopper},
        {"column sums", &run_column_sums},
        {"conv", &run_conv},
        {"conv on tensor cores", &run_conv_on_tensor_cores},
        {"conv by x", &run_conv_by_x},
        {"conv by weight", &run_conv_by_weight},
        {"conv on Hopper", &run_conv_on_hopper},
        {"conv by x on Hopper", &run_conv_by_x_on_hopper},
        {"conv by weight on Hopper", &run_conv_by_weight_on_hopper},
        {"layer norm", &run_layer_norm},
        {"rms norm", &run_rms_norm},
        {"layer norm by weight", &run_layer_norm_by_weight},
        {"layer norm by weight of a cluster", &run_layer_norm_by_weight_of_a_cluster},
        {"batch norm", &run_batch_norm_forward},
        {"batch norm backward", &run_batch_norm_backward},
        {"softmax", &run_softmax_of_rows},
        {"softmax of a cluster", &run_softmax_of_a_cluster},
        {"softmax of columns", &run_softmax_of_columns},
        {"adam", &run_adam},
        {"adam of numbers on the device", &run_adam_of_device_numbers},
        {"clipped sgd", &run_clipped_sgd},
        {"max pool", &run_max_pool},
        {"max pool backward", &run_max_pool_backward},
        {"long max pool", &run_long_max_pool},
        {"lstm", &run_lstm},
        {"lstm by blocks that are apart", &run_lstm_apart},
        {"lstm backward", &run_lstm_backward},
        {"gru with the reset before", &run_gru},
    };
    all.insert(attention_problems().begin(), attention_problems().end());
    return all;
  }();
  return kProblems;
}
