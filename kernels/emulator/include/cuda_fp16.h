// CUDA's <cuda_fp16.h>: numbers of 16 bits, IEEE's half precision.
#pragma once
