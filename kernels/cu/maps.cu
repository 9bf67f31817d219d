// Layers that compute each channel by itself: max-pooling, linear resizing, copies (also into a part of joined channels), global pooling.
//
// Bytes: every value of source and residual once (what windows share comes from L1 and L2), every output once; 2 or 4 bytes each.
// Bound: memory in all of them. A thread makes 8 channels of a pixel, so neighbours in a warp read and write neighbouring 16 bytes.
#include "layers.cuh"

namespace maps {

using namespace layers;

struct Item {
    int slice, y, x, channel;
    bool inside;
};

/// The thread's pixel and first channel of an output of slices x height x width x channels.
__device__ __forceinline__ Item item(int slices, int height, int width, int channels) {
    const int groups = channels / 8;
    const long long index = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int pixel = static_cast<int>(index / groups);
    const int row = pixel / width;
    return {row / height, row % height, pixel - row * width, static_cast<int>(index % groups) * 8,
            index < static_cast<long long>(slices) * height * width * groups};
}

/// Not fmaxf: what is no number must stay, because the engine refuses it.
__device__ __forceinline__ float larger(float best, float value) { return value > best || value != value ? value : best; }

template <typename T>
__device__ __forceinline__ void pool(const T* __restrict__ input, const Finish<T> finish, int slices, int from_height,
                                     int from_width, int height, int width, int size_y, int size_x, int stride_y, int stride_x,
                                     int before_y, int before_x) {
    const Item at = item(slices, height, width, finish.channels);
    if (!at.inside) {
        return;
    }
    const int top = at.y * stride_y - before_y, left = at.x * stride_x - before_x;
    const int bottom = min(top + size_y, from_height), right = min(left + size_x, from_width);
    // From the first one; that every window has a pixel was checked by the launcher.
    const size_t corner = (static_cast<size_t>(at.slice) * from_height + max(top, 0)) * from_width + max(left, 0);
    const Eight<T> start = eight(input + corner * finish.channels + at.channel);
    float best[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        best[i] = widen(start.v[i]);
    }
    for (int y = max(top, 0); y < bottom; y++) {
        for (int x = max(left, 0); x < right; x++) {
            const size_t pixel = (static_cast<size_t>(at.slice) * from_height + y) * from_width + x;
            const Eight<T> values = eight(input + pixel * finish.channels + at.channel);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                best[i] = larger(best[i], widen(values.v[i]));
            }
        }
    }
    finish.write(best, (static_cast<size_t>(at.slice) * height + at.y) * width + at.x, at.channel);
}

/// The two sources of an output along an axis, and the weight of the second. Exact: the place, (index + 1/2) * from / to - 1/2, is a
/// fraction of integers.
struct Between {
    int first, second;
    float weight;

    __device__ __forceinline__ Between(int index, int from, int to) {
        const int over = max((2 * index + 1) * from - to, 0);
        first = over / (2 * to);
        weight = static_cast<float>(over - first * 2 * to) / static_cast<float>(2 * to);
        if (first >= from - 1) {
            first = from - 1;
            weight = 0.0f;
        }
        second = min(first + 1, from - 1);
    }
};

template <typename T>
__device__ __forceinline__ void resize(const T* __restrict__ input, const Finish<T> finish, int slices, int from_height,
                                       int from_width, int height, int width) {
    const Item at = item(slices, height, width, finish.channels);
    if (!at.inside) {
        return;
    }
    const Between y(at.y, from_height, height), x(at.x, from_width, width);
    const size_t slice = static_cast<size_t>(at.slice) * from_height;
    const auto read = [&](int row, int column) {
        return eight(input + ((slice + row) * from_width + column) * finish.channels + at.channel);
    };
    const Eight<T> a = read(y.first, x.first), b = read(y.first, x.second);
    const Eight<T> c = read(y.second, x.first), d = read(y.second, x.second);
    float values[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float above = fmaf(widen(b.v[i]), x.weight, widen(a.v[i]) * (1.0f - x.weight));
        const float below = fmaf(widen(d.v[i]), x.weight, widen(c.v[i]) * (1.0f - x.weight));
        values[i] = fmaf(below, y.weight, above * (1.0f - y.weight));
    }
    finish.write(values, (static_cast<size_t>(at.slice) * height + at.y) * width + at.x, at.channel);
}

/// `channels` of the source become those from `offset` on of the output.
template <typename T>
__device__ __forceinline__ void copy(const T* __restrict__ input, const Finish<T> finish, int pixels, int channels, int offset) {
    const Item at = item(1, 1, pixels, channels);
    if (!at.inside) {
        return;
    }
    const Eight<T> source = eight(input + static_cast<size_t>(at.x) * channels + at.channel);
    float values[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        values[i] = widen(source.v[i]);
    }
    finish.write(values, static_cast<size_t>(at.x), offset + at.channel);
}

/// A block makes 8 channels of a slice: each thread its share of the pixels, then the shares pairwise, always in the same order.
template <typename T>
__device__ __forceinline__ void global(const T* __restrict__ input, const Finish<T> finish, int pixels, int largest) {
    __shared__ float parts[traits::MAP_THREADS][8];
    const int thread = threadIdx.x, channel = static_cast<int>(blockIdx.y) * 8;
    const size_t slice = blockIdx.x;
    const auto join = [largest](float a, float b) { return largest ? larger(a, b) : a + b; };
    const Eight<T> start = eight(input + slice * pixels * finish.channels + channel);
    float all[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        all[i] = largest ? widen(start.v[i]) : 0.0f;
    }
    for (int pixel = thread; pixel < pixels; pixel += traits::MAP_THREADS) {
        const Eight<T> values = eight(input + (slice * pixels + pixel) * finish.channels + channel);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            all[i] = join(all[i], widen(values.v[i]));
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        parts[thread][i] = all[i];
    }
    __syncthreads();
    for (int half = traits::MAP_THREADS / 2; half > 0; half /= 2) {
        if (thread < half) {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                parts[thread][i] = join(parts[thread][i], parts[thread + half][i]);
            }
        }
        __syncthreads();
    }
    if (thread == 0) {
        float values[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            values[i] = largest ? parts[0][i] : parts[0][i] / static_cast<float>(pixels);
        }
        finish.write(values, slice, channel);
    }
}

}  // namespace maps

#define MAPS(T, TYPE)                                                                                                            \
    extern "C" __global__ void __launch_bounds__(traits::MAP_THREADS)                                                            \
        maps_pool_##TYPE(const T* input, const float* affine, const T* residual, T* raw, T* second, int channels, int slices,    \
                         int from_height, int from_width, int height, int width, int size_y, int size_x, int stride_y,           \
                         int stride_x, int before_y, int before_x, int flags) {                                                  \
        maps::pool<T>(input, {affine, residual, raw, second, channels, flags}, slices, from_height, from_width, height, width,   \
                      size_y, size_x, stride_y, stride_x, before_y, before_x);                                                   \
    }                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(traits::MAP_THREADS)                                                            \
        maps_resize_##TYPE(const T* input, const float* affine, const T* residual, T* raw, T* second, int channels, int slices,  \
                           int from_height, int from_width, int height, int width, int flags) {                                  \
        maps::resize<T>(input, {affine, residual, raw, second, channels, flags}, slices, from_height, from_width, height, width); \
    }                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(traits::MAP_THREADS)                                                            \
        maps_copy_##TYPE(const T* input, const float* affine, const T* residual, T* raw, T* second, int all_channels,            \
                         int pixels, int channels, int offset, int flags) {                                                      \
        maps::copy<T>(input, {affine, residual, raw, second, all_channels, flags}, pixels, channels, offset);                    \
    }                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(traits::MAP_THREADS)                                                            \
        maps_global_##TYPE(const T* input, const float* affine, T* raw, int channels, int pixels, int largest) {                 \
        maps::global<T>(input, {affine, nullptr, raw, nullptr, channels, 0}, pixels, largest);                                   \
    }

MAPS(__half, f16)
MAPS(float, f32)
