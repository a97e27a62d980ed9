// CUDA's <cuda_fp16.h>: IEEE's half precision, 1 + 5 + 10 bits. What it has is in halves.hpp.
#pragma once

#define HALF __half
#define PAIR __half2
#define HALF_RAW __half_raw
#define PAIR_RAW __half2_raw
#define TO_BITS emulator::to_fp16
#define FROM_BITS emulator::from_fp16
#define OTHER __nv_bfloat16
#define NAMED(a, b) a##half##b
#define HALF_TO_PAIR __half2half2
#include "halves.hpp"

typedef __half half, nv_half, __nv_half;
typedef __half2 half2, nv_half2, __nv_half2;
typedef __half_raw __nv_half_raw;
typedef __half2_raw __nv_half2_raw;

#define CUDART_INF_FP16 __ushort_as_half(0x7c00)
#define CUDART_NAN_FP16 __ushort_as_half(0x7fff)
#define CUDART_MIN_DENORM_FP16 __ushort_as_half(0x0001)
#define CUDART_MAX_NORMAL_FP16 __ushort_as_half(0x7bff)
#define CUDART_NEG_ZERO_FP16 __ushort_as_half(0x8000)
#define CUDART_ZERO_FP16 __ushort_as_half(0x0000)
#define CUDART_ONE_FP16 __ushort_as_half(0x3c00)
