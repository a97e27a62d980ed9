#pragma once
#include "../cub_radix_sort.hpp"
