//! Numeric kernels, CPU reference: resampling, intensity window, streamed pyramid max-pooling, paste-back.
//!
//! Owns: the arithmetic of the method outside the networks, exactly as the paper's implementation does it.
//! Never does: I/O, threads, or a decision; every function is pure and gives the same bits on every run.
//!
//! Planes are row-major `f32`; a coordinate along an axis is an index from 0.

pub mod paste;
pub mod pyramid;
pub mod resample;
pub mod stored;

pub use paste::{Paste, zoomed_range};
pub use pyramid::{PyramidError, PyramidPool, SliceRows};
pub use resample::{Zoom, window, zoomed_len};
pub use stored::Stored;
