// The one translation unit: every kernel of the program, for one cubin per architecture and for the software device.
//
// Each file opens with the bytes it moves and the bound that follows. Kernels are `extern "C" __global__` and named
// `<file>_<what>_<f16|f32>`.
#ifdef TRIAGED_SHIM
#include "../shim/cuda_shim.h"
#else
#include <cuda_fp16.h>
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 700
#include <mma.h>
#endif
#endif

#include "traits.cuh"

// One line per kernel file, in alphabetical order.
#include "probe.cuh"
