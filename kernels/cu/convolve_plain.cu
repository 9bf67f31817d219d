// 3 x 3 and 1 x 1 convolutions by multiply-adds in fp32, of maps in fp16 (GPUs before sm_70) or fp32 (the reference on every GPU).
//
// Bytes: as in convolve_tensor.cu, 2 or 4 a value. Operations: 9 or 1 multiply-adds for each input and output channel of a pixel.
// Bound: multiply-adds (8 to 8 channels in fp16: 576 for 32 to 64 bytes a pixel, 9 to 18 a byte; a GTX 980's ratio is 11). For each
// input channel and tap a thread reads 4 + 8 values from shared memory (the 8 as two broadcasts) for 32 multiply-adds.
#include "layers.cuh"

namespace plain {

using namespace layers;

/// A block computes POSITIONS x CHANNELS, a thread 4 positions, LANES apart, x 8 channels.
template <int SIDE, int CHANNELS>
struct Shape {
    static constexpr int THREADS = traits::CONVOLVE_WARPS * 32;
    static constexpr int LANES = THREADS / (CHANNELS / 8);
    static constexpr int POSITIONS = 4 * LANES;
    static constexpr int LENGTH = POSITIONS + (SIDE == 3 ? 2 * traits::PITCH_MAX + 2 : 0);
    /// Weights of 8 input channels.
    static constexpr int WEIGHTS = SIDE * SIDE * 8 * CHANNELS;
    static_assert(LANES % 32 == 0, "a warp shares its output channels, so that weights are broadcast");
    static_assert(LENGTH * 36 + WEIGHTS * 4 <= traits::SHARED_BYTES_MAX, "shared memory that every GPU has");
};

/// Weights: [tile of CHANNELS][8 input channels at a time][tap][input channel][output channel].
template <typename T, int SIDE, int CHANNELS>
__device__ __forceinline__ void convolve(const T* __restrict__ input, const float* __restrict__ weights,
                                         const Finish<T> finish, const Strips strips, const int inputs) {
    using S = Shape<SIDE, CHANNELS>;
    __shared__ float tile[8][S::LENGTH];
    __shared__ __align__(16) float filter[S::WEIGHTS];
    __shared__ int places[S::LENGTH];
    const int thread = threadIdx.x, lane = thread % S::LANES, group = thread / S::LANES * 8;
    const unsigned first = blockIdx.x * static_cast<unsigned>(S::POSITIONS);
    const int pitch = SIDE == 3 ? strips.pitch : 0;
    const int centre = SIDE == 3 ? pitch + 1 : 0;
    const int length = S::POSITIONS + 2 * centre;
    for (int at = thread; at < length; at += S::THREADS) {
        if (SIDE == 3) {
            places[at] = strips.place(blockIdx.y, first, at);
        } else {
            const unsigned pixel = first + at;
            const unsigned pixels = static_cast<unsigned>(strips.slices * strips.height * strips.width);
            places[at] = pixel < pixels ? static_cast<int>(2 * pixel + 1) : -1;
        }
    }

    float sums[4][8];
#pragma unroll
    for (int p = 0; p < 4; p++) {
#pragma unroll
        for (int c = 0; c < 8; c++) {
            sums[p][c] = 0.0f;
        }
    }
    const float* from = weights + static_cast<size_t>(blockIdx.z) * (inputs / 8) * S::WEIGHTS;
    for (int channel = 0; channel < inputs; channel += 8, from += S::WEIGHTS) {
        // The places are known; the tile of the round before was used.
        __syncthreads();
        for (int at = thread; at < length; at += S::THREADS) {
            const int place = places[at];
            if (place >= 0) {
                const Eight<T> values = eight(input + static_cast<size_t>(place >> 1) * inputs + channel);
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    tile[i][at] = widen(values.v[i]);
                }
            } else {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    tile[i][at] = 0.0f;
                }
            }
        }
        for (int at = thread * 8; at < S::WEIGHTS; at += S::THREADS * 8) {
            *reinterpret_cast<Eight<float>*>(filter + at) = eight(from + at);
        }
        __syncthreads();
#pragma unroll
        for (int tap = 0; tap < SIDE * SIDE; tap++) {
            const int at = lane + tap / SIDE * pitch + tap % SIDE;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const Eight<float> w = eight(filter + (tap * 8 + i) * CHANNELS + group);
#pragma unroll
                for (int p = 0; p < 4; p++) {
                    const float value = tile[i][at + p * S::LANES];
#pragma unroll
                    for (int c = 0; c < 8; c++) {
                        sums[p][c] = fmaf(value, w.v[c], sums[p][c]);
                    }
                }
            }
        }
    }
    const int channel = static_cast<int>(blockIdx.z) * CHANNELS + group;
    if (channel >= finish.channels) {
        return;
    }
#pragma unroll
    for (int p = 0; p < 4; p++) {
        const int place = places[centre + lane + p * S::LANES];
        if (place >= 0 && place % 2 == 1) {
            finish.write(sums[p], static_cast<size_t>(place >> 1), channel);
        }
    }
}

}  // namespace plain

#define CONVOLVE_PLAIN(NAME, T, SIDE, CHANNELS)                                                                                  \
    extern "C" __global__ void __launch_bounds__(traits::CONVOLVE_WARPS * 32)                                                    \
        NAME(const T* input, const float* weights, const float* affine, const T* residual, T* raw, T* second, int inputs,        \
             int outputs, int slices, int height, int width, int columns, int pitch, unsigned pitch_magic,                       \
             unsigned period_magic, int flags) {                                                                                 \
        plain::convolve<T, SIDE, CHANNELS>(input, weights, {affine, residual, raw, second, outputs, flags},                      \
                                           {slices, height, width, columns, pitch, pitch_magic, period_magic}, inputs);          \
    }

// Positions x output channels of a block.
CONVOLVE_PLAIN(convolve_plain_3x3_512x8_f16, __half, 3, 8)
CONVOLVE_PLAIN(convolve_plain_3x3_256x16_f16, __half, 3, 16)
CONVOLVE_PLAIN(convolve_plain_3x3_128x32_f16, __half, 3, 32)
CONVOLVE_PLAIN(convolve_plain_1x1_512x8_f16, __half, 1, 8)
CONVOLVE_PLAIN(convolve_plain_1x1_256x16_f16, __half, 1, 16)
CONVOLVE_PLAIN(convolve_plain_1x1_128x32_f16, __half, 1, 32)
CONVOLVE_PLAIN(convolve_plain_3x3_512x8_f32, float, 3, 8)
CONVOLVE_PLAIN(convolve_plain_3x3_256x16_f32, float, 3, 16)
CONVOLVE_PLAIN(convolve_plain_3x3_128x32_f32, float, 3, 32)
CONVOLVE_PLAIN(convolve_plain_1x1_512x8_f32, float, 1, 8)
CONVOLVE_PLAIN(convolve_plain_1x1_256x16_f32, float, 1, 16)
CONVOLVE_PLAIN(convolve_plain_1x1_128x32_f32, float, 1, 32)
