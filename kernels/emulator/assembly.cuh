// The instructions of inline PTX as functions, which assembly.py calls: first what an instruction writes, then what it
// reads, but an address before both. Included after device.cuh if a kernel has any.
#pragma once
#include "emulator/eight_bits.cuh"

namespace emulator {
namespace ptx {

#define EMULATOR_PTX EMULATOR_FUNCTION  // not inlined, so that a finding names the line that called

// The same bits, or for whole numbers of another size as many as there is room for.
template <class T, class U>
EMULATOR_QUIET T as(U x) {
    if constexpr (sizeof(T) == sizeof(U)) {
        T y;
        __builtin_memcpy(&y, &x, sizeof y);
        return y;
    } else {
        return T(x);
    }
}

// The value of an operand: "r"(x) takes whole numbers of up to 32 bits.
template <class T, class U>
EMULATOR_QUIET T in(U x) {
    static_assert(sizeof(U) <= sizeof(T), "an operand of inline PTX that is wider than its register");
    return as<T>(x);
}
template <class T, class U>
EMULATOR_QUIET T in(U* x) { return reinterpret_cast<T>(x); }

template <class T, class U>
EMULATOR_HERE void out(T& to, U value) {
    static_assert(sizeof(T) == sizeof(U) || sizeof(T) < 4, "an output of inline PTX of another size than its register");
    to = as<T>(value);
}
template <class T>
EMULATOR_HERE void out(T*& to, unsigned long long value) { to = reinterpret_cast<T*>(value); }
template <class T, class U>
EMULATOR_HERE void out(volatile T& to, U value) {
    T plain;
    out(plain, value);
    to = plain;
}

struct Nowhere {
    template <class T>
    void operator=(T) const {}
};
static const Nowhere nowhere;  // what an instruction writes into `_`

template <class... A>
EMULATOR_QUIET void nothing(A...) {}

EMULATOR_QUIET unsigned lanes_below() { return (1u << self->lane) - 1; }
EMULATOR_QUIET unsigned warp() { return thread_in_block() / 32; }

// --- numbers of 16 bits, and two of them in one register ---------------------------------------------------------------

struct F16 {
    unsigned short bits;
    F16() = default;
    F16(float x) : bits(to_fp16(x)) {}
    operator float() const { return from_fp16(bits); }
};
struct BF16 {
    unsigned short bits;
    BF16() = default;
    BF16(float x) : bits(to_bf16(x)) {}
    operator float() const { return from_bf16(bits); }
};
template <class T>
struct Two {
    T low, high;
};

// --- arithmetic ----------------------------------------------------------------------------------------------------------

// Whole numbers wrap around.
#define EMULATOR_WRAPS(T, a, sign, b) \
    T(1) / 2 ? T(a sign b) : T((unsigned long long)(a) sign (unsigned long long)(b))
template <class T>
struct Do {
    static T add(T a, T b) { return EMULATOR_WRAPS(T, a, +, b); }
    static T sub(T a, T b) { return EMULATOR_WRAPS(T, a, -, b); }
    static T mul(T a, T b) { return EMULATOR_WRAPS(T, a, *, b); }
    static T fma(T a, T b, T c) { return T(::fma(double(a), double(b), double(c))); }
    static T min(T a, T b) { return a != a ? b : b < a ? b : a; }
    static T max(T a, T b) { return a != a ? b : a < b ? b : a; }
    static T neg(T a) { return T(1) / 2 ? T(-a) : sub(T(0), a); }
    static T abs(T a) { return T(1) / 2 ? T(::fabs(a)) : a < T(0) ? neg(a) : a; }
    static T ex2(T a) { return T(::exp2(a)); }
    static T tanh(T a) { return T(::tanh(a)); }
};
template <>
inline float Do<float>::fma(float a, float b, float c) { return fmaf(a, b, c); }
#define EMULATOR_TWICE(name, ...) static Two<T> name(__VA_ARGS__)
template <class T>
struct Do<Two<T>> {
    EMULATOR_TWICE(add, Two<T> a, Two<T> b) { return {a.low + b.low, a.high + b.high}; }
    EMULATOR_TWICE(sub, Two<T> a, Two<T> b) { return {a.low - b.low, a.high - b.high}; }
    EMULATOR_TWICE(mul, Two<T> a, Two<T> b) { return {a.low * b.low, a.high * b.high}; }
    EMULATOR_TWICE(fma, Two<T> a, Two<T> b, Two<T> c) {
        return {float(::fma(double(a.low), double(b.low), double(c.low))), float(::fma(double(a.high), double(b.high), double(c.high)))};
    }
    EMULATOR_TWICE(min, Two<T> a, Two<T> b) { return {fminf(a.low, b.low), fminf(a.high, b.high)}; }
    EMULATOR_TWICE(max, Two<T> a, Two<T> b) { return {fmaxf(a.low, b.low), fmaxf(a.high, b.high)}; }
    EMULATOR_TWICE(neg, Two<T> a) { return {-float(a.low), -float(a.high)}; }
    EMULATOR_TWICE(abs, Two<T> a) { return {fabsf(a.low), fabsf(a.high)}; }
    EMULATOR_TWICE(ex2, Two<T> a) { return {exp2f(a.low), exp2f(a.high)}; }
    EMULATOR_TWICE(tanh, Two<T> a) { return {tanhf(a.low), tanhf(a.high)}; }
};

#define EMULATOR_OF_ONE(name, result) \
    template <class T, class D, class A> EMULATOR_QUIET void name(D& d, A x) { const T a = as<T>(x); d = as<D>(T(result)); }
#define EMULATOR_OF_TWO(name, result)                                                  \
    template <class T, class D, class A, class B> EMULATOR_QUIET void name(D& d, A x, B y) { \
        const T a = as<T>(x), b = as<T>(y);                                            \
        d = as<D>(T(result));                                                          \
    }
#define EMULATOR_OF_THREE(name, result)                                                              \
    template <class T, class D, class A, class B, class C> EMULATOR_QUIET void name(D& d, A x, B y, C z) { \
        const T a = as<T>(x), b = as<T>(y), c = as<T>(z);                                            \
        d = as<D>(T(result));                                                                        \
    }
EMULATOR_OF_ONE(neg, Do<T>::neg(a))
EMULATOR_OF_ONE(abs, Do<T>::abs(a))
EMULATOR_OF_ONE(rcp, 1 / a)
EMULATOR_OF_ONE(sqrt, ::sqrt(a))
EMULATOR_OF_ONE(rsqrt, 1 / ::sqrt(a))
EMULATOR_OF_ONE(ex2, Do<T>::ex2(a))
EMULATOR_OF_ONE(lg2, ::log2(a))
EMULATOR_OF_ONE(sin, ::sin(a))
EMULATOR_OF_ONE(cos, ::cos(a))
EMULATOR_OF_ONE(tanh, Do<T>::tanh(a))
EMULATOR_OF_ONE(not_, ~a)
EMULATOR_OF_ONE(popc, __builtin_popcountll(a))
EMULATOR_OF_ONE(clz, a ? __builtin_clzll(a) - (64 - 8 * int(sizeof(T))) : 8 * int(sizeof(T)))
EMULATOR_OF_ONE(brev, __brev(a))
EMULATOR_OF_TWO(add, Do<T>::add(a, b))
EMULATOR_OF_TWO(sub, Do<T>::sub(a, b))
EMULATOR_OF_TWO(mul, Do<T>::mul(a, b))
EMULATOR_OF_TWO(mul_lo, Do<T>::mul(a, b))
EMULATOR_OF_TWO(mul_hi, (T(-1) < T(0) ? (unsigned __int128)(__int128(a) * b) : (unsigned __int128)(a) * b) >> 8 * sizeof(T))
EMULATOR_OF_TWO(div, a / b)
template <class T, class D>
EMULATOR_QUIET void mul_wide(D& d, T a, T b) { d = D((unsigned long long)a * b); }
EMULATOR_OF_TWO(min, Do<T>::min(a, b))
EMULATOR_OF_TWO(max, Do<T>::max(a, b))
EMULATOR_OF_TWO(and_, a & b)
EMULATOR_OF_TWO(or_, a | b)
EMULATOR_OF_TWO(xor_, a ^ b)
EMULATOR_OF_THREE(fma, Do<T>::fma(a, b, c))
EMULATOR_OF_THREE(mad_lo, Do<T>::add(Do<T>::mul(a, b), c))

template <class T>
EMULATOR_QUIET auto bits(T x) {
    if constexpr (sizeof(T) == 8) return as<unsigned long long>(x);
    else if constexpr (sizeof(T) == 4) return as<unsigned>(x);
    else return as<unsigned short>(x);
}
template <class T, class D, class A>
EMULATOR_QUIET void mov(D& d, A x) { d = as<D>(as<T>(x)); }
template <class T, class D, class A>  // of two registers: the first one is the low half
EMULATOR_QUIET auto mov(D& d, A low, A high) -> decltype(void(sizeof(char[sizeof(D) == 2 * sizeof(A) ? 1 : -1]))) {
    typedef decltype(bits(d)) W;
    d = as<D>(W(bits(low)) | W(bits(high)) << 8 * sizeof(A));
}
template <class T, class D, class A>
EMULATOR_QUIET auto mov(D& low, D& high, A x) -> decltype(void(sizeof(char[sizeof(A) == 2 * sizeof(D) ? 1 : -1]))) {
    typedef decltype(bits(low)) W;
    low = as<D>(W(bits(x))), high = as<D>(W(bits(x) >> 8 * sizeof(D)));
}
template <class T, class D, class A>  // a shift by more bits than there are shifts all out
EMULATOR_QUIET void shl(D& d, A x, unsigned by) { d = D(by >= 8 * sizeof(T) ? T(0) : T(as<T>(x) << by)); }
template <class T, class D, class A>
EMULATOR_QUIET void shr(D& d, A x, unsigned by) {
    const T a = as<T>(x);
    d = D(by >= 8 * sizeof(T) ? T(a < T(0) ? -1 : 0) : T(a >> by));
}
template <class T, class D>
EMULATOR_QUIET void lop3(D& d, unsigned a, unsigned b, unsigned c, unsigned table) {
    unsigned all = 0;
    for (int i = 0; i < 8; i++)
        if (table >> i & 1) all |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    d = all;
}
template <class T, class D>
EMULATOR_QUIET void shf_l_wrap(D& d, unsigned low, unsigned high, unsigned n) { d = __funnelshift_l(low, high, n); }
template <class T, class D>
EMULATOR_QUIET void shf_r_wrap(D& d, unsigned low, unsigned high, unsigned n) { d = __funnelshift_r(low, high, n); }
template <class T, class D>
EMULATOR_QUIET void shf_l_clamp(D& d, unsigned low, unsigned high, unsigned n) { d = __funnelshift_lc(low, high, n); }
template <class T, class D>
EMULATOR_QUIET void shf_r_clamp(D& d, unsigned low, unsigned high, unsigned n) { d = __funnelshift_rc(low, high, n); }
template <class T, class D>
EMULATOR_QUIET void prmt(D& d, unsigned a, unsigned b, unsigned digits) { d = __byte_perm(a, b, digits); }
template <class T, class D>
EMULATOR_QUIET void bfe(D& d, unsigned long long a, unsigned from, unsigned count) {
    const unsigned most = 8 * sizeof(T), unused = most - ::min(count & 255, most);
    T x;
    shr<T>(x, T(a), from & 255);
    d = unused == most ? 0 : D(T(x << unused) >> unused);
}
template <class T, class D>
EMULATOR_QUIET void bfi(D& d, unsigned a, unsigned b, unsigned from, unsigned count) {
    const unsigned mask = (from & 255) > 31 ? 0 : (count >= 32 ? ~0u : (1u << count) - 1) << (from & 31);
    d = (b & ~mask) | (a << (from & 31) & mask);
}
template <class T, class D, class A, class B>
EMULATOR_QUIET void selp(D& d, A a, B b, bool which) { d = which ? as<D>(a) : as<D>(b); }

#define EMULATOR_COMPARES(name, sign) \
    template <class T, class A, class B> EMULATOR_QUIET void setp_##name(bool& p, A a, B b) { p = as<T>(a) sign as<T>(b); }
EMULATOR_COMPARES(eq, ==)
EMULATOR_COMPARES(ne, !=)
EMULATOR_COMPARES(lt, <)
EMULATOR_COMPARES(le, <=)
EMULATOR_COMPARES(gt, >)
EMULATOR_COMPARES(ge, >=)
EMULATOR_COMPARES(lo, <)
EMULATOR_COMPARES(ls, <=)
EMULATOR_COMPARES(hi, >)
EMULATOR_COMPARES(hs, >=)

template <class TO, class FROM, class D, class A>
EMULATOR_QUIET void cvt(D& d, A x) { d = as<D>(TO(as<FROM>(x))); }
#define EMULATOR_ROUNDS(how, function)                                                                       \
    template <class TO, class FROM, class D, class A>                                                        \
    EMULATOR_QUIET void cvt_##how(D& d, A x) { d = as<D>(whole<TO, FROM>(function(double(as<FROM>(x))))); }
EMULATOR_ROUNDS(rni, nearbyint)
EMULATOR_ROUNDS(rzi, trunc)
EMULATOR_ROUNDS(rmi, floor)
EMULATOR_ROUNDS(rpi, ceil)
EMULATOR_ROUNDS(sat, double)
template <class A>
EMULATOR_QUIET void cvt_f16x2(unsigned& d, A high, A low) { d = to_fp16(as<float>(low)) | unsigned(to_fp16(as<float>(high))) << 16; }
template <class A>
EMULATOR_QUIET void cvt_bf16x2(unsigned& d, A high, A low) { d = to_bf16(as<float>(low)) | unsigned(to_bf16(as<float>(high))) << 16; }
template <class D, class A>
EMULATOR_QUIET void cvt_tf32(D& d, A x) { d = as<D>(to_tf32(as<float>(x))); }

#define EMULATOR_FP8(name)                                                                                                             \
    template <class A>                                                                                                                 \
    EMULATOR_QUIET void cvt_##name##x2(unsigned short& d, A high, A low) {                                                             \
        d = to_##name(as<float>(low)) | to_##name(as<float>(high)) << 8;                                                               \
    }                                                                                                                                  \
    EMULATOR_QUIET void cvt_f16x2_##name##x2(unsigned& d, unsigned short a) { cvt_f16x2(d, from_##name(a >> 8), from_##name(a & 255)); }
EMULATOR_FP8(e4m3)
EMULATOR_FP8(e5m2)

// --- memory --------------------------------------------------------------------------------------------------------------

template <class D, class A>
EMULATOR_QUIET void cvta_shared(D& d, A pointer) { d = shared_address(reinterpret_cast<const void*>(pointer)); }

template <bool SHARED>
EMULATOR_QUIET char* at(unsigned long long address) {
    return SHARED ? static_cast<char*>(shared_pointer(unsigned(address))) : reinterpret_cast<char*>(address);
}

// One access, inlined at the line that has the instruction.
template <class T, int N>
struct Vector {
    typedef T Whole __attribute__((vector_size(N * sizeof(T))));
};
template <class T>
struct Vector<T, 1> {
    typedef T Whole;
};
template <class T, int N, bool SHARED, class... D>
EMULATOR_HERE void ld(unsigned long long address, D&... d) {
    static_assert(N == sizeof...(D), "as many registers as numbers");
    typedef typename Vector<T, N>::Whole Whole;
    const Whole whole = *reinterpret_cast<const Whole*>(at<SHARED>(address));
    T numbers[N];
    __builtin_memcpy(numbers, &whole, sizeof whole);
    int i = 0;
    ((d = as<D>(numbers[i++])), ...);
}
template <class T, int N, bool SHARED, class... A>
EMULATOR_HERE void st(unsigned long long address, A... values) {
    static_assert(N == sizeof...(A), "as many registers as numbers");
    typedef typename Vector<T, N>::Whole Whole;
    const T numbers[N] = {as<T>(values)...};
    Whole whole;
    __builtin_memcpy(&whole, numbers, sizeof whole);
    *reinterpret_cast<Whole*>(at<SHARED>(address)) = whole;
}

// Of .relaxed, .acquire and .release, whose fences stand beside them: what others do so at the same time is no race.
template <class T, bool SHARED, bool EVERYWHERE, class D>
EMULATOR_PTX void ld_strong(unsigned long long address, D& d) {
    const T* const place = reinterpret_cast<const T*>(at<SHARED>(address));
    atomic_access(place, sizeof(T), EVERYWHERE, EMULATOR_WHERE, true);
    T x;
    __builtin_memcpy(&x, place, sizeof x);
    d = as<D>(x);
}
template <class T, bool SHARED, bool EVERYWHERE, class A>
EMULATOR_PTX void st_strong(unsigned long long address, A value) {
    T* const place = reinterpret_cast<T*>(at<SHARED>(address));
    const T x = as<T>(value);
    atomic_access(place, sizeof(T), EVERYWHERE, EMULATOR_WHERE);
    __builtin_memcpy(place, &x, sizeof x);
}

#define EMULATOR_ATOMICS(name, function)                                                                       \
    template <class T, bool SHARED, bool EVERYWHERE, class A>                                                  \
    EMULATOR_QUIET T change_##name(unsigned long long address, A value, const void* where) {                   \
        T* const place = reinterpret_cast<T*>(at<SHARED>(address));                                            \
        atomic_access(place, sizeof(T), EVERYWHERE, where);                                                    \
        const T old = *place, value_of = as<T>(value);                                                         \
        *place = function;                                                                                     \
        return old;                                                                                            \
    }                                                                                                          \
    template <class T, bool SHARED, bool EVERYWHERE, class D, class A>                                         \
    EMULATOR_PTX void atom_##name(unsigned long long address, D& d, A value) {                                 \
        d = as<D>(change_##name<T, SHARED, EVERYWHERE>(address, value, EMULATOR_WHERE));                       \
    }                                                                                                          \
    template <class T, bool SHARED, bool EVERYWHERE, class A>                                                  \
    EMULATOR_PTX void red_##name(unsigned long long address, A value) {                                        \
        change_##name<T, SHARED, EVERYWHERE>(address, value, EMULATOR_WHERE);                                  \
    }
EMULATOR_ATOMICS(add, Do<T>::add(old, value_of))
EMULATOR_ATOMICS(min, Do<T>::min(old, value_of))
EMULATOR_ATOMICS(max, Do<T>::max(old, value_of))
EMULATOR_ATOMICS(or, old | value_of)
EMULATOR_ATOMICS(and, old & value_of)
EMULATOR_ATOMICS(xor, old ^ value_of)
EMULATOR_ATOMICS(exch, value_of)
template <class T, bool SHARED, bool EVERYWHERE, class D, class A, class B>
EMULATOR_PTX void atom_cas(unsigned long long address, D& d, A expected, B value) {
    T* const place = reinterpret_cast<T*>(at<SHARED>(address));
    compare_next(place);
    atomic_access(place, sizeof(T), EVERYWHERE, EMULATOR_WHERE);
    const T old = *place;
    if (old == as<T>(expected)) *place = as<T>(value);
    d = as<D>(old);
}

EMULATOR_PTX void cp_async(unsigned long long shared, unsigned long long global, int bytes, int valid = -1) {
    copy(at<true>(shared), at<false>(global), bytes, valid < 0 ? bytes : valid, EMULATOR_WHERE);
}
EMULATOR_QUIET void cp_async_commit() { commit_copies(); }
EMULATOR_QUIET void cp_async_wait(int groups) { wait_for_copies(groups); }
EMULATOR_QUIET void cp_async_wait_all() {
    commit_copies();
    wait_for_copies(0);
}

template <bool EVERYWHERE>
EMULATOR_QUIET void fence() { emulator::fence(EVERYWHERE); }
EMULATOR_QUIET void fence_proxy() { fence_proxy_async(); }
EMULATOR_PTX void unknown(const char* why) { bad_operand(why, 0, EMULATOR_WHERE); }
EMULATOR_PTX void trap() { failed("trap", EMULATOR_WHERE); }

EMULATOR_PTX void bar_sync(int number, int threads = 0) {
    if (number == 0 && threads == 0) block_barrier(EMULATOR_WHERE);
    else named_barrier_sync(number, threads ? threads : block_size.x * block_size.y * block_size.z, EMULATOR_WHERE);
}
EMULATOR_PTX void bar_warp_sync(unsigned mask) { warp_barrier(mask, EMULATOR_WHERE); }
EMULATOR_PTX void bar_arrive(int number, int threads) { named_barrier_arrive(number, threads, EMULATOR_WHERE); }

// --- votes ---------------------------------------------------------------------------------------------------------------

template <class D>
EMULATOR_QUIET void activemask(D& d) { d = __activemask(); }
template <class D>
EMULATOR_QUIET void vote_ballot(D& d, bool vote, unsigned mask) { d = __ballot_sync(mask, vote); }
EMULATOR_QUIET void vote_any(bool& p, bool vote, unsigned mask) { p = __any_sync(mask, vote); }
EMULATOR_QUIET void vote_all(bool& p, bool vote, unsigned mask) { p = __all_sync(mask, vote); }
template <class D, class A>
EMULATOR_QUIET void match_any(D& d, A a, unsigned mask) { d = __match_any_sync(mask, a); }
#define EMULATOR_REDUX(name) \
    template <class T, class D, class A> EMULATOR_QUIET void redux_##name(D& d, A a, unsigned mask) { d = as<D>(__reduce_##name##_sync(mask, as<T>(a))); }
EMULATOR_REDUX(add)
EMULATOR_REDUX(min)
EMULATOR_REDUX(max)
EMULATOR_REDUX(and)
EMULATOR_REDUX(or)
EMULATOR_REDUX(xor)

// --- shuffles ------------------------------------------------------------------------------------------------------------

// In `c` are the bits of a lane's number that are its group's (5 bits from the 8th on), and the last lane of a group, or
// of "up" the first one; whoever would read beyond keeps what it has, and `p` says who does not.
#define EMULATOR_SHUFFLE(name, from, within)                                                                   \
    template <class D, class P, class A>                                                                      \
    EMULATOR_QUIET void give_##name(D& d, P& p, A a, unsigned b, unsigned c, unsigned mask, const void* where) { \
        const int lane = self->lane, group = c >> 8 & 31, end = (lane & group) | (c & 31 & ~group);           \
        const int other = from;                                                                               \
        p = within;                                                                                           \
        d = as<D>(shuffle(mask, as<unsigned>(a), within ? other : lane, where));                              \
    }                                                                                                         \
    template <class D, class A>                                                                               \
    EMULATOR_PTX void shfl_##name(D& d, A a, unsigned b, unsigned c, unsigned mask) {                         \
        give_##name(d, nowhere, a, b, c, mask, EMULATOR_WHERE);                                               \
    }                                                                                                         \
    template <class D, class P, class A>                                                                      \
    EMULATOR_PTX void shfl_##name(D& d, P& p, A a, unsigned b, unsigned c, unsigned mask) {                   \
        give_##name(d, p, a, b, c, mask, EMULATOR_WHERE);                                                     \
    }
EMULATOR_SHUFFLE(up, lane - int(b & 31), other >= end)
EMULATOR_SHUFFLE(down, lane + int(b & 31), other <= end)
EMULATOR_SHUFFLE(bfly, lane ^ int(b & 31), other <= end)
EMULATOR_SHUFFLE(idx, (lane & group) | (b & 31 & ~group), other <= end)

}  // namespace ptx
}  // namespace emulator

#include "emulator/assembly_matrices.cuh"
#include "emulator/assembly90.cuh"

