// CUDA's <cuComplex.h>: complex numbers as float2 and double2. Quotients and sizes by the textbook; CUDA scales first.
#pragma once
#include "emulator/device.cuh"

#define EMULATOR_COMPLEX(type, T, f)                                                                                     \
    EMULATOR_HERE type make_##type(T real, T imag) { return {real, imag}; }                                              \
    EMULATOR_HERE T cuCreal##f(type a) { return a.x; }                                                                   \
    EMULATOR_HERE T cuCimag##f(type a) { return a.y; }                                                                   \
    EMULATOR_HERE type cuConj##f(type a) { return {a.x, -a.y}; }                                                         \
    EMULATOR_HERE type cuCadd##f(type a, type b) { return {a.x + b.x, a.y + b.y}; }                                      \
    EMULATOR_HERE type cuCsub##f(type a, type b) { return {a.x - b.x, a.y - b.y}; }                                      \
    EMULATOR_HERE type cuCmul##f(type a, type b) { return {a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x}; }              \
    EMULATOR_HERE type cuCfma##f(type a, type b, type c) { return cuCadd##f(cuCmul##f(a, b), c); }                       \
    EMULATOR_HERE type cuCdiv##f(type a, type b) {                                                                       \
        const T square = b.x * b.x + b.y * b.y;                                                                          \
        return {(a.x * b.x + a.y * b.y) / square, (a.y * b.x - a.x * b.y) / square};                                     \
    }                                                                                                                    \
    EMULATOR_HERE T cuCabs##f(type a) { return hypot##f(a.x, a.y); }

typedef float2 cuFloatComplex;
typedef double2 cuDoubleComplex;
EMULATOR_COMPLEX(cuFloatComplex, float, f)
EMULATOR_COMPLEX(cuDoubleComplex, double, )

typedef cuFloatComplex cuComplex;
EMULATOR_HERE cuComplex make_cuComplex(float real, float imag) { return {real, imag}; }
EMULATOR_HERE cuDoubleComplex cuComplexFloatToDouble(cuFloatComplex a) { return {a.x, a.y}; }
EMULATOR_HERE cuFloatComplex cuComplexDoubleToFloat(cuDoubleComplex a) { return {float(a.x), float(a.y)}; }
