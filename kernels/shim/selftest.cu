// Kernels by which the software device is tested itself; not part of any cubin.

// Sums of blocks: by shuffles in each warp, then by the first warp over shared memory. Any block size, any shape.
extern "C" __global__ void selftest_sum(const float* in, float* out, int count) {
    __shared__ float sums[32];
    const int threads = blockDim.x * blockDim.y;
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    const int at = blockIdx.x * threads + thread;
    float value = at < count ? in[at] : 0.0f;
    for (int by = 16; by > 0; by /= 2) value += __shfl_down_sync(0xffffffffu, value, by);
    if (thread % 32 == 0) sums[thread / 32] = value;
    __syncthreads();
    if (thread < 32) {
        float sum = thread < (threads + 31) / 32 ? sums[thread] : 0.0f;
        for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
        if (thread == 0) out[blockIdx.x] = sum;
    }
}

// out[i] = in[count - 1 - i] of each block, through dynamic shared memory; `barrier` = 0 leaves the barrier out.
extern "C" __global__ void selftest_reverse(const int* in, int* out, int barrier) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    int* const values = reinterpret_cast<int*>(dynamic_shared);
    const int base = blockIdx.x * blockDim.x;
    values[threadIdx.x] = in[base + threadIdx.x];
    if (barrier) __syncthreads();
    out[base + threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

// What a warp's functions give each of 32 lanes: 8 words a lane.
extern "C" __global__ void selftest_warp(unsigned* out) {
    const unsigned lane = threadIdx.x, all = 0xffffffffu;
    unsigned* const own = out + lane * 8;
    own[0] = __ballot_sync(all, lane % 3 == 0);
    own[1] = __shfl_sync(all, lane * 10, 5);
    own[2] = __shfl_up_sync(all, lane, 4u);
    own[3] = __shfl_down_sync(all, lane, 3u, 8);
    own[4] = __any_sync(all, lane == 31) * 2 + __all_sync(all, lane < 31);
    if (lane < 16) own[5] = __shfl_xor_sync(0x0000ffffu, lane, 1);
    else own[5] = __shfl_xor_sync(0xffff0000u, lane, 2);
    own[6] = static_cast<unsigned>(__syncthreads_count(lane < 7));
    own[7] = __popc(lane) + 100 * __clz(static_cast<int>(lane));
}

// d = a b + 1 for 16 x 16, b column by column; by each of the block's warps for its own matrices.
extern "C" __global__ void selftest_matrix(const __half* a, const __half* b, float* d) {
    using namespace nvcuda;
    const int at = static_cast<int>(threadIdx.x / 32) * 256;
    wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> left;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::col_major> right;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sums;
    wmma::fill_fragment(sums, 1.0f);
    wmma::load_matrix_sync(left, a + at, 16);
    wmma::load_matrix_sync(right, b + at, 16);
    wmma::mma_sync(sums, left, right, sums);
    wmma::store_matrix_sync(d + at, sums, 16, wmma::mem_row_major);
}

// Halves to floats, and floats to halves.
extern "C" __global__ void selftest_half(const __half* halves, float* widened, const float* floats, __half* narrowed, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    widened[i] = __half2float(halves[i]);
    narrowed[i] = __float2half_rn(floats[i]);
}

// Largest, smallest, sum of in[0 .. count), and how often `count` was seen.
extern "C" __global__ void selftest_atomics(const int* in, int* out, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    atomicMax(out, in[i]);
    atomicMin(out + 1, in[i]);
    atomicAdd(out + 2, in[i]);
    atomicCAS(out + 3, i, i + 1);
}

// What a kernel must not do; each `kind` ends the process.
extern "C" __global__ void selftest_fault(float* data, int count, int kind) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    const int thread = threadIdx.x;
    switch (kind) {
        case 0: data[count + thread % 4] = 1.0f; break;                                  // past the end, by little
        case 1: data[thread] = data[count + 65536]; break;                               // past the end, by much
        case 2: data[thread - 8] = 1.0f; break;                                          // before the start
        case 3:                                                                          // two barriers at once
            if (thread % 2) __syncthreads();
            else __syncthreads();
            break;
        case 4: if (thread > 0) { __syncwarp(); } break;                                 // a lane that never comes
        case 5: dynamic_shared[blockDim.x * 4 + thread] = 1; break;                      // more than was asked for
        case 6: {                                                                        // a matrix out of line
            nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> sums;
            nvcuda::wmma::fill_fragment(sums, 0.0f);
            nvcuda::wmma::store_matrix_sync(data + 1, sums, 16, nvcuda::wmma::mem_row_major);
            break;
        }
        case 7: data[thread] = reinterpret_cast<const float4*>(data + 1)[thread].y; break;   // four floats out of line
        default: data[thread] = 0.0f;
    }
}
