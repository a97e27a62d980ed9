#pragma once
#include "../cub_reduce.hpp"
