// Of the driver's header a kernel needs the maps of TMA alone.
#pragma once
#define CUDA_VERSION 13000
typedef emulator::TensorMap CUtensorMap;
