// The random stream as device functions, for every kernel that draws: see 1_philox.cu for what it is and why.
#pragma once

#include "lib/exact.cuh"
#include "lib/fours.cuh"

struct Words {
    unsigned w[4];
};

// Ten rounds of Philox 4x32 (Salmon et al. 2011, section 3.3): four words from a counter of four and a key of two.
__device__ Words philox(Words c, unsigned key_0, unsigned key_1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const unsigned long long a = 0xD2511F53ull * c.w[0], b = 0xCD9E8D57ull * c.w[2];
        c = {{unsigned(b >> 32) ^ c.w[1] ^ key_0, unsigned(b), unsigned(a >> 32) ^ c.w[3] ^ key_1, unsigned(a)}};
        key_0 += 0x9E3779B9u;
        key_1 += 0xBB67AE85u;
    }
    return c;
}

// The words of one block of four numbers of one sample. The key is the seed; sample, step and purpose are the counter.
__device__ Words draw(long long seed, unsigned block, unsigned sample, unsigned step, unsigned purpose) {
    return philox({{block, sample, step, purpose}}, unsigned(seed), unsigned((unsigned long long)seed >> 32));
}

__device__ float uniform_32(unsigned w) { return (w >> 8) * 0x1p-24f; }  // 24 bits, exact, in [0, 1)

// ln u, u = (w + 1/2) / 2^32 = f 2^e with f in [sqrt(1/2), sqrt(2)): ln f = 2 s (1 + s^2/3 + s^4/5 + ...), s = (f-1)/(f+1).
__device__ double log_uniform(unsigned w) {
    int e;
    double f = frexp((2.0 * w + 1.0) * 0x1p-33, &e);
    if (f < 0.7071067811865476) {
        f *= 2;
        e -= 1;
    }
    const double s = plus(f, -1) / plus(f, 1), square = times(s, s);
    double series = 1.0 / 21;
#pragma unroll
    for (int k = 19; k > 0; k -= 2) series = plus(times(series, square), 1.0 / k);
    return plus(times(e, 0.6931471805599453), times(2 * s, series));
}

// cos and sin of 2 pi a, a = (w + 1/2) / 2^32: 4 a = q + r, and y = r pi/2 is within an eighth of a turn.
__device__ void cos_sin_turn(unsigned w, double* cosine, double* sine) {
    const double a = (2.0 * w + 1.0) * 0x1p-31, q = floor(a + 0.5);
    const double y = times(plus(a, -q), 1.5707963267948966), square = times(y, y);
    double s = 1, c = 1;
#pragma unroll
    for (int k = 15; k > 2; k -= 2) s = plus(1, -times(times(square, 1.0 / (k * (k - 1))), s));
#pragma unroll
    for (int k = 16; k > 1; k -= 2) c = plus(1, -times(times(square, 1.0 / (k * (k - 1))), c));
    s = times(s, y);
    const int quarter = int(q) & 3;
    const double x = quarter & 1 ? s : c;
    *sine = quarter >= 2 ? -(quarter & 1 ? c : s) : quarter & 1 ? c : s;
    *cosine = quarter == 1 || quarter == 2 ? -x : x;
}

// Four normal numbers from four words (Box & Muller 1958), right to the last place but for ties of the last rounding.
__device__ Four box_muller(Words words) {
    Four z;
#pragma unroll
    for (int pair = 0; pair < 4; pair += 2) {
        double cosine, sine;
        cos_sin_turn(words.w[pair + 1], &cosine, &sine);
        const double radius = sqrt(-2 * log_uniform(words.w[pair]));
        z.v[pair] = float(times(radius, cosine));
        z.v[pair + 1] = float(times(radius, sine));
    }
    return z;
}
