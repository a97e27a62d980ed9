// Numbers of 8 bits, e4m3 and e5m2: for assembly.cuh, <cuda_fp8.h> and products (warpgroups.hpp).
#pragma once
#include "emulator/device.cuh"

namespace emulator {

// With that many bits in the mantissa, up to `most`, to which larger ones are set.
EMULATOR_QUIET unsigned to_fp8(float x, int mantissa, int bias, float most) {
    if (x != x) return 0x7f;
    const float a = fminf(fabsf(x), most);
    const int exponent = a < ldexpf(1, 1 - bias) ? 1 - bias : ilogbf(a);
    return (__builtin_signbit(x) ? 0x80u : 0u) | (unsigned(nearbyintf(ldexpf(a, mantissa - exponent))) + (unsigned(exponent + bias - 1) << mantissa));
}
EMULATOR_QUIET unsigned to_e4m3(float x) { return to_fp8(x, 3, 7, 448); }
EMULATOR_QUIET unsigned to_e5m2(float x) { return to_fp8(x, 2, 15, 57344); }
EMULATOR_QUIET float from_e4m3(unsigned bits) {
    const int exponent = bits >> 3 & 15, rest = bits & 7;
    const float x = (bits & 127) == 127 ? from_fp16(0x7fff) : exponent ? ldexpf(8 + rest, exponent - 10) : ldexpf(rest, -9);
    return bits & 128 ? -x : x;
}
EMULATOR_QUIET float from_e5m2(unsigned bits) { return from_fp16((bits & 255) << 8); }

}  // namespace emulator
