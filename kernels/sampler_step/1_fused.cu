// A step of DDIM with classifier-free guidance in one pass (definition: __init__.py).
//
// Everything between the network's output and the next state is arithmetic on one number at a time. The host has turned
// the step into a few coefficients:
//
//     o   = u + s (c - u)                          conditional c, unconditional u, scale s of the sample
//     x_0 = x0_x x + x0_o o,   eps = e_x x + e_o o
//     with a clip:   x_0 = clamp(x_0),   eps = again_x x + again_0 x_0
//     x_u = to_0 x_0 + to_e eps + sigma z
//
// A factor of 0 stands for "plays no part", so that 0 times infinity is not NaN. The noise z is an array, or, with `draws`,
// the random stream's, drawn right here: the same bits as random.normal gives, because which number belongs to which
// sample and place does not depend on who draws it.
//
// One thread for four neighbouring numbers of a sample, which is what one block of the stream is.
#include "lib/cuda.cuh"
#include "random/philox.cuh"

__device__ float mix(float a, float x, float b, float y) {
    if (a == 0) return b * y;
    return b == 0 ? a * x : a * x + b * y;
}

extern "C" __global__ void __launch_bounds__(128)
    ddim_step(const float* x_t, const float* conditional, const float* unconditional, const float* scales,
              const float* noise, float* x_u, float* x_0, long long n, long long per_sample, float x0_x, float x0_o,
              float e_x, float e_o, float clip, float again_x, float again_0, float to_0, float to_e, float sigma,
              bool draws, long long seed, long long first, unsigned step, unsigned purpose) {
    const long long fours = (per_sample + 3) / 4, thread = blockIdx.x * 128LL + threadIdx.x;
    if (thread >= n * fours) return;
    const long long sample = thread / fours, four = thread % fours;
    const long long at = sample * per_sample + 4 * four, left = per_sample - 4 * four;

    const float s = scales[sample];
    const Four x = load_four(x_t, at, left);
    Four o = load_four(conditional, at, left);
    if (unconditional && s != 1) {
        const Four u = load_four(unconditional, at, left);
#pragma unroll
        for (int i = 0; i < 4; i++) o.v[i] = s == 0 ? u.v[i] : u.v[i] + s * (o.v[i] - u.v[i]);
    }
    Four z = {{0, 0, 0, 0}};
    if (sigma != 0) z = draws ? box_muller(draw(seed, four, first + sample, step, purpose)) : load_four(noise, at, left);

    Four next, guess;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float g = mix(x0_x, x.v[i], x0_o, o.v[i]), e = mix(e_x, x.v[i], e_o, o.v[i]);
        if (clip > 0) {
            g = g < -clip ? -clip : g > clip ? clip : g;  // NaN is neither, and stays
            e = mix(again_x, x.v[i], again_0, g);
        }
        next.v[i] = mix(to_0, g, to_e, e);
        if (sigma != 0) next.v[i] += sigma * z.v[i];
        guess.v[i] = g;
    }
    store_four(x_u, at, left, next);
    if (x_0) store_four(x_0, at, left, guess);
}
