//! Runs any network of the documented subset by itself: for measurements and for tests against other engines.

use std::path::Path;

use super::layout::LANES;
use super::net::{Net, Take, Workspace};
use super::simd::{self, Kernels};

/// A network, outside the [`Backend`](crate::Backend), on one thread or several.
pub struct Probe {
    net: Net,
    workspace: Workspace,
    /// For several threads.
    pool: Option<rayon_core::ThreadPool>,
}

/// A layer's part of a run.
#[derive(Debug, Clone)]
pub struct LayerTime {
    /// Name, kind and size of the output.
    pub layer: String,
    /// Time of one run, in seconds.
    pub seconds: f64,
    /// Multiply-adds of one run.
    pub multiply_adds: usize,
}

/// The instruction sets that this processor has, best first.
pub fn instruction_sets() -> Vec<&'static str> {
    simd::available().iter().map(|kernels| kernels.name).collect()
}

impl Probe {
    /// Loads a network for an instruction set of [`instruction_sets`].
    ///
    /// # Errors
    /// What is wrong with the file, as text; or that the processor lacks the instruction set.
    pub fn load(path: &Path, instruction_set: &str) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
        Self::new(&bytes, instruction_set)
    }

    /// As [`Probe::load`] from a file's bytes.
    ///
    /// # Errors
    /// As [`Probe::load`].
    pub fn new(bytes: &[u8], instruction_set: &str) -> Result<Self, String> {
        let found: Option<Kernels> = simd::available().into_iter().find(|k| k.name == instruction_set);
        let kernels = found.ok_or_else(|| format!("this processor has no {instruction_set}"))?;
        let net = Net::new(bytes, kernels).map_err(|error| error.to_string())?;
        Ok(Self { net, workspace: Workspace::default(), pool: None })
    }

    /// As it was, but each run is shared among so many threads.
    #[must_use]
    pub fn with_threads(self, threads: usize) -> Self {
        Self { pool: if threads > 1 { super::lanes::pool(threads) } else { None }, ..self }
    }

    /// Runs the network on channels × depth × height × width values; returns every output in the same order.
    ///
    /// # Errors
    /// A size that the network can't take, as text.
    pub fn run(&mut self, input: &[f32], dims: [usize; 3]) -> Result<Vec<Vec<f32>>, String> {
        let threads = self.threads();
        let plan = self.net.plan(dims, threads).map_err(|error| error.to_string())?;
        let voxels: usize = dims.iter().product();
        if input.len() != voxels * self.net.input_channels() {
            return Err(format!(
                "{} values for {} channels of {dims:?}",
                input.len(),
                self.net.input_channels()
            ));
        }
        let mut outputs: Vec<Vec<f32>> = vec![Vec::new(); self.net.outputs()];
        let read = |channel: usize, row: usize, out: &mut dyn FnMut(&[f32])| {
            out(&input[channel * voxels + row * dims[2]..][..dims[2]]);
        };
        let take: Take<'_> = &mut |row| {
            let (channels, width, rows) = (row.layout.channels, row.layout.dims[2], row.layout.rows());
            let out = &mut outputs[row.output];
            out.resize(channels * rows * width, 0.0);
            for c in 0..channels {
                let out = &mut out[(c * rows + row.row) * width..][..width];
                row.layout.get_channel(row.values, c, out);
            }
        };
        let Self { net, workspace, pool } = self;
        let mut run = || net.run(&plan, workspace, &|| threads, &read, take);
        match pool {
            Some(pool) => pool.install(run),
            None => run(),
        }
        Ok(outputs)
    }

    /// The largest magnitude that any output has in a lane without a channel: kernels read whole vectors.
    ///
    /// # Errors
    /// As [`Probe::run`].
    pub fn unused_lanes(&mut self, input: &[f32], dims: [usize; 3]) -> Result<f32, String> {
        let plan = self.net.plan(dims, 1).map_err(|error| error.to_string())?;
        let voxels: usize = dims.iter().product();
        let read = |channel: usize, row: usize, out: &mut dyn FnMut(&[f32])| {
            out(&input[channel * voxels + row * dims[2]..][..dims[2]]);
        };
        let mut worst = 0.0_f32;
        self.net.run(&plan, &mut self.workspace, &|| 1, &read, &mut |row| {
            let layout = row.layout;
            let used = layout.channels % layout.per_block() * layout.channel_step();
            let last = &row.values[(layout.blocks() - 1) * layout.block_step()..][..layout.width() * LANES];
            let unused =
                last.chunks_exact(LANES).flat_map(|pixel| &pixel[if used == 0 { LANES } else { used }..]);
            worst =
                unused.fold(worst, |worst, v| if v.is_nan() { f32::INFINITY } else { worst.max(v.abs()) });
        });
        Ok(worst)
    }

    /// Time of each layer, each the least of `rounds` runs: other work on the machine only adds to it.
    ///
    /// # Errors
    /// As [`Probe::run`].
    pub fn profile(
        &mut self,
        input: &[f32],
        dims: [usize; 3],
        rounds: u32,
    ) -> Result<Vec<LayerTime>, String> {
        let mut least: Vec<LayerTime> = Vec::new();
        for _ in 0..rounds {
            self.workspace.profile = Some(Vec::new());
            let run = self.run(input, dims);
            let times = self.workspace.profile.take().unwrap_or_default();
            run?;
            let plan = self.net.plan(dims, self.threads()).map_err(|error| error.to_string())?;
            for (at, (layer, time, multiply_adds)) in self.net.profile(&plan, &times).into_iter().enumerate()
            {
                let seconds = time.as_secs_f64();
                match least.get_mut(at) {
                    Some(known) => known.seconds = known.seconds.min(seconds),
                    None => least.push(LayerTime { layer, seconds, multiply_adds }),
                }
            }
        }
        Ok(least)
    }

    fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, rayon_core::ThreadPool::current_num_threads)
    }

    /// Multiply-adds a second of the instruction set from registers, the most that this core can do now.
    pub fn peak(&self) -> f64 {
        let mut best = 0.0_f64;
        for _ in 0..10 {
            let start = std::time::Instant::now();
            let done = self.net.peak(1 << 16);
            best = best.max(done as f64 / start.elapsed().as_secs_f64());
        }
        best
    }

    /// Bytes of the activations.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace.bytes()
    }
}
