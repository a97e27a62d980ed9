#pragma once
#include "../cub_load_store.hpp"
