//! Sizes of all values for a size of the input, and the trial of a network before it is used.
//!
//! Owns: how sizes follow from each other, what a network of a file may cost. Never does: lay out memory.

use super::limits::{VALUES_MAX, WORK_MAX};
use super::{Graph, Layer, Op, Size, ValueId, Window};

/// A size that a network can't take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{layer}`: {what}")]
pub(crate) struct SizeError {
    /// The layer.
    pub(crate) layer: String,
    /// What doesn't fit.
    pub(crate) what: String,
}

/// Slices on the 2 mm grid, of even and odd size.
const SLICES: [[usize; 3]; 2] = [[1, 160, 160], [1, 97, 131]];
/// Patches of volumes, of even and odd size.
const VOLUMES: [[usize; 3]; 2] = [[64; 3], [37, 50, 41]];
/// A patch of a volume: networks of volumes choose their size, so it need not be odd.
const PATCH: [usize; 3] = [64; 3];

impl Layer {
    /// A value that the layer writes; all that it writes have one size.
    pub(crate) fn written(&self) -> ValueId {
        self.raw.or(self.second.as_ref().map(|s| s.value)).expect("fusion refuses layers that write nothing")
    }

    fn fail<T>(&self, what: String) -> Result<T, SizeError> {
        Err(SizeError { layer: self.name.clone(), what })
    }
}

impl Graph {
    /// Depth, height and width of every value that a layer writes, for an input of this depth, height and width.
    ///
    /// # Errors
    /// [`SizeError`] where a window or sizes don't fit, or a map would have more than [`VALUES_MAX`] values.
    pub(crate) fn dims(&self, input: [usize; 3]) -> Result<Vec<[usize; 3]>, SizeError> {
        let mut all = vec![[0; 3]; self.values.len()];
        all[0] = input;
        for (index, layer) in self.layers.iter().enumerate() {
            let from = all[layer.source];
            let dims = match &layer.op {
                Op::Conv(filter) => [0, 1, 2].map(|axis| filter.window.output(axis, from[axis])),
                Op::MaxPool(window) => [0, 1, 2].map(|axis| window.output(axis, from[axis])),
                Op::Resize(Size::Like(value)) => all[*value],
                Op::Resize(Size::Fixed(dims)) => *dims,
                Op::Resize(Size::Scales(scales)) => {
                    [0, 1, 2].map(|a| (from[a] as f32 * scales[a]).floor() as usize)
                }
                Op::Copy | Op::Concat(_) => from,
                Op::GlobalPool { .. } => [1; 3],
            };
            let values = self.values_of(layer.written(), dims);
            if values == 0 || values > VALUES_MAX {
                return layer.fail(format!("a map of {dims:?} from one of {from:?}"));
            }
            // Concatenated maps and residuals lie row by row beside the result.
            for read in self.reads(index).skip(1) {
                if all[read] != dims {
                    return layer.fail(format!("maps of {:?} and {dims:?} can't be joined", all[read]));
                }
            }
            for value in layer.raw.into_iter().chain(layer.second.as_ref().map(|s| s.value)) {
                all[value] = dims;
            }
        }
        Ok(all)
    }

    /// Finds out before a network is used that its layers fit each other and are bearable: for the size that the file fixes, or a typical one.
    ///
    /// # Errors
    /// [`SizeError`] as from [`Graph::dims`], or where the maps or the work exceed their bounds.
    pub(crate) fn try_sizes(&self) -> Result<(), SizeError> {
        let typical = match self.axes {
            0 => [1; 3],
            2 => SLICES[0],
            _ => PATCH,
        };
        let input = [0, 1, 2].map(|axis| self.fixed[axis].unwrap_or(typical[axis]));
        let dims = self.dims(input)?;
        let (mut values, mut work) = (0_usize, 0_usize);
        for layer in &self.layers {
            let to = layer.written();
            values = values.saturating_add(self.values_of(to, dims[to]));
            work = work.saturating_add(self.work(layer, &dims));
            if values > VALUES_MAX {
                return layer
                    .fail(format!("maps of more than {VALUES_MAX} values for an input of {input:?}"));
            }
            if work > WORK_MAX {
                return layer.fail(format!("more than {WORK_MAX} operations for an input of {input:?}"));
            }
        }
        Ok(())
    }

    /// Whether the network takes slices of any size, and answers with a map of the same size in each of `outputs`.
    ///
    /// # Errors
    /// [`SizeError`] where it doesn't.
    pub(crate) fn try_slices(&self, outputs: impl Iterator<Item = ValueId> + Clone) -> Result<(), SizeError> {
        self.takes_any(2, "slices")?;
        SLICES.iter().try_for_each(|&input| self.keeps_size(input, outputs.clone()))
    }

    /// The same for volumes.
    ///
    /// # Errors
    /// [`SizeError`] where it doesn't.
    pub(crate) fn try_volumes(
        &self,
        outputs: impl Iterator<Item = ValueId> + Clone,
    ) -> Result<(), SizeError> {
        self.takes_any(3, "volumes")?;
        VOLUMES.iter().try_for_each(|&input| self.keeps_size(input, outputs.clone()))
    }

    /// Whether the network takes slices of any size, and answers with a vector in `output`.
    ///
    /// # Errors
    /// [`SizeError`] where it doesn't.
    pub(crate) fn try_slices_to_vector(&self, output: &str) -> Result<(), SizeError> {
        self.takes_any(2, "slices")?;
        let value = self.outputs.iter().find(|(name, _)| name == output).map(|(_, value)| *value);
        for input in SLICES {
            let dims = self.dims(input)?;
            if let Some(value) = value.filter(|&value| dims[value] != [1; 3]) {
                let layer = self.values[value].name.clone();
                return Err(SizeError {
                    layer,
                    what: format!("a map of {:?}; a vector is needed", dims[value]),
                });
            }
        }
        Ok(())
    }

    fn takes_any(&self, axes: usize, what: &str) -> Result<(), SizeError> {
        if self.axes == axes
            && self.fixed[1].is_none()
            && self.fixed[2].is_none()
            && (axes < 3 || self.fixed[0].is_none())
        {
            return Ok(());
        }
        let what = format!("{} axes, fixed sizes {:?}; {what} vary", self.axes, self.fixed);
        Err(SizeError { layer: self.values[0].name.clone(), what })
    }

    fn keeps_size(
        &self,
        input: [usize; 3],
        mut outputs: impl Iterator<Item = ValueId>,
    ) -> Result<(), SizeError> {
        let dims = self.dims(input)?;
        match outputs.find(|&value| dims[value] != input) {
            None => Ok(()),
            Some(value) => {
                let what = format!("{:?} values for an input of {input:?}", dims[value]);
                Err(SizeError { layer: self.values[value].name.clone(), what })
            }
        }
    }

    /// Whether the network takes a vector.
    ///
    /// # Errors
    /// [`SizeError`] where it doesn't.
    pub(crate) fn try_vector(&self) -> Result<(), SizeError> {
        let input = &self.values[0];
        if input.flat {
            return Ok(());
        }
        Err(SizeError { layer: input.name.clone(), what: "a map; a vector is needed".to_owned() })
    }

    /// Values of a map, its channels filled up to blocks.
    fn values_of(&self, value: ValueId, dims: [usize; 3]) -> usize {
        let channels = self.values[value].channels.next_multiple_of(16);
        dims.iter().fold(channels, |all, &n| all.saturating_mul(n))
    }

    /// Multiply-adds or comparisons of a layer.
    fn work(&self, layer: &Layer, dims: &[[usize; 3]]) -> usize {
        let (from, to) = (dims[layer.source], layer.written());
        let each = match &layer.op {
            Op::Conv(filter) => {
                filter.window.size.iter().fold(filter.inputs, |all, &n| all.saturating_mul(n))
            }
            Op::MaxPool(window) => comparisons(window, from),
            Op::GlobalPool { .. } => from.iter().fold(1_usize, |all, &n| all.saturating_mul(n)),
            Op::Resize(_) => 8,
            Op::Copy | Op::Concat(_) => 1,
        };
        self.values_of(to, dims[to]).saturating_mul(each)
    }
}

/// Comparisons for a pixel: a window is no larger than the map.
fn comparisons(window: &Window, from: [usize; 3]) -> usize {
    (0..3).fold(1_usize, |all, axis| all.saturating_mul(window.size[axis].min(from[axis])))
}
