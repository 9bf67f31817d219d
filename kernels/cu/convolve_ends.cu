// The first convolution of a network, 3 x 3 from a plane in f32, and the last, 1 x 1 to a plane in f32. All arithmetic is in f32.
//
// Bytes a pixel: the first reads 4 (its neighbours come from L1) and writes 2 or 4 times the channels, once or twice; the last reads 2
// or 4 times the channels and writes 4. Bound: memory in both (72 and 8 multiply-adds a pixel for 20 or more bytes).
#include "layers.cuh"

namespace ends {

using namespace layers;

/// Weights: [tap][channels].
template <typename T>
__device__ __forceinline__ void first(const float* __restrict__ plane, const float* __restrict__ weights,
                                      const Finish<T> finish, int slices, int height, int width) {
    const int pixel = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (pixel >= slices * height * width) {
        return;
    }
    const int row = pixel / width, x = pixel - row * width, y = row % height;
    float values[9];
#pragma unroll
    for (int tap = 0; tap < 9; tap++) {
        const int dy = tap / 3 - 1, dx = tap % 3 - 1;
        const bool inside = y + dy >= 0 && y + dy < height && x + dx >= 0 && x + dx < width;
        values[tap] = inside ? plane[pixel + dy * width + dx] : 0.0f;
    }
    for (int channel = 0; channel < finish.channels; channel += 8) {
        float sums[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int tap = 0; tap < 9; tap++) {
            const Eight<float> w = eight(weights + tap * finish.channels + channel);
#pragma unroll
            for (int c = 0; c < 8; c++) {
                sums[c] = fmaf(values[tap], w.v[c], sums[c]);
            }
        }
        finish.write(sums, static_cast<size_t>(pixel), channel);
    }
}

/// Weights: [channels], then the bias.
template <typename T>
__device__ __forceinline__ void last(const T* __restrict__ input, const float* __restrict__ weights, float* __restrict__ plane,
                                     int channels, int pixels) {
    const int pixel = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (pixel >= pixels) {
        return;
    }
    float sum = weights[channels];
    for (int channel = 0; channel < channels; channel += 8) {
        const Eight<T> values = eight(input + static_cast<size_t>(pixel) * channels + channel);
        const Eight<float> w = eight(weights + channel);
#pragma unroll
        for (int c = 0; c < 8; c++) {
            sum = fmaf(widen(values.v[c]), w.v[c], sum);
        }
    }
    plane[pixel] = sum;
}

}  // namespace ends

#define CONVOLVE_ENDS(T, TYPE)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(traits::MAP_THREADS)                                                            \
        convolve_ends_first_##TYPE(const float* plane, const float* weights, const float* affine, const T* residual, T* raw,     \
                                   T* second, int channels, int slices, int height, int width, int flags) {                      \
        ends::first<T>(plane, weights, {affine, residual, raw, second, channels, flags}, slices, height, width);                 \
    }                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(traits::MAP_THREADS)                                                            \
        convolve_ends_last_##TYPE(const T* input, const float* weights, float* plane, int channels, int pixels) {                \
        ends::last<T>(input, weights, plane, channels, pixels);                                                                  \
    }

CONVOLVE_ENDS(__half, f16)
CONVOLVE_ENDS(float, f32)
