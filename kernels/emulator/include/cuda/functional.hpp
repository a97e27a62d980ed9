// Of <cuda/functional>, the operators that <functional> does not have.
#pragma once
#include <cuda/std/functional>

namespace cuda {

#define EMULATOR_EXTREME(name, result)                                                   \
    template <class T = void>                                                            \
    struct name {                                                                        \
        EMULATOR_HERE constexpr T operator()(const T& a, const T& b) const { return result; }      \
    };                                                                                   \
    template <>                                                                          \
    struct name<void> {                                                                  \
        template <class T, class U>                                                      \
        EMULATOR_HERE constexpr auto operator()(const T& a, const U& b) const -> decltype(true ? a : b) { return result; } \
    };
EMULATOR_EXTREME(maximum, a < b ? b : a)
EMULATOR_EXTREME(minimum, b < a ? b : a)
#undef EMULATOR_EXTREME

}  // namespace cuda
