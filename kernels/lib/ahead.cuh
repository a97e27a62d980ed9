// Loads that do not wait for each other.
//
// A thread waits for memory where it uses what it has loaded, not where it loads it; and the compiler moves no load in front of
// a branch, nor of a store that may be to the same place. So in a loop that loads, uses and stores one number, a thread has one
// on its way at a time, unrolled or not, where there is time for many.
#pragma once

// use(i, load(i)) for i = first, first + step, ... below `end`, in this order; BATCH loads come before the first use.
// end + BATCH * step must be an Index.
template <int BATCH, class Index, class Load, class Use>
__device__ __forceinline__ void ahead(Index first, Index end, Index step, Load load, Use use) {
    Index i = first;
    for (; i + (BATCH - 1) * step < end; i += BATCH * step) {
        decltype(load(i)) loaded[BATCH];
#pragma unroll
        for (int e = 0; e < BATCH; e++) loaded[e] = load(i + e * step);
#pragma unroll
        for (int e = 0; e < BATCH; e++) use(i + e * step, loaded[e]);
    }
#pragma unroll 1
    for (; i < end; i += step) use(i, load(i));
}
