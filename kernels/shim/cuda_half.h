// Half precision as cuda_fp16.h spells it: stored as IEEE binary16, every operation rounded once to it.
#pragma once

#ifdef __F16C__
#include <immintrin.h>
#endif

namespace shim {

#if defined(__F16C__)
inline float half_to_float(uint16_t bits) { return _cvtsh_ss(bits); }
inline uint16_t float_to_half(float value) { return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }
#elif defined(__aarch64__)
inline float half_to_float(uint16_t bits) { return static_cast<float>(from_word<__fp16>(bits)); }
inline uint16_t float_to_half(float value) { return static_cast<uint16_t>(to_word(static_cast<__fp16>(value))); }
#else
#error "the software device needs F16C (any x86 since 2012) or aarch64"
#endif

}  // namespace shim

struct __attribute__((aligned(2))) __half {
    uint16_t bits;
    __half() = default;
    __half(float value) : bits(shim::float_to_half(value)) {}
    __half(double value) : __half(static_cast<float>(value)) {}
    __half(int value) : __half(static_cast<float>(value)) {}
    operator float() const { return shim::half_to_float(bits); }
};
using half = __half;

struct __attribute__((aligned(4))) __half2 {
    __half x, y;
    __half2() = default;
    __half2(__half low, __half high) : x(low), y(high) {}
};
using half2 = __half2;

namespace shim {

// `count` halves to floats; rows of fragments are multiples of 8.
inline void widen(const __half* from, float* to, int count) {
    int i = 0;
#ifdef __F16C__
    for (; i + 8 <= count; i += 8) {
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
    }
#endif
    for (; i < count; i++) to[i] = from[i];
}

}  // namespace shim

inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline float __half2float(__half x) { return static_cast<float>(x); }
inline __half __ushort_as_half(unsigned short bits) { __half x; x.bits = bits; return x; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __int2half_rn(int x) { return __half(static_cast<float>(x)); }

// Products and sums of two halves are exact in double, or rounded far below a half's last bit: one rounding in all.
inline __half __hadd(__half a, __half b) { return __half(float(a) + float(b)); }
inline __half __hsub(__half a, __half b) { return __half(float(a) - float(b)); }
inline __half __hmul(__half a, __half b) { return __half(float(a) * float(b)); }
inline __half __hdiv(__half a, __half b) { return __half(float(a) / float(b)); }
inline __half __hfma(__half a, __half b, __half c) { return __half(fmaf(float(a), float(b), float(c))); }
inline __half __hneg(__half a) { return __ushort_as_half(a.bits ^ 0x8000u); }
inline __half __habs(__half a) { return __ushort_as_half(a.bits & 0x7fffu); }
// Of a number and a NaN, the number (CUDA math API); of two zeros, the positive one is the larger.
inline __half __hmax(__half a, __half b) {
    const float x = a, y = b;
    if (x != x) return b;
    if (y != y) return a;
    return x > y || (x == y && !(a.bits & 0x8000u)) ? a : b;
}
inline __half __hmin(__half a, __half b) { return __hneg(__hmax(__hneg(a), __hneg(b))); }
inline bool __heq(__half a, __half b) { return float(a) == float(b); }
inline bool __hne(__half a, __half b) { return float(a) != float(b); }
inline bool __hgt(__half a, __half b) { return float(a) > float(b); }
inline bool __hge(__half a, __half b) { return float(a) >= float(b); }
inline bool __hlt(__half a, __half b) { return float(a) < float(b); }
inline bool __hle(__half a, __half b) { return float(a) <= float(b); }
inline bool __hisnan(__half a) { return (a.bits & 0x7fffu) > 0x7c00u; }

inline __half2 __halves2half2(__half low, __half high) { return {low, high}; }
inline __half2 __half2half2(__half x) { return {x, x}; }
inline __half2 __float2half2_rn(float x) { return {__half(x), __half(x)}; }
inline __half2 __floats2half2_rn(float low, float high) { return {__half(low), __half(high)}; }
inline __half2 __float22half2_rn(float2 x) { return {__half(x.x), __half(x.y)}; }
inline float2 __half22float2(__half2 x) { return {float(x.x), float(x.y)}; }
inline __half2 make_half2(__half low, __half high) { return {low, high}; }
inline __half __low2half(__half2 x) { return x.x; }
inline __half __high2half(__half2 x) { return x.y; }
inline float __low2float(__half2 x) { return x.x; }
inline float __high2float(__half2 x) { return x.y; }
inline __half2 __hadd2(__half2 a, __half2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
inline __half2 __hsub2(__half2 a, __half2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }
inline __half2 __hmul2(__half2 a, __half2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
inline __half2 __hmax2(__half2 a, __half2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }
inline __half2 __hmin2(__half2 a, __half2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }
