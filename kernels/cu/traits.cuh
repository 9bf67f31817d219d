// Sizes of the kernels' tiles, and what every kernel includes.
#pragma once
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#include <cuda_fp16.h>
#endif

// wmma is there from sm_70 on. The software device has it too.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 700
#define TRIAGED_TENSOR_CORES
#endif

namespace traits {

/// Static shared memory of a block on every GPU from sm_52 on.
constexpr int SHARED_BYTES_MAX = 48 * 1024;

// Layers of the networks.

/// Warps of a block of a convolution.
constexpr int CONVOLVE_WARPS = 4;
/// Positions of a row of a strip (see layers.cuh), with its halo.
constexpr int PITCH_MAX = 48;
static_assert(PITCH_MAX % 2 == 0, "pairs of pixels start at even positions");
/// Threads of a block of a layer without convolution.
constexpr int MAP_THREADS = 128;
static_assert((MAP_THREADS & (MAP_THREADS - 1)) == 0, "sums are halved");

// The pyramid, ingest and masks. The launchers in kernels/src/gpu/ repeat the sizes.

/// Most threads of a block.
constexpr int PYRAMID_THREADS = 256;
/// Loads of 16 bytes that a thread has under way.
constexpr int PYRAMID_LOADS = 4;
/// Where the channels are first: spans of rows on their way.
constexpr int PYRAMID_STAGE_BYTES = 16 * 1024;
/// Most columns of such a plane: `GRID_SIDE_MAX` of the engine.
constexpr int PYRAMID_COLUMNS_MAX = 1024;
static_assert(PYRAMID_STAGE_BYTES % 16 == 0, "loads of 16 bytes");
static_assert(PYRAMID_STAGE_BYTES >= 4 * PYRAMID_COLUMNS_MAX + 2 * 16, "a row fits, wherever it starts");
static_assert(PYRAMID_STAGE_BYTES + 4 * PYRAMID_COLUMNS_MAX <= SHARED_BYTES_MAX / 2, "two blocks at once on every GPU");

/// Threads of a block that resamples: 32 columns of 8 rows.
constexpr int INGEST_THREADS = 256;

/// Threads of a block.
constexpr int MASKS_THREADS = 256;
/// Values of a thread that looks for lungs.
constexpr int MASKS_VALUES = 8;
/// Numbers of the record of a slice.
constexpr int MASKS_RECORD = 6;
/// Single precision decides a voxel that is farther than this from the threshold.
constexpr float MASKS_MARGIN = 1.0f / 1024;
static_assert(MASKS_THREADS % 32 == 0 && MASKS_THREADS >= MASKS_RECORD, "whole warps; a thread a number of the record");

}  // namespace traits
