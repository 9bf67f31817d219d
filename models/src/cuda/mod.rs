//! The networks on our own CUDA kernels: no library but the driver.
//!
//! Owns: the loaded networks, and each lane's arena, plans and graphs. Never does: the rest of a study; `gpu` does.
//!
//! ```text
//! file ─ graph ─▶ layers ─ lower ─▶ kernels, weights on the device ┐
//!                             └─ plan (once a size) ─▶ places ─────┴─ net ─▶ launches ─ lane: at their second time a CUDA graph
//! ```
//!
//! cuDNN is not used: the driver alone is enough on every box (cuDNN is 600 MB and its newer versions drop older GPUs), 8 to 64 channels are
//! where it is weakest, and our kernels run in tests without a GPU.

mod lane;
mod lower;
mod net;
mod plan;
pub mod probe;

use std::path::Path;

use kernels::device::{Buffer, Device, DeviceError, Stream};
use kernels::gpu::layers::{Arithmetic, Shape, Span};

use crate::backend::{Backend, EngineError};
use crate::gpu::{FeatureFormat, GpuBackend, Networks};
use crate::graph::ValueId;
use crate::zoo::Zoo;
pub(crate) use lane::Lane;
use net::Net;

/// Name in results and logs.
const NAME: &str = "cuda";
/// Slices of a call: enough to fill a large GPU at the deepest level of the nets (3 × 3 pixels and 512 channels), where 32 slices are 128
/// blocks; and few enough that the maps of the first level (16 MB at 180 × 180) stay in the caches of the large ones.
const BATCH_MAX: usize = 32;

/// How the networks compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Maps in fp16, sums in fp32, on tensor cores where there are some; the first and the last convolution in fp32.
    #[default]
    Half,
    /// All in fp32, as the CPU engine.
    Single,
}

/// The engine on a device: up to `lanes` callers at once. All of its memory counts against the device's limit.
///
/// # Errors
/// [`EngineError::Load`] for a file that is no ONNX model, has an operator that no kernel knows, or lacks an input or output of the zoo's
/// format; [`EngineError::Device`] where there is too little of the device.
pub fn open(
    zoo: &Zoo,
    device: &Device,
    lanes: usize,
    precision: Precision,
) -> Result<Box<dyn Backend>, EngineError> {
    Ok(Box::new(GpuBackend::new(Nets::open(zoo, device, precision)?, zoo, lanes)?))
}

/// The zoo's two networks on a device.
pub(crate) struct Nets {
    device: Device,
    lungs: Model<1>,
    slices: Model<2>,
}

impl Nets {
    /// Loads the zoo's networks.
    ///
    /// # Errors
    /// As [`open`].
    pub(crate) fn open(zoo: &Zoo, device: &Device, precision: Precision) -> Result<Self, EngineError> {
        let arithmetic = arithmetic(device, precision);
        let mut stream = device.stream().map_err(failed)?;
        let device = device.clone();
        let lungs = Model::load(&zoo.lungs_model(), &device, &mut stream, ["lungs"], arithmetic)?;
        let outputs = ["features", "lesions"];
        let slices = Model::load(&zoo.multitask_model(), &device, &mut stream, outputs, arithmetic)?;
        Ok(Self { device, lungs, slices })
    }
}

impl Networks for Nets {
    type Lane = Lane;

    fn name(&self) -> &'static str {
        NAME
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn batch_max(&self) -> usize {
        BATCH_MAX
    }

    fn lane(&self) -> Result<Lane, EngineError> {
        Ok(Lane::default())
    }

    fn lungs(
        &self,
        lane: &mut Lane,
        stream: &mut Stream,
        planes: &Buffer,
        shape: [usize; 3],
        logits: &Buffer,
    ) -> Result<(), EngineError> {
        let [output] = self.lungs.outputs;
        self.lungs.run(lane, stream, shape, &[(0, planes), (output, logits)], "lung net")
    }

    fn slices(
        &self,
        lane: &mut Lane,
        stream: &mut Stream,
        planes: &Buffer,
        shape: [usize; 3],
        features: &Buffer,
        logits: &Buffer,
    ) -> Result<(), EngineError> {
        let [maps, output] = self.slices.outputs;
        let outside = [(0, planes), (maps, features), (output, logits)];
        self.slices.run(lane, stream, shape, &outside, "multitask net")
    }

    fn feature_format(&self) -> FeatureFormat {
        let channels = self.slices.net.channels(self.slices.outputs[0]);
        FeatureFormat {
            channels,
            half: self.slices.net.arithmetic() != Arithmetic::Single,
            channels_last: true,
            channel_stride: kernels::gpu::layers::padded(channels),
        }
    }
}

/// A network with one input and `N` outputs, found by name.
struct Model<const N: usize> {
    net: Net,
    outputs: [ValueId; N],
}

impl<const N: usize> Model<N> {
    fn load(
        path: &Path,
        device: &Device,
        stream: &mut Stream,
        outputs: [&str; N],
        arithmetic: Arithmetic,
    ) -> Result<Self, EngineError> {
        let fail = |why: String| EngineError::Load { path: path.to_path_buf(), why };
        let bytes = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
        let net = Net::new(&bytes, device, stream, arithmetic).map_err(|error| match error {
            net::NetError::Device(error) => failed(error),
            error => fail(error.to_string()),
        })?;
        if (net.input(), net.input_channels()) != ("slice", 1) {
            let (got, count) = (net.input(), net.input_channels());
            return Err(fail(format!("input `{got}` of {count} channels, not `slice` of 1")));
        }
        let find = |name: &str| {
            let value = net.output(name).ok_or_else(|| fail(format!("has no output named `{name}`")))?;
            let maps = name == "features";
            if net.is_plane(value) == maps {
                let needed = if maps { "maps" } else { "one channel of a 1 x 1 convolution" };
                return Err(fail(format!("output `{name}` is not {needed}")));
            }
            Ok(value)
        };
        let found = outputs.iter().map(|output| find(output)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { outputs: found.try_into().expect("one output for each of N names"), net })
    }

    fn run(
        &self,
        lane: &mut Lane,
        stream: &mut Stream,
        shape: Shape,
        outside: &[(ValueId, &Buffer)],
        name: &'static str,
    ) -> Result<(), EngineError> {
        let outside: Vec<_> = outside.iter().map(|&(value, buffer)| (value, Span::all(buffer))).collect();
        lane.run(&self.net, stream, shape, &outside).map_err(|error| match error {
            lane::RunError::Device(error) => failed(error),
            lane::RunError::Plan(error) => EngineError::Run { model: name, why: error.to_string() },
        })
    }
}

fn arithmetic(device: &Device, precision: Precision) -> Arithmetic {
    match precision {
        Precision::Half => Arithmetic::half(device),
        Precision::Single => Arithmetic::Single,
    }
}

fn failed(error: DeviceError) -> EngineError {
    EngineError::Device { engine: NAME, what: error.to_string(), lost: error.is_lost() }
}
