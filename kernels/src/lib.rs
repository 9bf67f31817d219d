//! Numeric kernels: resampling, intensity window, streamed pyramid max-pooling, paste-back; and a GPU to run ours on.
//!
//! Owns: the arithmetic of the method outside the networks, exactly as the paper's implementation does it (the CPU
//! reference: pure functions, the same bits on every run), and [`device`]: one GPU with our kernels loaded.
//! Never does: I/O, threads, or a decision.
//!
//! Planes are row-major `f32`; a coordinate along an axis is an index from 0.

pub mod device;
pub mod gpu;
pub mod paste;
pub mod pyramid;
pub mod resample;
#[cfg(feature = "shim")]
pub mod shim;
pub mod stored;

pub use paste::{Paste, zoomed_range};
pub use pyramid::{PyramidError, PyramidPool, SliceRows};
pub use resample::{Zoom, window, zoomed_len};
pub use stored::Stored;
