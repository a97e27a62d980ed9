#pragma once
#include "../cub_exchange.hpp"
