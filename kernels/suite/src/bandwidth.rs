//! The part `bandwidth`: what each kernel achieves of the device's memory and arithmetic.
//!
//! Owns: sizes and repeats. Every kernel reads from as many copies of its input as exceed any cache, one after the other, so that the memory is
//! measured. Never does: compare results; the part `kernels` does.

use kernels::Paste;
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use kernels::device::{Arg, Buffer, Device, Stream};
use kernels::gpu::ingest::Ingest;
use kernels::gpu::layers::{self, Arithmetic, Conv, Finish, Shape, Span, Window};
use kernels::gpu::masks::{self, Crops, Pasted};
use kernels::gpu::pyramid::{FeatureFormat, Pyramid};

use crate::checks::kind;
use crate::device::{Bench, peak_bandwidth};
use crate::part::Part;
use crate::volume::STORED;

/// Bytes that no cache holds: several times the 50 MB of an H100.
const BEYOND_CACHES: usize = 256 << 20;

struct Run<'a> {
    part: &'a mut Part,
    bench: Bench,
    /// Theoretical, bytes a second.
    peak: Option<f64>,
    /// Of a copy on the device, bytes a second, read and written.
    copy: f64,
    rounds: usize,
    calls: usize,
    quick: bool,
}

/// Runs all.
pub fn run(part: &mut Part, gpu: &Device, ordinal: usize, data: &Path, quick: bool) -> anyhow::Result<()> {
    occupancy(part, gpu, data)?;
    let (rounds, calls) = if quick { (1, 2) } else { (7, 20) };
    let mut run =
        Run { part, bench: Bench::new(gpu)?, peak: peak_bandwidth(ordinal), copy: 0.0, rounds, calls, quick };
    run.memory()?;
    run.part.table(
        "Bandwidth of the kernels",
        "Bytes are those that must move, each input once and each output once. Inputs are read in turn from copies that exceed the caches. \
         Shares are of the theoretical bandwidth and of the copy's.",
        &["kernel", "shape", "MB", "µs", "GB/s", "of theory", "of a copy"],
    )?;
    for format in [(true, true), (true, false), (false, true)] {
        run.pyramid(format)?;
    }
    run.ingest()?;
    run.masks()?;
    run.layers()
}

/// The table that was made with the bundle, of the cubin that this device takes.
fn occupancy(part: &mut Part, gpu: &Device, data: &Path) -> anyhow::Result<()> {
    let path = data.join("occupancy.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let all: BTreeMap<u32, Vec<[String; 6]>> = serde_json::from_str(&text)?;
    let (major, minor) = gpu.compute_capability();
    let fits = all.into_iter().rfind(|(built, _)| built / 10 == major && built % 10 <= minor);
    let (built, rows) = fits.with_context(|| format!("no cubin for {major}.{minor}"))?;
    part.table(
        &format!("Occupancy of the kernels, sm_{built}"),
        "Theoretical, of the largest block that a kernel allows, from its registers and static shared memory (bytes).",
        &["kernel", "threads", "registers", "shared", "blocks", "occupancy"],
    )?;
    rows.into_iter().try_for_each(|row| part.row(row.to_vec()))
}

impl Run<'_> {
    /// So many copies of an input exceed the caches.
    fn copies(&self, bytes: usize) -> usize {
        let beyond = if self.quick { bytes } else { BEYOND_CACHES };
        beyond.div_ceil(bytes).clamp(1, 64)
    }

    fn inputs(&mut self, bytes: usize) -> anyhow::Result<Vec<Buffer>> {
        (0..self.copies(bytes)).map(|_| self.bench.zeros(bytes)).collect()
    }

    fn time(&mut self, work: impl FnMut(&mut Stream, usize) -> anyhow::Result<()>) -> anyhow::Result<f64> {
        self.bench.time(self.rounds, self.calls, work)
    }

    fn row(&mut self, kernel: &str, shape: String, bytes: usize, seconds: f64) -> anyhow::Result<f64> {
        let rate = bytes as f64 / seconds;
        let percent = |of: f64| format!("{:.0} %", 100.0 * rate / of);
        self.part.row(vec![
            kernel.to_owned(),
            shape,
            format!("{:.2}", bytes as f64 / 1e6),
            format!("{:.1}", seconds * 1e6),
            format!("{:.1}", rate / 1e9),
            self.peak.map_or_else(|| "?".to_owned(), percent),
            percent(self.copy),
        ])?;
        Ok(rate)
    }

    /// What the memory gives: a copy by the driver, and a kernel that reads and writes.
    fn memory(&mut self) -> anyhow::Result<()> {
        let bytes = if self.quick { 1 << 16 } else { 1 << 29 };
        let (from, to) = (self.bench.zeros(bytes)?, self.bench.zeros(bytes)?);
        let seconds = self.time(|stream, _| Ok(stream.copy(&from, 0, &to, 0, bytes)?))?;
        self.copy = 2.0 * bytes as f64 / seconds;
        let count = bytes / 4;
        let args =
            [Arg::Ptr(from.ptr()), Arg::Ptr(to.ptr()), Arg::I32(count as i32), Arg::F32(1.5), Arg::F32(0.5)];
        let grid = [count.div_ceil(256) as u32, 1, 1];
        let seconds =
            self.time(|stream, _| Ok(stream.launch("probe_scale_f32", grid, [256, 1, 1], 0, &args)?))?;
        let scale = 2.0 * bytes as f64 / seconds;
        self.part.table("Memory", "Bytes read and written.", &["what", "GB/s"])?;
        let peak = self.peak.map_or_else(|| "not told".to_owned(), |peak| format!("{:.0}", peak / 1e9));
        self.part.row(vec!["theory".to_owned(), peak])?;
        self.part
            .row(vec!["the driver's copy on the device".to_owned(), format!("{:.0}", self.copy / 1e9)])?;
        self.part.row(vec!["`probe_scale_f32`".to_owned(), format!("{:.0}", scale / 1e9)])?;
        if let Some(peak) = self.peak {
            self.part.figure("memory_theory_gb_per_s", peak / 1e9)?;
        }
        self.part.figure("memory_copy_gb_per_s", self.copy / 1e9)
    }

    fn pyramid(&mut self, (half, channels_last): (bool, bool)) -> anyhow::Result<()> {
        let [slices, rows, columns] = if self.quick { [6, 20, 30] } else { [300, 110, 150] };
        let format = FeatureFormat { channels: 8, half, channels_last, channel_stride: 8 };
        let bytes = Pyramid::bytes_moved(format, [slices, rows, columns]);
        let inputs = self.inputs(bytes)?;
        let mut pyramid = Pyramid::new(self.bench.stream.device())?;
        pyramid.begin(&mut self.bench.stream, format, [rows, columns], slices)?;
        let name =
            format!("pyramid {}, channels {}", kind(half), if channels_last { "last" } else { "first" });
        let shape = format!("8 × {rows} × {columns} × {slices}");
        let seconds =
            self.time(|stream, call| Ok(pyramid.push(stream, 0, slices, &inputs[call % inputs.len()])?))?;
        let rate = self.row(&name, shape.clone(), bytes, seconds)?;

        // As a study does it: batches, then the cells of all levels on the host.
        let batch = 32.min(slices);
        let plane = bytes / slices;
        let parts: Vec<_> =
            (0..slices).step_by(batch).map(|first| (first, batch.min(slices - first))).collect();
        let batches = self.inputs(batch * plane)?;
        let whole = self.bench.time(self.rounds, self.calls.min(5), |stream, _| {
            pyramid.begin(stream, format, [rows, columns], slices)?;
            for (at, (first, count)) in parts.iter().enumerate() {
                pyramid.push(stream, *first, *count, &batches[at % batches.len()])?;
            }
            pyramid.finish(stream)?;
            Ok(())
        })?;
        self.row(
            &format!("{name}, whole: batches of {batch}, all levels, to the host"),
            shape,
            bytes,
            whole,
        )?;
        if half && channels_last {
            self.part.figure("pyramid_f16_gb_per_s", rate / 1e9)?;
            self.part.figure("pyramid_f16_whole_us", whole * 1e6)?;
            if let Some(peak) = self.peak {
                self.part.figure("pyramid_f16_share_of_theory", rate / peak)?;
            }
        }
        Ok(())
    }

    fn ingest(&mut self) -> anyhow::Result<()> {
        let (slices, from, to) = if self.quick { (2, [64, 64], [24, 24]) } else { (16, [512; 2], [180; 2]) };
        let ingest = Ingest { slices, from, to, window_hu: [-1000.0, 300.0] };
        let inputs = self.inputs(slices * from[0] * from[1] * 4)?;
        let out = self.bench.zeros(slices * to[0] * to[1] * 4)?;
        let shape = format!("{slices} × {} × {} → {} × {}", from[0], from[1], to[0], to[1]);
        let seconds = self
            .time(|stream, call| Ok(ingest.stored(stream, &inputs[call % inputs.len()], &STORED, &out)?))?;
        self.row("ingest, 16 bit", shape.clone(), ingest.bytes_moved(2), seconds)?;
        let seconds =
            self.time(|stream, call| Ok(ingest.hu(stream, &inputs[call % inputs.len()], &out)?))?;
        self.row("ingest, fp32", shape, ingest.bytes_moved(4), seconds)?;
        Ok(())
    }

    fn masks(&mut self) -> anyhow::Result<()> {
        let (slices, [rows, columns]) = if self.quick { (2, [20, 30]) } else { (64, [110, 150]) };
        let count = slices * rows * columns;
        let (inputs, small) = (self.inputs(count * 4)?, self.bench.zeros(slices * masks::RECORD * 4)?);
        let shape = format!("{slices} × {rows} × {columns}");
        let seconds = self
            .time(|stream, call| Ok(masks::sigmoid(stream, &inputs[call % inputs.len()], count, &small)?))?;
        self.row("masks: sigmoid", shape.clone(), count * 8, seconds)?;
        let seconds = self.time(|stream, call| {
            Ok(masks::lungs(stream, &inputs[call % inputs.len()], [slices, rows, columns], 0.5, &small)?)
        })?;
        self.row("masks: lungs", shape, count * 8, seconds)?;
        let source = if self.quick { [64, 64] } else { [512, 512] };
        let grid = [rows + 20, columns + 20];
        let paste = Paste::new(&(10..10 + rows), &(10..10 + columns), grid, source);
        let pasted = Pasted::new(&paste);
        let bits = self.bench.zeros(slices * pasted.words() * 4)?;
        let crops = |values| Crops { values, slices, size: [rows, columns] };
        let bytes = pasted.bytes_moved(&crops(&inputs[0]));
        let seconds = self.time(|stream, call| {
            Ok(pasted.launch(stream, crops(&inputs[call % inputs.len()]), 0.2, &bits, 0)?)
        })?;
        let shape = format!("{slices} × {rows} × {columns} → {} × {}", source[0], source[1]);
        self.row("masks: paste", shape, bytes, seconds)?;
        Ok(())
    }

    /// The layers of the networks, level by level, as they are for a batch of slices.
    fn layers(&mut self) -> anyhow::Result<()> {
        self.part.table(
            "Layers of the networks",
            "A convolution with a residual and both outputs, as in the middle of a block; bytes are maps and weights, each once.",
            &["layer", "arithmetic", "shape", "channels", "µs", "TFLOP/s", "GB/s"],
        )?;
        let slices = if self.quick { 2 } else { 16 };
        let levels: &[(usize, usize)] = if self.quick {
            &[(20, 8), (5, 32)]
        } else {
            &[(180, 8), (90, 16), (45, 32), (23, 64), (12, 128), (6, 256), (3, 512)]
        };
        for arithmetic in crate::layers::arithmetics(&self.bench) {
            for &(side, channels) in levels {
                self.convolution(arithmetic, 3, [slices, side, side], [channels, channels])?;
            }
            for &(side, channels) in &levels[..levels.len() - 1] {
                self.convolution(arithmetic, 1, [slices, side, side], [channels, 2 * channels])?;
            }
            let (side, channels) = levels[0];
            self.ends_and_maps(arithmetic, [slices, side, side], channels)?;
        }
        Ok(())
    }

    fn layer(
        &mut self,
        name: String,
        arithmetic: Arithmetic,
        [slices, rows, columns]: Shape,
        [inputs, outputs]: [usize; 2],
        (bytes, operations): (usize, usize),
        work: impl FnMut(&mut Stream, usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let seconds = self.time(work)?;
        let rate = |amount: usize, unit: f64| format!("{:.2}", amount as f64 / seconds / unit);
        self.part.row(vec![
            name,
            format!("{arithmetic:?}"),
            format!("{slices} × {rows} × {columns}"),
            format!("{inputs} → {outputs}"),
            format!("{:.1}", seconds * 1e6),
            rate(operations, 1e12),
            rate(bytes, 1e9),
        ])
    }

    fn convolution(
        &mut self,
        arithmetic: Arithmetic,
        side: usize,
        shape: Shape,
        channels @ [inputs, outputs]: [usize; 2],
    ) -> anyhow::Result<()> {
        let pixels: usize = shape.iter().product();
        let value = arithmetic.bytes();
        let maps = self.inputs(pixels * inputs.max(outputs) * value)?;
        let weights = layers::pack(arithmetic, side, channels, &vec![0.01; side * side * inputs * outputs]);
        let weights = crate::layers::put_weights(&mut self.bench, &weights)?;
        let vectors = self.bench.zeros(3 * outputs * 4)?;
        let (raw, second) =
            (self.bench.zeros(pixels * outputs * value)?, self.bench.zeros(pixels * outputs * value)?);
        let finish = |residual| Finish {
            affine: Span::all(&vectors),
            residual: Some(Span::all(residual)),
            relu: false,
            raw: Some(Span::all(&raw)),
            second: Some(Span::all(&second)),
            second_relu: true,
        };
        let weight_bytes = side * side * inputs * outputs * value;
        let amounts = (
            pixels * (inputs + 3 * outputs) * value + weight_bytes,
            2 * pixels * side * side * inputs * outputs,
        );
        self.layer(
            format!("convolution {side} × {side}"),
            arithmetic,
            shape,
            channels,
            amounts,
            |stream, call| {
                let (input, residual) = (&maps[call % maps.len()], &maps[(call + 1) % maps.len()]);
                let conv =
                    Conv { side, channels, shape, input: Span::all(input), weights: Span::all(&weights) };
                Ok(layers::convolve(stream, arithmetic, &conv, &finish(residual))?)
            },
        )
    }

    fn ends_and_maps(&mut self, arithmetic: Arithmetic, shape: Shape, channels: usize) -> anyhow::Result<()> {
        let [slices, rows, columns] = shape;
        let (pixels, value) = (slices * rows * columns, arithmetic.bytes());
        let maps = self.inputs(pixels * channels * value)?;
        let planes = self.inputs(pixels * 4)?;
        let (vectors, weights) = (self.bench.zeros(3 * channels * 4)?, self.bench.zeros(9 * channels * 4)?);
        let out = self.bench.zeros(pixels * channels * value)?;
        let finish = Finish {
            affine: Span::all(&vectors),
            residual: None,
            relu: true,
            raw: Some(Span::all(&out)),
            second: None,
            second_relu: false,
        };
        let map = pixels * channels * value;
        let amounts = (pixels * 4 + map, 2 * 9 * pixels * channels);
        self.layer(
            "first convolution".to_owned(),
            arithmetic,
            shape,
            [1, channels],
            amounts,
            |stream, call| {
                let input = Span::all(&planes[call % planes.len()]);
                Ok(layers::first(stream, arithmetic, shape, channels, [input, Span::all(&weights)], &finish)?)
            },
        )?;
        let amounts = (map + pixels * 4, 2 * pixels * channels);
        self.layer(
            "last convolution".to_owned(),
            arithmetic,
            shape,
            [channels, 1],
            amounts,
            |stream, call| {
                let input = Span::all(&maps[call % maps.len()]);
                let spans = [input, Span::all(&weights), Span::all(&planes[0])];
                Ok(layers::to_plane(stream, arithmetic, shape, channels, spans)?)
            },
        )?;
        let to = [rows.div_ceil(2), columns.div_ceil(2)];
        let window = Window { size: [2, 2], stride: [2, 2], before: [0, 0] };
        self.layer(
            "max-pooling".to_owned(),
            arithmetic,
            shape,
            [channels; 2],
            (map + map / 4, 0),
            |stream, call| {
                let input = Span::all(&maps[call % maps.len()]);
                Ok(layers::max_pool(stream, arithmetic, (input, shape, to), channels, &window, &finish)?)
            },
        )?;
        let from = [slices, to[0], to[1]];
        self.layer(
            "resizing".to_owned(),
            arithmetic,
            shape,
            [channels; 2],
            (map + map / 4, 0),
            |stream, call| {
                let input = Span::all(&maps[call % maps.len()]);
                Ok(layers::resize(stream, arithmetic, (input, from, [rows, columns]), channels, &finish)?)
            },
        )
    }
}
