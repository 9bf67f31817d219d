//! Plain Rust for any processor: the fallback, and the twin of the others whose indices are always checked.

use super::Isa;

const NAME: &str = "portable";
/// As many as a processor with 16 registers of 4 values can hold.
const ACCUMULATORS: usize = 8;

#[derive(Clone, Copy)]
struct Portable;

impl Isa for Portable {
    const LANES: usize = 4;
    type V = [f32; 4];

    #[inline(always)]
    unsafe fn zero() -> [f32; 4] {
        [0.0; 4]
    }

    #[inline(always)]
    fn fetch<T>(_: &[T], _: usize) {}

    #[inline(always)]
    unsafe fn load(values: &[f32], at: usize) -> [f32; 4] {
        let v = &values[at..at + 4];
        [v[0], v[1], v[2], v[3]]
    }

    #[inline(always)]
    unsafe fn load_half(values: &[u16], at: usize) -> [f32; 4] {
        let v = &values[at..at + 4];
        [v[0], v[1], v[2], v[3]].map(crate::graph::onnx::widen)
    }

    #[inline(always)]
    unsafe fn store(values: &mut [f32], at: usize, v: [f32; 4]) {
        values[at..at + 4].copy_from_slice(&v);
    }

    #[inline(always)]
    unsafe fn splat(values: &[f32], at: usize) -> [f32; 4] {
        [values[at]; 4]
    }

    #[inline(always)]
    unsafe fn splat_two(values: &[f32], even: usize, odd: usize) -> [f32; 4] {
        [values[even], values[odd], values[even], values[odd]]
    }

    #[inline(always)]
    unsafe fn splat_pair(values: &[f32], at: usize) -> [f32; 4] {
        [values[at], values[at + 1], values[at], values[at + 1]]
    }

    #[inline(always)]
    unsafe fn fma(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        // Not `mul_add`: without the instruction that is a call of the C library.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn relu(v: [f32; 4]) -> [f32; 4] {
        v.map(|v| if v < 0.0 { 0.0 } else { v })
    }
}

super::tile_table!(Portable, inline);
