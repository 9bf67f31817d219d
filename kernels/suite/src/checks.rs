//! The part `kernels`: each kernel on the device against the processor's reference, over odd sizes too.
//!
//! Owns: what is compared and how near it must be. Max-pooling is exact; resampling and sigmoid are within 1e-6; a mask may differ only where a
//! probability is that near its threshold.

use kernels::device::Device;
use kernels::gpu::ingest::Ingest;
use kernels::gpu::layers::half_bits;
use kernels::gpu::masks::{self, Crops, LungRecord, Pasted};
use kernels::gpu::pyramid::{FeatureFormat, Pyramid};
use kernels::{Paste, PyramidPool, Stored, Zoom, window};

use crate::device::Bench;
use crate::layers;
use crate::part::Part;
use crate::volume::noise;

/// Largest difference of a windowed value or a probability.
const NEAR: f32 = 1e-6;

/// Runs all.
pub fn run(part: &mut Part, gpu: &Device, quick: bool) -> anyhow::Result<()> {
    let mut bench = Bench::new(gpu)?;
    pyramid(part, &mut bench, quick)?;
    ingest(part, &mut bench, quick)?;
    sigmoid_and_lungs(part, &mut bench, quick)?;
    paste(part, &mut bench, quick)?;
    layers::check(part, &mut bench, quick)
}

/// From −1 to 1.
pub fn value(seed: usize) -> f32 {
    (noise(seed) >> 40) as f32 / 8_388_608.0 - 1.0
}

/// Half precision → single.
pub fn widen(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    match exponent {
        0 => sign * fraction * 2f32.powi(-24),
        31 => sign * if fraction == 0.0 { f32::INFINITY } else { f32::NAN },
        _ => sign * (1024.0 + fraction) * 2f32.powi(exponent - 25),
    }
}

fn pyramid(part: &mut Part, bench: &mut Bench, quick: bool) -> anyhow::Result<()> {
    let sizes: &[[usize; 3]] = if quick {
        &[[1, 1, 1], [9, 19, 23], [12, 8, 33]]
    } else {
        &[[1, 1, 1], [7, 8, 15], [9, 19, 23], [12, 8, 33], [40, 110, 150], [31, 64, 257], [300, 55, 75]]
    };
    let mut pyramid = Pyramid::new(bench.stream.device())?;
    for (half, channels_last) in [(true, true), (true, false), (false, true), (false, false)] {
        let format = FeatureFormat { channels: 8, half, channels_last, channel_stride: 8 };
        let mut wrong = 0;
        for &[slices, rows, columns] in sizes {
            let mut pool = PyramidPool::new(8, rows, columns, slices);
            pyramid.begin(&mut bench.stream, format, [rows, columns], slices)?;
            let batch = slices.div_ceil(3);
            for first in (0..slices).step_by(batch) {
                let count = batch.min(slices - first);
                let features = features(format, [first, count], [rows, columns], &mut pool)?;
                let buffer = if half {
                    bench.put(&features.iter().map(|v| half_bits(*v)).collect::<Vec<_>>())?
                } else {
                    bench.put(&features)?
                };
                pyramid.push(&mut bench.stream, first, count, &buffer)?;
                bench.stream.synchronize()?;
            }
            wrong += usize::from(pyramid.finish(&mut bench.stream)? != pool.finish()?);
        }
        let name =
            format!("pyramid, {}, channels {}", kind(half), if channels_last { "last" } else { "first" });
        part.check(name, wrong == 0, format!("{wrong} of {} volumes differ", sizes.len()))?;
    }
    Ok(())
}

/// Features of some slices in the device's order, given to the processor's pool too.
fn features(
    format: FeatureFormat,
    [first, count]: [usize; 2],
    [rows, columns]: [usize; 2],
    pool: &mut PyramidPool,
) -> anyhow::Result<Vec<f32>> {
    let plane = rows * columns;
    let mut all = vec![0.0; count * plane * 8];
    for slice in 0..count {
        let mut planes = vec![0.0; 8 * plane];
        for (index, feature) in planes.iter_mut().enumerate() {
            let exact = 100.0 * value((first + slice) * 8 * plane + index);
            *feature = if format.half { widen(half_bits(exact)) } else { exact };
            let (channel, pixel) = (index / plane, index % plane);
            let at = if format.channels_last { pixel * 8 + channel } else { index };
            all[slice * 8 * plane + at] = *feature;
        }
        pool.push(first + slice, &planes)?;
    }
    Ok(all)
}

pub fn kind(half: bool) -> &'static str {
    if half { "fp16" } else { "fp32" }
}

fn ingest(part: &mut Part, bench: &mut Bench, quick: bool) -> anyhow::Result<()> {
    let sizes: &[([usize; 2], [usize; 2])] = if quick {
        &[([1, 1], [1, 1]), ([40, 37], [19, 33]), ([17, 64], [30, 8])]
    } else {
        &[
            ([1, 1], [1, 1]),
            ([512, 512], [180, 180]),
            ([512, 512], [211, 207]),
            ([1024, 768], [256, 192]),
            ([90, 112], [130, 134]),
        ]
    };
    let cases = [
        Stored { bits: 12, shift: 0, signed: false, padding: None, slope: 1.0, intercept: -1024.0 },
        Stored { bits: 16, shift: 0, signed: true, padding: Some(-2000), slope: 1.0, intercept: 0.0 },
        Stored { bits: 12, shift: 4, signed: true, padding: None, slope: 0.37, intercept: -11.5 },
    ];
    let window_hu = [-1000.0, 300.0];
    let (mut worst_stored, mut worst_hu) = (0.0f32, 0.0f32);
    for &(from, to) in sizes {
        let (slices, pixels, planes) = (2, from[0] * from[1], to[0] * to[1]);
        let ingest = Ingest { slices, from, to, window_hu };
        for stored in cases {
            let cells: Vec<u16> = (0..slices * pixels).map(|at| noise(at) as u16).collect();
            let source = bench.put(&cells)?;
            let out = bench.zeros(slices * planes * 4)?;
            ingest.stored(&mut bench.stream, &source, &stored, &out)?;
            let got = bench.get::<f32>(&out, slices * planes)?;
            let hu = stored.plane(&cells);
            let expected = resampled(&hu, from, to, window_hu);
            worst_stored = worst_stored.max(difference(&got, &expected));
            let source = bench.put(&hu)?;
            ingest.hu(&mut bench.stream, &source, &out)?;
            worst_hu = worst_hu.max(difference(&bench.get::<f32>(&out, slices * planes)?, &expected));
        }
    }
    part.check(
        "ingest of stored pixels",
        worst_stored <= NEAR,
        format!("largest difference {worst_stored:.1e}"),
    )?;
    part.check("ingest of Hounsfield units", worst_hu <= NEAR, format!("largest difference {worst_hu:.1e}"))
}

fn resampled(hu: &[f32], from: [usize; 2], to: [usize; 2], window_hu: [f32; 2]) -> Vec<f32> {
    let zoom = Zoom::new(from, to);
    let mut planes: Vec<f32> =
        hu.chunks_exact(from[0] * from[1]).flat_map(|plane| zoom.plane(plane, from[1])).collect();
    window(&mut planes, window_hu);
    planes
}

/// The largest difference; infinite where a value is no number.
pub fn difference(got: &[f32], expected: &[f32]) -> f32 {
    let all = got.iter().zip(expected).map(|(a, b)| (a - b).abs());
    all.fold(0.0, |worst: f32, d| if d.is_nan() { f32::INFINITY } else { worst.max(d) })
}

fn sigmoid(logit: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32
}

fn sigmoid_and_lungs(part: &mut Part, bench: &mut Bench, quick: bool) -> anyhow::Result<()> {
    let shape @ [slices, rows, columns] = if quick { [3, 19, 37] } else { [16, 181, 203] };
    let plane = rows * columns;
    // One slice without lungs, one with a single voxel.
    let logits: Vec<f32> = (0..slices * plane)
        .map(|at| match at / plane {
            0 => -3.0,
            1 => {
                if at % plane == plane / 2 {
                    2.0
                } else {
                    -3.0
                }
            }
            _ => 8.0 * value(at),
        })
        .collect();
    let expected: Vec<f32> = logits.iter().map(|logit| sigmoid(*logit)).collect();

    let (values, flags) = (bench.put(&logits)?, bench.zeros(4)?);
    masks::sigmoid(&mut bench.stream, &values, logits.len(), &flags)?;
    let worst = difference(&bench.get::<f32>(&values, logits.len())?, &expected);
    let clean = bench.get::<u32>(&flags, 1)?[0] == 0;
    let mut broken = logits.clone();
    broken[plane + 1] = f32::NAN;
    let values = bench.put(&broken)?;
    masks::sigmoid(&mut bench.stream, &values, broken.len(), &flags)?;
    let told = bench.get::<u32>(&flags, 1)?[0] == 1;
    part.check("masks: sigmoid", worst <= NEAR && clean, format!("largest difference {worst:.1e}"))?;
    part.check("masks: a NaN is told", told, "one of the logits was NaN")?;

    let (values, records) = (bench.put(&logits)?, bench.zeros(slices * masks::RECORD * 4)?);
    masks::lungs(&mut bench.stream, &values, shape, 0.5, &records)?;
    let worst = difference(&bench.get::<f32>(&values, logits.len())?, &expected);
    let words = bench.get::<u32>(&records, slices * masks::RECORD)?;
    let mut wrong = 0;
    for (slice, words) in words.chunks_exact(masks::RECORD).enumerate() {
        let words = std::array::from_fn(|at| words[at]);
        wrong += usize::from(
            LungRecord::new(words, [rows, columns]) != record(&expected[slice * plane..][..plane], columns),
        );
    }
    part.check(
        "masks: lungs",
        worst <= NEAR && wrong == 0,
        format!("{wrong} of {slices} boxes differ, probabilities by {worst:.1e}"),
    )
}

fn record(probability: &[f32], columns: usize) -> LungRecord {
    let inside: Vec<[usize; 2]> = (0..probability.len())
        .filter(|&at| probability[at] >= 0.5)
        .map(|at| [at / columns, at % columns])
        .collect();
    let range = |axis: usize| {
        let all = || inside.iter().map(|position| position[axis]);
        all().min().unwrap_or(0)..all().max().map_or(0, |last| last + 1)
    };
    LungRecord { rows: range(0), columns: range(1), voxels: inside.len(), finite: true }
}

fn paste(part: &mut Part, bench: &mut Bench, quick: bool) -> anyhow::Result<()> {
    // Rows and columns of the box, the grid, the source.
    let cases: &[[[usize; 2]; 4]] = &[
        [[3, 17], [2, 30], [20, 33], [64, 70]],
        [[0, 20], [0, 33], [20, 33], [11, 90]],
        [[30, 140], [15, 165], [180, 180], [512, 512]],
        [[10, 11], [5, 6], [130, 134], [90, 112]],
    ];
    let (mut wrong, mut voxels) = (0, 0);
    for &[rows, columns, grid, source] in &cases[..if quick { 2 } else { cases.len() }] {
        let [rows, columns] = [rows, columns].map(|[start, stop]| start..stop);
        let paste = Paste::new(&rows, &columns, grid, source);
        let (size, slices) = ([rows.len(), columns.len()], 3);
        let crop = size[0] * size[1];
        let values: Vec<f32> = (0..slices * crop).map(|at| 0.5 + 0.5 * value(at)).collect();
        let pasted = Pasted::new(&paste);
        let buffer = bench.put(&values)?;
        let bits = bench.zeros((slices * pasted.words()).max(1) * 4)?;
        let crops = Crops { values: &buffer, slices, size };
        pasted.launch(&mut bench.stream, crops, 0.2, &bits, 0)?;
        let words = bench.get::<u32>(&bits, slices * pasted.words())?;
        for slice in 0..slices {
            let expected = paste.plane(&values[slice * crop..][..crop], size[1]);
            let mut plane = vec![0u8; source[0] * source[1]];
            pasted.unpack(&words[slice * pasted.words()..][..pasted.words()], 1, &mut plane);
            voxels += plane.len();
            wrong += plane
                .iter()
                .zip(&expected)
                .filter(|(got, expected)| {
                    (**got == 1) != (**expected >= 0.2) && (**expected - 0.2).abs() > NEAR
                })
                .count();
        }
    }
    part.check("masks: paste", wrong == 0, format!("{wrong} of {voxels} voxels differ"))
}
