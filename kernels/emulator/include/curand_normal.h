// Part of curand_kernel.h: normal and log-normal numbers in pairs (Box & Muller 1958). Of a pair of which one is asked
// for, the state keeps the other, under a flag that says which kind it is of. Where nvcc makes a fused multiply-add of
// a product and a sum, so does this.
#pragma once
#include "curand_uniform.h"

EMULATOR_FUNCTION float2 _curand_box_muller(unsigned x, unsigned y) {
    const float turn = 6.2831855f * 0x1p-32f, radius = sqrtf(-2.0f * logf(_curand_uniform(x)));
    float sine, cosine;
    __sincosf(fmaf(float(y), turn, turn / 2), &sine, &cosine);
    return {radius * sine, radius * cosine};
}
EMULATOR_FUNCTION double2 _curand_box_muller_double(unsigned x0, unsigned x1, unsigned y0, unsigned y1) {
    const double radius = sqrt(-2.0 * log(_curand_uniform_double_hq(x0, x1)));
    const double half_turns = 2 * _curand_uniform_double_hq(y0, y1);
    // The sine and cosine of that many times pi, as exact as those of an angle of at most pi / 4.
    const double quarters = rint(2 * half_turns), angle = 3.14159265358979323846 * (half_turns - quarters / 2);
    const int quarter = int(quarters) & 3;
    const double s = sin(angle), c = cos(angle), sine = quarter & 1 ? c : s, cosine = quarter & 1 ? s : c;
    return {radius * (quarter & 2 ? -sine : sine), radius * (quarter == 1 || quarter == 2 ? -cosine : cosine)};
}

namespace emulator {

enum { NONE_KEPT, NORMAL_KEPT, LOG_NORMAL_KEPT };

template <class State>
EMULATOR_HERE float keep(State* state, int kind, float2 pair) {
    state->boxmuller_extra = pair.y;
    state->boxmuller_flag = kind;
    return pair.x;
}
template <class State>
EMULATOR_HERE double keep(State* state, int kind, double2 pair) {
    state->boxmuller_extra_double = pair.y;
    state->boxmuller_flag_double = kind;
    return pair.x;
}
template <class State>
EMULATOR_HERE float kept(State* state) {
    state->boxmuller_flag = NONE_KEPT;
    return state->boxmuller_extra;
}
template <class State>
EMULATOR_HERE double kept_double(State* state) {
    state->boxmuller_flag_double = NONE_KEPT;
    return state->boxmuller_extra_double;
}

}  // namespace emulator

template <class State>
EMULATOR_HERE float2 curand_normal2(State* state) {
    const unsigned x = curand(state), y = curand(state);
    return _curand_box_muller(x, y);
}
EMULATOR_HERE float4 curand_normal4(curandStatePhilox4_32_10* state) {
    const float2 first = curand_normal2(state), second = curand_normal2(state);
    return {first.x, first.y, second.x, second.y};
}
template <class State>
EMULATOR_HERE double2 curand_normal2_double(State* state) {
    const unsigned x0 = curand(state), x1 = curand(state), y0 = curand(state), y1 = curand(state);
    return _curand_box_muller_double(x0, x1, y0, y1);
}

template <class State>
EMULATOR_HERE float2 curand_log_normal2(State* state, float mean, float stddev) {
    const float2 z = curand_normal2(state);
    return {expf(fmaf(stddev, z.x, mean)), expf(fmaf(stddev, z.y, mean))};
}
EMULATOR_HERE float4 curand_log_normal4(curandStatePhilox4_32_10* state, float mean, float stddev) {
    const float2 first = curand_log_normal2(state, mean, stddev), second = curand_log_normal2(state, mean, stddev);
    return {first.x, first.y, second.x, second.y};
}
template <class State>
EMULATOR_HERE double2 curand_log_normal2_double(State* state, double mean, double stddev) {
    const double2 z = curand_normal2_double(state);
    return {exp(fma(stddev, z.x, mean)), exp(fma(stddev, z.y, mean))};
}

template <class State>
EMULATOR_HERE float curand_normal(State* state) {
    if (state->boxmuller_flag == emulator::NORMAL_KEPT) return emulator::kept(state);
    return emulator::keep(state, emulator::NORMAL_KEPT, curand_normal2(state));
}
template <class State>
EMULATOR_HERE double curand_normal_double(State* state) {
    if (state->boxmuller_flag_double == emulator::NORMAL_KEPT) return emulator::kept_double(state);
    return emulator::keep(state, emulator::NORMAL_KEPT, curand_normal2_double(state));
}
template <class State>
EMULATOR_HERE float curand_log_normal(State* state, float mean, float stddev) {
    if (state->boxmuller_flag == emulator::LOG_NORMAL_KEPT) return emulator::kept(state);
    return emulator::keep(state, emulator::LOG_NORMAL_KEPT, curand_log_normal2(state, mean, stddev));
}
template <class State>
EMULATOR_HERE double curand_log_normal_double(State* state, double mean, double stddev) {
    if (state->boxmuller_flag_double == emulator::LOG_NORMAL_KEPT) return emulator::kept_double(state);
    return emulator::keep(state, emulator::LOG_NORMAL_KEPT, curand_log_normal2_double(state, mean, stddev));
}
