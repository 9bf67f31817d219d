//! A study on a GPU: everything but the networks.
//!
//! Owns: the lanes (a stream and its workspace, lent to one caller each), the uploads, the batches, the pyramid and the masks on the device, and
//! the bound on their memory. Never does: run a network; an implementation of [`Networks`] does (our kernels, or TensorRT). Never keeps the
//! features of a study: they go into the pyramid batch by batch.

use kernels::device::{Buffer, Device, Stream};

use crate::backend::EngineError;

/// How the features of [`Networks::slices`] lie in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FeatureFormat {
    /// Feature maps.
    pub(crate) channels: usize,
    /// `f16`, else `f32`.
    pub(crate) half: bool,
    /// `[slice][row][column][channel]`, else `[slice][channel][row][column]`.
    pub(crate) channels_last: bool,
    /// Values from one pixel to the next if channels are last (a multiple of 8, the rest is padding), else channels from one slice to the next.
    pub(crate) channel_stride: usize,
}

impl FeatureFormat {
    /// Bytes of the features of `slices` slices of `rows` × `columns`.
    pub(crate) fn bytes(&self, [slices, rows, columns]: [usize; 3]) -> usize {
        slices * rows * columns * self.channel_stride * if self.half { 2 } else { 4 }
    }
}

/// The two networks on a device. A lane is used by one thread at a time, always with the same stream.
///
/// Both calls only put work on the stream: buffers are read and written when it gets there. `shape` is [slices, rows, columns] with at most
/// [`Networks::batch_max`] slices; the buffers may be larger than it needs.
pub(crate) trait Networks: Send + Sync {
    /// Workspace of a lane: buffers, graphs, execution contexts.
    type Lane: Send;

    /// Name in results and logs: "cuda", "tensorrt".
    fn name(&self) -> &'static str;

    /// Where they run.
    fn device(&self) -> &Device;

    /// Most slices of a call.
    fn batch_max(&self) -> usize;

    /// A workspace for a lane.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    fn lane(&self) -> Result<Self::Lane, EngineError>;

    /// Windowed planes `[slice][row][column]` f32 → lung logits, the same shape and type.
    ///
    /// # Errors
    /// [`EngineError`].
    fn lungs(
        &self,
        lane: &mut Self::Lane,
        stream: &mut Stream,
        planes: &Buffer,
        shape: [usize; 3],
        logits: &Buffer,
    ) -> Result<(), EngineError>;

    /// Windowed planes → features as [`Networks::feature_format`] says, and lesion logits `[slice][row][column]` f32.
    ///
    /// # Errors
    /// [`EngineError`].
    fn slices(
        &self,
        lane: &mut Self::Lane,
        stream: &mut Stream,
        planes: &Buffer,
        shape: [usize; 3],
        features: &Buffer,
        logits: &Buffer,
    ) -> Result<(), EngineError>;

    /// How the features lie.
    fn feature_format(&self) -> FeatureFormat;
}
