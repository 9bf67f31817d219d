//! The zoo's networks as TensorRT builds them: types, sizes, precision.
//!
//! Owns: the bounds of their inputs, the choice of what stays in single precision. Never does: build.

use std::path::PathBuf;

use super::builder::{Range, Recipe};
use super::library::{Abi, Library};
use super::{TensorRtError, onnx, plans};
use crate::zoo::Zoo;

/// Most slices of a call. Eight of 192² pixels fill a large GPU, and bound the memory of a lane: 8 · 384² pixels.
pub(super) const BATCH_MAX: usize = 8;
/// Longest side of a plane: 512 pixels of the model cards' largest spacing, 1.5 mm, on the grid of 2 mm. A plan's memory is that of its largest
/// sizes, so this is tighter than the other engines' bound.
pub(super) const SIDE_MAX: usize = 384;
/// Least side: six poolings.
pub(super) const SIDE_MIN: usize = 1;
/// Scratch memory that a layer may ask for while it is timed.
const WORKSPACE_BYTES: usize = 256 << 20;

/// A network to be built.
#[derive(Debug, Clone)]
pub struct Network {
    /// Name in messages and files.
    pub name: &'static str,
    /// Its ONNX, types as this TensorRT wants them.
    pub onnx: Vec<u8>,
    /// SHA-256 of the ONNX file that it comes from.
    pub model_sha256: String,
    /// Sizes of its input.
    pub range: Range,
    /// Outputs whose last layer is in single precision.
    pub sensitive: &'static str,
}

impl Network {
    /// A network from its ONNX, for a library: in single precision before 11, which chooses half itself; from 11 on in half precision but for
    /// the layers that make the output `sensitive`.
    ///
    /// # Errors
    /// [`TensorRtError::Model`].
    pub fn new(
        library: &Library,
        (name, onnx): (&'static str, &[u8]),
        range: Range,
        sensitive: &'static str,
    ) -> Result<Self, TensorRtError> {
        let rewritten = match library.abi {
            Abi::Eight | Abi::Ten => onnx::single(onnx),
            Abi::Eleven => onnx::half(onnx, &[sensitive]),
        };
        let rewritten = rewritten
            .map_err(|error| TensorRtError::Model { path: PathBuf::from(name), why: error.to_string() })?;
        let model_sha256 = plans::hex(onnx);
        Ok(Self { name, onnx: rewritten, model_sha256, range, sensitive })
    }

    /// The lung net and the multitask net, in this order, for a library.
    ///
    /// # Errors
    /// [`TensorRtError::Model`].
    pub fn of_zoo(zoo: &Zoo, library: &Library) -> Result<[Self; 2], TensorRtError> {
        let network = |name, path: PathBuf, best: [i64; 2], sensitive| {
            let failed = |why: String| TensorRtError::Model { path: path.clone(), why };
            let bytes = std::fs::read(&path).map_err(|error| failed(error.to_string()))?;
            let (batch, least, most) = (BATCH_MAX as i64, SIDE_MIN as i64, SIDE_MAX as i64);
            let sizes =
                [vec![1, 1, least, least], vec![batch, 1, best[0], best[1]], vec![batch, 1, most, most]];
            let range = Range { input: "slice".to_owned(), sizes };
            Self::new(library, (name, &bytes), range, sensitive).map_err(|error| failed(error.to_string()))
        };
        Ok([
            // A field of 360 to 400 mm.
            network("lungs", zoo.lungs_model(), [192, 192], "lungs")?,
            // The box of the lungs of an adult: 220 by 320 mm.
            network("multitask", zoo.multitask_model(), [112, 160], "lesions")?,
        ])
    }

    /// How to build it: half precision but for the sensitive layers.
    pub fn recipe(&self) -> Recipe<'_> {
        Recipe {
            name: self.name,
            onnx: &self.onnx,
            ranges: vec![self.range.clone()],
            profiles: 1,
            half: true,
            sensitive: vec![self.sensitive.to_owned()],
            workspace_bytes: WORKSPACE_BYTES,
            dla: None,
            capability: None,
            timings: None,
        }
    }
}
