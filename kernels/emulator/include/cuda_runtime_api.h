// Of this a kernel needs nothing that device.cuh has not.
#pragma once
#define CUDART_VERSION 13000
