// Masks: logits -> probabilities, where the lungs are on the 2 mm grid, and masks on the source grid, one bit a voxel.
//
// Bytes moved a slice of 192 x 192 pasted to 512^2 (box of 110 x 150 -> 293 x 400): `masks_lungs` reads and writes 0.15 MB each, `masks_sigmoid` 0.07 MB
// each; `masks_paste` reads 0.07 MB (from L1 and L2: each value about seven times) and writes 14.6 KB. Bound: of the first two memory, 0.1 us a slice
// on an H100; of the last its arithmetic, about 30 single-precision operations a source voxel: 117 200 voxels are 3.5 M. Positions and blends
// are decided in double precision only where single precision can't decide them, so cards with few double units lose nothing. Only the bits
// cross the bus: 14.6 KB instead of 469 KB.
//
// No kernel for the split of the lungs, the counts of each side and the coronal projection. The masks cross the bus in any case (results are made of
// them), and none of the three would save a byte of it: k-means reads every 30th lung voxel (0.33 M positions, 8 MB) about ten times, which stay in
// the host's caches, and on the device each iteration would wait for the host to compare sides; the counts are sums over the masks that the
// host walks anyway to label the sides; the projection sums planes that the host holds so that any engine can finish a study (43 MB, once).

#include "resample.cuh"

__device__ __forceinline__ float masks_probability(float logit) { return 1.0f / (1.0f + expf(-logit)); }

__device__ __forceinline__ bool masks_finite(float value) {
    return (__float_as_int(value) & 0x7f800000) != 0x7f800000;
}

// Logits -> probabilities, in place; `flags[0]` becomes 1 if one is not finite.
extern "C" __global__ void __launch_bounds__(traits::MASKS_THREADS) masks_sigmoid(float* values, int count, int* flags) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    const float logit = values[index];
    if (!masks_finite(logit)) atomicOr(flags, 1);
    values[index] = masks_probability(logit);
}

// Lung logits -> probabilities, in place, and a record a slice. Grid: parts of a slice, slices.
// Record (zeroed before): {rows - first row, last row + 1, columns - first column, last column + 1, voxels, not finite} of the voxels at or above `threshold`.
extern "C" __global__ void __launch_bounds__(traits::MASKS_THREADS) masks_lungs(float* values, int rows, int columns, float threshold, int* records) {
    __shared__ int record[traits::MASKS_RECORD];
    if (threadIdx.x < traits::MASKS_RECORD) record[threadIdx.x] = 0;
    __syncthreads();
    const int plane = rows * columns;
    float* slice = values + (size_t)blockIdx.y * plane;
    int found[traits::MASKS_RECORD] = {};
#pragma unroll
    for (int k = 0; k < traits::MASKS_VALUES; k++) {
        const int index = (blockIdx.x * traits::MASKS_VALUES + k) * blockDim.x + threadIdx.x;
        if (index < plane) {
            const float logit = slice[index];
            found[5] |= !masks_finite(logit);
            const float probability = masks_probability(logit);
            slice[index] = probability;
            if (probability >= threshold) {
                const int r = index / columns, c = index - r * columns;
                found[0] = max(found[0], rows - r);
                found[1] = max(found[1], r + 1);
                found[2] = max(found[2], columns - c);
                found[3] = max(found[3], c + 1);
                found[4]++;
            }
        }
    }
    if (found[4] > 0) {
#pragma unroll
        for (int k = 0; k < 4; k++) atomicMax(record + k, found[k]);
        atomicAdd(record + 4, found[4]);
    }
    if (found[5]) atomicMax(record + 5, 1);
    __syncthreads();
    if (threadIdx.x < traits::MASKS_RECORD && record[threadIdx.x] != 0) {
        int* to = records + blockIdx.y * traits::MASKS_RECORD + threadIdx.x;
        if (threadIdx.x == 4) atomicAdd(to, record[4]); else atomicMax(to, record[threadIdx.x]);
    }
}

// A crop of probabilities -> the bits of its pasted plane that reach `threshold`: kernels/src/paste.rs.
// Grid: words of 32 columns, rows / 8, slices; a warp makes a word. Bit k of word w is column 32 w + k of the pasted box.
//
// Single precision decides unless the value is within MASKS_MARGIN of the threshold: its error is at most 4e-4 (a position of at most 1023 is off by at most
// 1.9e-4 on each axis, and neighbours differ by at most 1). Where it can't, the CPU's own double arithmetic is repeated, rounding by rounding.
extern "C" __global__ void __launch_bounds__(traits::MASKS_THREADS) masks_paste(
    const float* crops, unsigned int* bits, int crop_rows, int crop_columns, int crop_stride, int crop_plane, int to_rows,
    int to_columns, double row_step, double column_step, float threshold) {
    const int c = blockIdx.x * 32 + threadIdx.x, r = blockIdx.y * blockDim.y + threadIdx.y;
    if (r >= to_rows) return;  // a warp is one row: all of it returns
    const float* crop = crops + (size_t)blockIdx.z * crop_plane;
    bool inside = false;
    if (c < to_columns) {
        const float row_at = fminf(r * (float)row_step, (float)(crop_rows - 1));
        const float column_at = fminf(c * (float)column_step, (float)(crop_columns - 1));
        const int row = (int)row_at, column = (int)column_at;
        const float* upper = crop + (size_t)row * crop_stride;
        const float* lower = crop + (size_t)min(row + 1, crop_rows - 1) * crop_stride;
        const int after = min(column + 1, crop_columns - 1);
        const float row_weight = row_at - row, column_weight = column_at - column;
        const float left = upper[column] + (lower[column] - upper[column]) * row_weight;
        const float right = upper[after] + (lower[after] - upper[after]) * row_weight;
        const float value = left + (right - left) * column_weight;
        inside = value >= threshold;
        if (!(fabsf(value - threshold) > traits::MASKS_MARGIN)) {
            const resample::Tap row_tap = resample::tap(r, crop_rows, row_step);
            const resample::Tap column_tap = resample::tap(c, crop_columns, column_step);
            upper = crop + (size_t)row_tap.before * crop_stride;
            lower = crop + (size_t)row_tap.after * crop_stride;
            const double before = resample::blend(upper[column_tap.before], lower[column_tap.before], row_tap.weight);
            const double behind = resample::blend(upper[column_tap.after], lower[column_tap.after], row_tap.weight);
            inside = (float)resample::blend(before, behind, column_tap.weight) >= threshold;
        }
    }
    const unsigned int word = __ballot_sync(0xffffffffu, inside);
    if (threadIdx.x == 0) bits[((size_t)blockIdx.z * to_rows + r) * gridDim.x + blockIdx.x] = word;
}
