// Runtime settings and introspection: ISA, threads, block cache, registry, machine limits.
#include <cstring>
#include <vector>

#include "bind/array.hpp"
#include "bind/binders.hpp"
#include "core/block_cache.hpp"
#include "core/cgroup.hpp"
#include "core/cpu_extensions.hpp"
#include "core/cpu_isa.hpp"
#include "core/parallel.hpp"
#include "core/registry.hpp"
#include "machine/machine.hpp"

namespace arraynn {
namespace {

Isa isa_argument(const char* op, const std::string& name) {
  Isa isa{};
  if (!isa_from_name(name.c_str(), &isa)) {
    fail<ValueError>(op, "level", "expected generic, avx2, avx512 or avx512_bf16, got '", name,
                     "'");
  }
  return isa;
}

int thread_count(const char* op, py::handle n) {
  const std::int64_t value = take_int(op, "n", n);
  if (value < 1 || value > 4096) fail<ValueError>(op, "n", "expected 1 to 4096, got ", value);
  return static_cast<int>(value);
}

py::list available_isas() {
  py::list levels;
  for (int i = 0; i <= static_cast<int>(detected_isa()); ++i) {
    levels.append(isa_name(static_cast<Isa>(i)));
  }
  return levels;
}

py::list isa_extensions() {
  const CpuExtensions found = detected_extensions();
  py::list names;
  if (found.amx_bf16) names.append("amx_bf16");
  return names;
}

py::list kernels() {
  py::list rows;
  int count = 0;
  const KernelInfo* infos = registered_kernels(&count);
  for (int i = 0; i < count; ++i) {
    py::dict row;
    row["family"] = infos[i].family;
    row["name"] = infos[i].name;
    row["isa"] = isa_name(infos[i].isa);
    row["dtypes"] = py::str(infos[i].dtypes).attr("split")();
    row["tile"] = infos[i].tile;
    rows.append(row);
  }
  return rows;
}

py::dict block_cache() {
  const BlockCacheStats s = block_cache_stats();
  py::dict row;
  row["cached_bytes"] = s.cached_bytes;
  row["cached_blocks"] = s.cached_blocks;
  row["limit_bytes"] = s.limit_bytes;
  row["hits"] = s.hits;
  row["misses"] = s.misses;
  return row;
}

}  // namespace

void bind_runtime(py::module_& m) {
  m.attr("version") = ARRAYNN_VERSION;
  m.attr("cuda_built") = static_cast<bool>(ARRAYNN_HAVE_CUDA);
  m.attr("compiler") = __VERSION__;

  m.def("isa", [] { return isa_name(current_isa()); });
  m.def("available_isas", &available_isas);
  m.def("isa_extensions", &isa_extensions);
  m.def(
      "set_isa",
      [](const std::string& level) {
        const Isa isa = isa_argument("set_isa", level);
        if (!set_isa(isa)) {
          fail<ValueError>("set_isa", "level", "expected a level this machine has (up to ",
                           isa_name(detected_isa()), "), got ", level);
        }
      },
      py::arg("level"));
  m.def("get_num_threads", &max_threads);
  m.def(
      "set_num_threads", [](py::handle n) { set_num_threads(thread_count("set_num_threads", n)); },
      py::arg("n"));
  m.def(
      "push_threads",
      [](py::handle n) { return set_thread_local_threads(thread_count("threads", n)); },
      py::arg("n"));
  m.def("pop_threads", [](int former) { set_thread_local_threads(former); }, py::arg("former"));
  m.def("default_threads_reason", &default_threads_reason);
  m.def("cgroup_quota", &cgroup_quota, py::arg("root") = "/");
  m.def("kernels", &kernels);
  m.def("block_cache", &block_cache);
  m.def(
      "set_block_cache_limit",
      [](py::handle bytes) {
        const std::int64_t n = take_int("set_block_cache_limit", "bytes", bytes);
        if (n < 0) fail<ValueError>("set_block_cache_limit", "bytes", "expected >= 0, got ", n);
        set_block_cache_limit(static_cast<std::size_t>(n));
      },
      py::arg("bytes"));
  m.def(
      "measure_fma_rate",
      [](const std::string& dtype, int threads, int rounds) {
        if (dtype != "float32" && dtype != "float64") {
          fail<ValueError>("measure_fma_rate", "dtype", "expected float32 or float64, got ", dtype);
        }
        const py::gil_scoped_release nogil;
        return measure_fma_rate(dtype == "float32" ? Dtype::kF32 : Dtype::kF64, threads, rounds);
      },
      py::arg("dtype"), py::arg("threads"), py::arg("rounds") = 20);
  m.def(
      "measure_copy_bandwidth",
      [](std::int64_t bytes, int threads) {
        const py::gil_scoped_release nogil;
        return measure_copy_bandwidth(bytes, threads);
      },
      py::arg("bytes"), py::arg("threads"));
  m.def(
      "measure_read_bandwidth",
      [](std::int64_t bytes, int threads) {
        const py::gil_scoped_release nogil;
        return measure_read_bandwidth(bytes, threads);
      },
      py::arg("bytes"), py::arg("threads"));
}

}  // namespace arraynn
