//! Runs any network of the kernels' subset by itself: for measurements and for tests against other engines.

use kernels::device::{Buffer, Device, DeviceError, Stream};
use kernels::gpu::layers::{Arithmetic, Span, padded};

use super::lane::Lane;
use super::net::Net;
use super::{Precision, arithmetic};

/// A network, outside the [`Backend`](crate::Backend), on one stream.
pub struct Probe {
    device: Device,
    stream: Stream,
    net: Net,
    lane: Lane,
    /// Of the last size; graphs hold their addresses.
    buffers: Vec<Buffer>,
}

impl Probe {
    /// Loads a network from a file's bytes. `graphs`: repeated runs become CUDA graphs.
    ///
    /// # Errors
    /// What is wrong with the file or the device, as text.
    pub fn new(bytes: &[u8], device: &Device, precision: Precision, graphs: bool) -> Result<Self, String> {
        let mut stream = device.stream().map_err(text)?;
        let arithmetic = arithmetic(device, precision);
        let net = Net::new(bytes, device, &mut stream, arithmetic).map_err(|error| error.to_string())?;
        let lane = if graphs { Lane::default() } else { Lane::direct() };
        Ok(Self { device: device.clone(), stream, net, lane, buffers: Vec::new() })
    }

    /// Runs the network on `[slice][row][column]` values; returns every output as `[slice][channel][row][column]`.
    /// Outputs have the input's rows and columns, or are vectors.
    ///
    /// # Errors
    /// A size that the network can't take, or what the device said, as text.
    pub fn run(&mut self, input: &[f32], shape: [usize; 3]) -> Result<Vec<Vec<f32>>, String> {
        let pixels: usize = shape.iter().product();
        if input.len() != pixels {
            return Err(format!("{} values for {shape:?}", input.len()));
        }
        let values: Vec<usize> = std::iter::once(0).chain(self.net.outputs().iter().map(|o| o.1)).collect();
        let needed: Vec<usize> = values.iter().map(|&v| self.net.bytes(v, self.pixels(v, shape))).collect();
        if self.buffers.iter().map(Buffer::bytes).ne(needed.iter().copied()) {
            self.buffers.clear();
            let make = needed.iter().map(|&bytes| self.device.buffer(bytes)).collect::<Result<_, _>>();
            self.buffers = make.map_err(text)?;
        }
        self.stream.upload(&self.buffers[0], 0, input).map_err(text)?;
        let spans = values.iter().zip(&self.buffers);
        let outside: Vec<_> = spans.map(|(&value, buffer)| (value, Span::all(buffer))).collect();
        self.lane.run(&self.net, &mut self.stream, shape, &outside).map_err(|error| error.to_string())?;
        (1..values.len()).map(|at| self.read(at, values[at], shape)).collect()
    }

    /// How often a graph was replayed.
    pub fn replays(&self) -> u64 {
        self.lane.replays()
    }

    /// Bytes of the maps on the device, without inputs and outputs.
    pub fn arena_bytes(&self) -> usize {
        self.lane.arena_bytes()
    }

    fn pixels(&self, value: usize, shape: [usize; 3]) -> usize {
        if self.net.is_flat(value) { shape[0] } else { shape.iter().product() }
    }

    fn read(&mut self, at: usize, value: usize, shape: [usize; 3]) -> Result<Vec<f32>, String> {
        let pixels = self.pixels(value, shape);
        let each = pixels / shape[0];
        let channels = self.net.channels(value);
        let buffer = &self.buffers[at];
        if self.net.is_plane(value) || self.net.arithmetic() == Arithmetic::Single {
            let mut values = vec![0.0_f32; buffer.bytes() / 4];
            self.stream.download(buffer, 0, &mut values).map_err(text)?;
            let stride = if self.net.is_plane(value) { 1 } else { padded(channels) };
            return Ok(planes(&values, shape[0], each, channels, stride));
        }
        let mut bits = vec![0_u16; buffer.bytes() / 2];
        self.stream.download(buffer, 0, &mut bits).map_err(text)?;
        let values: Vec<f32> = bits.into_iter().map(crate::graph::onnx::widen).collect();
        Ok(planes(&values, shape[0], each, channels, padded(channels)))
    }
}

/// `[slice][pixel][stride]` → `[slice][channel][pixel]`.
fn planes(values: &[f32], slices: usize, pixels: usize, channels: usize, stride: usize) -> Vec<f32> {
    let slice = |s: usize, c: usize| (0..pixels).map(move |p| values[(s * pixels + p) * stride + c]);
    (0..slices).flat_map(|s| (0..channels).flat_map(move |c| slice(s, c))).collect()
}

fn text(error: DeviceError) -> String {
    error.to_string()
}
