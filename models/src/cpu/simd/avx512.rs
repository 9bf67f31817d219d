//! AVX-512: one block of 16 channels, or 8 channels of two pixels, is one vector; 24 of the 32 registers accumulate.

use std::arch::x86_64::*;

use super::Isa;

const NAME: &str = "AVX-512";
const ACCUMULATORS: usize = 24;

#[derive(Clone, Copy)]
struct Avx512;

impl Isa for Avx512 {
    const LANES: usize = 16;
    type V = __m512;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    fn fetch<T>(values: &[T], at: usize) {
        // SAFETY: a fetch reads nothing that the program sees, and any address may be given.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().wrapping_add(at).cast()) };
    }

    #[inline(always)]
    unsafe fn load(values: &[f32], at: usize) -> __m512 {
        debug_assert!(at + 16 <= values.len());
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(values.as_ptr().add(at)) }
    }

    #[inline(always)]
    unsafe fn load_half(values: &[u16], at: usize) -> __m512 {
        debug_assert!(at + 16 <= values.len());
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().add(at).cast())) }
    }

    #[inline(always)]
    unsafe fn store(values: &mut [f32], at: usize, v: __m512) {
        debug_assert!(at + 16 <= values.len());
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr().add(at), v) }
    }

    #[inline(always)]
    unsafe fn splat(values: &[f32], at: usize) -> __m512 {
        debug_assert!(at < values.len());
        // SAFETY: the caller's promise.
        unsafe { _mm512_set1_ps(*values.get_unchecked(at)) }
    }

    #[inline(always)]
    unsafe fn splat_two(values: &[f32], even: usize, odd: usize) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_mask_blend_ps(0xaaaa, Self::splat(values, even), Self::splat(values, odd)) }
    }

    #[inline(always)]
    unsafe fn splat_pair(values: &[f32], at: usize) -> __m512 {
        debug_assert!(at + 2 <= values.len());
        // SAFETY: the caller's promise; the read of both values at once needs no alignment.
        unsafe { _mm512_castpd_ps(_mm512_set1_pd(values.as_ptr().add(at).cast::<f64>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn relu(v: __m512) -> __m512 {
        // SAFETY: the caller's promise. The second operand is the result when one is NaN.
        unsafe { _mm512_max_ps(_mm512_setzero_ps(), v) }
    }
}

super::tile_table!(Avx512, target_feature(enable = "avx512f"));
