// CUB's most used parts: those of warps and blocks. What is device-wide is host code.
#pragma once
#include "cub_load_store.hpp"
#include "cub_radix_sort.hpp"
#include "cub_reduce.hpp"
#include "cub_scan.hpp"
