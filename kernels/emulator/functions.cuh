// CUDA's functions that g++ and clang++ do not know, but for barriers, shuffles and atomics: part of device.cuh.
#pragma once

// --- min and max: of floats the one that is not NaN -----------------------------------------------------------------

#define EMULATOR_MIN_MAX(type, a_type, b_type)                                             \
    inline type min(a_type a, b_type b) { return type(b) < type(a) ? type(b) : type(a); }  \
    inline type max(a_type a, b_type b) { return type(a) < type(b) ? type(b) : type(a); }
#define EMULATOR_MIN_MAX_OF_WHOLE(with_sign, without)   \
    EMULATOR_MIN_MAX(with_sign, with_sign, with_sign)   \
    EMULATOR_MIN_MAX(without, with_sign, without)       \
    EMULATOR_MIN_MAX(without, without, with_sign)       \
    EMULATOR_MIN_MAX(without, without, without)
EMULATOR_MIN_MAX_OF_WHOLE(int, unsigned)
EMULATOR_MIN_MAX_OF_WHOLE(long, ulong)
EMULATOR_MIN_MAX_OF_WHOLE(emulator::Long, emulator::Ulong)
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin(a, b); }
inline double max(float a, double b) { return fmax(a, b); }
inline double min(double a, float b) { return fmin(a, b); }
inline double max(double a, float b) { return fmax(a, b); }
inline unsigned umin(unsigned a, unsigned b) { return min(a, b); }
inline unsigned umax(unsigned a, unsigned b) { return max(a, b); }
inline long long llmin(long long a, long long b) { return min(a, b); }
inline long long llmax(long long a, long long b) { return max(a, b); }
inline unsigned long long ullmin(unsigned long long a, unsigned long long b) { return min(a, b); }
inline unsigned long long ullmax(unsigned long long a, unsigned long long b) { return max(a, b); }

// --- bits ------------------------------------------------------------------------------------------------------------

template <class To, class From>
inline To emulator_bits(From x) {
    To y;
    __builtin_memcpy(&y, &x, sizeof y);
    return y;
}
inline float __int_as_float(int x) { return emulator_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emulator_bits<float>(x); }
inline int __float_as_int(float x) { return emulator_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return emulator_bits<unsigned>(x); }
inline double __longlong_as_double(long long x) { return emulator_bits<double>(x); }
inline long long __double_as_longlong(double x) { return emulator_bits<long long>(x); }
inline double __hiloint2double(int high, int low) {
    return emulator_bits<double>((unsigned long long)(unsigned)high << 32 | (unsigned)low);
}
inline int __double2hiint(double x) { return int(emulator_bits<long long>(x) >> 32); }
inline int __double2loint(double x) { return int(emulator_bits<long long>(x)); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; i++) y |= (x >> i & 1) << (31 - i);
    return y;
}
inline unsigned long long __brevll(unsigned long long x) {
    return (unsigned long long)__brev(unsigned(x)) << 32 | __brev(unsigned(x >> 32));
}
// Byte i of the result is the one that the lowest 3 bits of digit i choose, or 8 times its sign if the 4th bit is set.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned digits) {
    const unsigned long long both = (unsigned long long)y << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        unsigned byte = both >> (digits >> 4 * i & 7) * 8 & 255;
        if (digits >> 4 * i & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << 8 * i;
    }
    return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return ((unsigned long long)high << 32 | low) << (by & 31) >> 32;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return ((unsigned long long)high << 32 | low) >> (by & 31);
}
inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned by) {
    return by >= 32 ? low : __funnelshift_l(low, high, by);
}
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned by) {
    return by >= 32 ? high : __funnelshift_r(low, high, by);
}

// --- whole numbers ---------------------------------------------------------------------------------------------------

inline int __mul24(int a, int b) { return int((long long)(int(unsigned(a) << 8) >> 8) * (int(unsigned(b) << 8) >> 8)); }
inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffff) * (b & 0xffffff); }
inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned long long)a * b >> 32; }
inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned __int128)a * b >> 64;
}
inline unsigned __usad(unsigned a, unsigned b, unsigned c) { return (a < b ? b - a : a - b) + c; }
inline unsigned __sad(int a, int b, unsigned c) { return (a < b ? unsigned(b) - a : unsigned(a) - b) + c; }
inline int __hadd(int a, int b) { return int(((long long)a + b) >> 1); }
inline int __rhadd(int a, int b) { return int(((long long)a + b + 1) >> 1); }
inline unsigned __uhadd(unsigned a, unsigned b) { return ((unsigned long long)a + b) >> 1; }
inline unsigned __urhadd(unsigned a, unsigned b) { return ((unsigned long long)a + b + 1) >> 1; }
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 32; i += 8) c += (signed char)(a >> i) * (signed char)(b >> i);
    return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 32; i += 8) c += (a >> i & 255) * (b >> i & 255);
    return c;
}

// --- floats. What CUDA calls fast is exact here. ---------------------------------------------------------------------

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return exp10f(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline void __sincosf(float x, float* s, float* c) { *s = sinf(x), *c = cosf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0.0f ? fminf(x, 1.0f) : 0.0f; }  // of NaN 0
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return float(1.0 / sqrt(double(x))); }
// Rounded to 0, down and up: a double beside the result, and the sign of how much it is too small.
inline float emulator_rounded(double x, double rest, int way) {
    const float nearest = float(x);
    const int above = x > nearest ? 1 : x < nearest ? -1 : (rest > 0) - (rest < 0);
    if (way == 0) way = x < 0 ? 1 : -1;
    return above == way ? nextafterf(nearest, way > 0 ? INFINITY : -INFINITY) : nearest;
}
inline float emulator_rounded_sum(double x, double y, int way) {
    const double sum = x + y, part = sum - x;
    return emulator_rounded(sum, (x - (sum - part)) + (y - part), way);
}
#define EMULATOR_ROUNDED(how, way)                                                                                                    \
    inline float __fadd_##how(float a, float b) { return emulator_rounded_sum(a, b, way); }                                           \
    inline float __fsub_##how(float a, float b) { return emulator_rounded_sum(a, -b, way); }                                          \
    inline float __fmul_##how(float a, float b) { return emulator_rounded(double(a) * b, 0, way); }                                   \
    inline float __fmaf_##how(float a, float b, float c) { return emulator_rounded_sum(double(a) * b, c, way); }                      \
    inline float __fdiv_##how(float a, float b) { return emulator_rounded(double(a) / b, fma(-(double(a) / b), b, a) * (b < 0 ? -1 : 1), way); } \
    inline float __frcp_##how(float x) { return __fdiv_##how(1, x); }                                                                 \
    inline float __fsqrt_##how(float x) { return emulator_rounded(sqrt(double(x)), fma(-sqrt(double(x)), sqrt(double(x)), x), way); }
EMULATOR_ROUNDED(rz, 0)
EMULATOR_ROUNDED(rd, -1)
EMULATOR_ROUNDED(ru, 1)
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline double __drcp_rn(double x) { return 1.0 / x; }
inline double __dsqrt_rn(double x) { return sqrt(x); }

namespace emulator {

// The nearest whole number that fits; NaN gives 0 or, with 64 bits on either side, the highest bit alone.
template <class T, class FROM = float>
inline T whole(double x) {
    const bool has_sign = T(-1) < T(0);
    const int bits = 8 * sizeof(T);
    const T highest_bit = T(1ull << (bits - 1)), most = has_sign ? T(~highest_bit) : T(-1);
    if (x != x) return bits == 64 || sizeof(FROM) == 8 ? highest_bit : T(0);
    if (x >= ldexp(1.0, bits - has_sign)) return most;
    return x <= (has_sign ? -ldexp(1.0, bits - 1) : 0.0) ? (has_sign ? highest_bit : T(0)) : T(x);
}

}  // namespace emulator

#define EMULATOR_TO_WHOLE(how, function)                                                                        \
    inline int __float2int_##how(float x) { return emulator::whole<int>(function(double(x))); }                 \
    inline int __double2int_##how(double x) { return emulator::whole<int, double>(function(x)); }               \
    inline unsigned __float2uint_##how(float x) { return emulator::whole<unsigned>(function(double(x))); }      \
    inline unsigned __double2uint_##how(double x) { return emulator::whole<unsigned, double>(function(x)); }
EMULATOR_TO_WHOLE(rn, nearbyint)
EMULATOR_TO_WHOLE(rz, trunc)
EMULATOR_TO_WHOLE(rd, floor)
EMULATOR_TO_WHOLE(ru, ceil)
#define EMULATOR_TO_LONG(how, function)                                                                         \
    inline long long __float2ll_##how(float x) { return emulator::whole<long long>(function(double(x))); }      \
    inline long long __double2ll_##how(double x) { return emulator::whole<long long>(function(x)); }            \
    inline emulator::Ulong __float2ull_##how(float x) { return emulator::whole<emulator::Ulong>(function(double(x))); } \
    inline emulator::Ulong __double2ull_##how(double x) { return emulator::whole<emulator::Ulong>(function(x)); }
EMULATOR_TO_LONG(rn, nearbyint)
EMULATOR_TO_LONG(rz, trunc)
EMULATOR_TO_LONG(rd, floor)
EMULATOR_TO_LONG(ru, ceil)

// To floats: the nearest, or the one on that side of x.
template <class T, class X>
inline T emulator_below(X x) {
    const T nearest = T(x);
    return (long double)nearest > (long double)x ? nextafter(nearest, T(-INFINITY)) : nearest;
}
template <class T, class X>
inline T emulator_above(X x) {
    const T nearest = T(x);
    return (long double)nearest < (long double)x ? nextafter(nearest, T(INFINITY)) : nearest;
}
#define EMULATOR_TO_FLOAT(from, type, to)                                                                            \
    inline to __##from##2##to##_rn(type x) { return to(x); }                                                         \
    inline to __##from##2##to##_rd(type x) { return emulator_below<to>(x); }                                         \
    inline to __##from##2##to##_ru(type x) { return emulator_above<to>(x); }                                         \
    inline to __##from##2##to##_rz(type x) { return x < 0 ? emulator_above<to>(x) : emulator_below<to>(x); }
EMULATOR_TO_FLOAT(int, int, float)
EMULATOR_TO_FLOAT(uint, unsigned, float)
EMULATOR_TO_FLOAT(ll, long long, float)
EMULATOR_TO_FLOAT(ull, unsigned long long, float)
EMULATOR_TO_FLOAT(ll, long long, double)
EMULATOR_TO_FLOAT(ull, unsigned long long, double)
EMULATOR_TO_FLOAT(double, double, float)
inline double __int2double_rn(int x) { return x; }
inline double __uint2double_rn(unsigned x) { return x; }

// The address in shared memory, of 32 bits.
inline size_t __cvta_generic_to_shared(const void* pointer) { return emulator::shared_address(pointer); }
inline void* __cvta_shared_to_generic(size_t address) { return emulator::shared_pointer(unsigned(address)); }

// --- loads and stores that say what to do with the caches ------------------------------------------------------------

namespace emulator {

template <class T>
struct Itself {
    typedef T Type;
};

}  // namespace emulator

// Inlined, they are loads and stores of the line that calls them.
#define EMULATOR_INLINE template <class T> __attribute__((always_inline)) inline
EMULATOR_INLINE T __ldg(const T* from) { return *from; }
EMULATOR_INLINE T __ldca(const T* from) { return *from; }
EMULATOR_INLINE T __ldcg(const T* from) { return *from; }
EMULATOR_INLINE T __ldcs(const T* from) { return *from; }
EMULATOR_INLINE T __ldlu(const T* from) { return *from; }
EMULATOR_INLINE T __ldcv(const T* from) { return *from; }
EMULATOR_INLINE void __stwb(T* to, typename emulator::Itself<T>::Type value) { *to = value; }
EMULATOR_INLINE void __stcg(T* to, typename emulator::Itself<T>::Type value) { *to = value; }
EMULATOR_INLINE void __stcs(T* to, typename emulator::Itself<T>::Type value) { *to = value; }
EMULATOR_INLINE void __stwt(T* to, typename emulator::Itself<T>::Type value) { *to = value; }

// --- a block's and a warp's ------------------------------------------------------------------------------------------

EMULATOR_FUNCTION inline int __syncthreads_count(int vote) {
    return emulator::block_barrier_votes(vote != 0, EMULATOR_WHERE);
}
EMULATOR_FUNCTION inline int __syncthreads_or(int vote) {
    return emulator::block_barrier_votes(vote != 0, EMULATOR_WHERE) != 0;
}
EMULATOR_FUNCTION inline int __syncthreads_and(int vote) {
    return emulator::block_barrier_votes(!vote, EMULATOR_WHERE) == 0;
}

// A GPU promises no more than that the thread itself is among those that run together.
inline unsigned __activemask() { return 1u << emulator::self->lane; }

namespace emulator {

// act(lane, its value) for each lane of the mask that takes part.
template <class T, class Act>
__attribute__((no_sanitize("thread"))) inline void each_lane(unsigned mask, T value, const void* where, Act act) {
    const char* values = warp_exchange(mask, &value, sizeof value, where);
    for (unsigned lane = 0; lane < 32; lane++) {
        T other;
        __builtin_memcpy(&other, values + 16 * lane, sizeof other);
        if (self->together >> lane & 1) act(lane, other);
    }
}

}  // namespace emulator

template <class T>
EMULATOR_FUNCTION unsigned __match_any_sync(unsigned mask, T value) {
    unsigned same = 0;
    emulator::each_lane(mask, value, EMULATOR_WHERE, [&](int lane, T other) __attribute__((no_sanitize("thread"))) {
        same |= unsigned(other == value) << lane;
    });
    return same;
}

template <class T>
EMULATOR_FUNCTION unsigned __match_all_sync(unsigned mask, T value, int* all) {
    *all = 1;
    emulator::each_lane(mask, value, EMULATOR_WHERE,
                        [&](int, T other) __attribute__((no_sanitize("thread"))) { *all &= other == value; });
    return *all ? mask : 0;
}

#define EMULATOR_REDUCE(name, step)                                                                       \
    template <class T>                                                                                    \
    EMULATOR_FUNCTION T name(unsigned mask, T value) {                                                    \
        static_assert(sizeof(T) == 4 && T(1) / 2 == 0, "of int or unsigned");                             \
        bool begun = false;                                                                               \
        T all = value;                                                                                    \
        emulator::each_lane(mask, value, EMULATOR_WHERE, [&](int, T x) __attribute__((no_sanitize("thread"))) { \
            all = begun ? T(step) : x;                                                                    \
            begun = true;                                                                                 \
        });                                                                                               \
        return all;                                                                                       \
    }
EMULATOR_REDUCE(__reduce_add_sync, unsigned(all) + unsigned(x))
EMULATOR_REDUCE(__reduce_min_sync, min(all, x))
EMULATOR_REDUCE(__reduce_max_sync, max(all, x))
EMULATOR_REDUCE(__reduce_and_sync, all & x)
EMULATOR_REDUCE(__reduce_or_sync, all | x)
EMULATOR_REDUCE(__reduce_xor_sync, all ^ x)

// --- to say something, and to stop -----------------------------------------------------------------------------------

extern "C" int printf(const char*, ...);  // it is ours: calls.hpp
EMULATOR_FUNCTION inline void __trap() { emulator::failed("__trap()", EMULATOR_WHERE); }
EMULATOR_FUNCTION inline void emulator_assert(const char* what) { emulator::failed(what, EMULATOR_WHERE); }
#define assert(true_) ((true_) ? (void)0 : emulator_assert("assert(" #true_ ")"))
EMULATOR_FUNCTION inline void emulator_assume(const char* what) { emulator::untrue(what, EMULATOR_WHERE); }
#define __builtin_assume(true_) ((true_) ? (void)0 : emulator_assume("__builtin_assume(" #true_ ")"))
inline long long clock64() { return emulator::ticks(); }  // there is no time
extern "C" inline __attribute__((always_inline)) long clock() noexcept { return emulator::ticks(); }  // as <time.h> has it
inline void cudaGridDependencySynchronize() {}  // launches follow one another, and the one before has ended
inline void cudaTriggerProgrammaticLaunchCompletion() {}
EMULATOR_FUNCTION void __nanosleep(unsigned) { emulator::sleep(EMULATOR_WHERE); }
EMULATOR_FUNCTION inline void __brkpt() { emulator::failed("__brkpt()", EMULATOR_WHERE); }
