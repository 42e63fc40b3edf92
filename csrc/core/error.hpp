// Errors of the checks in front of the kernels: "[op] arg: expected <what>, got <what>".
// The bindings turn each kind into its Python exception; kernels themselves never throw.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace arraynn {

struct ValueError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct TypeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct NotImplemented : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct OutOfMemory : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream s;
  (s << ... << parts);
  return s.str();
}

// "[op] arg: detail..."
template <class Error, class... Parts>
[[noreturn]] void fail(const char* op, const char* arg, const Parts&... detail) {
  throw Error(concat("[", op, "] ", arg, ": ", detail...));
}

}  // namespace arraynn
