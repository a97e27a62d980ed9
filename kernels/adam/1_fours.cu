// One step of Adam with decoupled weight decay (Kingma & Ba 2015, Loshchilov & Hutter 2019) over a flat buffer of all
// parameters, in one launch:
//
//     m = beta1 m + (1 - beta1) g,    v = beta2 v + (1 - beta2) g^2,    p = keep p - rate m / (sqrt(v) + floor)
//
// with both corrections for the start at 0 folded into `rate` and `floor`, and keep = 1 - lr * decay.
//
// For each parameter 16 bytes are read and 12 written and next to nothing is computed, so memory alone decides the time:
// a thread moves four neighbouring numbers of each array by one instruction each.
#include "lib/cuda.cuh"
#include "lib/fours.cuh"

extern "C" __global__ void __launch_bounds__(256)
    adam_step(float* p, const float* g, float* m, float* v, long long n, float beta1, float rest1, float beta2,
              float rest2, float rate, float floor, float keep) {
    const long long at = 4 * (blockIdx.x * 256LL + threadIdx.x), left = n - at;
    if (left <= 0) return;
    Four p4 = load_four(p, at, left), m4 = load_four(m, at, left), v4 = load_four(v, at, left);
    const Four g4 = load_four(g, at, left);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        m4.v[i] = rest1 * g4.v[i] + beta1 * m4.v[i];
        v4.v[i] = rest2 * (g4.v[i] * g4.v[i]) + beta2 * v4.v[i];
        p4.v[i] = keep * p4.v[i] - rate * (m4.v[i] / (sqrtf(v4.v[i]) + floor));
    }
    store_four(m, at, left, m4);
    store_four(v, at, left, v4);
    store_four(p, at, left, p4);
}
