// What the kernels of the networks' layers share.
//
// Owns: eight channels as one access, where a position of a convolution lies, and what is done to a value before it is written.
// Never does: a layer.
//
// Maps are [slice][row][column][channel], channels padded with zeros to a multiple of 8. On each value of a layer, in f32:
//   raw = relu?(value + bias + residual?), second = relu?(raw * scale + shift)
#pragma once
#include "traits.cuh"

namespace layers {

/// Eight channels of a pixel: one 16-byte access in half, two in single precision.
template <typename T>
struct alignas(16) Eight {
    T v[8];
};

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ float widen(__half v) { return __half2float(v); }

template <typename T>
__device__ __forceinline__ T narrow(float v);
template <>
__device__ __forceinline__ float narrow<float>(float v) {
    return v;
}
// What is too large becomes infinite, never the largest number: the engine refuses outputs that are not finite.
template <>
__device__ __forceinline__ __half narrow<__half>(float v) {
    return __float2half_rn(v);
}

template <typename T>
__device__ __forceinline__ Eight<T> eight(const T* from) {
    return *reinterpret_cast<const Eight<T>*>(from);
}

/// n / d for n * d < 2^32 and d > 1, with magic = 2^32 / d + 1 from the launcher.
__device__ __forceinline__ unsigned divide(unsigned n, unsigned magic) {
    return static_cast<unsigned>(static_cast<unsigned long long>(n) * magic >> 32);
}

constexpr int RELU = 1;
constexpr int SECOND_RELU = 2;

/// What is done to a value before it is written. Absent maps are null.
template <typename T>
struct Finish {
    /// [3][channels]: bias; scale and shift of the second output.
    const float* affine;
    const T* residual;
    T* raw;
    T* second;
    /// Of the outputs; a multiple of 8.
    int channels;
    int flags;

    /// Eight channels of a pixel, from `channel` on.
    __device__ __forceinline__ void write(const float (&sums)[8], size_t pixel, int channel) const {
        const size_t at = pixel * channels + channel;
        const Eight<float> bias = eight(affine + channel);
        float v[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v[i] = sums[i] + bias.v[i];
        }
        if (residual != nullptr) {
            const Eight<T> other = eight(residual + at);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                v[i] += widen(other.v[i]);
            }
        }
        if (flags & RELU) {
            clip(v);
        }
        if (raw != nullptr) {
            store(raw + at, v);
        }
        if (second != nullptr) {
            const Eight<float> scale = eight(affine + channels + channel);
            const Eight<float> shift = eight(affine + 2 * channels + channel);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                v[i] = fmaf(v[i], scale.v[i], shift.v[i]);
            }
            if (flags & SECOND_RELU) {
                clip(v);
            }
            store(second + at, v);
        }
    }

private:
    /// Not fmaxf: that would turn what is no number into 0. Nor may an infinity end as 0: x * 0 is NaN for both, and 0 for all others.
    static __device__ __forceinline__ void clip(float (&v)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v[i] = v[i] < 0.0f ? fmaf(v[i], 0.0f, 0.0f) : v[i];
        }
    }

    static __device__ __forceinline__ void store(T* to, const float (&v)[8]) {
        Eight<T> out;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            out.v[i] = narrow<T>(v[i]);
        }
        *reinterpret_cast<Eight<T>*>(to) = out;
    }
};

/// Where the positions of a convolution lie. The rows of all slices, each slice followed by a row of zeros, are cut into strips of
/// columns, and the rows of a strip are laid one after the other, `pitch` positions each; so the source of every tap is a constant
/// number of positions away, and maps of 3 x 3 pixels fill a block as well as large ones.
/// A strip's row is a column of halo (or zeros), its pixels, and a column of halo; a strip as wide as the map needs no second column of
/// zeros, because the next row begins with one.
struct Strips {
    int slices, height, width;
    /// Pixels of a strip's row.
    int columns;
    /// Positions of a strip's row.
    int pitch;
    /// For divide(): by pitch, and by height + 1.
    unsigned pitch_magic, period_magic;

    /// Position `first + at` of strip `strip`, where `first` counts from one row and one pixel before the strip: twice the pixel's
    /// index, plus 1 if it is an output of this strip; -1 for zeros.
    __device__ __forceinline__ int place(int strip, unsigned first, int at) const {
        // Two rows more, so that nothing is negative.
        const unsigned from = first + static_cast<unsigned>(at + pitch - 1);
        const unsigned down = divide(from, pitch_magic);
        const int column = static_cast<int>(from - down * pitch);
        const int row = static_cast<int>(down) - 2;
        const int x = strip * columns + column - 1;
        if (row < 0 || x < 0 || x >= width || column > columns + 1) {
            return -1;
        }
        const int slice = static_cast<int>(divide(static_cast<unsigned>(row), period_magic));
        const int y = row - slice * (height + 1);
        if (slice >= slices || y >= height) {
            return -1;
        }
        const bool inside = column >= 1 && column <= columns;
        return 2 * ((slice * height + y) * width + x) + (inside ? 1 : 0);
    }
};

}  // namespace layers
