// Products of floats by products of bf16 numbers: which parts meet which. matmul/3_split.cu explains it.
#pragma once

// Of low (0), middle (1) and high (2), in hexadecimal digits: the last one is of the pair that comes first, the smallest products.
#define PAIRS 6
#define PAIRED_LEFT 0x221210
#define PAIRED_RIGHT 0x212012

__device__ __forceinline__ int left_part(int pair) { return PAIRED_LEFT >> 4 * pair & 3; }
__device__ __forceinline__ int right_part(int pair) { return PAIRED_RIGHT >> 4 * pair & 3; }

__device__ __forceinline__ bool is_finite(float x) { return x - x == 0; }
