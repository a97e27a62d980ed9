#pragma once
#include "../cub_operators.hpp"
