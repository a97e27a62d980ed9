// CUDA's <cooperative_groups/scan.h>, but for scans that begin with an atomic variable.
#pragma once
#include <cooperative_groups/details/functional.h>

namespace cooperative_groups {

namespace details {

// Over the values of the lanes before this one, and its own if inclusive; nothing if there are none.
template <class T, class Op>
EMULATOR_FUNCTION T scanned(unsigned mask, const T& mine, Op& op, bool inclusive) {
    const int lane = emulator::self->lane;
    const unsigned needed = (mask & ((1u << lane) - 1)) | unsigned(inclusive) << lane;
    emulator::Held<T> all[32];
    emulator::gather(mask, needed, mine, all, EMULATOR_WHERE);
    if (!needed) return T();
    for (int i = 1; i < __builtin_popcount(needed); i++) all[0].value = op(all[0].value, all[i].value);
    return all[0].value;
}

}  // namespace details

template <class T, class Op>
EMULATOR_HERE T inclusive_scan(const details::lane_group& group, T value, Op op) {
    details::check_operation<Op, T>();
    return details::scanned(group.emulator_mask(), value, op, true);
}
template <class T, class Op>
EMULATOR_HERE T exclusive_scan(const details::lane_group& group, T value, Op op) {
    details::check_operation<Op, T>();
    return details::scanned(group.emulator_mask(), value, op, false);
}
template <class T>
EMULATOR_HERE T inclusive_scan(const details::lane_group& group, T value) {
    return inclusive_scan(group, value, plus<T>());
}
template <class T>
EMULATOR_HERE T exclusive_scan(const details::lane_group& group, T value) {
    return exclusive_scan(group, value, plus<T>());
}

}  // namespace cooperative_groups
