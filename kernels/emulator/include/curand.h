// A part of cuRAND that kernels include by its own name.
#pragma once
#include "curand_kernel.h"
