// 3 x 3 and 1 x 1 convolutions on tensor cores (sm_70 on): fp16 storage, fp32 sums.
//
// Bytes: a layer reads its input 1 + (2 pitch + 2) / POSITIONS times (1.1 to 2.4; all but the first from L2), its residual once, and
// writes each output once: 2 bytes a value each. Operations: 9 or 1 multiply-adds for each input and output channel of a pixel.
// Bound: at 8 to 16 channels memory (8 to 8: 576 multiply-adds for 32 to 64 bytes a pixel, 9 to 18 a byte, where a V100's ratio is 69
// and an H100's 148); from 32 channels on the tensor cores, and in the deepest levels the reads of weights from L2, which every block of
// positions repeats.
//
// Implicit matrix product: A, 16 consecutive positions (see Strips) x 16 channels, is read from the tile in shared memory; that of
// another tap starts a constant number of positions later. B, 16 input x 16 output channels, comes packed from memory, 512 bytes at a
// time, and is shared by the warps through L1. Sums go through shared memory to the epilogue.
// Maps of at most 8 channels are not padded: a row of A is then two neighbouring pixels, so that one product serves two taps, and three
// taps of a row take two products (the fourth tap's weights are zero).
#include "layers.cuh"

#if defined(TRIAGED_TENSOR_CORES)
#include <mma.h>

namespace tensor {

using namespace layers;

/// SIDE: kernel's size. PAIRED: at most 8 input channels. MT x NT: tiles of 16 positions x 16 channels a warp.
template <int SIDE, bool PAIRED, int MT, int NT>
struct Shape {
    static constexpr int POSITIONS = traits::CONVOLVE_WARPS * 16 * MT;
    static constexpr int CHANNELS = 16 * NT;
    /// Input channels of a position in shared memory.
    static constexpr int DEPTH = PAIRED ? 8 : 16;
    /// Tiles of input channels that are loaded at once.
    static constexpr int CHUNKS = PAIRED || MT == 4 ? 1 : 2;
    /// Positions in shared memory at most: the block's, a row and a pixel before and after, and the neighbour that PAIRED reads.
    static constexpr int LENGTH = (POSITIONS + (SIDE == 3 ? 2 * traits::PITCH_MAX + 2 : 0) + 1 + 7) / 8 * 8;
    static constexpr int TILE_BYTES = LENGTH * DEPTH * CHUNKS * 2;
    /// Row of a warp's sums, in floats: 4 more than 16, against bank conflicts.
    static constexpr int SUMS_ROW = 20;
    static constexpr int SUMS_BYTES = traits::CONVOLVE_WARPS * 16 * SUMS_ROW * 4;
    static constexpr int BYTES = TILE_BYTES > SUMS_BYTES ? TILE_BYTES : SUMS_BYTES;
    static_assert(BYTES + LENGTH * 4 <= traits::SHARED_BYTES_MAX, "shared memory that every GPU has");
    static_assert(LENGTH * DEPTH * 2 % 32 == 0, "matrices start at multiples of 32 bytes");
};

template <int SIDE, bool PAIRED, int MT, int NT>
__device__ __forceinline__ void convolve(const __half* __restrict__ input, const __half* __restrict__ weights,
                                         const Finish<__half> finish, const Strips strips, const int inputs) {
    using namespace nvcuda;
    using S = Shape<SIDE, PAIRED, MT, NT>;
    __shared__ __align__(128) unsigned char bytes[S::BYTES];
    __shared__ int places[S::LENGTH];
    __half* const tile = reinterpret_cast<__half*>(bytes);
    constexpr int THREADS = traits::CONVOLVE_WARPS * 32;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const unsigned first = blockIdx.x * static_cast<unsigned>(S::POSITIONS);
    const int pitch = SIDE == 3 ? strips.pitch : 0;
    // Of the position itself, among those in shared memory.
    const int centre = SIDE == 3 ? pitch + 1 : 0;
    const int length = S::POSITIONS + 2 * centre + 1;
    for (int at = thread; at < length; at += THREADS) {
        if (SIDE == 3) {
            places[at] = strips.place(blockIdx.y, first, at);
        } else {
            const unsigned pixel = first + at;
            const unsigned pixels = static_cast<unsigned>(strips.slices * strips.height * strips.width);
            places[at] = pixel < pixels ? static_cast<int>(2 * pixel + 1) : -1;
        }
    }

    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sums[MT][NT];
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int n = 0; n < NT; n++) {
            wmma::fill_fragment(sums[m][n], 0.0f);
        }
    }
    // Products of a tile of input channels, and tiles of input channels.
    constexpr int STEPS = SIDE == 1 ? 1 : PAIRED ? 6 : 9;
    constexpr int GROUPS = S::DEPTH * S::CHUNKS / 8;
    const int chunks = (inputs + S::DEPTH - 1) / S::DEPTH;
    const size_t column_of_tiles = static_cast<size_t>(chunks) * STEPS * 256;
    const __half* const tiles = weights + blockIdx.z * NT * column_of_tiles;
    const __half* const own = tile + warp * MT * 16 * S::DEPTH;
    for (int base = 0; base < chunks; base += S::CHUNKS) {
        // The places are known; the tile of the round before was used.
        __syncthreads();
        for (int item = thread; item < length * GROUPS; item += THREADS) {
            const int group = item % GROUPS, at = item / GROUPS;
            const int channel = base * S::DEPTH + group * 8, place = places[at];
            Eight<__half> values;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                values.v[i] = narrow<__half>(0.0f);
            }
            if (place >= 0 && channel < inputs) {
                values = eight(input + static_cast<size_t>(place >> 1) * inputs + channel);
            }
            const int slot = PAIRED ? at * 8 : (group / 2 * S::LENGTH + at) * 16 + group % 2 * 8;
            *reinterpret_cast<Eight<__half>*>(tile + slot) = values;
        }
        __syncthreads();
#pragma unroll
        for (int chunk = 0; chunk < S::CHUNKS; chunk++) {
            if (base + chunk >= chunks) {
                break;
            }
            // A row of taps at a time: all of them at once take more registers than they hide waiting.
#pragma unroll 1
            for (int down = 0; down < SIDE; down++) {
#pragma unroll
                for (int i = 0; i < STEPS / SIDE; i++) {
                    const int step = down * (STEPS / SIDE) + i;
                    const int right = PAIRED ? 2 * i : i;
                    wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::row_major> b[NT];
#pragma unroll
                    for (int n = 0; n < NT; n++) {
                        wmma::load_matrix_sync(
                            b[n], tiles + n * column_of_tiles + static_cast<size_t>((base + chunk) * STEPS + step) * 256, 16);
                    }
#pragma unroll
                    for (int m = 0; m < MT; m++) {
                        wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> a;
                        const int at = chunk * S::LENGTH + m * 16 + down * pitch + right;
                        wmma::load_matrix_sync(a, own + at * S::DEPTH, S::DEPTH);
#pragma unroll
                        for (int n = 0; n < NT; n++) {
                            wmma::mma_sync(sums[m][n], a, b[n], sums[m][n]);
                        }
                    }
                }
            }
        }
    }

    // The tile was used; its memory takes the sums, 16 x 16 at a time for each warp.
    __syncthreads();
    float* const out = reinterpret_cast<float*>(bytes) + warp * 16 * S::SUMS_ROW;
    const int pixel = lane / 2, group = lane % 2 * 8;
#pragma unroll
    for (int m = 0; m < MT; m++) {
        const int place = places[centre + (warp * MT + m) * 16 + pixel];
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const int channel = static_cast<int>(blockIdx.z) * S::CHANNELS + n * 16 + group;
            wmma::store_matrix_sync(out, sums[m][n], S::SUMS_ROW, wmma::mem_row_major);
            __syncwarp();
            // Not -1, and not of another strip.
            if (place >= 0 && place % 2 == 1 && channel < finish.channels) {
                const Eight<float> values = eight(out + pixel * S::SUMS_ROW + group);
                finish.write(values.v, static_cast<size_t>(place >> 1), channel);
            }
            __syncwarp();
        }
    }
}

}  // namespace tensor

#define CONVOLVE_TENSOR(NAME, SIDE, PAIRED, MT, NT)                                                                              \
    extern "C" __global__ void __launch_bounds__(traits::CONVOLVE_WARPS * 32)                                                    \
        NAME(const __half* input, const __half* weights, const float* affine, const __half* residual, __half* raw,               \
             __half* second, int inputs, int outputs, int slices, int height, int width, int columns, int pitch,                 \
             unsigned pitch_magic, unsigned period_magic, int flags) {                                                           \
        tensor::convolve<SIDE, PAIRED, MT, NT>(input, weights, {affine, residual, raw, second, outputs, flags},                  \
                                               {slices, height, width, columns, pitch, pitch_magic, period_magic}, inputs);      \
    }

// Positions x output channels of a block; "paired" for at most 8 input channels.
CONVOLVE_TENSOR(convolve_tensor_3x3_paired_256x16_f16, 3, true, 4, 1)
CONVOLVE_TENSOR(convolve_tensor_3x3_256x16_f16, 3, false, 4, 1)
CONVOLVE_TENSOR(convolve_tensor_3x3_128x32_f16, 3, false, 2, 2)
CONVOLVE_TENSOR(convolve_tensor_3x3_128x64_f16, 3, false, 2, 4)
CONVOLVE_TENSOR(convolve_tensor_3x3_64x32_f16, 3, false, 1, 2)
CONVOLVE_TENSOR(convolve_tensor_1x1_paired_256x16_f16, 1, true, 4, 1)
CONVOLVE_TENSOR(convolve_tensor_1x1_256x16_f16, 1, false, 4, 1)
CONVOLVE_TENSOR(convolve_tensor_1x1_128x32_f16, 1, false, 2, 2)
CONVOLVE_TENSOR(convolve_tensor_1x1_128x64_f16, 1, false, 2, 4)
CONVOLVE_TENSOR(convolve_tensor_1x1_64x32_f16, 1, false, 1, 2)
#endif
