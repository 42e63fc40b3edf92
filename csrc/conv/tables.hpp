// The entry points of one ISA, one unit each, collected into its table by cpu_weight.cpp.
#pragma once
#include "conv/conv.hpp"
#include "simd/vec.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

std::int64_t winograd_prepared_f32(const DirectConv<float>& d);
std::int64_t winograd_prepared_f64(const DirectConv<double>& d);
std::int64_t first_scratch_f32(const DirectConv<float>& d, int threads);
std::int64_t first_scratch_f64(const DirectConv<double>& d, int threads);
void first_f32(const DirectConv<float>& d, int threads, void* scratch);
void first_f64(const DirectConv<double>& d, int threads, void* scratch);
std::int64_t winograd_scratch_f32(const DirectConv<float>& d, int threads);
std::int64_t winograd_scratch_f64(const DirectConv<double>& d, int threads);
void winograd_f32(const DirectConv<float>& d, int threads, void* scratch);
void winograd_f64(const DirectConv<double>& d, int threads, void* scratch);
std::int64_t depthwise_scratch_f32(const DepthwiseConv<float>& d, int threads);
std::int64_t depthwise_scratch_f64(const DepthwiseConv<double>& d, int threads);
void depthwise_f32(const DepthwiseConv<float>& d, int threads, void* scratch);
void depthwise_f64(const DepthwiseConv<double>& d, int threads, void* scratch);
std::int64_t depthwise_gradient_scratch_f32(const DepthwiseGradient<float>& d, int threads);
std::int64_t depthwise_gradient_scratch_f64(const DepthwiseGradient<double>& d, int threads);
void depthwise_gradient_f32(const DepthwiseGradient<float>& d, int threads, void* scratch);
void depthwise_gradient_f64(const DepthwiseGradient<double>& d, int threads, void* scratch);
std::int64_t winograd_weight_scratch_f32(const WeightGradient<float>& d, int threads);
std::int64_t winograd_weight_scratch_f64(const WeightGradient<double>& d, int threads);
void winograd_weight_f32(const WeightGradient<float>& d, int threads, void* scratch);
void winograd_weight_f64(const WeightGradient<double>& d, int threads, void* scratch);

}  // namespace ARRAYNN_ISA_NAMESPACE
