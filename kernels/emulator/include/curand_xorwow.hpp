// Part of curand_kernel.h: the generator XORWOW (Marsaglia 2003, "Xorshift RNGs", page 5), of five words and a sum.
// A subsequence is 2^67 numbers.
#pragma once
#include "curand_philox4x32_x.h"

struct curandStateXORWOW {
    unsigned d, v[5];
    int boxmuller_flag, boxmuller_flag_double;
    float boxmuller_extra;
    double boxmuller_extra_double;
};
typedef curandStateXORWOW curandStateXORWOW_t;
typedef curandStateXORWOW curandState_t;
typedef curandStateXORWOW curandState;

namespace emulator {

const unsigned XORWOW_SUM = 362437;  // is added to d each time

EMULATOR_HERE void xorwow_step(unsigned* v) {
    const unsigned first = v[0] ^ v[0] >> 2, last = v[4];
    v[0] = v[1], v[1] = v[2], v[2] = v[3], v[3] = last;
    v[4] = last ^ last << 4 ^ first ^ first << 1;
}

// A step is linear over GF(2): what becomes of the words is the exclusive or of what becomes of each of their 160 bits,
// the rows of a matrix. 2^i steps are its power, found by squaring when they are first needed. cuRAND has tables of it.
typedef unsigned Steps[160][5];
const int SUBSEQUENCE = 67;
static Steps steps[SUBSEQUENCE + 64];  // of a jump by 2^i numbers
static int known_steps;                // how many of them are there

EMULATOR_FUNCTION void take_steps(unsigned* v, const Steps& rows) {
    unsigned to[5] = {};
    for (int bit = 0; bit < 160; bit++)
        if (v[bit / 32] >> bit % 32 & 1)
            for (int word = 0; word < 5; word++) to[word] ^= rows[bit][word];
    for (int word = 0; word < 5; word++) v[word] = to[word];
}

EMULATOR_FUNCTION void find_steps(int number) {
    for (int bit = 0; bit < 160; bit++) {
        unsigned* const row = steps[number][bit];
        for (int word = 0; word < 5; word++) row[word] = number ? steps[number - 1][bit][word] : 0;
        if (number) {
            take_steps(row, steps[number - 1]);
        } else {
            row[bit / 32] = 1u << bit % 32;
            xorwow_step(row);
        }
    }
}

EMULATOR_FUNCTION void jump(unsigned* v, unsigned long long times, int number) {  // by 2^number numbers
    for (; times; times >>= 1, number++) {
        for (; known_steps <= number; known_steps++) find_steps(known_steps);
        if (times & 1) take_steps(v, steps[number]);
    }
}

EMULATOR_HERE void jump_in_state(curandStateXORWOW* state, unsigned long long times, int number) {
    unsigned v[5] = {state->v[0], state->v[1], state->v[2], state->v[3], state->v[4]};
    jump(v, times, number);
    for (int word = 0; word < 5; word++) state->v[word] = v[word];
}

}  // namespace emulator

EMULATOR_HERE void skipahead(unsigned long long n, curandStateXORWOW* state) {
    emulator::jump_in_state(state, n, 0);
    state->d += emulator::XORWOW_SUM * unsigned(n);
}
EMULATOR_HERE void skipahead_sequence(unsigned long long n, curandStateXORWOW* state) {
    emulator::jump_in_state(state, n, emulator::SUBSEQUENCE);  // d is the same again after 2^32 numbers
}

EMULATOR_HERE void curand_init(unsigned long long seed, unsigned long long subsequence, unsigned long long offset,
                               curandStateXORWOW* state) {
    const unsigned low = 1099087573u * (unsigned(seed) ^ 0xaad26b49u);
    const unsigned high = 2591861531u * (unsigned(seed >> 32) ^ 0xf7dcefddu);
    unsigned v[5] = {123456789u + low, 362436069u ^ low, 521288629u + high, 88675123u ^ high, 5783321u + low};
    emulator::jump(v, subsequence, emulator::SUBSEQUENCE);
    emulator::jump(v, offset, 0);
    state->d = 6615241u + high + low + emulator::XORWOW_SUM * unsigned(offset);
    for (int word = 0; word < 5; word++) state->v[word] = v[word];
    state->boxmuller_flag = state->boxmuller_flag_double = 0;
    state->boxmuller_extra = 0;
    state->boxmuller_extra_double = 0;
}

EMULATOR_HERE unsigned curand(curandStateXORWOW* state) {
    const unsigned* const v = state->v;
    const unsigned word = v[0];
    if (word == v[1] && word == v[2] && word == v[3] && word == v[4]) emulator::not_begun(word);
    emulator::xorwow_step(state->v);
    return v[4] + (state->d += emulator::XORWOW_SUM);
}
