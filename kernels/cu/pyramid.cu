// Pyramid max-pooling: one pass over the features of a batch of slices, all four levels.
//
// The windows of all levels cut each axis into at most 29 elementary intervals, and every window is a union of those (kernels/src/pyramid.rs).
// `pyramid_*` reduces the features to (slice interval x row interval x column interval x channel) maxima, which stay on the device from batch to
// batch as integers in the order of the floats; `pyramid_slices` and `pyramid_cells` make the 585 cells of each channel of them, once a study.
// A maximum does not depend on the order, so the result is the CPU's, value for value, whatever the batches.
//
// Bytes moved: every feature is read exactly once, 16 bytes a load (8 x 110 x 150 x 300 in fp16: 79.2 MB); written are at most 29^3 x 8 x 4 bytes = 0.8 MB,
// by atomics that the L2 cache does. Bound: memory. 79.2 MB take 24 us at 3.35 TB/s (H100), 88 us at 900 GB/s (V100), 388 us at 204 GB/s (Orin).
// Arithmetic: a conversion, a maximum and a multiply-add a feature, 40 M features: a third of that time on each of these. The last two kernels read
// the maxima about eight times, from L2: 6 MB.
//
// A NaN or an infinity must not be swallowed: x * 0 is NaN for both and is added up beside the maxima; `flags[0]` becomes 1.

#include "traits.cuh"

// A float as an integer of the same order; INT_MIN is below all of them ("nothing yet"). -0 becomes +0: the order of these two must not matter.
__device__ __forceinline__ int pyramid_code(float value) {
    const int bits = __float_as_int(value + 0.0f);
    return bits ^ ((bits >> 31) & 0x7fffffff);
}

__device__ __forceinline__ float pyramid_value(int code) {
    return __int_as_float(code ^ ((code >> 31) & 0x7fffffff));
}

// Below every feature.
__device__ __forceinline__ float pyramid_lowest() { return __int_as_float((int)0xff800000); }

// Index of the interval that holds `at`: the first whose stop is beyond it.
__device__ __forceinline__ int pyramid_interval(const int* stops, int count, int at) {
    int low = 0, high = count - 1;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (stops[middle] <= at) low = middle + 1; else high = middle;
    }
    return low;
}

// Eight neighbouring features: one load of 16 bytes (fp16) or two (fp32).
struct PyramidHalf8 {
    uint4 words;
    __device__ __forceinline__ void load(const __half* from) { words = *reinterpret_cast<const uint4*>(from); }
    __device__ __forceinline__ float get(int index) const {
        return __half2float(reinterpret_cast<const __half*>(&words)[index]);
    }
};

struct PyramidFloat8 {
    float4 words[2];
    __device__ __forceinline__ void load(const float* from) {
        words[0] = reinterpret_cast<const float4*>(from)[0];
        words[1] = reinterpret_cast<const float4*>(from)[1];
    }
    __device__ __forceinline__ float get(int index) const {
        return reinterpret_cast<const float*>(words)[index];
    }
};

// The volume and its intervals, as the launcher has them.
struct PyramidAxes {
    const int* chunks;        // {first row, row after the last, row interval}: rows of one interval that one block takes
    const int* column_stops;
    const int* slice_stops;
    int row_intervals, column_intervals, slice_intervals;
    int rows, columns, channels, channel_stride;
};

// Channels last. Grid: chunks of rows, groups of slices, column tiles x groups of 8 channels. Block: columns x lanes that share the group's rows.
// A thread keeps 8 maxima of its column in registers; the columns of an interval meet in shared memory, then one atomic an interval and channel.
template <typename Pack, typename T>
__device__ void pyramid_last(const T* features, int* cells, int* flags, PyramidAxes axes, int first, int count, int per_block) {
    __shared__ float tile[8][traits::PYRAMID_THREADS + 1];
    const int width = blockDim.x, lanes = blockDim.y;
    const int thread = threadIdx.y * width + threadIdx.x, threads = width * lanes;
    const int groups = (axes.channels + 7) / 8;
    const int group = blockIdx.z % groups;
    const int left = (blockIdx.z / groups) * width;
    const int right = min(left + width, axes.columns);
    const int column = left + threadIdx.x;
    const int row = axes.chunks[3 * blockIdx.x];
    const int rows = axes.chunks[3 * blockIdx.x + 1] - row;
    const int row_interval = axes.chunks[3 * blockIdx.x + 2];
    const float rows_inverse = 1.0f / rows;
    const int row_stride = axes.columns * axes.channel_stride;
    const int slice_skip = (axes.rows - rows) * row_stride;
    const int interval_first = pyramid_interval(axes.column_stops, axes.column_intervals, left);
    const int interval_last = pyramid_interval(axes.column_stops, axes.column_intervals, right - 1);
    const int stop = min((int)(blockIdx.y + 1) * per_block, count);
    float poison = 0.0f;
    for (int slice = blockIdx.y * per_block; slice < stop;) {
        // Slices up to the end of the interval that this one is in.
        const int slice_interval = pyramid_interval(axes.slice_stops, axes.slice_intervals, first + slice);
        const int run = min(stop, axes.slice_stops[slice_interval] - first) - slice;
        float best[8];
#pragma unroll
        for (int c = 0; c < 8; c++) best[c] = pyramid_lowest();
        const int total = column < right ? run * rows : 0;
        // Offsets from here fit 32 bits: at most 8 slices of 2^20 pixels.
        const T* run_features =
            features + (((size_t)slice * axes.rows + row) * axes.columns + column) * axes.channel_stride + group * 8;
        for (int index = threadIdx.y; index < total; index += traits::PYRAMID_LOADS * lanes) {
            Pack pack[traits::PYRAMID_LOADS];
            // All loads first: this many are under way at once.
#pragma unroll
            for (int k = 0; k < traits::PYRAMID_LOADS; k++) {
                const int at = index + k * lanes;
                if (at < total) {
                    const int s = (int)((at + 0.5f) * rows_inverse);  // at / rows; exact: at < 2^12
                    pack[k].load(run_features + (unsigned int)(at * row_stride + s * slice_skip));
                }
            }
#pragma unroll
            for (int k = 0; k < traits::PYRAMID_LOADS; k++) {
                if (index + k * lanes < total) {
#pragma unroll
                    for (int c = 0; c < 8; c++) {
                        const float value = pack[k].get(c);
                        best[c] = fmaxf(best[c], value);
                        poison = fmaf(value, 0.0f, poison);
                    }
                }
            }
        }
#pragma unroll
        for (int c = 0; c < 8; c++) tile[c][thread] = best[c];
        __syncthreads();
        for (int task = thread; task < (interval_last - interval_first + 1) * 8; task += threads) {
            const int c = task % 8, interval = interval_first + task / 8;
            const int from = max(interval == 0 ? 0 : axes.column_stops[interval - 1], left) - left;
            const int to = min(axes.column_stops[interval], right) - left;
            float largest = pyramid_lowest();
            for (int lane = 0; lane < lanes; lane++) {
                for (int x = from; x < to; x++) largest = fmaxf(largest, tile[c][lane * width + x]);
            }
            const int channel = group * 8 + c;
            if (channel < axes.channels) {
                const int line = (slice_interval * axes.row_intervals + row_interval) * axes.column_intervals;
                atomicMax(cells + (line + interval) * axes.channels + channel, pyramid_code(largest));
            }
        }
        __syncthreads();
        slice += run;
    }
    if (!(poison == 0.0f)) atomicOr(flags, 1);
}

// Channels first. Grid: chunks of rows, groups of slices, channels. The rows of a chunk are one span of memory that starts anywhere, so it is
// brought to shared memory by aligned loads of 16 bytes, several slices at once, and read there column by column.
template <typename T>
__device__ void pyramid_first(const T* features, int* cells, int* flags, PyramidAxes axes, int first, int count, int per_block) {
    __shared__ uint4 stage[traits::PYRAMID_STAGE_BYTES / 16];
    __shared__ float best[traits::PYRAMID_COLUMNS_MAX];
    constexpr int PER_LOAD = 16 / sizeof(T);
    const int thread = threadIdx.x, threads = blockDim.x, channel = blockIdx.z;
    const int row = axes.chunks[3 * blockIdx.x];
    const int rows = axes.chunks[3 * blockIdx.x + 1] - row;
    const int row_interval = axes.chunks[3 * blockIdx.x + 2];
    const int columns = axes.columns, span = rows * columns;
    // A span that starts in the middle of a load needs one more.
    const int loads = (span + PER_LOAD - 1) / PER_LOAD + 1;
    const int staged_max = traits::PYRAMID_STAGE_BYTES / 16 / loads;
    const size_t plane = (size_t)axes.rows * columns;
    const size_t values = plane * axes.channel_stride * count;
    const int stop = min((int)(blockIdx.y + 1) * per_block, count);
    float poison = 0.0f;
    for (int slice = blockIdx.y * per_block; slice < stop;) {
        const int slice_interval = pyramid_interval(axes.slice_stops, axes.slice_intervals, first + slice);
        const int run_stop = min(stop, axes.slice_stops[slice_interval] - first);
        for (int column = thread; column < columns; column += threads) best[column] = pyramid_lowest();
        while (slice < run_stop) {
            const int staged = min(staged_max, run_stop - slice);
            for (int index = thread; index < staged * loads; index += threads) {
                const int s = index / loads;
                const size_t start = ((size_t)(slice + s) * axes.channel_stride + channel) * plane + (size_t)row * columns;
                const size_t from = start / PER_LOAD * PER_LOAD + (size_t)(index - s * loads) * PER_LOAD;
                if (from + PER_LOAD <= values) {
                    stage[index] = reinterpret_cast<const uint4*>(features)[from / PER_LOAD];
                } else {
                    // The buffer ends within the last load.
                    for (int k = 0; from + k < values && k < PER_LOAD; k++) {
                        reinterpret_cast<T*>(stage + index)[k] = features[from + k];
                    }
                }
            }
            __syncthreads();
            for (int column = thread; column < columns; column += threads) {
                float largest = best[column];
                for (int s = 0; s < staged; s++) {
                    const size_t start = ((size_t)(slice + s) * axes.channel_stride + channel) * plane + (size_t)row * columns;
                    const T* values_of = reinterpret_cast<const T*>(stage + s * loads) + start % PER_LOAD;
                    for (int r = 0; r < rows; r++) {
                        const float value = (float)values_of[r * columns + column];
                        largest = fmaxf(largest, value);
                        poison = fmaf(value, 0.0f, poison);
                    }
                }
                best[column] = largest;
            }
            __syncthreads();
            slice += staged;
        }
        for (int interval = thread; interval < axes.column_intervals; interval += threads) {
            float largest = pyramid_lowest();
            for (int x = interval == 0 ? 0 : axes.column_stops[interval - 1]; x < axes.column_stops[interval]; x++) {
                largest = fmaxf(largest, best[x]);
            }
            const int line = (slice_interval * axes.row_intervals + row_interval) * axes.column_intervals;
            atomicMax(cells + (line + interval) * axes.channels + channel, pyramid_code(largest));
        }
        __syncthreads();
    }
    if (!(poison == 0.0f)) atomicOr(flags, 1);
}

#define PYRAMID_KERNEL(NAME, T, POOL)                                                                                        \
    extern "C" __global__ void __launch_bounds__(traits::PYRAMID_THREADS) NAME(                                                      \
        const T* features, int* cells, int* flags, const int* chunks, const int* column_stops, const int* slice_stops,       \
        int row_intervals, int column_intervals, int slice_intervals, int rows, int columns, int channels,                   \
        int channel_stride, int first, int count, int per_block) {                                                           \
        const PyramidAxes axes = {chunks,          column_stops, slice_stops, row_intervals, column_intervals,               \
                                  slice_intervals, rows,         columns,     channels,      channel_stride};                \
        POOL(features, cells, flags, axes, first, count, per_block);                                                         \
    }

PYRAMID_KERNEL(pyramid_last_f16, __half, (pyramid_last<PyramidHalf8, __half>))
PYRAMID_KERNEL(pyramid_last_f32, float, (pyramid_last<PyramidFloat8, float>))
PYRAMID_KERNEL(pyramid_first_f16, __half, pyramid_first<__half>)
PYRAMID_KERNEL(pyramid_first_f32, float, pyramid_first<float>)

// Nothing seen yet.
extern "C" __global__ void pyramid_clear(int* cells, int count, int* flags) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < count) cells[index] = (int)0x80000000;
    if (index == 0) *flags = 0;
}

// Maxima over the slice windows of all levels (1 + 2 + 4 + 8, {first interval, after the last}): grid.y is the window.
extern "C" __global__ void pyramid_slices(const int* cells, int* pooled, const int* windows, int plane) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= plane) return;
    int largest = (int)0x80000000;
    for (int interval = windows[2 * blockIdx.y]; interval < windows[2 * blockIdx.y + 1]; interval++) {
        largest = max(largest, cells[(size_t)interval * plane + index]);
    }
    pooled[(size_t)blockIdx.y * plane + index] = largest;
}

// The cells: a block each, all channels; the windows of an axis are those of level 0, then 1, 2, 3. Threads: lanes x channels.
extern "C" __global__ void __launch_bounds__(traits::PYRAMID_THREADS) pyramid_cells(
    const int* pooled, float* out, const int* row_windows, const int* column_windows, int row_intervals, int column_intervals, int channels) {
    __shared__ int largest_of[traits::PYRAMID_THREADS];
    int level = 0, cell = blockIdx.x, before = 0;
    while (cell >= 1 << (3 * level)) {
        cell -= 1 << (3 * level);
        before += channels << (3 * level);
        level++;
    }
    const int n = 1 << level;
    const int slice = cell % n, column = cell / n % n, row = cell / n / n;
    // Windows of the coarser levels come first: 2^level - 1 of them.
    const int* rows = row_windows + 2 * (n - 1 + row);
    const int* columns = column_windows + 2 * (n - 1 + column);
    const int* plane = pooled + (size_t)(n - 1 + slice) * row_intervals * column_intervals * channels;
    const int channel = threadIdx.x % channels, lane = threadIdx.x / channels, lanes = blockDim.x / channels;
    const int width = columns[1] - columns[0], area = width * (rows[1] - rows[0]);
    int largest = (int)0x80000000;
    for (int index = lane; index < area; index += lanes) {
        const int r = rows[0] + index / width, c = columns[0] + index % width;
        largest = max(largest, plane[(r * column_intervals + c) * channels + channel]);
    }
    largest_of[threadIdx.x] = largest;
    __syncthreads();
    if (lane == 0) {
        for (int other = 1; other < lanes; other++) largest = max(largest, largest_of[other * channels + channel]);
        out[before + ((channel * n + row) * n + column) * n + slice] = pyramid_value(largest);
    }
}
