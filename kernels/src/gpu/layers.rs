//! Launchers of the networks' layers (`cu/convolve_*.cu`, `cu/maps.cu`).
//!
//! Owns: which kernel, grid and strips a layer gets, the checks of its sizes against its buffers, and how weights are packed for it.
//! Never does: know a network, allocate.
//!
//! Maps are `[slice][row][column][channel]`, channels padded with zeros to a multiple of 8; planes are `[slice][row][column]` f32. A layer
//! computes, on each value in f32: `raw = relu?(value + bias + residual?)`, `second = relu?(raw · scale + shift)`.

mod pack;
mod strips;

use super::usage;
use crate::device::{Arg, Buffer, Device, DeviceError, Stream};
pub use pack::{Weights, affine, half_bits, last, pack, padded};
use strips::Strips;

/// Threads of a block of a layer without convolution: `MAP_THREADS` in `traits.cuh`.
const MAP_THREADS: usize = 128;
/// Threads of a block of a convolution: 32 · `CONVOLVE_WARPS` in `traits.cuh`.
const CONVOLVE_THREADS: u32 = 128;
/// Blocks for each multiprocessor that a convolution should have; it is cut into smaller blocks to get there.
const BLOCKS_EACH_MIN: usize = 2;
/// Pixels of all slices of a map: their indices, doubled, are 32-bit numbers.
const PIXELS_MAX: usize = 1 << 30;

/// How layers compute, and how their maps are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// fp16 maps, products on tensor cores, sums in fp32.
    Tensor,
    /// fp16 maps, products and sums in fp32.
    Half,
    /// All fp32.
    Single,
}

impl Arithmetic {
    /// The fastest for fp16 maps that a device has: wmma is there from compute capability 7.0 on.
    pub fn half(device: &Device) -> Self {
        if device.compute_capability() >= (7, 0) { Self::Tensor } else { Self::Half }
    }

    /// Bytes of a value of a map.
    pub fn bytes(self) -> usize {
        if self == Self::Single { 4 } else { 2 }
    }

    fn suffix(self) -> &'static str {
        if self == Self::Single { "f32" } else { "f16" }
    }
}

/// A place in device memory.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// The buffer.
    pub buffer: &'a Buffer,
    /// First byte: a multiple of 4 for a plane, of 16 for a map, of 32 for weights.
    pub offset: usize,
}

impl<'a> Span<'a> {
    /// All of a buffer.
    pub fn all(buffer: &'a Buffer) -> Self {
        Self { buffer, offset: 0 }
    }

    fn map(&self, what: &'static str, needed: usize) -> Result<Arg, DeviceError> {
        self.ptr(what, needed, 16)
    }

    fn plane(&self, what: &'static str, pixels: usize) -> Result<Arg, DeviceError> {
        self.ptr(what, pixels * 4, 4)
    }

    fn weights(&self, what: &'static str, needed: usize) -> Result<Arg, DeviceError> {
        self.ptr(what, needed, 32)
    }

    fn ptr(&self, what: &'static str, needed: usize, step: usize) -> Result<Arg, DeviceError> {
        let (offset, bytes) = (self.offset, self.buffer.bytes());
        if offset.is_multiple_of(step) && offset.checked_add(needed).is_some_and(|end| end <= bytes) {
            Ok(Arg::Ptr(self.buffer.ptr() + offset as u64))
        } else {
            Err(usage(format!(
                "{what} at byte {offset} (a multiple of {step} is needed), {needed} bytes, of a buffer of {bytes}"
            )))
        }
    }
}

/// Slices, rows, columns.
pub type Shape = [usize; 3];

/// What is done to a layer's values, and where they go.
#[derive(Debug, Clone, Copy)]
pub struct Finish<'a> {
    /// Made by [`affine`].
    pub affine: Span<'a>,
    /// Added to the values.
    pub residual: Option<Span<'a>>,
    /// Clip at 0.
    pub relu: bool,
    /// First output.
    pub raw: Option<Span<'a>>,
    /// Second output.
    pub second: Option<Span<'a>>,
    /// Clip the second output at 0.
    pub second_relu: bool,
}

impl Finish<'_> {
    /// affine, residual, raw, second; of maps of so many pixels and channels.
    fn args(
        &self,
        arithmetic: Arithmetic,
        pixels: usize,
        channels: usize,
    ) -> Result<([Arg; 4], Arg), DeviceError> {
        let bytes = pixels * channels * arithmetic.bytes();
        let map = |span: Option<Span<'_>>, what| span.map_or(Ok(Arg::Ptr(0)), |span| span.map(what, bytes));
        let args = [
            self.affine.weights("bias, scale and shift", 3 * channels * 4)?,
            map(self.residual, "the residual")?,
            map(self.raw, "the first output")?,
            map(self.second, "the second output")?,
        ];
        Ok((args, Arg::I32(i32::from(self.relu) | i32::from(self.second_relu) << 1)))
    }
}

/// A convolution of side 1 or 3, stride 1, padded so that the size stays.
#[derive(Debug, Clone, Copy)]
pub struct Conv<'a> {
    /// Side of the kernel.
    pub side: usize,
    /// Input and output channels, padded to multiples of 8.
    pub channels: [usize; 2],
    /// Of the maps.
    pub shape: Shape,
    /// The map.
    pub input: Span<'a>,
    /// Made by [`pack`].
    pub weights: Span<'a>,
}

/// A kernel of a convolution: what a block of it computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    positions: usize,
    channels: usize,
    /// Two pixels of at most 8 channels make a row of a matrix.
    paired: bool,
}

impl Block {
    const fn new(positions: usize, channels: usize) -> Self {
        Self { positions, channels, paired: false }
    }

    /// The kernels that a layer may use, fastest first: more positions and channels read their operands less often.
    fn candidates(arithmetic: Arithmetic, [inputs, outputs]: [usize; 2]) -> &'static [Self] {
        const PAIRED: Block = Block { positions: 256, channels: 16, paired: true };
        let whole = outputs.next_multiple_of(16);
        match arithmetic {
            Arithmetic::Tensor if inputs <= 8 => &[PAIRED],
            Arithmetic::Tensor if whole.is_multiple_of(64) => {
                const { &[Self::new(128, 64), Self::new(128, 32), Self::new(64, 32)] }
            }
            Arithmetic::Tensor if whole.is_multiple_of(32) => {
                const { &[Self::new(128, 32), Self::new(64, 32)] }
            }
            Arithmetic::Tensor => const { &[Self::new(256, 16)] },
            _ => std::slice::from_ref(plain_block(outputs)),
        }
    }
}

/// The kernel without tensor cores, which the packing of its weights depends on.
fn plain_block(outputs: usize) -> &'static Block {
    match outputs {
        n if n.is_multiple_of(32) => &const { Block::new(128, 32) },
        n if n.is_multiple_of(16) => &const { Block::new(256, 16) },
        _ => &const { Block::new(512, 8) },
    }
}

/// Launches a convolution, with the fastest kernel that fills the device.
///
/// # Errors
/// [`DeviceError`].
pub fn convolve(
    stream: &mut Stream,
    arithmetic: Arithmetic,
    conv: &Conv<'_>,
    finish: &Finish<'_>,
) -> Result<(), DeviceError> {
    convolve_with(stream, arithmetic, conv, finish, None)
}

/// Kernels that [`convolve`] chooses from, for input and output channels.
pub fn kernels(arithmetic: Arithmetic, channels: [usize; 2]) -> usize {
    Block::candidates(arithmetic, channels).len()
}

/// Launches a convolution with a kernel by its number, so that each is checked whatever the size of the device: `None` chooses.
///
/// # Errors
/// [`DeviceError`].
pub fn convolve_with(
    stream: &mut Stream,
    arithmetic: Arithmetic,
    conv: &Conv<'_>,
    finish: &Finish<'_>,
    kernel: Option<usize>,
) -> Result<(), DeviceError> {
    let [inputs, outputs] = channels(conv.channels)?;
    let pixels = pixels(conv.shape)?;
    if !matches!(conv.side, 1 | 3) {
        return Err(usage(format!("side of a convolution: {}", conv.side)));
    }
    let candidates = Block::candidates(arithmetic, conv.channels);
    let plan = |block: &Block| {
        let strips = Strips::new(conv.side, conv.shape, block.paired)?;
        let grid = strips.grid(block.positions, outputs.div_ceil(block.channels))?;
        Ok::<_, DeviceError>((*block, strips, grid))
    };
    let plans = candidates.iter().map(plan).collect::<Result<Vec<_>, _>>()?;
    let enough = BLOCKS_EACH_MIN * stream.device().multiprocessors() as usize;
    let full = |(_, _, grid): &&(Block, Strips, [u32; 3])| {
        grid.iter().map(|&n| n as usize).product::<usize>() >= enough
    };
    let chosen = match kernel {
        Some(kernel) => plans.get(kernel),
        None => plans.iter().find(full).or(plans.last()),
    };
    let (block, strips, grid) =
        chosen.ok_or_else(|| usage(format!("kernel {kernel:?} of {}", plans.len())))?;
    let name = format!(
        "convolve_{}_{side}x{side}_{}{}x{}_{}",
        if arithmetic == Arithmetic::Tensor { "tensor" } else { "plain" },
        if block.paired { "paired_" } else { "" },
        block.positions,
        block.channels,
        arithmetic.suffix(),
        side = conv.side,
    );
    let ([affine, residual, raw, second], flags) = finish.args(arithmetic, pixels, outputs)?;
    let weights = pack::bytes(arithmetic, conv.side, conv.channels);
    let [slices, height, width] = conv.shape.map(int);
    let args = [
        conv.input.map("the input", pixels * inputs * arithmetic.bytes())?,
        conv.weights.weights("the weights", weights)?,
        affine,
        residual,
        raw,
        second,
        int(inputs),
        int(outputs),
        slices,
        height,
        width,
        int(strips.columns),
        int(strips.pitch),
        Arg::U32(strips.pitch_magic),
        Arg::U32(strips.period_magic),
        flags,
    ];
    stream.launch(&name, *grid, [CONVOLVE_THREADS, 1, 1], 0, &args)
}

/// Launches the first convolution of a network, 3 × 3 from a plane. Weights: f32, `[tap][channel]`.
///
/// # Errors
/// [`DeviceError`].
pub fn first(
    stream: &mut Stream,
    arithmetic: Arithmetic,
    shape: Shape,
    outputs: usize,
    [plane, weights]: [Span<'_>; 2],
    finish: &Finish<'_>,
) -> Result<(), DeviceError> {
    let ([channels], pixels) = (channels([outputs])?, pixels(shape)?);
    let ([affine, residual, raw, second], flags) = finish.args(arithmetic, pixels, channels)?;
    let plane = plane.plane("the plane", pixels)?;
    let weights = weights.weights("the weights", 9 * channels * 4)?;
    let [slices, height, width] = shape.map(int);
    let args = [plane, weights, affine, residual, raw, second, int(channels), slices, height, width, flags];
    map(stream, "convolve_ends_first", arithmetic, pixels, &args)
}

/// Launches the last convolution of a network, 1 × 1 to a plane. Weights: made by [`last`].
///
/// # Errors
/// [`DeviceError`].
pub fn to_plane(
    stream: &mut Stream,
    arithmetic: Arithmetic,
    shape: Shape,
    inputs: usize,
    [input, weights, plane]: [Span<'_>; 3],
) -> Result<(), DeviceError> {
    let ([channels], pixels) = (channels([inputs])?, pixels(shape)?);
    let args = [
        input.map("the input", pixels * channels * arithmetic.bytes())?,
        weights.weights("the weights", (channels + 1) * 4)?,
        plane.plane("the plane", pixels)?,
        int(channels),
        int(pixels),
    ];
    map(stream, "convolve_ends_last", arithmetic, pixels, &args)
}

/// A window of a pooling, [rows, columns] each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Size.
    pub size: [usize; 2],
    /// Steps.
    pub stride: [usize; 2],
    /// Padding before.
    pub before: [usize; 2],
}

/// Launches a max-pooling from `shape` to a map of `to` rows and columns; every window must hold a pixel.
///
/// # Errors
/// [`DeviceError`].
pub fn max_pool(
    stream: &mut Stream,
    arithmetic: Arithmetic,
    maps: (Span<'_>, Shape, [usize; 2]),
    count: usize,
    window: &Window,
    finish: &Finish<'_>,
) -> Result<(), DeviceError> {
    let (input, from, [height, width]) = maps;
    let ([channels], source) = (channels([count])?, pixels(from)?);
    for axis in 0..2 {
        let (to, before, size) = ([height, width][axis], window.before[axis], window.size[axis]);
        // The last window starts inside, the first one reaches inside.
        if to == 0 || (to - 1) * window.stride[axis] >= from[axis + 1] + before || size <= before {
            return Err(usage(format!("a window has no pixel; outputs along an axis: {to}")));
        }
    }
    let pixels = pixels([from[0], height, width])?;
    let ([affine, residual, raw, second], flags) = finish.args(arithmetic, pixels, channels)?;
    let input = input.map("the input", source * channels * arithmetic.bytes())?;
    let mut args = vec![input, affine, residual, raw, second, int(channels)];
    args.extend([from[0], from[1], from[2], height, width].map(int));
    args.extend([window.size, window.stride, window.before].as_flattened().iter().map(|&n| int(n)));
    args.push(flags);
    map(stream, "maps_pool", arithmetic, pixels * channels / 8, &args)
}

/// Launches a linear resizing from `shape` to a map of `to` rows and columns, between pixel centres, edges repeated.
///
/// # Errors
/// [`DeviceError`].
pub fn resize(
    stream: &mut Stream,
    arithmetic: Arithmetic,
    maps: (Span<'_>, Shape, [usize; 2]),
    count: usize,
    finish: &Finish<'_>,
) -> Result<(), DeviceError> {
    let (input, from, [height, width]) = maps;
    let ([channels], source) = (channels([count])?, pixels(from)?);
    let pixels = pixels([from[0], height, width])?;
    for (from, to) in [(from[1], height), (from[2], width)] {
        // Twice the product is a 32-bit number in the kernel.
        if from * (2 * to + 1) > i32::MAX as usize {
            return Err(usage(format!("an axis is too long to be resized: {to}")));
        }
    }
    let ([affine, residual, raw, second], flags) = finish.args(arithmetic, pixels, channels)?;
    let input = input.map("the input", source * channels * arithmetic.bytes())?;
    let [slices, from_height, from_width] = from.map(int);
    let args = [
        input,
        affine,
        residual,
        raw,
        second,
        int(channels),
        slices,
        from_height,
        from_width,
        int(height),
        int(width),
        flags,
    ];
    map(stream, "maps_resize", arithmetic, pixels * channels / 8, &args)
}

/// Launches a copy of a map of `count` channels; they become those from `offset` on of outputs of `all` channels.
///
/// # Errors
/// [`DeviceError`].
pub fn copy(
    stream: &mut Stream,
    arithmetic: Arithmetic,
    (input, shape): (Span<'_>, Shape),
    [count, offset, all]: [usize; 3],
    finish: &Finish<'_>,
) -> Result<(), DeviceError> {
    let ([count, all], pixels) = (channels([count, all])?, pixels(shape)?);
    if !offset.is_multiple_of(8) || offset + count > all {
        return Err(usage(format!("joined channels start at: {offset}")));
    }
    let ([affine, residual, raw, second], flags) = finish.args(arithmetic, pixels, all)?;
    let input = input.map("the input", pixels * count * arithmetic.bytes())?;
    let args = [input, affine, residual, raw, second, int(all), int(pixels), int(count), int(offset), flags];
    map(stream, "maps_copy", arithmetic, pixels * count / 8, &args)
}

/// Launches a global pooling: the largest value or the mean of each channel of each slice.
///
/// # Errors
/// [`DeviceError`].
pub fn global_pool(
    stream: &mut Stream,
    arithmetic: Arithmetic,
    (input, shape): (Span<'_>, Shape),
    count: usize,
    max: bool,
    [affine, output]: [Span<'_>; 2],
) -> Result<(), DeviceError> {
    let ([channels], pixels) = (channels([count])?, pixels(shape)?);
    if channels / 8 > 65_535 {
        return Err(usage(format!("channels of a pooling: {channels}")));
    }
    let args = [
        input.map("the input", pixels * channels * arithmetic.bytes())?,
        affine.weights("bias, scale and shift", 3 * channels * 4)?,
        output.map("the output", shape[0] * channels * arithmetic.bytes())?,
        int(channels),
        int(pixels / shape[0]),
        int(usize::from(max)),
    ];
    let name = format!("maps_global_{}", arithmetic.suffix());
    let grid = [shape[0] as u32, (channels / 8) as u32, 1];
    stream.launch(&name, grid, [MAP_THREADS as u32, 1, 1], 0, &args)
}

/// A thread an item.
fn map(
    stream: &mut Stream,
    name: &str,
    arithmetic: Arithmetic,
    items: usize,
    args: &[Arg],
) -> Result<(), DeviceError> {
    let blocks = items.div_ceil(MAP_THREADS);
    let grid = u32::try_from(blocks).ok().filter(|&blocks| blocks <= i32::MAX as u32);
    let grid = grid.ok_or_else(|| usage(format!("a layer of {blocks} blocks")))?;
    let name = format!("{name}_{}", arithmetic.suffix());
    stream.launch(&name, [grid, 1, 1], [MAP_THREADS as u32, 1, 1], 0, args)
}

/// A number that was checked against [`PIXELS_MAX`] or is far below it.
fn int(value: usize) -> Arg {
    Arg::I32(value as i32)
}

fn channels<const N: usize>(all: [usize; N]) -> Result<[usize; N], DeviceError> {
    match all.iter().find(|&&n| n == 0 || !n.is_multiple_of(8) || n > 1 << 16) {
        Some(&value) => Err(usage(format!("channels are no multiple of 8, or too many: {value}"))),
        None => Ok(all),
    }
}

fn pixels(shape: Shape) -> Result<usize, DeviceError> {
    let all = shape.iter().try_fold(1_usize, |all, &n| all.checked_mul(n)).unwrap_or(usize::MAX);
    if all == 0 || all > PIXELS_MAX {
        return Err(usage(format!("pixels of a map: {all}")));
    }
    Ok(all)
}
