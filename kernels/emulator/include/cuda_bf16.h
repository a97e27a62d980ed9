// CUDA's <cuda_bf16.h>: bfloat16, 1 + 8 + 7 bits, the upper half of a float. What it has is in halves.hpp.
#pragma once
#include "cuda_fp16.h"

#define HALF __nv_bfloat16
#define PAIR __nv_bfloat162
#define HALF_RAW __nv_bfloat16_raw
#define PAIR_RAW __nv_bfloat162_raw
#define TO_BITS emulator::to_bf16
#define FROM_BITS emulator::from_bf16
#define OTHER __half
#define NAMED(a, b) a##bfloat16##b
#define HALF_TO_PAIR __bfloat162bfloat162
#include "halves.hpp"

inline __half::__half(__nv_bfloat16 x) : __half(float(x)) {}
inline __nv_bfloat16::__nv_bfloat16(__half x) : __nv_bfloat16(float(x)) {}

typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

#define CUDART_INF_BF16 __ushort_as_bfloat16(0x7f80)
#define CUDART_NAN_BF16 __ushort_as_bfloat16(0x7fff)
#define CUDART_MIN_DENORM_BF16 __ushort_as_bfloat16(0x0001)
#define CUDART_MAX_NORMAL_BF16 __ushort_as_bfloat16(0x7f7f)
#define CUDART_NEG_ZERO_BF16 __ushort_as_bfloat16(0x8000)
#define CUDART_ZERO_BF16 __ushort_as_bfloat16(0x0000)
#define CUDART_ONE_BF16 __ushort_as_bfloat16(0x3f80)
