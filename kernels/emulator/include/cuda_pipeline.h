// CUDA's <cuda_pipeline.h>: cp.async as functions of C. Not here are __pipeline_arrive_on and barriers.
#pragma once
#include "emulator/device.cuh"

EMULATOR_FUNCTION void __pipeline_memcpy_async(void* shared, const void* global, size_t bytes, size_t zeros = 0) {
    if (bytes != 4 && bytes != 8 && bytes != 16) emulator::bad_operand("__pipeline_memcpy_async of %d bytes: it must be 4, 8 or 16", int(bytes), EMULATOR_WHERE);
    emulator::copy(shared, global, int(bytes), int(bytes - zeros), EMULATOR_WHERE);
}
EMULATOR_HERE void __pipeline_commit() { emulator::commit_copies(); }
EMULATOR_HERE void __pipeline_wait_prior(size_t groups) { emulator::wait_for_copies(int(groups)); }
