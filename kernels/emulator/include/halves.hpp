// A number of 16 bits, a pair of them, and CUDA's functions of both. It is included by cuda_fp16.h and again by
// cuda_bf16.h, each of which defines before
//     HALF, PAIR           the two types, and HALF_RAW, PAIR_RAW their bits
//     TO_BITS, FROM_BITS   float to HALF's bits, and back
//     OTHER                the other header's HALF
//     NAMED(a, b)          a word with the type's name between a and b: NAMED(__float2, _rn) is __float2half_rn
//     HALF_TO_PAIR         __half2half2
// Every result is rounded once, to the nearest unless its name says otherwise: sums, products, quotients and roots are
// a GPU's to the last bit; functions such as hexp, of which CUDA's are approximate, may differ there.

#ifndef EMULATOR_HALVES
#define EMULATOR_HALVES

namespace emulator {

enum Way { NEAREST, TO_ZERO, DOWN, UP };
typedef unsigned __attribute__((may_alias)) Whole;  // a pair is loaded and stored by one access of 4 bytes

// What has too many bits for a type becomes, of its two neighbours in it, the one whose last bit is 1. It lies between
// the same two numbers of 16 bits, and never half-way, so that it is rounded to those as the thing itself would be
// (rounding to odd, Boldo & Melquiond 2008).
template <class Bits, class Float>
inline Float odd(Float nearest, bool is_more) {  // whether its absolute value is more than the nearest's
    Bits bits = emulator_bits<Bits>(nearest);
    if (!(bits & 1)) bits += is_more ? 1 : -1;
    return emulator_bits<Float>(bits);
}

inline float odd_float(double x) {
    const float nearest = float(x);
    return nearest == x || x != x ? nearest : odd<unsigned>(nearest, fabs(x) > fabs(double(nearest)));
}

inline double odd_sum(double a, double b) {
    const double sum = a + b, of_b = sum - a, rest = (a - (sum - of_b)) + (b - of_b);  // exactly what is left (Knuth)
    return rest == 0 || rest != rest ? sum : odd<Ulong>(sum, (rest > 0) == (sum > 0));
}

template <class T>
inline double odd_double(T x) {
    if constexpr (sizeof(T) == 8 && T(1) / 2 == 0)
        if (x / (T(1) << 53) != 0) return double(x >> 11 | ((x & 2047) != 0)) * 2048;
    return double(x);
}

template <unsigned short TO(float), float FROM(unsigned short)>
EMULATOR_FUNCTION unsigned short rounded(double x, Way way = NEAREST) {
    unsigned short bits = TO(odd_float(x));
    if (way == NEAREST) return bits;
    if (way == TO_ZERO) way = x > 0 ? DOWN : UP;
    if (way == DOWN ? FROM(bits) > x : FROM(bits) < x) bits += (way == UP) == (bits < 0x8000) ? 1 : -1;
    return bits;
}

inline bool unordered(float a, float b) { return a != a || b != b; }
inline double saturated(double x) { return x > 0 ? fmin(x, 1.0) : 0.0; }  // of NaN 0
inline double not_negative(double x) { return x <= 0 ? 0.0 : x; }

}  // namespace emulator

#endif

#define EMULATOR_ROUNDED emulator::rounded<TO_BITS, FROM_BITS>

// --- the types -------------------------------------------------------------------------------------------------------

// Kernels look at them through pointers to other types, and at other types through pointers to them.
#define EMULATOR_ALIGNED(bytes) __attribute__((aligned(bytes), may_alias))

struct EMULATOR_ALIGNED(2) HALF_RAW {
    unsigned short x;
};

struct EMULATOR_ALIGNED(4) PAIR_RAW {
    unsigned short x, y;
};

struct OTHER;

struct EMULATOR_ALIGNED(2) HALF {
    unsigned short bits;

    HALF() = default;
    EMULATOR_HERE constexpr HALF(const HALF& other) : bits(other.bits) {}  // or g++ would not check what a call takes
    EMULATOR_HERE HALF& operator=(const HALF& other) { bits = other.bits; return *this; }
    EMULATOR_HERE constexpr HALF(const HALF_RAW& raw) : bits(raw.x) {}
    EMULATOR_HERE volatile HALF& operator=(const HALF_RAW& raw) volatile { bits = raw.x; return *this; }
    EMULATOR_HERE operator HALF_RAW() const { return {bits}; }
    EMULATOR_HERE operator HALF_RAW() const volatile { return {bits}; }
    inline explicit HALF(OTHER x);
    EMULATOR_HERE HALF(float x) : bits(TO_BITS(x)) {}
    EMULATOR_HERE HALF(double x) : bits(EMULATOR_ROUNDED(x)) {}
    EMULATOR_HERE operator float() const { return FROM_BITS(bits); }
    EMULATOR_HERE operator bool() const { return bits & 0x7fff; }
#define EMULATOR_TO(type) \
    EMULATOR_HERE operator type() const { return emulator::whole<type>(FROM_BITS(bits)); }
#define EMULATOR_BOTH(type) \
    EMULATOR_TO(type)       \
    EMULATOR_HERE HALF(type x) : bits(EMULATOR_ROUNDED(emulator::odd_double(x))) {}
    EMULATOR_TO(char)
    EMULATOR_TO(signed char)
    EMULATOR_TO(unsigned char)
    EMULATOR_BOTH(short)
    EMULATOR_BOTH(unsigned short)
    EMULATOR_BOTH(int)
    EMULATOR_BOTH(unsigned)
    EMULATOR_BOTH(long)
    EMULATOR_BOTH(unsigned long)
    EMULATOR_BOTH(long long)
    EMULATOR_BOTH(unsigned long long)
#undef EMULATOR_TO
#undef EMULATOR_BOTH
};

struct EMULATOR_ALIGNED(4) PAIR {
    HALF x, y;

    PAIR() = default;
    EMULATOR_HERE constexpr PAIR(const HALF& a, const HALF& b) : x(a), y(b) {}
    EMULATOR_HERE PAIR(const PAIR& other) { whole() = other.whole(); }
    EMULATOR_HERE PAIR& operator=(const PAIR& other) { whole() = other.whole(); return *this; }
    EMULATOR_HERE PAIR(const PAIR_RAW& raw) { whole() = reinterpret_cast<const emulator::Whole&>(raw); }
    EMULATOR_HERE operator PAIR_RAW() const {
        const unsigned both = whole();
        return {(unsigned short)both, (unsigned short)(both >> 16)};
    }

private:
    EMULATOR_HERE emulator::Whole& whole() { return reinterpret_cast<emulator::Whole&>(*this); }
    EMULATOR_HERE const emulator::Whole& whole() const { return reinterpret_cast<const emulator::Whole&>(*this); }
};

// --- bits, halves of pairs, pairs of halves --------------------------------------------------------------------------

inline unsigned short NAMED(__, _as_ushort)(HALF a) { return a.bits; }
inline short NAMED(__, _as_short)(HALF a) { return short(a.bits); }
inline HALF NAMED(__ushort_as_, )(unsigned short bits) { return HALF_RAW{bits}; }
inline HALF NAMED(__short_as_, )(short bits) { return HALF_RAW{(unsigned short)bits}; }

inline PAIR NAMED(make_, 2)(HALF x, HALF y) { return PAIR(x, y); }
inline PAIR NAMED(__halves2, 2)(HALF x, HALF y) { return PAIR(x, y); }
inline PAIR HALF_TO_PAIR(HALF a) { return PAIR(a, a); }
inline HALF NAMED(__low2, )(PAIR a) { return a.x; }
inline HALF NAMED(__high2, )(PAIR a) { return a.y; }
inline PAIR NAMED(__low2, 2)(PAIR a) { return PAIR(a.x, a.x); }
inline PAIR NAMED(__high2, 2)(PAIR a) { return PAIR(a.y, a.y); }
inline PAIR NAMED(__lows2, 2)(PAIR a, PAIR b) { return PAIR(a.x, b.x); }
inline PAIR NAMED(__highs2, 2)(PAIR a, PAIR b) { return PAIR(a.y, b.y); }
inline PAIR __lowhigh2highlow(PAIR a) { return PAIR(a.y, a.x); }

// --- from and to other numbers ---------------------------------------------------------------------------------------

inline float NAMED(__, 2float)(HALF a) { return a; }
inline HALF NAMED(__float2, )(float x) { return x; }
inline HALF NAMED(__double2, )(double x) { return x; }
inline float __low2float(PAIR a) { return a.x; }
inline float __high2float(PAIR a) { return a.y; }
inline float2 NAMED(__, 22float2)(PAIR a) { return make_float2(a.x, a.y); }
inline PAIR NAMED(__float2, 2_rn)(float x) { return PAIR(x, x); }
inline PAIR NAMED(__floats2, 2_rn)(float x, float y) { return PAIR(x, y); }
inline PAIR NAMED(__float22, 2_rn)(float2 v) { return PAIR(v.x, v.y); }

#define EMULATOR_FROM(name, type, way, how)                                             \
    inline HALF NAMED(__##name##2, _##way)(type x) {                                    \
        return HALF_RAW{EMULATOR_ROUNDED(emulator::odd_double(x), emulator::how)};      \
    }
#define EMULATOR_FROM_EACH_WAY(name, type)                                              \
    EMULATOR_FROM(name, type, rn, NEAREST)                                              \
    EMULATOR_FROM(name, type, rz, TO_ZERO)                                              \
    EMULATOR_FROM(name, type, rd, DOWN)                                                 \
    EMULATOR_FROM(name, type, ru, UP)
#define EMULATOR_TO(name, type, way, function)                                          \
    inline type NAMED(__, 2##name##_##way)(HALF a) { return emulator::whole<type>(function(double(a))); }
#define EMULATOR_BOTH(name, type)                                                       \
    EMULATOR_FROM_EACH_WAY(name, type)                                                  \
    EMULATOR_TO(name, type, rn, nearbyint)                                              \
    EMULATOR_TO(name, type, rz, trunc)                                                  \
    EMULATOR_TO(name, type, rd, floor)                                                  \
    EMULATOR_TO(name, type, ru, ceil)
EMULATOR_FROM_EACH_WAY(float, float)
EMULATOR_BOTH(short, short)
EMULATOR_BOTH(ushort, unsigned short)
EMULATOR_BOTH(int, int)
EMULATOR_BOTH(uint, unsigned)
EMULATOR_BOTH(ll, long long)
EMULATOR_BOTH(ull, unsigned long long)
EMULATOR_TO(char, signed char, rz, trunc)
EMULATOR_TO(uchar, unsigned char, rz, trunc)
#undef EMULATOR_FROM
#undef EMULATOR_FROM_EACH_WAY
#undef EMULATOR_TO
#undef EMULATOR_BOTH

// --- arithmetic ------------------------------------------------------------------------------------------------------

#define EMULATOR_OF_1(name, name2, ...)                                     \
    inline HALF name(HALF a) { return __VA_ARGS__; }                        \
    inline PAIR name2(PAIR a) { return PAIR(name(a.x), name(a.y)); }
#define EMULATOR_PAIRS(name, name2)                                         \
    inline PAIR name2(PAIR a, PAIR b) { return PAIR(name(a.x, b.x), name(a.y, b.y)); }
#define EMULATOR_OF_2(name, name2, ...)                                     \
    inline HALF name(HALF a, HALF b) { return __VA_ARGS__; }                \
    EMULATOR_PAIRS(name, name2)
#define EMULATOR_OF_3(name, name2, ...)                                     \
    inline HALF name(HALF a, HALF b, HALF c) { return __VA_ARGS__; }        \
    inline PAIR name2(PAIR a, PAIR b, PAIR c) { return PAIR(name(a.x, b.x, c.x), name(a.y, b.y, c.y)); }
#define EMULATOR_ARITHMETIC(name, ...)                                      \
    EMULATOR_OF_2(__h##name, __h##name##2, __VA_ARGS__)                     \
    EMULATOR_OF_2(__h##name##_rn, __h##name##2_rn, __VA_ARGS__)             \
    EMULATOR_OF_2(__h##name##_sat, __h##name##2_sat, emulator::saturated(__VA_ARGS__))
EMULATOR_ARITHMETIC(add, emulator::odd_sum(a, b))
EMULATOR_ARITHMETIC(sub, emulator::odd_sum(a, -double(b)))
EMULATOR_ARITHMETIC(mul, double(a) * double(b))
EMULATOR_OF_2(__hdiv, __h2div, double(a) / double(b))
EMULATOR_OF_3(__hfma, __hfma2, emulator::odd_sum(double(a) * double(b), c))
EMULATOR_OF_3(__hfma_sat, __hfma2_sat, emulator::saturated(emulator::odd_sum(double(a) * double(b), c)))
EMULATOR_OF_3(__hfma_relu, __hfma2_relu, emulator::not_negative(emulator::odd_sum(double(a) * double(b), c)))
EMULATOR_OF_1(__hneg, __hneg2, HALF_RAW{(unsigned short)(a.bits ^ 0x8000)})
EMULATOR_OF_1(__habs, __habs2, HALF_RAW{(unsigned short)(a.bits & 0x7fff)})

// Of complex numbers a * b + c.
inline PAIR __hcmadd(PAIR a, PAIR b, PAIR c) {
    return PAIR(__hfma(__hneg(a.y), b.y, __hfma(a.x, b.x, c.x)), __hfma(a.y, b.x, __hfma(a.x, b.y, c.y)));
}

// --- comparisons: with NaN false, or of a name with u true -----------------------------------------------------------

#define EMULATOR_COMPARED(name, ...)                                                                                   \
    inline bool __h##name(HALF a, HALF b) { return __VA_ARGS__; }                                                      \
    inline bool __hb##name##2(PAIR a, PAIR b) { return __h##name(a.x, b.x) && __h##name(a.y, b.y); }                   \
    inline PAIR __h##name##2(PAIR a, PAIR b) { return PAIR(int(__h##name(a.x, b.x)), int(__h##name(a.y, b.y))); }      \
    inline unsigned __h##name##2_mask(PAIR a, PAIR b) {                                                                \
        return (__h##name(a.x, b.x) ? 0xffffu : 0u) | (__h##name(a.y, b.y) ? 0xffff0000u : 0u);                        \
    }
#define EMULATOR_COMPARISON(name, sign)                                                     \
    EMULATOR_COMPARED(name, !emulator::unordered(a, b) && float(a) sign float(b))           \
    EMULATOR_COMPARED(name##u, emulator::unordered(a, b) || float(a) sign float(b))
EMULATOR_COMPARISON(eq, ==)
EMULATOR_COMPARISON(ne, !=)
EMULATOR_COMPARISON(lt, <)
EMULATOR_COMPARISON(le, <=)
EMULATOR_COMPARISON(gt, >)
EMULATOR_COMPARISON(ge, >=)

inline bool __hisnan(HALF a) { return float(a) != float(a); }
inline PAIR __hisnan2(PAIR a) { return PAIR(int(__hisnan(a.x)), int(__hisnan(a.y))); }
inline int __hisinf(HALF a) { return fabsf(a) == __int_as_float(0x7f800000) ? (a.bits & 0x8000 ? -1 : 1) : 0; }

// The one that is a number, or, with _nan, the one that is none. Two equal ones are the same but for the sign of 0.
#define EMULATOR_BETTER(name, sign, both)                                                           \
    inline HALF __h##name##_nan(HALF a, HALF b) {                                                   \
        if (emulator::unordered(a, b)) return HALF_RAW{0x7fff};                                     \
        if (float(a) == float(b)) return HALF_RAW{(unsigned short)(a.bits both b.bits)};            \
        return float(a) sign float(b) ? a : b;                                                      \
    }                                                                                               \
    inline HALF __h##name(HALF a, HALF b) {                                                         \
        if (__hisnan(a) == __hisnan(b)) return __h##name##_nan(a, b);                               \
        return __hisnan(a) ? b : a;                                                                 \
    }                                                                                               \
    EMULATOR_PAIRS(__h##name##_nan, __h##name##2_nan)                                               \
    EMULATOR_PAIRS(__h##name, __h##name##2)
EMULATOR_BETTER(max, >, &)
EMULATOR_BETTER(min, <, |)
#undef EMULATOR_BETTER

// --- functions -------------------------------------------------------------------------------------------------------

#define EMULATOR_OF_DOUBLE(name, function) EMULATOR_OF_1(h##name, h2##name, function(double(a)))
EMULATOR_OF_DOUBLE(sqrt, sqrt)
EMULATOR_OF_DOUBLE(rsqrt, 1 / sqrt)
EMULATOR_OF_DOUBLE(rcp, 1 / )
EMULATOR_OF_DOUBLE(exp, exp)
EMULATOR_OF_DOUBLE(exp2, exp2)
EMULATOR_OF_DOUBLE(exp10, exp10)
EMULATOR_OF_DOUBLE(log, log)
EMULATOR_OF_DOUBLE(log2, log2)
EMULATOR_OF_DOUBLE(log10, log10)
EMULATOR_OF_DOUBLE(sin, sin)
EMULATOR_OF_DOUBLE(cos, cos)
EMULATOR_OF_DOUBLE(tanh, tanh)
EMULATOR_OF_DOUBLE(tanh_approx, tanh)
EMULATOR_OF_DOUBLE(floor, floor)
EMULATOR_OF_DOUBLE(ceil, ceil)
EMULATOR_OF_DOUBLE(trunc, trunc)
EMULATOR_OF_DOUBLE(rint, nearbyint)
#undef EMULATOR_OF_DOUBLE

// --- operators -------------------------------------------------------------------------------------------------------

#define EMULATOR_OPERATOR(type, sign, function)                                                                 \
    inline type operator sign(type a, type b) { return function(a, b); }                                        \
    EMULATOR_HERE type& operator sign##=(type& a, type b) { return a = function(a, b); }
#define EMULATOR_OPERATORS_OF_1(type, negative, one)                                                            \
    inline type operator+(type a) { return a; }                                                                 \
    inline type operator-(type a) { return negative(a); }                                                       \
    EMULATOR_HERE type& operator++(type& a) { return a += one; }                                                \
    EMULATOR_HERE type& operator--(type& a) { return a -= one; }                                                \
    EMULATOR_HERE type operator++(type& a, int) { const type was = a; a = was + one; return was; }              \
    EMULATOR_HERE type operator--(type& a, int) { const type was = a; a = was - one; return was; }
#define EMULATOR_COMPARES(sign, function, of_pairs)                                                             \
    inline bool operator sign(HALF a, HALF b) { return function(a, b); }                                        \
    inline bool operator sign(PAIR a, PAIR b) { return of_pairs(a, b); }
EMULATOR_OPERATOR(HALF, +, __hadd)
EMULATOR_OPERATOR(HALF, -, __hsub)
EMULATOR_OPERATOR(HALF, *, __hmul)
EMULATOR_OPERATOR(HALF, /, __hdiv)
EMULATOR_OPERATOR(PAIR, +, __hadd2)
EMULATOR_OPERATOR(PAIR, -, __hsub2)
EMULATOR_OPERATOR(PAIR, *, __hmul2)
EMULATOR_OPERATOR(PAIR, /, __h2div)
EMULATOR_OPERATORS_OF_1(HALF, __hneg, HALF(1))
EMULATOR_OPERATORS_OF_1(PAIR, __hneg2, PAIR(1, 1))
EMULATOR_COMPARES(==, __heq, __hbeq2)
EMULATOR_COMPARES(!=, __hneu, __hbneu2)
EMULATOR_COMPARES(<, __hlt, __hblt2)
EMULATOR_COMPARES(<=, __hle, __hble2)
EMULATOR_COMPARES(>, __hgt, __hbgt2)
EMULATOR_COMPARES(>=, __hge, __hbge2)
#undef EMULATOR_OPERATOR
#undef EMULATOR_OPERATORS_OF_1
#undef EMULATOR_COMPARES

#undef EMULATOR_ALIGNED
#undef EMULATOR_PAIRS
#undef EMULATOR_OF_1
#undef EMULATOR_OF_2
#undef EMULATOR_OF_3
#undef EMULATOR_ARITHMETIC
#undef EMULATOR_COMPARED
#undef EMULATOR_COMPARISON
#undef EMULATOR_ROUNDED
#undef HALF
#undef PAIR
#undef HALF_RAW
#undef PAIR_RAW
#undef TO_BITS
#undef FROM_BITS
#undef OTHER
#undef NAMED
#undef HALF_TO_PAIR
