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

}  // namespace traits
