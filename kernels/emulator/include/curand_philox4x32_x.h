// Part of curand_kernel.h: the generator Philox 4x32-10 (Salmon et al. 2011, section 3.3). Its numbers are the words of
// one counter after the other; a subsequence is 2^64 counters, 2^66 numbers.
#pragma once
#include "emulator/device.cuh"

struct curandStatePhilox4_32_10 {
    uint4 ctr, output;  // the counter, and its words
    uint2 key;
    unsigned STATE;     // which of them comes next
    int boxmuller_flag, boxmuller_flag_double;
    float boxmuller_extra;
    double boxmuller_extra_double;
};
typedef curandStatePhilox4_32_10 curandStatePhilox4_32_10_t;

EMULATOR_FUNCTION uint4 curand_Philox4x32_10(uint4 counter, uint2 key) {
    unsigned c0 = counter.x, c1 = counter.y, c2 = counter.z, c3 = counter.w, k0 = key.x, k1 = key.y;
    for (int round = 0; round < 10; round++) {
        const unsigned long long a = 0xD2511F53ull * c0, b = 0xCD9E8D57ull * c2;
        c0 = unsigned(b >> 32) ^ c1 ^ k0, c1 = unsigned(b);
        c2 = unsigned(a >> 32) ^ c3 ^ k1, c3 = unsigned(a);
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return {c0, c1, c2, c3};
}

namespace emulator {

// Reports a state whose words are all this one: zeros, what a variable or fresh memory holds, but nothing that was begun.
EMULATOR_FUNCTION void not_begun(unsigned word) {
    not_set("a state of cuRAND that curand_init has not set: its words are all 0x%08x", word, EMULATOR_WHERE);
}

EMULATOR_HERE void go_on(curandStatePhilox4_32_10* state, unsigned long long counters, unsigned long long subsequences) {
    const uint4 c = state->ctr;
    const unsigned long long low = ((unsigned long long)c.y << 32 | c.x) + counters;
    const unsigned long long high = ((unsigned long long)c.w << 32 | c.z) + subsequences + (low < counters);
    const uint4 next = {unsigned(low), unsigned(low >> 32), unsigned(high), unsigned(high >> 32)};
    state->ctr = next;
    state->output = curand_Philox4x32_10(next, state->key);
}

}  // namespace emulator

EMULATOR_HERE void skipahead(unsigned long long n, curandStatePhilox4_32_10* state) {
    const unsigned at = state->STATE + unsigned(n % 4);
    state->STATE = at % 4;
    emulator::go_on(state, n / 4 + at / 4, 0);
}
EMULATOR_HERE void skipahead_sequence(unsigned long long n, curandStatePhilox4_32_10* state) {
    emulator::go_on(state, 0, n);
}

EMULATOR_HERE void curand_init(unsigned long long seed, unsigned long long subsequence, unsigned long long offset,
                               curandStatePhilox4_32_10* state) {
    state->ctr = make_uint4(0, 0, 0, 0);
    state->key = make_uint2(unsigned(seed), unsigned(seed >> 32));
    state->STATE = unsigned(offset % 4);
    state->boxmuller_flag = state->boxmuller_flag_double = 0;
    state->boxmuller_extra = 0;
    state->boxmuller_extra_double = 0;
    emulator::go_on(state, offset / 4, subsequence);
}

EMULATOR_HERE unsigned curand(curandStatePhilox4_32_10* state) {
    const uint4 now = state->output;
    if (now.x == now.y && now.x == now.z && now.x == now.w) emulator::not_begun(now.x);
    const unsigned words[4] = {now.x, now.y, now.z, now.w}, at = state->STATE;
    if (at == 3) emulator::go_on(state, 1, 0);
    state->STATE = (at + 1) % 4;
    return words[at % 4];
}
EMULATOR_HERE uint4 curand4(curandStatePhilox4_32_10* state) {
    const unsigned x = curand(state), y = curand(state), z = curand(state), w = curand(state);
    return {x, y, z, w};
}
