// A product and a sum, each rounded separately. By default the compiler fuses a * b + c into one operation, which is
// rounded once and so gives other bits than a device, or a NumPy, that has none.
#pragma once

#ifdef __CUDACC__
__device__ double times(double a, double b) { return __dmul_rn(a, b); }
__device__ double plus(double a, double b) { return __dadd_rn(a, b); }
__device__ float times_32(float a, float b) { return __fmul_rn(a, b); }
__device__ float plus_32(float a, float b) { return __fadd_rn(a, b); }
#else
inline double times(double a, double b) { return a * b; }
inline double plus(double a, double b) { return a + b; }
inline float times_32(float a, float b) { return a * b; }
inline float plus_32(float a, float b) { return a + b; }
#endif
