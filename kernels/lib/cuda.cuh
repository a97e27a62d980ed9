// The only file that knows both worlds: NVRTC, which compiles a kernel for a GPU, and g++, which compiles the very same
// text for the emulator. A kernel includes this file first and otherwise is plain CUDA C++.
#pragma once

#ifdef __CUDACC__  // for a GPU: bare NVRTC brings the language but no standard headers

#define INFINITY __int_as_float(0x7f800000)

// Shared memory whose size is given at the launch: DYNAMIC_SHARED(float, row); declares `float* row`. It begins at a multiple
// of 1024 bytes, which tiles that TMA swizzles need.
#define DYNAMIC_SHARED(type, name) \
    extern __shared__ __align__(1024) unsigned char name##_bytes[]; \
    type* const name = reinterpret_cast<type*>(name##_bytes)

#else  // for the emulator

#include "emulator/device.cuh"

#endif
