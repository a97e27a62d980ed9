// CUDA's <cuda_fp8.h>: numbers of 8 bits, one, two or four of them, and what they are converted from and to.
#pragma once
#include "cuda_bf16.h"
#include "emulator/eight_bits.cuh"

typedef unsigned char __nv_fp8_storage_t;
typedef unsigned short __nv_fp8x2_storage_t;
typedef unsigned __nv_fp8x4_storage_t;
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };

inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float x, __nv_saturation_t saturate, __nv_fp8_interpretation_t kind) {
    const float most = kind == __NV_E4M3 ? 464 : 61440;  // from there on it is rounded to more than the largest number
    if (saturate == __NV_NOSAT && (kind == __NV_E4M3 ? fabsf(x) > most : fabsf(x) >= most))
        return (__nv_fp8_storage_t)((kind == __NV_E4M3 ? 0x7f : 0x7c) | (__builtin_signbit(x) ? 0x80 : 0));
    return (__nv_fp8_storage_t)(kind == __NV_E4M3 ? emulator::to_e4m3(x) : emulator::to_e5m2(x));
}
inline __nv_fp8x2_storage_t __nv_cvt_float2_to_fp8x2(float2 v, __nv_saturation_t saturate, __nv_fp8_interpretation_t kind) {
    return (__nv_fp8x2_storage_t)(__nv_cvt_float_to_fp8(v.x, saturate, kind) | __nv_cvt_float_to_fp8(v.y, saturate, kind) << 8);
}
inline __nv_fp8_storage_t __nv_cvt_halfraw_to_fp8(__half_raw x, __nv_saturation_t saturate, __nv_fp8_interpretation_t kind) {
    return __nv_cvt_float_to_fp8(emulator::from_fp16(x.x), saturate, kind);
}
inline __nv_fp8_storage_t __nv_cvt_bfloat16raw_to_fp8(__nv_bfloat16_raw x, __nv_saturation_t saturate, __nv_fp8_interpretation_t kind) {
    return __nv_cvt_float_to_fp8(emulator::from_bf16(x.x), saturate, kind);
}
inline __nv_fp8x2_storage_t __nv_cvt_halfraw2_to_fp8x2(__half2_raw v, __nv_saturation_t saturate, __nv_fp8_interpretation_t kind) {
    return __nv_cvt_float2_to_fp8x2(make_float2(emulator::from_fp16(v.x), emulator::from_fp16(v.y)), saturate, kind);
}
inline __nv_fp8x2_storage_t __nv_cvt_bfloat16raw2_to_fp8x2(__nv_bfloat162_raw v, __nv_saturation_t saturate, __nv_fp8_interpretation_t kind) {
    return __nv_cvt_float2_to_fp8x2(make_float2(emulator::from_bf16(v.x), emulator::from_bf16(v.y)), saturate, kind);
}
inline __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t x, __nv_fp8_interpretation_t kind) {
    return {emulator::to_fp16(kind == __NV_E4M3 ? emulator::from_e4m3(x) : emulator::from_e5m2(x))};
}
inline __half2_raw __nv_cvt_fp8x2_to_halfraw2(__nv_fp8x2_storage_t x, __nv_fp8_interpretation_t kind) {
    return {__nv_cvt_fp8_to_halfraw((__nv_fp8_storage_t)x, kind).x, __nv_cvt_fp8_to_halfraw((__nv_fp8_storage_t)(x >> 8), kind).x};
}

#define EMULATOR_FP8_TYPES(kind, KIND)                                                                                      \
    struct __nv_fp8_##kind {                                                                                                \
        __nv_fp8_storage_t __x;                                                                                             \
        __nv_fp8_##kind() = default;                                                                                        \
        template <class T>                                                                                                  \
        EMULATOR_HERE explicit __nv_fp8_##kind(T x) : __x(__nv_cvt_float_to_fp8(float(x), __NV_SATFINITE, KIND)) {}         \
        EMULATOR_HERE explicit operator float() const { return emulator::from_##kind(__x); }                                \
        EMULATOR_HERE explicit operator double() const { return emulator::from_##kind(__x); }                               \
        EMULATOR_HERE explicit operator __half() const { return __half(emulator::from_##kind(__x)); }                       \
        EMULATOR_HERE explicit operator __nv_bfloat16() const { return __nv_bfloat16(emulator::from_##kind(__x)); }         \
        EMULATOR_HERE explicit operator bool() const { return __x & 0x7f; }                                                 \
    };                                                                                                                      \
    struct __nv_fp8x2_##kind {                                                                                              \
        __nv_fp8x2_storage_t __x;                                                                                           \
        __nv_fp8x2_##kind() = default;                                                                                      \
        EMULATOR_HERE explicit __nv_fp8x2_##kind(float2 v) : __x(__nv_cvt_float2_to_fp8x2(v, __NV_SATFINITE, KIND)) {}      \
        EMULATOR_HERE explicit operator float2() const {                                                                    \
            const unsigned both = __x;                                                                                      \
            return make_float2(emulator::from_##kind(both & 255), emulator::from_##kind(both >> 8));                        \
        }                                                                                                                   \
    };                                                                                                                      \
    struct __nv_fp8x4_##kind {                                                                                              \
        __nv_fp8x4_storage_t __x;                                                                                           \
        __nv_fp8x4_##kind() = default;                                                                                      \
        EMULATOR_HERE explicit __nv_fp8x4_##kind(float4 v)                                                                  \
            : __x(__nv_cvt_float2_to_fp8x2(make_float2(v.x, v.y), __NV_SATFINITE, KIND) |                                   \
                  unsigned(__nv_cvt_float2_to_fp8x2(make_float2(v.z, v.w), __NV_SATFINITE, KIND)) << 16) {}                 \
        EMULATOR_HERE explicit operator float4() const {                                                                    \
            const unsigned all = __x;                                                                                       \
            return make_float4(emulator::from_##kind(all & 255), emulator::from_##kind(all >> 8 & 255),                     \
                               emulator::from_##kind(all >> 16 & 255), emulator::from_##kind(all >> 24));                   \
        }                                                                                                                   \
    };
EMULATOR_FP8_TYPES(e4m3, __NV_E4M3)
EMULATOR_FP8_TYPES(e5m2, __NV_E5M2)
#undef EMULATOR_FP8_TYPES
