// Where a sample of a resampled axis comes from, in the arithmetic of kernels/src/resample.rs, rounding by rounding.
//
// The intrinsics keep the compiler from contracting a product and a sum into one rounding, which would move a position.
#pragma once
#include "traits.cuh"

namespace resample {

struct Tap {
    int before, after;
    double weight;
};

__device__ __forceinline__ Tap tap(int index, int from, double step) {
    const double at = fmin(__dmul_rn((double)index, step), (double)(from - 1));
    Tap tap;
    tap.before = min((int)at, from - 1);
    tap.after = min(tap.before + 1, from - 1);
    tap.weight = __dsub_rn(at, (double)tap.before);
    return tap;
}

__device__ __forceinline__ double blend(double a, double b, double weight) {
    return __dadd_rn(__dmul_rn(a, __dsub_rn(1.0, weight)), __dmul_rn(b, weight));
}

}  // namespace resample
