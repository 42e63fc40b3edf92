// The entry points of cpu_few.cpp, collected with those of depthwise convolutions.
#pragma once
#include "conv/conv.hpp"
#include "simd/vec.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

std::int64_t few_scratch_f32(const DirectConv<float>& d, int threads);
std::int64_t few_scratch_f64(const DirectConv<double>& d, int threads);
void few_f32(const DirectConv<float>& d, int threads, void* scratch);
void few_f64(const DirectConv<double>& d, int threads, void* scratch);

}  // namespace ARRAYNN_ISA_NAMESPACE
