#pragma once
#include "cub_common.hpp"
