// The CPU quota that a container or a service manager sets, from the files of Linux' control groups.
#pragma once

#include <string>

namespace arraynn {

// CPUs, rounded up, of the least quota among this process' control groups (version 1 or 2) and the
// groups above them; 0 when there is none. `root` is "/", or a test's copy of those files.
int cgroup_quota(const std::string& root);

}  // namespace arraynn
