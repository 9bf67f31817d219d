//! The networks of the `tensorrt` engine: loaded plans, and the lanes that run them.
//!
//! Owns: what a plan must take and give, the scratch memory of a lane, the profiles of TensorRT 8. Never does: build a plan, or touch a study's
//! pixels; ingest, pyramid and masks are [`gpu`](crate::gpu)'s, on the same stream.
//!
//! Activations lie in a buffer of ours, one a lane, of the size that the engine asks for. TensorRT allocates an engine's weights itself: the size
//! of the plan is counted for them. So both count against the device's limit, which all engines share.

use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};

use kernels::device::{Buffer, Device, Stream};

use super::library::{Abi, Library};
use super::networks::Network;
use super::plans::Plans;
use super::provision::{Options, key};
use super::runtime::{Context, Engine, Runtime, TensorInfo};
use super::{NAME, TensorRtError};
use crate::backend::{Backend, EngineError};
use crate::gpu::{FeatureFormat, GpuBackend, Networks};
use crate::zoo::Zoo;

/// Channels of the features.
const CHANNELS: usize = 8;

/// The engine on a device: up to `lanes` callers at once.
///
/// # Errors
/// [`EngineError::Device`] where there is no TensorRT, no good plan (`triaged provision` builds those), or too little memory.
pub fn open(
    zoo: &Zoo,
    device: &Device,
    lanes: usize,
    options: &Options,
) -> Result<Box<dyn Backend>, EngineError> {
    let fail = |error: TensorRtError| failed(device, &error.to_string());
    let library = Library::find(options.library_dir.as_deref()).map_err(fail)?;
    let nets = Nets::open(zoo, device, &library, options).map_err(fail)?;
    let lanes = lanes.min(nets.lanes_max());
    Ok(Box::new(GpuBackend::new(nets, zoo, lanes)?))
}

fn failed(device: &Device, what: &str) -> EngineError {
    EngineError::Device { engine: NAME, what: what.to_owned(), lost: device.is_lost() }
}

/// The zoo's two networks as plans.
pub(crate) struct Nets {
    device: Device,
    lungs: Loaded,
    slices: Loaded,
    /// Profiles that no lane has.
    profiles: Arc<Mutex<Vec<usize>>>,
}

/// A plan that takes and gives what the engine needs.
pub(super) struct Loaded {
    engine: Arc<Engine>,
    input: CString,
    /// In the order of [`outputs`].
    outputs: Vec<CString>,
    /// Most slices, and longest side, of its profile.
    batch_max: usize,
    sides: [usize; 2],
}

/// Names and channels of what a network gives.
fn outputs(network: &str) -> &'static [(&'static str, usize)] {
    if network == "lungs" { &[("lungs", 1)] } else { &[("features", CHANNELS), ("lesions", 1)] }
}

/// Loads a plan and checks what it takes and gives.
pub(super) fn load(
    runtime: &Arc<Runtime>,
    network: &'static str,
    plan: &[u8],
) -> Result<Loaded, TensorRtError> {
    let engine = runtime.engine(plan)?;
    let (tensors, needed) = (engine.tensors(), outputs(network));
    let wrong = |why: String| TensorRtError::Plan { network, why };
    let check = |name: &str, is_input: bool, channels: usize| {
        let is = |tensor: &&TensorInfo| tensor.name == name && tensor.is_input == is_input;
        let tensor = tensors.iter().find(is).ok_or_else(|| wrong(format!("no tensor `{name}`")))?;
        let fits = matches!(tensor.dims[..], [-1, channel, -1, -1] if channel == channels as i64);
        if !fits || !tensor.is_float {
            return Err(wrong(format!("`{name}` is {:?}, f32: {}", tensor.dims, tensor.is_float)));
        }
        CString::new(name).map_err(|_| wrong(format!("`{name}` has a zero byte")))
    };
    let input = check("slice", true, 1)?;
    let outputs =
        needed.iter().map(|&(name, channels)| check(name, false, channels)).collect::<Result<Vec<_>, _>>()?;
    if tensors.len() != needed.len() + 1 {
        return Err(wrong(format!("{} tensors, not {}", tensors.len(), needed.len() + 1)));
    }
    let size = |value: i64| usize::try_from(value).unwrap_or(0);
    let [least, _, most] = engine.range(&input);
    let (&[_, _, rows, columns], &[batch, _, most_rows, most_columns]) = (&least[..], &most[..]) else {
        return Err(wrong(format!("its profile is {least:?} to {most:?}")));
    };
    let sides = [size(rows.max(columns)), size(most_rows.min(most_columns))];
    Ok(Loaded { engine, input, outputs, batch_max: size(batch), sides })
}

impl Nets {
    /// Loads the plans that [`provision`](super::provision()) made.
    ///
    /// # Errors
    /// [`TensorRtError`]: a plan is absent, stale or damaged, or is refused by TensorRT.
    pub(crate) fn open(
        zoo: &Zoo,
        device: &Device,
        library: &Arc<Library>,
        options: &Options,
    ) -> Result<Self, TensorRtError> {
        let runtime = Runtime::new(library, device, options.dla)?;
        let plans = Plans::new(&options.plan_dir);
        let open = |network: Network| {
            let plan = plans.read(network.name, &key(&network, library, device, options))?;
            load(&runtime, network.name, &plan)
        };
        let [lungs, slices] = Network::of_zoo(zoo, library)?;
        let (lungs, slices) = (open(lungs)?, open(slices)?);
        // From 10 on contexts share a profile.
        let count = lungs.engine.profiles().min(slices.engine.profiles());
        let profiles = if library.abi == Abi::Eight {
            (0..count).rev().collect()
        } else {
            vec![0; usize::from(u8::MAX)]
        };
        Ok(Self { device: device.clone(), lungs, slices, profiles: Arc::new(Mutex::new(profiles)) })
    }

    /// Most lanes at once.
    pub(crate) fn lanes_max(&self) -> usize {
        self.profiles.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn failed(&self, what: &str) -> EngineError {
        failed(&self.device, what)
    }

    fn run(
        &self,
        loaded: &Loaded,
        (context, scratch): (&mut Context, &Buffer),
        stream: &mut Stream,
        (planes, shape): (&Buffer, [usize; 3]),
        outputs: &[&Buffer],
    ) -> Result<(), EngineError> {
        let [slices, rows, columns] = shape;
        let [least, most] = loaded.sides;
        let fits = (1..=loaded.batch_max).contains(&slices);
        if !fits || rows.min(columns) < least || rows.max(columns) > most {
            // Not the input's fault: the next engine takes larger ones.
            let batch = loaded.batch_max;
            let what = format!(
                "{slices} slices of {rows} x {columns}; its plan takes 1 to {batch} of {least} to {most} a side"
            );
            return Err(EngineError::Unsuited { engine: NAME, what });
        }
        let pixels = slices * rows * columns;
        let mut addresses = vec![(&loaded.input, planes, pixels * 4)];
        let channels = if outputs.len() == 1 { &[1][..] } else { &[CHANNELS, 1][..] };
        for ((name, buffer), channels) in loaded.outputs.iter().zip(outputs).zip(channels) {
            addresses.push((name, buffer, pixels * channels * 4));
        }
        if let Some((name, buffer, bytes)) =
            addresses.iter().find(|(_, buffer, bytes)| buffer.bytes() < *bytes)
        {
            return Err(
                self.failed(&format!("{name:?} needs {bytes} bytes, its buffer has {}", buffer.bytes()))
            );
        }
        self.device.make_current().map_err(|error| self.failed(&error.to_string()))?;
        let addresses: Vec<_> = addresses.iter().map(|(name, buffer, _)| (*name, buffer.ptr())).collect();
        let sizes = [slices as i64, 1, rows as i64, columns as i64];
        // SAFETY: sizes were checked above; a lane's owner keeps buffers and lane until its stream is done.
        let done = unsafe { context.enqueue(stream, scratch, (&loaded.input, &sizes), &addresses) };
        done.map_err(|error| self.failed(&error.to_string()))
    }
}

/// A caller's contexts and the memory they work in.
pub(crate) struct Lane {
    // Contexts before the memory that they point to.
    lungs: Context,
    slices: Context,
    scratch: Buffer,
    _profile: Profile,
}

/// A profile, given back with the lane.
struct Profile {
    index: usize,
    free: Arc<Mutex<Vec<usize>>>,
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.index);
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
        self.lungs.batch_max.min(self.slices.batch_max)
    }

    fn lane(&self) -> Result<Lane, EngineError> {
        let index = self.profiles.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let index = index.ok_or_else(|| self.failed("more lanes than its plans have profiles"))?;
        let profile = Profile { index, free: self.profiles.clone() };
        // Both networks of a lane run on one stream, one after the other: they share the memory.
        let bytes = self.lungs.engine.memory().max(self.slices.engine.memory());
        let device = |error: kernels::device::DeviceError| self.failed(&error.to_string());
        // Before any context: what does not fit is refused here, and not inside TensorRT.
        let scratch = self.device.buffer(bytes.max(1)).map_err(device)?;
        self.device.make_current().map_err(device)?;
        let context =
            |loaded: &Loaded| loaded.engine.context(index).map_err(|error| self.failed(&error.to_string()));
        Ok(Lane { lungs: context(&self.lungs)?, slices: context(&self.slices)?, scratch, _profile: profile })
    }

    fn lungs(
        &self,
        lane: &mut Lane,
        stream: &mut Stream,
        planes: &Buffer,
        shape: [usize; 3],
        logits: &Buffer,
    ) -> Result<(), EngineError> {
        self.run(&self.lungs, (&mut lane.lungs, &lane.scratch), stream, (planes, shape), &[logits])
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
        self.run(
            &self.slices,
            (&mut lane.slices, &lane.scratch),
            stream,
            (planes, shape),
            &[features, logits],
        )
    }

    fn feature_format(&self) -> FeatureFormat {
        FeatureFormat { channels: CHANNELS, half: false, channels_last: false, channel_stride: CHANNELS }
    }
}
