// The larger of two logits; NaN beats everything.
#pragma once

__device__ float larger(float a, float b) { return a > b || a != a ? a : b; }
