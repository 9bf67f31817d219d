// Ingest: source pixels -> HU -> 2 mm grid (bilinear, corners aligned) -> window -> [0, 1], in one pass, several slices a launch.
//
// The arithmetic is that of kernels/src/resample.rs to the bit: positions and blends in double precision, without contraction (a fused
// multiply-add would move a position by a rounding); the window in single precision.
//
// Bytes moved, 512^2 at 0.75 mm: two of 2.67 rows are touched, all sectors of these: 0.39 MB of 16-bit pixels or 0.79 MB of f32 HU a slice are read,
// 0.15 MB written. Bound: memory on data-centre GPUs (0.16 us to 0.3 us a slice on an H100); where doubles run at 1/32 of the rate, the 30
// double operations a pixel: 36 864 x 30 = 1.1 M, 13 us on a T4. The bus takes longer than either: 0.5 MB are 21 us at 25 GB/s.

#include "resample.cuh"

// How stored values become Hounsfield units: `Format` of the daemon's decoder.
struct IngestStored {
    const unsigned short* pixels;
    int shift, unused_bits, is_signed, has_padding, padding;
    double slope, intercept;
    float padding_hu_max;
    __device__ __forceinline__ float hu(size_t at) const {
        // PS3.5 section 8.1.1: bits outside of Bits Stored are not the pixel's.
        const unsigned int top = ((unsigned int)pixels[at] >> shift) << unused_bits;
        const int value = is_signed ? (int)top >> unused_bits : (int)(top >> unused_bits);
        const float hu = (float)__dadd_rn(__dmul_rn((double)value, slope), intercept);
        return has_padding && value == padding ? fminf(hu, padding_hu_max) : hu;
    }
};

struct IngestHu {
    const float* values;
    __device__ __forceinline__ float hu(size_t at) const { return values[at]; }
};

// Grid: columns / 32, rows / 8, slices.
template <typename Source>
__device__ __forceinline__ void ingest(Source source, float* planes, int rows, int columns, int to_rows, int to_columns,
                                       double row_step, double column_step, float low, float high) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x, r = blockIdx.y * blockDim.y + threadIdx.y;
    if (c >= to_columns || r >= to_rows) return;
    const resample::Tap row = resample::tap(r, rows, row_step), column = resample::tap(c, columns, column_step);
    const size_t slice = (size_t)blockIdx.z * rows * columns;
    const size_t upper = slice + (size_t)row.before * columns, lower = slice + (size_t)row.after * columns;
    const double before =
        resample::blend((double)source.hu(upper + column.before), (double)source.hu(lower + column.before), row.weight);
    const double after =
        resample::blend((double)source.hu(upper + column.after), (double)source.hu(lower + column.after), row.weight);
    const float hu = (float)resample::blend(before, after, column.weight);
    const float inside = fminf(fmaxf(hu, low), high);
    planes[((size_t)blockIdx.z * to_rows + r) * to_columns + c] = __fdiv_rn(inside - low, high - low);
}

extern "C" __global__ void __launch_bounds__(traits::INGEST_THREADS) ingest_stored(
    const unsigned short* pixels, float* planes, int rows, int columns, int to_rows, int to_columns, double row_step,
    double column_step, float low, float high, int shift, int unused_bits, int is_signed, int has_padding, int padding,
    double slope, double intercept, float padding_hu_max) {
    const IngestStored source = {pixels, shift, unused_bits, is_signed, has_padding, padding, slope, intercept, padding_hu_max};
    ingest(source, planes, rows, columns, to_rows, to_columns, row_step, column_step, low, high);
}

extern "C" __global__ void __launch_bounds__(traits::INGEST_THREADS) ingest_hu(
    const float* hu, float* planes, int rows, int columns, int to_rows, int to_columns, double row_step,
    double column_step, float low, float high) {
    const IngestHu source = {hu};
    ingest(source, planes, rows, columns, to_rows, to_columns, row_step, column_step, low, high);
}
