// For functions that a kernel and the host's code share.
#pragma once

#if defined(__CUDACC__)
#define ARRAYNN_HOST_DEVICE __host__ __device__
#else
#define ARRAYNN_HOST_DEVICE
#endif
