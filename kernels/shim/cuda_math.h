// CUDA's mathematical functions and conversions, as far as our kernels use them.
//
// Functions with a rounding in their name are exact here as there; expf and its kind differ from the GPU's in the
// last bits, so tests of kernels that use them have a tolerance.
#pragma once

using std::abs;
using std::isfinite;
using std::isinf;
using std::isnan;

#define SHIM_MIN_MAX(type)                                            \
    inline type min(type a, type b) { return b < a ? b : a; }         \
    inline type max(type a, type b) { return a < b ? b : a; }
SHIM_MIN_MAX(int)
SHIM_MIN_MAX(unsigned)
SHIM_MIN_MAX(long)
SHIM_MIN_MAX(unsigned long)
SHIM_MIN_MAX(long long)
SHIM_MIN_MAX(unsigned long long)
#undef SHIM_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
// The shim is compiled without contraction, so plain operators round each step.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

// Conversions to integers saturate, and NaN gives 0 (PTX ISA, cvt).
namespace shim {
template <class To, class From>
inline To saturate(From x) {
    constexpr To low = static_cast<To>(~To{0} < To{0} ? To{1} << (8 * sizeof(To) - 1) : 0), high = static_cast<To>(~low);
    if (x != x) return 0;
    if (x <= static_cast<From>(low)) return low;
    if (x >= static_cast<From>(high)) return high;
    return static_cast<To>(x);
}
}  // namespace shim
inline int __float2int_rz(float x) { return shim::saturate<int>(truncf(x)); }
inline int __float2int_rn(float x) { return shim::saturate<int>(rintf(x)); }
inline int __float2int_rd(float x) { return shim::saturate<int>(floorf(x)); }
inline int __float2int_ru(float x) { return shim::saturate<int>(ceilf(x)); }
inline unsigned __float2uint_rz(float x) { return shim::saturate<unsigned>(truncf(x)); }
inline unsigned __float2uint_rn(float x) { return shim::saturate<unsigned>(rintf(x)); }
inline int __double2int_rn(double x) { return shim::saturate<int>(rint(x)); }
inline int __double2int_rd(double x) { return shim::saturate<int>(floor(x)); }
inline int __double2int_rz(double x) { return shim::saturate<int>(trunc(x)); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

inline int __float_as_int(float x) { return shim::from_word<int>(shim::to_word(x)); }
inline unsigned __float_as_uint(float x) { return shim::from_word<unsigned>(shim::to_word(x)); }
inline float __int_as_float(int x) { return shim::from_word<float>(shim::to_word(x)); }
inline float __uint_as_float(unsigned x) { return shim::from_word<float>(shim::to_word(x)); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32); }
inline unsigned __brev(unsigned x) {
    unsigned result = 0;
    for (int i = 0; i < 32; i++) result |= (x >> i & 1u) << (31 - i);
    return result;
}
