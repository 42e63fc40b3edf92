// Which fault of planted.py is made.
#pragma once

namespace host_cuda {

inline int planted_fault = 0;  // none
inline bool planted(int number) { return number == planted_fault; }
// Whether the blocks of a scan are apart.
inline bool scan_apart = false;
inline bool planted_apart() { return scan_apart; }

}  // namespace host_cuda
