// What a convolution's sum goes through before it is stored, so that none of it costs a read and a write of its own:
//
//     y[n, i, j, o] = f(sum + b[o] + time[n, o] + residual[n, i, j, o])        f(x) = x, or SiLU: x / (1 + exp(-x))
//
// Residual blocks of a diffusion model end their first convolution with the embedding of the time and their second with
// the residual. Every rung adds b itself; of the rest only what is asked for is compiled: TIME, RESIDUAL, SILU.
#pragma once

#ifndef TIME
#define TIME false
#endif
#ifndef RESIDUAL
#define RESIDUAL false
#endif
#ifndef SILU
#define SILU false
#endif

__device__ float finish(float sum, const float* time, const float* residual, long long n, long long at, int c_out, int o) {
    if (TIME) sum += time[n * c_out + o];
    if (RESIDUAL) sum += residual[at];
    return SILU ? sum / (1 + expf(-sum)) : sum;
}
