//! NEON: a block is four vectors, done one after the other; 24 of the 32 registers accumulate.

use std::arch::aarch64::*;

use super::Isa;

const NAME: &str = "NEON";
const ACCUMULATORS: usize = 24;

#[derive(Clone, Copy)]
struct Neon;

impl Isa for Neon {
    const LANES: usize = 4;
    type V = float32x4_t;

    #[inline(always)]
    unsafe fn zero() -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vdupq_n_f32(0.0) }
    }

    #[inline(always)]
    fn fetch<T>(_: &[T], _: usize) {}

    #[inline(always)]
    unsafe fn load(values: &[f32], at: usize) -> float32x4_t {
        debug_assert!(at + 4 <= values.len());
        // SAFETY: the caller's promise.
        unsafe { vld1q_f32(values.as_ptr().add(at)) }
    }

    #[inline(always)]
    unsafe fn load_half(values: &[u16], at: usize) -> float32x4_t {
        debug_assert!(at + 4 <= values.len());
        // SAFETY: the caller's promise.
        unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(values.as_ptr().add(at)))) }
    }

    #[inline(always)]
    unsafe fn store(values: &mut [f32], at: usize, v: float32x4_t) {
        debug_assert!(at + 4 <= values.len());
        // SAFETY: the caller's promise.
        unsafe { vst1q_f32(values.as_mut_ptr().add(at), v) }
    }

    #[inline(always)]
    unsafe fn splat(values: &[f32], at: usize) -> float32x4_t {
        debug_assert!(at < values.len());
        // SAFETY: the caller's promise.
        unsafe { vld1q_dup_f32(values.as_ptr().add(at)) }
    }

    #[inline(always)]
    unsafe fn splat_two(values: &[f32], even: usize, odd: usize) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vtrn1q_f32(Self::splat(values, even), Self::splat(values, odd)) }
    }

    #[inline(always)]
    unsafe fn splat_pair(values: &[f32], at: usize) -> float32x4_t {
        debug_assert!(at + 2 <= values.len());
        // SAFETY: the caller's promise.
        unsafe {
            let pair = vld1_f32(values.as_ptr().add(at));
            vcombine_f32(pair, pair)
        }
    }

    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn relu(v: float32x4_t) -> float32x4_t {
        // SAFETY: the caller's promise. FMAX gives NaN when an operand is NaN.
        unsafe { vmaxq_f32(v, vdupq_n_f32(0.0)) }
    }
}

super::tile_table!(Neon, target_feature(enable = "neon"));
