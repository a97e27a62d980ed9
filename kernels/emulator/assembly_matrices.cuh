// The matrices of inline PTX, which a warp loads, stores, transposes and multiplies: part of assembly.cuh.
#pragma once

namespace emulator {
namespace ptx {

template <int N, bool TRANS, class... D>
EMULATOR_PTX void ldmatrix(unsigned long long row, D&... d) {
    static_assert(N == sizeof...(D), "as many registers as matrices");
    unsigned numbers[N];
    load_matrices(numbers, N, TRANS, at<true>(row), EMULATOR_WHERE);
    int i = 0;
    ((d = as<D>(numbers[i++])), ...);
}
template <int N, bool TRANS, class... A>
EMULATOR_PTX void stmatrix(unsigned long long row, A... values) {
    static_assert(N == sizeof...(A), "as many registers as matrices");
    const unsigned numbers[N] = {as<unsigned>(values)...};
    store_matrices(at<true>(row), numbers, N, TRANS, EMULATOR_WHERE);
}

// Of 8 x 8 numbers of 16 bits, lane i has row i / 4, columns i % 4 * 2 and the next one.
template <class D, class A>
EMULATOR_PTX void movmatrix(D& d, A a) {
    const char* const all = warp_exchange(~0u, &a, sizeof a, EMULATOR_WHERE);
    const int row = self->lane / 4, column = self->lane % 4 * 2;
    unsigned short two[2];
    for (int i = 0; i < 2; i++) {
        const int source = (column + i) * 4 + row / 2;
        check_source_lane(source, EMULATOR_WHERE);
        __builtin_memcpy(&two[i], all + 16 * source + row % 2 * 2, sizeof two[i]);
    }
    d = as<D>(two[0] | unsigned(two[1]) << 16);
}

// A register of any kind ("r" or "f") gives its bits. Of fewer columns of A than the others' k, zeros take the place.
typedef unsigned U;
template <class D, class T>
EMULATOR_QUIET void give(D& d, T value) { d = as<D>(value); }
template <class T>
EMULATOR_QUIET void give(const Nowhere&, T) {}
#define EMULATOR_PRODUCT \
    template <class A, class B, class D0, class D1, class D2, class D3, class C0, class C1, class C2, class C3> EMULATOR_PTX void
#define EMULATOR_SUMS(type) type s[4] = {as<type>(c0), as<type>(c1), as<type>(c2), as<type>(c3)}
#define EMULATOR_GIVE give(d0, s[0]), give(d1, s[1]), give(d2, s[2]), give(d3, s[3])
#define EMULATOR_D4 D0 &d0, D1 &d1, D2 &d2, D3 &d3
#define EMULATOR_C4 C0 c0, C1 c1, C2 c2, C3 c3
#define EMULATOR_TWO_SIZES(wide, narrow, types, type, product)                                          \
    EMULATOR_PRODUCT mma_##wide##_##types(EMULATOR_D4, A a0, A a1, A a2, A a3, B b0, B b1, EMULATOR_C4) { \
        const U a[4] = {as<U>(a0), as<U>(a1), as<U>(a2), as<U>(a3)};                                    \
        EMULATOR_SUMS(type);                                                                            \
        product(s, a, as<U>(b0), as<U>(b1), EMULATOR_WHERE);                                            \
        EMULATOR_GIVE;                                                                                  \
    }                                                                                                   \
    EMULATOR_PRODUCT mma_##narrow##_##types(EMULATOR_D4, A a0, A a1, B b0, EMULATOR_C4) {               \
        const U a[4] = {as<U>(a0), as<U>(a1), 0, 0};                                                    \
        EMULATOR_SUMS(type);                                                                            \
        product(s, a, as<U>(b0), 0, EMULATOR_WHERE);                                                    \
        EMULATOR_GIVE;                                                                                  \
    }

// Of 8 bits where the card has no instruction for it, as an H100: by two products of half precision, which has all these
// numbers, and an addition, as the compiler does it.
EMULATOR_QUIET unsigned short e4m3_to_half(unsigned bits) { return to_fp16(from_e4m3(bits)); }
EMULATOR_QUIET unsigned short e5m2_to_half(unsigned bits) { return (unsigned short)(bits << 8); }
template <Number TYPE>
EMULATOR_QUIET void mma_fp8(float* s, const U* a, U b0, U b1, const void* where) {
    if (card_multiplies_fp8()) return (TYPE == E4M3 ? mma_e4m3 : mma_e5m2)(s, a, b0, b1, where);
    const auto to_half = TYPE == E4M3 ? e4m3_to_half : e5m2_to_half;
    const auto two = [to_half](U bits, int from) __attribute__((no_sanitize("thread"))) {
        return to_half(bits >> from & 255) | U(to_half(bits >> (from + 8) & 255)) << 16;
    };
    U spread[2][4];
    for (int part = 0; part < 2; part++)  // a register has numbers 0 and 1 for the first product, 2 and 3 for the other
        for (int i = 0; i < 4; i++) spread[part][i] = two(a[i], 16 * part);
    float products[4] = {};
    for (int part = 0; part < 2; part++) mma_fp16(products, spread[part], two(b0, 16 * part), two(b1, 16 * part), where);
    for (int i = 0; i < 4; i++) s[i] += products[i];
}
EMULATOR_QUIET void mma_s8_satfinite(int* s, const U* a, U b0, U b1, const void* where) {
    int products[4] = {};
    mma_s8(products, a, b0, b1, where);
    for (int i = 0; i < 4; i++) {
        const long long sum = (long long)(s[i]) + products[i];
        s[i] = int(sum < -(1ll << 31) ? -(1ll << 31) : sum >= 1ll << 31 ? (1ll << 31) - 1 : sum);
    }
}

EMULATOR_TWO_SIZES(m16n8k16, m16n8k8, f32_bf16_bf16_f32, float, mma_bf16)
EMULATOR_TWO_SIZES(m16n8k16, m16n8k8, f32_f16_f16_f32, float, mma_fp16)
EMULATOR_TWO_SIZES(m16n8k8, m16n8k4, f32_tf32_tf32_f32, float, mma_tf32)
EMULATOR_TWO_SIZES(m16n8k32, m16n8k16, f32_e4m3_e4m3_f32, float, mma_fp8<E4M3>)
EMULATOR_TWO_SIZES(m16n8k32, m16n8k16, f32_e5m2_e5m2_f32, float, mma_fp8<E5M2>)
EMULATOR_TWO_SIZES(m16n8k32, m16n8k16, s32_s8_s8_s32, int, mma_s8)
EMULATOR_TWO_SIZES(m16n8k32, m16n8k16, s32_s8_s8_s32_satfinite, int, mma_s8_satfinite)

// Sums of half precision.
EMULATOR_QUIET void mma_halves(U& d0, U& d1, const U* a, U b0, U b1, U c0, U c1, const void* where) {
    float s[4] = {from_fp16(c0), from_fp16(c0 >> 16), from_fp16(c1), from_fp16(c1 >> 16)};
    mma_fp16_to_halves(s, a, b0, b1, where);
    cvt_f16x2(d0, s[1], s[0]);
    cvt_f16x2(d1, s[3], s[2]);
}
EMULATOR_PTX void mma_m16n8k16_f16_f16_f16_f16(U& d0, U& d1, U a0, U a1, U a2, U a3, U b0, U b1, U c0, U c1) {
    const U a[4] = {a0, a1, a2, a3};
    mma_halves(d0, d1, a, b0, b1, c0, c1, EMULATOR_WHERE);
}
EMULATOR_PTX void mma_m16n8k8_f16_f16_f16_f16(U& d0, U& d1, U a0, U a1, U b0, U c0, U c1) {
    const U a[4] = {a0, a1, 0, 0};
    mma_halves(d0, d1, a, b0, 0, c0, c1, EMULATOR_WHERE);
}

}  // namespace ptx
}  // namespace emulator
