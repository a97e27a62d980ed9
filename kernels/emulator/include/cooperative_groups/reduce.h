// CUDA's <cooperative_groups/reduce.h>, but for reductions into an atomic variable.
#pragma once
#include <cooperative_groups/details/functional.h>

namespace cooperative_groups {

namespace details {

// By halves: the upper half's values go to the lower half's, as long as there are some. CUDA promises no order.
template <class T, class Op>
EMULATOR_FUNCTION T reduced(unsigned mask, const T& mine, Op& op) {
    emulator::Held<T> all[32];
    emulator::gather(mask, mask, mine, all, EMULATOR_WHERE);
    for (int count = __builtin_popcount(mask); count > 1; count = (count + 1) / 2)
        for (int i = 0; i < count / 2; i++) all[i].value = op(all[i].value, all[i + (count + 1) / 2].value);
    return all[0].value;
}

}  // namespace details

template <class T, class Op>
EMULATOR_HERE T reduce(const details::lane_group& group, T value, Op op) {
    details::check_operation<Op, T>();
    return details::reduced(group.emulator_mask(), value, op);
}

}  // namespace cooperative_groups
