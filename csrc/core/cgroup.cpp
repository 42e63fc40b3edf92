#include "core/cgroup.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>

namespace arraynn {
namespace {

// "max" and a missing file are 0.
double number(const std::string& text) { return std::atof(text.c_str()); }

// The quota of one group, 0 without one.
int group_quota(const std::string& folder, bool v2) {
  std::string quota, period;
  if (v2) {
    std::ifstream(folder + "/cpu.max") >> quota >> period;
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;  // -1 is none
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  const double cpus = number(quota) / number(period);
  return cpus > 0 && std::isfinite(cpus) ? static_cast<int>(std::ceil(std::min(cpus, 1e6))) : 0;
}

// `controllers` is a comma-separated list.
bool has_cpu(const std::string& controllers) {
  return ("," + controllers + ",").find(",cpu,") != std::string::npos;
}

}  // namespace

int cgroup_quota(const std::string& root) {
  int least = 0;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // id:controllers:/path
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool v2 = controllers.empty();
    if (!v2 && !has_cpu(controllers)) continue;
    const std::string mount = root + (v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu");
    std::string path = line.substr(second + 1);
    for (;;) {  // upwards to the mount itself, whose path in a container is that of its own group
      const int quota = group_quota(mount + path, v2);
      if (quota > 0) least = least == 0 ? quota : std::min(least, quota);
      const auto slash = path.rfind('/');
      if (slash == std::string::npos) break;
      path.resize(slash);
    }
  }
  return least;
}

}  // namespace arraynn
