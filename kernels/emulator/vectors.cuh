// CUDA's short vectors for g++ and clang++: part of device.cuh.
#pragma once

namespace emulator {

typedef signed char Char;  // names of one word, as constructors need them
typedef unsigned char Uchar;
typedef unsigned short Ushort;
typedef long long Long;
typedef unsigned long long Ulong;

template <class T> struct A { typedef T type; };

}  // namespace emulator

namespace std {  // what auto [a, b] = make_int2(1, 2) asks for

template <class> struct tuple_size;
template <size_t, class> struct tuple_element;

}  // namespace std

// They are copied by one load and one store, as on a GPU (left to itself g++ makes one for each number).
#define EMULATOR_VECTOR(name, type, size, bytes, ...)                                                    \
    struct __attribute__((aligned(bytes))) name {                                                        \
        typedef type Whole __attribute__((vector_size(bytes)));                                          \
        union {                                                                                          \
            Whole whole;                                                                                 \
            struct { type __VA_ARGS__; };                                                                \
        };                                                                                               \
        name() = default;                                                                                \
        template <class... T>                                                                            \
        constexpr name(type first, T... rest) : whole{first, type(rest)...} {                                      \
            static_assert(sizeof...(T) < size, "too many numbers");                                      \
        }                                                                                                \
        name(const name& other) : whole(other.whole) {}                                                  \
        name& operator=(const name& other) { whole = other.whole; return *this; }                        \
        template <int I> type& get() { return (&x)[I]; }                                                 \
        template <int I> const type& get() const { return (&x)[I]; }                                     \
    };                                                                                                   \
    template <> struct std::tuple_size<name> { static constexpr int value = size; };                     \
    template <size_t I> struct std::tuple_element<I, name> : emulator::A<type> {};
#define EMULATOR_VECTORS(name, type, one, ...)                                                           \
    EMULATOR_VECTOR(name##2, type, 2, 2 * one, x, y)                                                     \
    typedef emulator::Three<type> name##3;                                                               \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                     \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }
#define EMULATOR_VECTORS_TO_4(name, type, one)                                                           \
    EMULATOR_VECTORS(name, type, one)                                                                    \
    EMULATOR_VECTOR(name##4, type, 4, 4 * one, x, y, z, w)                                               \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EMULATOR_VECTORS_TO_4(char, emulator::Char, 1)
EMULATOR_VECTORS_TO_4(uchar, emulator::Uchar, 1)
EMULATOR_VECTORS_TO_4(short, short, 2)
EMULATOR_VECTORS_TO_4(ushort, emulator::Ushort, 2)
EMULATOR_VECTORS_TO_4(int, int, 4)
EMULATOR_VECTORS_TO_4(uint, unsigned, 4)
EMULATOR_VECTORS_TO_4(float, float, 4)
EMULATOR_VECTORS(longlong, emulator::Long, 8)
EMULATOR_VECTORS(ulonglong, emulator::Ulong, 8)
EMULATOR_VECTORS(double, double, 8)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};
