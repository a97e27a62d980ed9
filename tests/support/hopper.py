"""What kernels in the tests of inline PTX for Hopper share."""

from kernels import launch

HEAD = """
#include <cuda.h>
#include <cstdint>
__device__ uint32_t address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
__device__ void init(uint64_t* b, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(address(b)), "r"(count));
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ void expect(uint64_t* b, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(address(b)), "r"(bytes) : "memory");
}
__device__ void wait(uint64_t* b, int parity) {
    asm volatile("{\\n.reg .pred P1;\\nLAB_WAIT:\\nmbarrier.try_wait.parity.shared::cta.b64 P1, [%0], %1;\\n"
                 "@P1 bra.uni DONE;\\nbra.uni LAB_WAIT;\\nDONE:\\n}" :: "r"(address(b)), "r"(parity) : "memory");
}
__device__ void fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
"""
# For NVRTC, which has neither header.
FOR_A_GPU = HEAD.replace("#include <cuda.h>", "struct alignas(64) CUtensorMap { char bytes[128]; };").replace(
    "#include <cstdint>",
    "typedef unsigned uint32_t; typedef unsigned long long uint64_t; typedef unsigned char uint8_t;",
)


def on_a_gpu(tmp_path, *kernels):
    """Compile the kernels for a Hopper, so that it is PTX what the emulator takes."""
    for kernel in kernels:
        (tmp_path / "k.cu").write_text(FOR_A_GPU + kernel)
        launch.compile_for(tmp_path / "k.cu", "90a")
