// A kernel needs nothing from this that device.cuh does not have.
#pragma once
