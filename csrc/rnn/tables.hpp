// The entry points of one ISA, one unit each, collected into its table by cpu_backward.cpp.
#pragma once
#include "rnn/rnn.hpp"
#include "simd/vec.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

std::int64_t rnn_pack_f32(const RnnScan<float>& s, RnnMatrix matrix, int threads, float* dst);
std::int64_t rnn_pack_f64(const RnnScan<double>& s, RnnMatrix matrix, int threads, double* dst);
int rnn_panel_groups_f32(const RnnScan<float>& s, RnnMatrix matrix);
int rnn_panel_groups_f64(const RnnScan<double>& s, RnnMatrix matrix);
std::int64_t rnn_scratch_f32(const RnnScan<float>& s, int threads);
std::int64_t rnn_scratch_f64(const RnnScan<double>& s, int threads);
void rnn_forward_f32(const RnnScan<float>& s, int threads, bool packed, void* scratch);
void rnn_forward_f64(const RnnScan<double>& s, int threads, bool packed, void* scratch);

}  // namespace ARRAYNN_ISA_NAMESPACE
