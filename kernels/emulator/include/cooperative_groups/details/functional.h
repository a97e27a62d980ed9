// What <cooperative_groups/reduce.h> and <cooperative_groups/scan.h> do with two values.
#pragma once
#include <cooperative_groups.h>

namespace cooperative_groups {

#define EMULATOR_OPERATION(name, result)                                  \
    template <class T>                                                    \
    struct name {                                                         \
        EMULATOR_HERE T operator()(T a, T b) const { return result; }     \
    };
EMULATOR_OPERATION(plus, a + b)
EMULATOR_OPERATION(less, b < a ? b : a)
EMULATOR_OPERATION(greater, a < b ? b : a)
EMULATOR_OPERATION(bit_and, a & b)
EMULATOR_OPERATION(bit_or, a | b)
EMULATOR_OPERATION(bit_xor, a ^ b)

namespace details {

template <class T>
T plain(T);
template <class A, class B>
constexpr bool same = false;
template <class A>
constexpr bool same<A, A> = true;

template <class Op, class T>
constexpr void check_operation() {
    typedef decltype(plain((*(Op*)0)(*(T*)0, *(T*)0))) Result;
    static_assert(same<Result, T>, "the operation's values and its result must be of one type");
}

}  // namespace details

}  // namespace cooperative_groups
