//! Builds plans from ONNX: builder, network, parser, configuration, timing cache.
//!
//! Owns: the order in which they live, precision, profiles. Never does: read or write files, or decide what to build; [`provision`] does.
//!
//! Read from `NvInfer.h` 8.6, 10.7, 11.4 and RTX 1.5 to 1.7, `NvOnnxParser.h` 8.6, 10.13, 11.4.
//!
//! [`provision`]: super::provision()

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::Arc;

use super::abi::{DLA, Dims32, Dims64, FLOAT, Flag, Owned, SELECTORS, This, WORKSPACE, call};
use super::callbacks::{Logger, Recorder, forget_errors, text_of};
use super::library::{Abi, Flavour, Library};
use super::slots::shared;
use super::{TensorRtError, said};

/// Sizes that an input may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Name of the input.
    pub input: String,
    /// Least, best and largest sizes; TensorRT tunes for the best.
    pub sizes: [Vec<i64>; 3],
}

/// What to build.
#[derive(Debug, Clone)]
pub struct Recipe<'a> {
    /// Name, for messages.
    pub name: &'a str,
    /// The network. Before 11 in single precision; from 11 on its types are the plan's.
    pub onnx: &'a [u8],
    /// Inputs whose sizes vary.
    pub ranges: Vec<Range>,
    /// Equal optimisation profiles; TensorRT 8 needs one for every context.
    pub profiles: usize,
    /// Half precision where it is faster; nothing from 11 on.
    pub half: bool,
    /// Outputs whose last layer stays in single precision; nothing from 11 on.
    pub sensitive: Vec<String>,
    /// Scratch memory a layer may use.
    pub workspace_bytes: usize,
    /// Run on this DLA core what it can run, the rest on the GPU.
    pub dla: Option<u32>,
    /// TensorRT-RTX: build for this compute capability (86 is 8.6) instead of for all. It needs no GPU.
    pub capability: Option<u32>,
    /// What an earlier build measured.
    pub timings: Option<Vec<u8>>,
}

/// What was built.
#[derive(Debug, Clone)]
pub struct Built {
    /// The serialised engine.
    pub plan: Vec<u8>,
    /// What was measured, for the next build; `None` where the library keeps none.
    pub timings: Option<Vec<u8>>,
    /// Layers of the parsed network.
    pub layers: usize,
}

/// Builds a plan. Takes seconds to minutes.
///
/// The current CUDA device is built for, but by TensorRT-RTX, which needs none.
///
/// # Errors
/// [`TensorRtError`]: no builder or parser, an operator that TensorRT does not know, sizes that contradict the network, no memory.
pub fn build(library: &Arc<Library>, recipe: &Recipe<'_>) -> Result<Built, TensorRtError> {
    let (create, parser) = library.builder()?;
    forget_errors();
    let recorder = Recorder::new(library.abi != Abi::Eight);
    let logger = Logger::of(library.abi == Abi::Eleven);
    // SAFETY: the logger lives for ever and has the layout of this version; the number is the library's own.
    let builder = unsafe { Owned::new(library, create(logger, library.number)) };
    let builder = builder.ok_or_else(|| said("createInferBuilder", None))?;
    // SAFETY: VBuilder::setErrorRecorder(IErrorRecorder*); locals are dropped last first, so the recorder outlives the builder.
    unsafe { call!(builder.inner(), library.slots.builder_recorder, fn(*mut c_void), recorder.raw()) };
    let build = Build { library, builder, recorder: &recorder, recipe };
    let network = build.network()?;
    // SAFETY: the network is alive until after the parser is dropped.
    let parsed = unsafe { Owned::parser(library, (parser.create)(network.raw(), logger, parser.number)) };
    let parsed = parsed.ok_or_else(|| said("createNvOnnxParser", recorder.take()))?;
    build.parse(&parsed)?;
    let layers = build.precision(&network)?;
    let (config, cache) = build.config()?;
    let plan = build.run(&network, &config)?;
    let timings = build.timings(&config);
    // The configuration refers to the cache.
    drop((config, cache, parsed));
    Ok(Built { plan, timings, layers })
}

struct Build<'a> {
    library: &'a Arc<Library>,
    builder: Owned,
    recorder: &'a Recorder,
    recipe: &'a Recipe<'a>,
}

impl Build<'_> {
    fn failed(&self, call: &'static str) -> TensorRtError {
        said(call, self.recorder.take())
    }

    fn network(&self) -> Result<Owned, TensorRtError> {
        // NetworkDefinitionCreationFlag::kEXPLICIT_BATCH is bit 0 in 8; later versions know nothing else, and bit 0 is deprecated or another's.
        let flags = u32::from(self.library.abi == Abi::Eight);
        let slot = self.library.slots.builder_network;
        // SAFETY: VBuilder::createNetworkV2(uint32_t).
        let network = unsafe {
            Owned::new(self.library, call!(self.builder.inner(), slot, fn(u32) -> *mut c_void, flags))
        };
        network.ok_or_else(|| self.failed("createNetworkV2"))
    }

    fn parse(&self, parser: &Owned) -> Result<(), TensorRtError> {
        // SAFETY: the parser's table is its own.
        let this = unsafe { This::new(parser.raw()) }.ok_or_else(|| self.failed("createNvOnnxParser"))?;
        let (data, len) = (self.recipe.onnx.as_ptr().cast::<c_void>(), self.recipe.onnx.len());
        // SAFETY: IParser::parse(void const*, size_t, char const*); the path of files with weights is null.
        let parsed = unsafe {
            let slot = shared::PARSER_PARSE;
            call!(this, slot, fn(*const c_void, usize, *const c_char) -> bool, data, len, std::ptr::null())
        };
        if parsed {
            return Ok(());
        }
        let slot = self.library.slots.parser_errors;
        // SAFETY: IParser::getNbErrors().
        let count = unsafe { call!(this, slot, fn() -> i32) };
        let text = |index| {
            // SAFETY: IParser::getError(int), IParserError::desc() and node(); the error lives as long as the parser.
            unsafe {
                let error = This::new(call!(this, slot + 1, fn(i32) -> *mut c_void, index))?;
                let text = text_of(call!(error, shared::ERROR_TEXT, fn() -> *const c_char));
                let node = call!(error, shared::ERROR_NODE, fn() -> i32);
                Some(format!("node {node}: {text}"))
            }
        };
        let errors: Vec<_> = (0..count.min(4)).filter_map(text).collect();
        let why = if errors.is_empty() { self.failed("parse").to_string() } else { errors.join("; ") };
        Err(TensorRtError::Parse { model: self.recipe.name.to_owned(), why })
    }

    /// Keeps the layers that make the sensitive outputs in single precision; returns the number of layers.
    fn precision(&self, network: &Owned) -> Result<usize, TensorRtError> {
        let (first, this) = (self.library.slots.network_layers, network.inner());
        let [layers, layer, _, _, outputs, output] = [0, 1, 2, 3, 4, 5].map(|i| first + i);
        // SAFETY: VNetworkDefinition::getNbLayers(), getNbOutputs().
        let (count, outputs) =
            unsafe { (call!(this, layers, fn() -> i32), call!(this, outputs, fn() -> i32)) };
        if count < 1 || outputs < 1 {
            return Err(self.failed("getNbLayers"));
        }
        if self.library.abi != Abi::Eleven && self.recipe.half {
            let mut found = Vec::new();
            for index in 0..outputs {
                // SAFETY: VNetworkDefinition::getOutput(int32_t), VTensor::getName(); the name lives as long as the tensor.
                unsafe {
                    let tensor = call!(this, output, fn(i32) -> *mut c_void, index);
                    let Some(behind) = This::behind(tensor) else { continue };
                    let name = text_of(call!(behind, shared::TENSOR_NAME, fn() -> *const c_char));
                    if self.recipe.sensitive.contains(&name) {
                        found.push(tensor);
                    }
                }
            }
            for index in 0..count {
                // SAFETY: VNetworkDefinition::getLayer(int32_t), VLayer::getNbOutputs(), getOutput(int32_t), setPrecision(DataType),
                // setOutputType(int32_t, DataType). A layer's second word is `mLayer`.
                unsafe {
                    let layer = call!(this, layer, fn(i32) -> *mut c_void, index);
                    let Some(layer) = This::behind(layer) else { continue };
                    let outputs = call!(layer, shared::LAYER_OUTPUTS, fn() -> i32);
                    for out in 0..outputs {
                        let tensor = call!(layer, shared::LAYER_OUTPUT, fn(i32) -> *mut c_void, out);
                        if found.contains(&tensor) {
                            call!(layer, shared::LAYER_PRECISION, fn(i32), FLOAT);
                            call!(layer, shared::LAYER_OUTPUT_TYPE, fn(i32, i32), out, FLOAT);
                        }
                    }
                }
            }
        }
        Ok(usize::try_from(count).unwrap_or(0))
    }

    fn config(&self) -> Result<(Owned, Option<Owned>), TensorRtError> {
        let (slots, abi) = (self.library.slots, self.library.abi);
        // SAFETY: VBuilder::createBuilderConfig().
        let config = unsafe {
            Owned::new(self.library, call!(self.builder.inner(), slots.builder_config, fn() -> *mut c_void))
        };
        let config = config.ok_or_else(|| self.failed("createBuilderConfig"))?;
        let this = config.inner();
        let flag = |flag: Flag| {
            if let Some(number) = flag.number(abi) {
                // SAFETY: VBuilderConfig::setFlag(BuilderFlag).
                unsafe { call!(this, slots.config_flag, fn(i32), number) }
            }
        };
        // SAFETY: VBuilderConfig::setMemoryPoolLimit(MemoryPoolType, size_t).
        unsafe { call!(this, slots.config_memory, fn(i32, usize), WORKSPACE, self.recipe.workspace_bytes) };
        if self.recipe.half {
            flag(Flag::Half);
            flag(Flag::ObeyPrecision);
        }
        if let Some(core) = self.recipe.dla {
            self.dla(this, core)?;
            flag(Flag::GpuFallback);
        }
        if let (Some(capability), Flavour::Rtx) = (self.recipe.capability, self.library.version().flavour) {
            // SAFETY: RTX's VBuilderConfig::setNbComputeCapabilities(int32_t), setComputeCapability(ComputeCapability, int32_t).
            let done = unsafe {
                call!(this, shared::RTX_CONFIG_CAPABILITIES, fn(i32) -> bool, 1)
                    && call!(this, shared::RTX_CONFIG_CAPABILITY, fn(i32, i32) -> bool, capability as i32, 0)
            };
            if !done {
                return Err(self.failed("setComputeCapability"));
            }
        }
        for _ in 0..self.recipe.profiles.max(1) {
            self.profile(this)?;
        }
        let cache = self.cache(this);
        Ok((config, cache))
    }

    fn dla(&self, config: This, core: u32) -> Result<(), TensorRtError> {
        let slots = self.library.slots;
        // SAFETY: VBuilder::getNbDLACores().
        let cores = unsafe { call!(self.builder.inner(), slots.builder_dla_cores, fn() -> i32) };
        if i64::from(core) >= i64::from(cores) {
            return Err(TensorRtError::Dla { core, cores: u32::try_from(cores).unwrap_or(0) });
        }
        // SAFETY: VBuilderConfig::setDefaultDeviceType(DeviceType), setDLACore(int32_t).
        unsafe {
            call!(config, slots.config_device, fn(i32), DLA);
            call!(config, slots.config_dla_core, fn(i32), core as i32);
        }
        Ok(())
    }

    fn profile(&self, config: This) -> Result<(), TensorRtError> {
        let slots = self.library.slots;
        // SAFETY: VBuilder::createOptimizationProfile(); the builder owns the profile.
        let raw = unsafe { call!(self.builder.inner(), slots.builder_profile, fn() -> *mut c_void) };
        // SAFETY: null or a public object.
        let profile = unsafe { This::behind(raw) }.ok_or_else(|| self.failed("createOptimizationProfile"))?;
        for range in &self.recipe.ranges {
            let name = CString::new(range.input.as_str()).unwrap_or_default();
            for (select, sizes) in SELECTORS.into_iter().zip(&range.sizes) {
                if !self.limit(profile, &name, select, sizes) {
                    return Err(self.failed("setDimensions"));
                }
            }
        }
        // SAFETY: VBuilderConfig::addOptimizationProfile(IOptimizationProfile const*): its index, or −1 if it is not valid.
        let index = unsafe { call!(config, slots.config_profile, fn(*mut c_void) -> i32, raw) };
        if index < 0 { Err(self.failed("addOptimizationProfile")) } else { Ok(()) }
    }

    /// One bound of a profile: by value in 8, by reference from 10 on.
    fn limit(&self, profile: This, name: &CStr, select: i32, sizes: &[i64]) -> bool {
        type Name = *const c_char;
        let slot = shared::PROFILE_DIMENSIONS;
        // SAFETY: VOptimizationProfile::setDimensions(char const*, OptProfileSelector, Dims) in 8, (…, Dims const&) from 10 on.
        unsafe {
            match self.library.abi {
                Abi::Eight => {
                    let dims = Dims32::new(sizes);
                    call!(profile, slot, fn(Name, i32, Dims32) -> bool, name.as_ptr(), select, dims)
                }
                Abi::Ten | Abi::Eleven => {
                    let dims = Dims64::new(sizes);
                    call!(
                        profile,
                        slot,
                        fn(Name, i32, *const Dims64) -> bool,
                        name.as_ptr(),
                        select,
                        &raw const dims
                    )
                }
            }
        }
    }

    /// Gives the builder the timings of an earlier build; those that it refuses (of another device or version) are left out.
    fn cache(&self, config: This) -> Option<Owned> {
        let slots = self.library.slots;
        let mut timings = self.recipe.timings.as_deref().unwrap_or_default();
        loop {
            // SAFETY: VBuilderConfig::createTimingCache(void const*, size_t), setTimingCache(ITimingCache const&, bool); no bytes make an empty one.
            let (cache, set) = unsafe {
                let (data, slot) = (timings.as_ptr().cast::<c_void>(), slots.config_create_cache);
                let raw = call!(config, slot, fn(*const c_void, usize) -> *mut c_void, data, timings.len());
                let cache = Owned::new(self.library, raw);
                let set = cache.as_ref().is_some_and(|cache| {
                    call!(config, slots.config_set_cache, fn(*mut c_void, bool) -> bool, cache.raw(), false)
                });
                (cache, set)
            };
            match (set, timings.is_empty()) {
                (true, _) => return cache,
                (false, true) => return None,
                (false, false) => {
                    log::warn!(target: "tensorrt", "the timings of earlier builds are not for this device or version");
                    timings = &[];
                }
            }
        }
    }

    fn run(&self, network: &Owned, config: &Owned) -> Result<Vec<u8>, TensorRtError> {
        let slot = self.library.slots.builder_build;
        let (network, config) = (network.raw(), config.raw());
        // SAFETY: VBuilder::buildSerializedNetwork(INetworkDefinition&, IBuilderConfig&).
        let plan = unsafe {
            let raw = call!(
                self.builder.inner(),
                slot,
                fn(*mut c_void, *mut c_void) -> *mut c_void,
                network,
                config
            );
            Owned::new(self.library, raw)
        };
        plan.map(|plan| bytes(&plan))
            .filter(|plan| !plan.is_empty())
            .ok_or_else(|| self.failed("buildSerializedNetwork"))
    }

    fn timings(&self, config: &Owned) -> Option<Vec<u8>> {
        // SAFETY: VBuilderConfig::getTimingCache(), which the configuration owns, and VTimingCache::serialize().
        let memory = unsafe {
            let cache = call!(config.inner(), self.library.slots.config_get_cache, fn() -> *mut c_void);
            let cache = This::behind(cache)?;
            Owned::new(self.library, call!(cache, shared::CACHE_SERIALIZE, fn() -> *mut c_void))?
        };
        Some(bytes(&memory))
    }
}

/// What an `IHostMemory` holds.
fn bytes(memory: &Owned) -> Vec<u8> {
    // SAFETY: VHostMemory::data() and size().
    unsafe {
        let data = call!(memory.inner(), shared::HOST_DATA, fn() -> *const u8);
        let size = call!(memory.inner(), shared::HOST_SIZE, fn() -> usize);
        if data.is_null() { Vec::new() } else { std::slice::from_raw_parts(data, size).to_vec() }
    }
}
