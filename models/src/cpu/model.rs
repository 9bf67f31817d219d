//! A network of the zoo's format: what it takes, its outputs by name, and one run of it.

use std::path::Path;

use super::lanes::Lane;
use super::net::{self, Net, Workspace};
use super::{Lanes, simd};
use crate::backend::{EngineError, Plane};
use crate::graph::{Graph, SizeError, ValueId};

/// A network with one input and `N` outputs, found by name.
pub(crate) struct Model<const N: usize> {
    net: Net,
    name: &'static str,
    outputs: [usize; N],
}

/// What a file holds that a network is made from.
struct Form<'a, const N: usize> {
    path: &'a Path,
    name: &'static str,
    input: &'a str,
    channels: usize,
    outputs: [&'a str; N],
}

/// The output of which the form says nothing but that it is there.
const FEATURES: &str = "features";

impl<const N: usize> Model<N> {
    /// A network over slices of any size. Each output has one value for each pixel; `features` may have any size and number of channels.
    ///
    /// # Errors
    /// [`EngineError::Load`].
    pub(crate) fn slices(path: &Path, name: &'static str, outputs: [&str; N]) -> Result<Self, EngineError> {
        let form = Form { path, name, input: "slice", channels: 1, outputs };
        Self::load(&form, |graph, maps| graph.try_slices(maps.iter().copied()))
    }

    /// A network over volumes of any size: one output with a value for each voxel.
    ///
    /// # Errors
    /// [`EngineError::Load`].
    pub(crate) fn patches(path: &Path, name: &'static str, output: &str) -> Result<Model<1>, EngineError> {
        let form = Form { path, name, input: "volume", channels: 1, outputs: [output] };
        Model::load(&form, |graph, maps| graph.try_volumes(maps.iter().copied()))
    }

    /// A network that makes a vector, the output `features`, of a slice of any size.
    ///
    /// # Errors
    /// [`EngineError::Load`].
    pub(crate) fn vectors(path: &Path, name: &'static str) -> Result<Model<1>, EngineError> {
        let form = Form { path, name, input: "slice", channels: 1, outputs: [FEATURES] };
        Model::load(&form, |graph, _| graph.try_slices_to_vector(FEATURES))
    }

    /// A head: a network that makes one value of a vector.
    ///
    /// # Errors
    /// [`EngineError::Load`].
    pub(super) fn head(
        path: &Path,
        name: &'static str,
        values: usize,
        output: &str,
    ) -> Result<Model<1>, EngineError> {
        let form = Form { path, name, input: "pyramid", channels: values, outputs: [output] };
        Model::load(&form, |graph, _| graph.try_vector())
    }

    /// `fits` judges the graph; it is given the outputs other than `features`.
    fn load(
        form: &Form<'_, N>,
        fits: impl Fn(&Graph, &[ValueId]) -> Result<(), SizeError>,
    ) -> Result<Self, EngineError> {
        let Form { path, name, input, channels, outputs } = form;
        let fail = |why: String| EngineError::Load { path: path.to_path_buf(), why };
        let net = Net::load(path, simd::available()[0]).map_err(|error| fail(error.to_string()))?;
        if (net.input(), net.input_channels()) != (*input, *channels) {
            let (got, count) = (net.input(), net.input_channels());
            return Err(fail(format!("input `{got}` of {count} channels, not `{input}` of {channels}")));
        }
        let find =
            |name: &&str| net.output(name).ok_or_else(|| fail(format!("has no output named `{name}`")));
        let found = outputs.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let mut maps = Vec::new();
        for (&output, name) in found.iter().zip(outputs).filter(|(_, name)| **name != FEATURES) {
            if net.channels(output) != 1 {
                return Err(fail(format!("output `{name}` has {} channels, not one", net.channels(output))));
            }
            maps.push(net.value(output));
        }
        fits(net.graph(), &maps).map_err(|error| fail(error.to_string()))?;
        let outputs = found.try_into().expect("one output for each of N names");
        Ok(Self { net, name, outputs })
    }

    /// Whether output number `at` is a vector, not a map.
    pub(super) fn is_vector(&self, at: usize) -> bool {
        self.net.graph().values[self.net.value(self.outputs[at])].flat
    }

    /// Name in errors.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Channels of its output number `at`.
    pub(crate) fn channels(&self, at: usize) -> usize {
        self.net.channels(self.outputs[at])
    }

    /// The network's number of its output number `at`, as its rows have it.
    pub(super) fn output(&self, at: usize) -> usize {
        self.outputs[at]
    }

    /// Rows and columns of output number `at` for a slice.
    ///
    /// # Errors
    /// [`EngineError::Run`] for a slice that the network can't take.
    pub(super) fn size(&self, at: usize, slice: &Plane<'_>) -> Result<[usize; 2], EngineError> {
        let dims = self.net.graph().dims([1, slice.rows(), slice.columns()]).map_err(|e| self.fail(&e))?;
        let [_, rows, columns] = dims[self.net.value(self.outputs[at])];
        Ok([rows, columns])
    }

    /// Runs on one slice; `take` gets the outputs' rows.
    pub(super) fn run(
        &self,
        slice: &Plane<'_>,
        lane: Lane<'_>,
        take: net::Take<'_>,
    ) -> Result<(), EngineError> {
        self.run_planes(std::slice::from_ref(slice), lane, take)
    }

    /// The same for slices that make a volume.
    fn run_planes(
        &self,
        planes: &[Plane<'_>],
        lane: Lane<'_>,
        take: net::Take<'_>,
    ) -> Result<(), EngineError> {
        let Lane { workspace, threads_max, threads } = lane;
        let (rows, columns) = (planes[0].rows(), planes[0].columns());
        let plan = self.net.plan([planes.len(), rows, columns], threads_max).map_err(|e| self.fail(&e))?;
        let read: net::Input<'_> = &|_, row, out| out(planes[row / rows].row(row % rows));
        self.net.run(&plan, workspace, threads, read, take);
        Ok(())
    }

    /// The first output for one slice: a value for each pixel.
    ///
    /// # Errors
    /// [`EngineError::Run`], [`EngineError::Output`].
    pub(crate) fn map(&self, slice: &Plane<'_>, lane: Lane<'_>) -> Result<Vec<f32>, EngineError> {
        let mut values = Vec::with_capacity(slice.rows() * slice.columns());
        self.run(slice, lane, &mut |row| {
            if row.output == self.outputs[0] {
                row.append(0, &mut values);
            }
        })?;
        check(self.name, values.len(), slice.rows() * slice.columns())?;
        Ok(values)
    }

    /// The first output for the slices of a patch, by all threads: a value for each voxel, slice-major.
    ///
    /// # Errors
    /// [`EngineError::Run`], [`EngineError::Output`].
    pub(crate) fn volume(&self, patch: &[Plane<'_>], lanes: &Lanes) -> Result<Vec<f32>, EngineError> {
        let voxels = patch.len() * patch[0].rows() * patch[0].columns();
        let mut values = Vec::with_capacity(voxels);
        lanes.with(1, |lane| {
            self.run_planes(patch, lane, &mut |row| {
                if row.output == self.outputs[0] {
                    row.append(0, &mut values);
                }
            })
        })?;
        check(self.name, values.len(), voxels)?;
        Ok(values)
    }

    /// The first output for one slice, a vector; refuses what is no number, which pooling would swallow.
    ///
    /// # Errors
    /// [`EngineError::Run`], [`EngineError::NotFinite`].
    pub(crate) fn vector_of(&self, slice: &Plane<'_>, lane: Lane<'_>) -> Result<Vec<f32>, EngineError> {
        let mut values = Vec::with_capacity(self.channels(0));
        self.run(slice, lane, &mut |row| {
            if row.output == self.outputs[0] {
                (0..row.layout.channels).for_each(|channel| row.append(channel, &mut values));
            }
        })?;
        check(self.name, values.len(), self.channels(0))?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(EngineError::NotFinite { model: self.name });
        }
        Ok(values)
    }

    /// Runs on a vector; returns the first output.
    ///
    /// # Errors
    /// [`EngineError::Run`], [`EngineError::Output`].
    pub(super) fn vector(&self, values: &[f32], lane: &mut Workspace) -> Result<Vec<f32>, EngineError> {
        check(self.name, values.len(), self.net.input_channels())?;
        let plan = self.net.plan([1, 1, 1], 1).map_err(|e| self.fail(&e))?;
        let mut result = Vec::new();
        let input: net::Input<'_> = &|channel, _, out| out(&values[channel..=channel]);
        self.net.run(&plan, lane, &|| 1, input, &mut |row| {
            if row.output == self.outputs[0] {
                (0..row.layout.channels).for_each(|channel| row.append(channel, &mut result));
            }
        });
        Ok(result)
    }

    fn fail(&self, error: &SizeError) -> EngineError {
        EngineError::Run { model: self.name, why: error.to_string() }
    }
}

/// Refuses an output of another size.
pub(crate) fn check(model: &'static str, got: usize, expected: usize) -> Result<(), EngineError> {
    if got == expected { Ok(()) } else { Err(EngineError::Output { model, got, expected }) }
}
