// Which fault of planted.py is made, and the calls that show one.
#pragma once
#include <map>
#include <string>
#include <vector>

namespace host_cuda {

inline int planted_fault = 0;  // none
inline bool planted(int number) { return number == planted_fault; }
// Whether the blocks of a scan are apart.
inline bool scan_apart = false;
inline bool planted_apart() { return scan_apart; }

// Returns all that the call computes.
using Problem = std::vector<float> (*)();
const std::map<std::string, Problem>& problems();
const std::map<std::string, Problem>& attention_problems();  // some of them

}  // namespace host_cuda
