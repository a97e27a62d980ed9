// Part of curand_kernel.h: uniform numbers, above 0 and up to 1.
#pragma once
#include "curand_philox4x32_x.h"
#include "curand_xorwow.hpp"

#define CURAND_2POW32_INV 0x1p-32f
#define CURAND_2POW32_INV_DOUBLE 0x1p-32
#define CURAND_2POW53_INV_DOUBLE 0x1p-53

EMULATOR_QUIET float _curand_uniform(unsigned x) { return x * 0x1p-32f + 0x1p-33f; }
EMULATOR_QUIET float4 _curand_uniform4(uint4 x) {
    return {_curand_uniform(x.x), _curand_uniform(x.y), _curand_uniform(x.z), _curand_uniform(x.w)};
}
EMULATOR_QUIET double _curand_uniform_double(unsigned x) { return x * 0x1p-32 + 0x1p-32; }
EMULATOR_QUIET double _curand_uniform_double_hq(unsigned x, unsigned y) {  // of 53 bits
    return (x ^ (unsigned long long)y << 21) * 0x1p-53 + 0x1p-54;
}

template <class State>
EMULATOR_HERE float curand_uniform(State* state) { return _curand_uniform(curand(state)); }
EMULATOR_HERE float4 curand_uniform4(curandStatePhilox4_32_10* state) { return _curand_uniform4(curand4(state)); }

EMULATOR_HERE double curand_uniform_double(curandStateXORWOW* state) {
    const unsigned x = curand(state), y = curand(state);
    return _curand_uniform_double_hq(x, y);
}
EMULATOR_HERE double curand_uniform_double(curandStatePhilox4_32_10* state) { return _curand_uniform_double(curand(state)); }
EMULATOR_HERE double2 curand_uniform2_double(curandStatePhilox4_32_10* state) {
    const uint4 x = curand4(state);
    return {_curand_uniform_double_hq(x.x, x.y), _curand_uniform_double_hq(x.z, x.w)};
}
