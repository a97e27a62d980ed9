// CuPy's <cupy/complex.cuh>: complex<float> and complex<double>, and their functions, except the inverse trigonometric
// ones. The formulas are the textbook's: where they overflow, CuPy's, which scale, do not.
#pragma once
#include "emulator/device.cuh"

namespace thrust {

template <class T>
struct __attribute__((aligned(2 * sizeof(T)), may_alias)) complex {
    typedef T value_type;
    typedef T Whole __attribute__((vector_size(2 * sizeof(T)), may_alias));  // loaded and stored by one access

    complex() = default;
    EMULATOR_HERE constexpr complex(T real, T imag = T()) : x(real), y(imag) {}
    EMULATOR_HERE complex(const complex& other) { whole() = other.whole(); }
    template <class U>
    EMULATOR_HERE complex(const complex<U>& other) : x(T(other.real())), y(T(other.imag())) {}
    EMULATOR_HERE complex& operator=(const complex& other) { whole() = other.whole(); return *this; }

    EMULATOR_HERE T real() const { return x; }
    EMULATOR_HERE T imag() const { return y; }
    EMULATOR_HERE void real(T value) { x = value; }
    EMULATOR_HERE void imag(T value) { y = value; }

#define EMULATOR_AND_SET(sign) \
    template <class U> EMULATOR_HERE complex& operator sign##=(const U& other) { return *this = *this sign complex(other); }
    EMULATOR_AND_SET(+)
    EMULATOR_AND_SET(-)
    EMULATOR_AND_SET(*)
    EMULATOR_AND_SET(/)
#undef EMULATOR_AND_SET

private:
    T x, y;
    EMULATOR_HERE Whole& whole() { return reinterpret_cast<Whole&>(*this); }
    EMULATOR_HERE const Whole& whole() const { return reinterpret_cast<const Whole&>(*this); }
};

// a + b of two complex numbers, or of one and a real number.
#define EMULATOR_OF_BOTH(result, sign, value)                                                                      \
    template <class T> EMULATOR_HERE result operator sign(const complex<T>& a, const complex<T>& b) { return value; } \
    template <class T> EMULATOR_HERE result operator sign(const complex<T>& a, const T& b) { return a sign complex<T>(b); } \
    template <class T> EMULATOR_HERE result operator sign(const T& a, const complex<T>& b) { return complex<T>(a) sign b; }
#define EMULATOR_C(re, im) complex<T>(re, im)
EMULATOR_OF_BOTH(complex<T>, +, EMULATOR_C(a.real() + b.real(), a.imag() + b.imag()))
EMULATOR_OF_BOTH(complex<T>, -, EMULATOR_C(a.real() - b.real(), a.imag() - b.imag()))
EMULATOR_OF_BOTH(complex<T>, *, EMULATOR_C(a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()))
EMULATOR_OF_BOTH(complex<T>, /, EMULATOR_C((a.real() * b.real() + a.imag() * b.imag()) / norm(b), (a.imag() * b.real() - a.real() * b.imag()) / norm(b)))
EMULATOR_OF_BOTH(bool, ==, a.real() == b.real() && a.imag() == b.imag())
EMULATOR_OF_BOTH(bool, !=, !(a == b))
#undef EMULATOR_OF_BOTH

#define EMULATOR_OF(result, name, value) \
    template <class T> EMULATOR_HERE result name(const complex<T>& z) { return value; }
#define EMULATOR_RE z.real()
#define EMULATOR_IM z.imag()
EMULATOR_OF(complex<T>, operator+, z)
EMULATOR_OF(complex<T>, operator-, EMULATOR_C(-EMULATOR_RE, -EMULATOR_IM))
EMULATOR_OF(T, real, EMULATOR_RE)
EMULATOR_OF(T, imag, EMULATOR_IM)
EMULATOR_OF(T, norm, EMULATOR_RE * EMULATOR_RE + EMULATOR_IM * EMULATOR_IM)
EMULATOR_OF(T, abs, T(::hypot(EMULATOR_RE, EMULATOR_IM)))
EMULATOR_OF(T, arg, T(::atan2(EMULATOR_IM, EMULATOR_RE)))
EMULATOR_OF(complex<T>, conj, EMULATOR_C(EMULATOR_RE, -EMULATOR_IM))

template <class T>
EMULATOR_HERE complex<T> polar(T size, T angle = T()) { return {T(size * ::cos(angle)), T(size * ::sin(angle))}; }

EMULATOR_OF(complex<T>, exp, polar(T(::exp(EMULATOR_RE)), EMULATOR_IM))
EMULATOR_OF(complex<T>, log, EMULATOR_C(T(::log(abs(z))), arg(z)))
EMULATOR_OF(complex<T>, log10, log(z) / T(2.302585092994046))
EMULATOR_OF(complex<T>, sqrt, polar(T(::sqrt(abs(z))), arg(z) / 2))
EMULATOR_OF(complex<T>, sin, EMULATOR_C(T(::sin(EMULATOR_RE) * ::cosh(EMULATOR_IM)), T(::cos(EMULATOR_RE) * ::sinh(EMULATOR_IM))))
EMULATOR_OF(complex<T>, cos, EMULATOR_C(T(::cos(EMULATOR_RE) * ::cosh(EMULATOR_IM)), T(-::sin(EMULATOR_RE) * ::sinh(EMULATOR_IM))))
EMULATOR_OF(complex<T>, sinh, EMULATOR_C(T(::sinh(EMULATOR_RE) * ::cos(EMULATOR_IM)), T(::cosh(EMULATOR_RE) * ::sin(EMULATOR_IM))))
EMULATOR_OF(complex<T>, cosh, EMULATOR_C(T(::cosh(EMULATOR_RE) * ::cos(EMULATOR_IM)), T(::sinh(EMULATOR_RE) * ::sin(EMULATOR_IM))))
EMULATOR_OF(complex<T>, tan, sin(z) / cos(z))
EMULATOR_OF(complex<T>, tanh, sinh(z) / cosh(z))
template <class T>
EMULATOR_HERE complex<T> pow(const complex<T>& z, const complex<T>& power) { return exp(log(z) * power); }
template <class T>
EMULATOR_HERE complex<T> pow(const complex<T>& z, const T& power) { return exp(log(z) * power); }

}  // namespace thrust

using thrust::complex;
using thrust::abs;
using thrust::arg;
using thrust::conj;
using thrust::cos;
using thrust::cosh;
using thrust::exp;
using thrust::imag;
using thrust::log;
using thrust::log10;
using thrust::norm;
using thrust::polar;
using thrust::pow;
using thrust::real;
using thrust::sin;
using thrust::sinh;
using thrust::sqrt;
using thrust::tan;
using thrust::tanh;

EMULATOR_OF(bool, isnan, isnan(EMULATOR_RE) || isnan(EMULATOR_IM))
EMULATOR_OF(bool, isinf, isinf(EMULATOR_RE) || isinf(EMULATOR_IM))
EMULATOR_OF(bool, isfinite, isfinite(EMULATOR_RE) && isfinite(EMULATOR_IM))
#undef EMULATOR_OF
#undef EMULATOR_C
