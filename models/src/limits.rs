//! Bounds of the engine, each with the sum it comes from.

/// Longest side of a plane on the networks' grid. A reconstruction field of 512 mm has 256 rows at 2 mm; 1024 leaves room for a matrix of
/// 1024 at the model card's largest spacing (768), and keeps one slice's activations under 1024² × 8 channels × 4 bytes × 4 = 128 MiB.
pub const GRID_SIDE_MAX: usize = 1024;

/// Longest side of a source slice. Scanners write 512 to 1024; 2048 exists in research reconstructions.
pub const SOURCE_SIDE_MAX: usize = 2048;

/// Most voxels of a study: 2000 slices of 512² are 0.5 · 10⁹; labels take one byte a voxel, so this bounds them to 1 GiB.
pub const VOXELS_MAX: usize = 1 << 30;

/// Most worker threads: one a core, and no board or server this is meant for has more.
pub const THREADS_MAX: usize = 64;

/// Shortest side of a 3-D network's patch: below it, seven levels of halving have nothing to halve.
pub const PATCH_MIN: usize = 16;

/// Longest side of a 3-D network's patch. The paper's is 160, whose activations take 212 MiB; 256 takes four times that.
pub const PATCH_MAX: usize = 256;
