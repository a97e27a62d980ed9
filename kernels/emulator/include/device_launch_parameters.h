// Of this a kernel needs nothing that device.cuh has not.
#pragma once
