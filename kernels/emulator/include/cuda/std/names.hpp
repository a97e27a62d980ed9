// What <cuda/std/...> has besides whole numbers: the C++ library's, by these names too.
#pragma once
namespace cuda {
namespace std {
using namespace ::std;
}  // namespace std
}  // namespace cuda
