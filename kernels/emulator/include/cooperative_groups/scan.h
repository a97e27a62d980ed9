// CUDA's <cooperative_groups/scan.h>, but for scans that begin with an atomic variable.
#pragma once
#include <cooperative_groups/details/functional.h>

namespace cooperative_groups {

namespace details {

// Of the values of the first `ranks` threads, or nothing.
template <class T, class Op>
EMULATOR_FUNCTION T scanned(unsigned mask, const T& mine, Op& op, unsigned ranks) {
    emulator::Held<T> all[32];
    emulator::gather(mask, mine, all, EMULATOR_WHERE);
    for (unsigned i = 0; i < ranks; i++) emulator::check_source_lane(emulator::lane_of(mask, i), EMULATOR_WHERE);
    if (!ranks) return T();
    for (unsigned i = 1; i < ranks; i++) all[0].value = op(all[0].value, all[i].value);
    return all[0].value;
}

}  // namespace details

template <class T, class Op>
EMULATOR_HERE T inclusive_scan(const details::lane_group& group, T value, Op op) {
    details::check_operation<Op, T>();
    return details::scanned(group.emulator_mask(), value, op, emulator::rank_in(group.emulator_mask()) + 1);
}
template <class T, class Op>
EMULATOR_HERE T exclusive_scan(const details::lane_group& group, T value, Op op) {
    details::check_operation<Op, T>();
    return details::scanned(group.emulator_mask(), value, op, emulator::rank_in(group.emulator_mask()));
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
