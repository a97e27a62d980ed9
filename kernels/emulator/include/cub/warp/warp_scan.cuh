#pragma once
#include "../cub_scan.hpp"
