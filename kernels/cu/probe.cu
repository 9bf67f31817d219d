// Kernels that prove a device rather than compute: the self-test of a box, and of the software device.
//
// probe_scale_f32 reads and writes each value once: 8 bytes a value, bound by memory.
#include "traits.cuh"

/// out[i] = in[i] * factor + offset, computed in f32 without contraction.
extern "C" __global__ void __launch_bounds__(256)
probe_scale_f32(const float* __restrict__ in, float* __restrict__ out, int count, float factor, float offset) {
    const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count) {
        out[i] = __fadd_rn(__fmul_rn(in[i], factor), offset);
    }
}
