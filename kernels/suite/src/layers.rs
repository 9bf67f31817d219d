//! The networks' layers: against plain loops in f64, and as a table of shapes to time.
//!
//! Owns: the layers' cases. An error is judged against the sum of the products' sizes, in units of the precision of the maps.

use kernels::device::Buffer;
use kernels::gpu::layers::{
    self, Arithmetic, Conv, Finish, Shape, Span, Weights, Window, affine, half_bits, last, pack,
};

use crate::checks::{value, widen};
use crate::device::Bench;
use crate::part::Part;

/// Relative error of a result: half a unit of fp16 for the rounding of the result, as much again for sums in another order; of fp32, sums of at most
/// 9 × 512 products.
fn tolerance(arithmetic: Arithmetic) -> f64 {
    if arithmetic == Arithmetic::Single { 1e-5 } else { 1.0 / 1024.0 }
}

/// What a device can do.
pub fn arithmetics(bench: &Bench) -> Vec<Arithmetic> {
    let mut all = vec![Arithmetic::Half, Arithmetic::Single];
    if Arithmetic::half(bench.stream.device()) == Arithmetic::Tensor {
        all.insert(0, Arithmetic::Tensor);
    }
    all
}

/// Values of a map as the device keeps them: exact in its precision.
pub fn exact(arithmetic: Arithmetic, values: impl Iterator<Item = f32>) -> Vec<f32> {
    values.map(|v| if arithmetic == Arithmetic::Single { v } else { widen(half_bits(v)) }).collect()
}

/// Puts a map on the device.
pub fn put(bench: &mut Bench, arithmetic: Arithmetic, values: &[f32]) -> anyhow::Result<Buffer> {
    if arithmetic == Arithmetic::Single {
        return bench.put(values);
    }
    bench.put(&values.iter().map(|v| half_bits(*v)).collect::<Vec<_>>())
}

fn get(bench: &mut Bench, arithmetic: Arithmetic, buffer: &Buffer, count: usize) -> anyhow::Result<Vec<f32>> {
    if arithmetic == Arithmetic::Single {
        return bench.get(buffer, count);
    }
    Ok(bench.get::<u16>(buffer, count)?.into_iter().map(widen).collect())
}

/// Packed weights on the device.
pub fn put_weights(bench: &mut Bench, weights: &Weights) -> anyhow::Result<Buffer> {
    match weights {
        Weights::Half(bits) => bench.put(bits),
        Weights::Single(values) => bench.put(values),
    }
}

/// Compares all layers.
pub fn check(part: &mut Part, bench: &mut Bench, quick: bool) -> anyhow::Result<()> {
    for arithmetic in arithmetics(bench) {
        convolutions(part, bench, arithmetic, quick)?;
        ends(part, bench, arithmetic)?;
        maps(part, bench, arithmetic)?;
    }
    Ok(())
}

/// The widths of the networks, every kernel of each arithmetic among them.
fn convolutions(
    part: &mut Part,
    bench: &mut Bench,
    arithmetic: Arithmetic,
    quick: bool,
) -> anyhow::Result<()> {
    let channels: &[[usize; 2]] = if quick {
        &[[8, 8], [16, 32]]
    } else {
        &[[8, 8], [8, 16], [16, 16], [16, 32], [32, 64], [64, 128], [128, 64], [256, 512]]
    };
    for side in [1, 3] {
        let (mut worst, mut cases) = (0.0f64, 0);
        for &[inputs, outputs] in channels {
            let shapes: &[Shape] = if quick || inputs > 64 {
                &[[2, 5, 7]]
            } else {
                &[[1, 1, 1], [2, 5, 7], [3, 17, 95], [4, 60, 61]]
            };
            // Every kernel, though on a large device only large layers choose the first ones.
            for kernel in 0..layers::kernels(arithmetic, [inputs, outputs]) {
                for &shape in shapes {
                    worst =
                        worst.max(convolution(bench, arithmetic, side, [inputs, outputs], shape, kernel)?);
                    cases += 1;
                }
            }
        }
        let name = format!("convolution {side} x {side}, {arithmetic:?}");
        part.check(
            name,
            worst <= tolerance(arithmetic),
            format!("{cases} cases, largest relative error {worst:.1e}"),
        )?;
    }
    Ok(())
}

/// A convolution with residual, both outputs and their clips; returns the largest error, relative.
fn convolution(
    bench: &mut Bench,
    arithmetic: Arithmetic,
    side: usize,
    [inputs, outputs]: [usize; 2],
    shape: Shape,
    kernel: usize,
) -> anyhow::Result<f64> {
    let [slices, rows, columns] = shape;
    let pixels = slices * rows * columns;
    let input = exact(arithmetic, (0..pixels * inputs).map(value));
    let residual = exact(arithmetic, (0..pixels * outputs).map(|at| value(at + 7)));
    let taps = side * side;
    let weights = exact(Arithmetic::Half, (0..taps * inputs * outputs).map(|at| 0.3 * value(at + 99)));
    let vector = |seed: usize| -> Vec<f32> { (0..outputs).map(|at| value(at + seed)).collect() };
    let (bias, scale, shift) = (vector(1000), vector(2000), vector(3000));

    let packed = pack(arithmetic, side, [inputs, outputs], &weights);
    let on_device = (put(bench, arithmetic, &input)?, put(bench, arithmetic, &residual)?);
    let (weights_on_device, affine) =
        (put_weights(bench, &packed)?, bench.put(&affine(&bias, Some((&scale, &shift))))?);
    let bytes = pixels * outputs * arithmetic.bytes();
    let (raw, second) = (bench.zeros(bytes)?, bench.zeros(bytes)?);
    let conv = Conv {
        side,
        channels: [inputs, outputs],
        shape,
        input: Span::all(&on_device.0),
        weights: Span::all(&weights_on_device),
    };
    let finish = Finish {
        affine: Span::all(&affine),
        residual: Some(Span::all(&on_device.1)),
        relu: false,
        raw: Some(Span::all(&raw)),
        second: Some(Span::all(&second)),
        second_relu: true,
    };
    layers::convolve_with(&mut bench.stream, arithmetic, &conv, &finish, Some(kernel))?;
    let raw = get(bench, arithmetic, &raw, pixels * outputs)?;
    let second = get(bench, arithmetic, &second, pixels * outputs)?;

    let mut worst = 0.0f64;
    let half = side as isize / 2;
    for pixel in 0..pixels {
        let (slice, row, column) = (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
        for output in 0..outputs {
            let (mut sum, mut size) = (0.0f64, 1.0f64);
            for tap in 0..taps {
                let r = row as isize + (tap / side) as isize - half;
                let c = column as isize + (tap % side) as isize - half;
                if r < 0 || c < 0 || r >= rows as isize || c >= columns as isize {
                    continue;
                }
                let from = ((slice * rows + r as usize) * columns + c as usize) * inputs;
                for channel in 0..inputs {
                    let product = f64::from(input[from + channel])
                        * f64::from(weights[(output * inputs + channel) * taps + tap]);
                    sum += product;
                    size += product.abs();
                }
            }
            let at = pixel * outputs + output;
            let expected = sum + f64::from(bias[output]) + f64::from(residual[at]);
            let next = (expected * f64::from(scale[output]) + f64::from(shift[output])).max(0.0);
            for (got, expected) in [(raw[at], expected), (second[at], next)] {
                let error = (f64::from(got) - expected).abs() / size;
                worst = if error.is_finite() { worst.max(error) } else { f64::INFINITY };
            }
        }
    }
    Ok(worst)
}

/// The first and the last convolution.
fn ends(part: &mut Part, bench: &mut Bench, arithmetic: Arithmetic) -> anyhow::Result<()> {
    let shape @ [slices, rows, columns] = [2, 9, 21];
    let (pixels, channels) = (slices * rows * columns, 8);
    let plane: Vec<f32> = (0..pixels).map(value).collect();
    let weights: Vec<f32> = (0..9 * channels).map(|at| value(at + 5)).collect();
    let bias: Vec<f32> = (0..channels).map(|at| value(at + 50)).collect();
    let (input, taps, vectors) = (bench.put(&plane)?, bench.put(&weights)?, bench.put(&affine(&bias, None))?);
    let out = bench.zeros(pixels * channels * arithmetic.bytes())?;
    let finish = Finish {
        affine: Span::all(&vectors),
        residual: None,
        relu: true,
        raw: Some(Span::all(&out)),
        second: None,
        second_relu: false,
    };
    layers::first(
        &mut bench.stream,
        arithmetic,
        shape,
        channels,
        [Span::all(&input), Span::all(&taps)],
        &finish,
    )?;
    let got = get(bench, arithmetic, &out, pixels * channels)?;
    let at = |slice: usize, row: usize, column: usize, tap: usize| -> f64 {
        let (r, c) = ((row + tap / 3).wrapping_sub(1), (column + tap % 3).wrapping_sub(1));
        if r < rows && c < columns { f64::from(plane[(slice * rows + r) * columns + c]) } else { 0.0 }
    };
    let mut worst = 0.0f64;
    for (index, got) in got.iter().enumerate() {
        let (pixel, channel) = (index / channels, index % channels);
        let (slice, row, column) = (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
        let sum: f64 = (0..9)
            .map(|tap| at(slice, row, column, tap) * f64::from(weights[tap * channels + channel]))
            .sum();
        worst = worst.max((f64::from(*got) - (sum + f64::from(bias[channel])).max(0.0)).abs() / 4.0);
    }
    part.check(
        format!("first convolution, {arithmetic:?}"),
        worst <= tolerance(arithmetic),
        format!("largest relative error {worst:.1e}"),
    )?;

    let map = exact(arithmetic, (0..pixels * channels).map(value));
    let (input, packed) = (put(bench, arithmetic, &map)?, bench.put(&last(&weights[..channels], 0.25))?);
    let out = bench.zeros(pixels * 4)?;
    let spans = [Span::all(&input), Span::all(&packed), Span::all(&out)];
    layers::to_plane(&mut bench.stream, arithmetic, shape, channels, spans)?;
    let got = bench.get::<f32>(&out, pixels)?;
    let expected = map.chunks_exact(channels).map(|pixel| {
        pixel.iter().zip(&weights).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() + 0.25
    });
    let worst =
        got.iter().zip(expected).fold(0.0f64, |worst, (got, e)| worst.max((f64::from(*got) - e).abs()));
    part.check(
        format!("last convolution, {arithmetic:?}"),
        worst <= 1e-5,
        format!("largest error {worst:.1e}"),
    )
}

/// Max-pooling in ceil mode and resizing to odd sizes.
fn maps(part: &mut Part, bench: &mut Bench, arithmetic: Arithmetic) -> anyhow::Result<()> {
    let (slices, channels) = (2, 16);
    let (mut pool_worst, mut resize_worst) = (0.0f64, 0.0f64);
    let vectors = bench.put(&affine(&vec![0.0; channels], None))?;
    for [rows, columns] in [[1, 1], [7, 9], [24, 31]] {
        let pixels = slices * rows * columns;
        let map = exact(arithmetic, (0..pixels * channels).map(value));
        let input = put(bench, arithmetic, &map)?;
        let at = |slice: usize, row: usize, column: usize, channel: usize| {
            f64::from(map[((slice * rows + row) * columns + column) * channels + channel])
        };
        let from = (Span::all(&input), [slices, rows, columns]);

        let to = [rows.div_ceil(2), columns.div_ceil(2)];
        let window = Window { size: [2, 2], stride: [2, 2], before: [0, 0] };
        let got = mapped(bench, arithmetic, &vectors, slices * to[0] * to[1], channels, |bench, finish| {
            Ok(layers::max_pool(
                &mut bench.stream,
                arithmetic,
                (from.0, from.1, to),
                channels,
                &window,
                finish,
            )?)
        })?;
        each(
            slices,
            to,
            channels,
            &got,
            |slice, row, column, channel| {
                let rows = 2 * row..(2 * row + 2).min(rows);
                let columns = 2 * column..(2 * column + 2).min(columns);
                let all = rows.flat_map(|r| columns.clone().map(move |c| (r, c)));
                all.map(|(r, c)| at(slice, r, c, channel)).fold(f64::NEG_INFINITY, f64::max)
            },
            &mut pool_worst,
        );

        let to = [2 * rows + 1, (2 * columns).saturating_sub(1).max(1)];
        let got = mapped(bench, arithmetic, &vectors, slices * to[0] * to[1], channels, |bench, finish| {
            Ok(layers::resize(&mut bench.stream, arithmetic, (from.0, from.1, to), channels, finish)?)
        })?;
        each(
            slices,
            to,
            channels,
            &got,
            |slice, row, column, channel| {
                let taps = |at: usize, from: usize, to: usize| {
                    let at =
                        ((at as f64 + 0.5) * from as f64 / to as f64 - 0.5).clamp(0.0, (from - 1) as f64);
                    (at as usize, (at as usize + 1).min(from - 1), at.fract())
                };
                let ((a, b, down), (c, d, right)) = (taps(row, rows, to[0]), taps(column, columns, to[1]));
                let line = |r| at(slice, r, c, channel) * (1.0 - right) + at(slice, r, d, channel) * right;
                line(a) * (1.0 - down) + line(b) * down
            },
            &mut resize_worst,
        );
    }
    part.check(
        format!("max-pooling of maps, {arithmetic:?}"),
        pool_worst == 0.0,
        format!("largest error {pool_worst:.1e}"),
    )?;
    part.check(
        format!("resizing of maps, {arithmetic:?}"),
        resize_worst <= tolerance(arithmetic),
        format!("largest error {resize_worst:.1e}"),
    )
}

/// Runs a layer into a new map.
fn mapped(
    bench: &mut Bench,
    arithmetic: Arithmetic,
    vectors: &Buffer,
    pixels: usize,
    channels: usize,
    layer: impl FnOnce(&mut Bench, &Finish<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<f32>> {
    let out = bench.zeros(pixels * channels * arithmetic.bytes())?;
    let finish = Finish {
        affine: Span::all(vectors),
        residual: None,
        relu: false,
        raw: Some(Span::all(&out)),
        second: None,
        second_relu: false,
    };
    layer(bench, &finish)?;
    get(bench, arithmetic, &out, pixels * channels)
}

/// Compares each value of a map with what it should be.
fn each(
    slices: usize,
    [rows, columns]: [usize; 2],
    channels: usize,
    got: &[f32],
    expected: impl Fn(usize, usize, usize, usize) -> f64,
    worst: &mut f64,
) {
    let mut values = got.iter();
    for slice in 0..slices {
        for row in 0..rows {
            for column in 0..columns {
                for channel in 0..channels {
                    let got = values.next().map_or(f64::NAN, |v| f64::from(*v));
                    let error = (got - expected(slice, row, column, channel)).abs();
                    *worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
                }
            }
        }
    }
}
