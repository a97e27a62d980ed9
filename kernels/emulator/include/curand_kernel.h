// cuRAND's device interface, <curand_kernel.h>: two of its generators, XORWOW (curandState) and Philox, in states of a
// GPU's layout, and the uniform, normal and log-normal numbers that are made of theirs.
//
// Whole and uniform numbers are cuRAND's, bit for bit, wherever curand_init and skipahead lead. Normal numbers agree to
// a few units in the last place in double; in float a GPU takes sine and cosine from a fast unit (__sincosf) that is off
// by about 2^-21, so its normals differ from these by up to a few 1e-6. A state whose words are all the same was never
// set by curand_init: the line that draws from it is reported.
#pragma once
#include "curand_normal.h"
#include "curand_uniform.h"

namespace emulator {

struct Absent;

}  // namespace emulator

#define EMULATOR_ABSENT \
    __attribute__((unavailable("of cuRAND, the emulator has XORWOW and Philox, uniform, normal and log-normal numbers")))
#define EMULATOR_ABSENT_GENERATOR(name)            \
    typedef emulator::Absent name EMULATOR_ABSENT; \
    typedef emulator::Absent name##_t EMULATOR_ABSENT;
EMULATOR_ABSENT_GENERATOR(curandStateMRG32k3a)
EMULATOR_ABSENT_GENERATOR(curandStateMtgp32)
EMULATOR_ABSENT_GENERATOR(curandStateSobol32)
EMULATOR_ABSENT_GENERATOR(curandStateScrambledSobol32)
EMULATOR_ABSENT_GENERATOR(curandStateSobol64)
EMULATOR_ABSENT_GENERATOR(curandStateScrambledSobol64)
#undef EMULATOR_ABSENT_GENERATOR
EMULATOR_ABSENT unsigned curand_poisson(void* state, double lambda);
EMULATOR_ABSENT uint4 curand_poisson4(void* state, double lambda);
EMULATOR_ABSENT unsigned curand_discrete(void* state, const void* distribution);
