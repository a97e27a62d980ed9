// A kernel needs nothing from this that device.cuh does not have.
#pragma once
#define CUDA_VERSION 13000
