// The one translation unit: every kernel of the program, for one cubin per architecture and for the software device.
//
// Kernels are `extern "C" __global__` and named `<file>_<what>_<f16|f32>`; each file opens with the bytes it moves and
// the bound that follows, and keeps its own names in a namespace. Dynamic shared memory has the same name in all:
//     extern __shared__ __align__(16) unsigned char dynamic_shared[];
#include "traits.cuh"

// Alphabetical.
#include "convolve_ends.cu"
#include "convolve_plain.cu"
#include "convolve_tensor.cu"
#include "ingest.cu"
#include "maps.cu"
#include "masks.cu"
#include "probe.cu"
#include "pyramid.cu"
