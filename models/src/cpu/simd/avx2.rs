//! AVX2 with FMA and F16C: a block is two vectors, done one after the other; 12 of the 16 registers accumulate.

use std::arch::x86_64::*;

use super::Isa;

const NAME: &str = "AVX2";
const ACCUMULATORS: usize = 12;

#[derive(Clone, Copy)]
struct Avx2;

impl Isa for Avx2 {
    const LANES: usize = 8;
    type V = __m256;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    fn fetch<T>(values: &[T], at: usize) {
        // SAFETY: a fetch reads nothing that the program sees, and any address may be given.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().wrapping_add(at).cast()) };
    }

    #[inline(always)]
    unsafe fn load(values: &[f32], at: usize) -> __m256 {
        debug_assert!(at + 8 <= values.len());
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(values.as_ptr().add(at)) }
    }

    #[inline(always)]
    unsafe fn load_half(values: &[u16], at: usize) -> __m256 {
        debug_assert!(at + 8 <= values.len());
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().add(at).cast())) }
    }

    #[inline(always)]
    unsafe fn store(values: &mut [f32], at: usize, v: __m256) {
        debug_assert!(at + 8 <= values.len());
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_ps(values.as_mut_ptr().add(at), v) }
    }

    #[inline(always)]
    unsafe fn splat(values: &[f32], at: usize) -> __m256 {
        debug_assert!(at < values.len());
        // SAFETY: the caller's promise.
        unsafe { _mm256_set1_ps(*values.get_unchecked(at)) }
    }

    #[inline(always)]
    unsafe fn splat_two(values: &[f32], even: usize, odd: usize) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_blend_ps::<0xaa>(Self::splat(values, even), Self::splat(values, odd)) }
    }

    #[inline(always)]
    unsafe fn splat_pair(values: &[f32], at: usize) -> __m256 {
        debug_assert!(at + 2 <= values.len());
        // SAFETY: the caller's promise; the read of both values at once needs no alignment.
        unsafe { _mm256_castpd_ps(_mm256_set1_pd(values.as_ptr().add(at).cast::<f64>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn relu(v: __m256) -> __m256 {
        // SAFETY: the caller's promise. The second operand is the result when one is NaN.
        unsafe { _mm256_max_ps(_mm256_setzero_ps(), v) }
    }
}

super::tile_table!(Avx2, target_feature(enable = "avx2,fma,f16c"));
