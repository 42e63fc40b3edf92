// Activations as data: what an epilogue or an elementwise kernel applies. The arithmetic is in
// simd/activation.hpp.
#pragma once
#include <cstdint>
#include <string_view>

#include "core/error.hpp"

namespace arraynn {

enum class ActivationKind : std::uint8_t {
  kNone,
  kRelu,
  kLeakyRelu,  // alpha = negative_slope
  kElu,        // alpha
  kSelu,
  kSigmoid,
  kTanh,
  kHardsigmoid,
  kHardswish,
  kSilu,
  kGelu,
  kGeluTanh,
  kMish,
  kSoftplus,  // alpha = beta, beta = threshold
};
inline constexpr int kActivationCount = 14;

struct Activation {
  ActivationKind kind = ActivationKind::kNone;
  double alpha = 0.0;
  double beta = 0.0;
};

struct ActivationName {
  const char* name;
  Activation activation;
};

// The names of an `activation=` argument, with their default parameters.
inline constexpr ActivationName kActivationNames[] = {
    {"relu", {ActivationKind::kRelu}},
    {"leaky_relu", {ActivationKind::kLeakyRelu, 0.01}},
    {"elu", {ActivationKind::kElu, 1.0}},
    {"selu", {ActivationKind::kSelu}},
    {"sigmoid", {ActivationKind::kSigmoid}},
    {"tanh", {ActivationKind::kTanh}},
    {"hardsigmoid", {ActivationKind::kHardsigmoid}},
    {"hardswish", {ActivationKind::kHardswish}},
    {"silu", {ActivationKind::kSilu}},
    {"gelu", {ActivationKind::kGelu}},
    {"gelu_tanh", {ActivationKind::kGeluTanh}},
    {"mish", {ActivationKind::kMish}},
    {"softplus", {ActivationKind::kSoftplus, 1.0, 20.0}},
};
static_assert(sizeof kActivationNames / sizeof kActivationNames[0] == kActivationCount - 1);

inline Activation activation_from_name(const char* op, std::string_view name) {
  for (const ActivationName& known : kActivationNames) {
    if (name == known.name) return known.activation;
  }
  std::string names;
  for (const ActivationName& known : kActivationNames) names.append(" ").append(known.name);
  fail<ValueError>(op, "activation", "expected None or one of", names, ", got '", name, "'");
}

// relu and leaky_relu only move or scale data: they keep denormals.
constexpr bool activation_keeps_denormals(ActivationKind kind) {
  return kind == ActivationKind::kNone || kind == ActivationKind::kRelu ||
         kind == ActivationKind::kLeakyRelu;
}

}  // namespace arraynn
