//! Runs plans: the runtime, an engine (a plan in memory), an execution context (an engine with the memory of one caller).
//!
//! Owns: the order in which they live, the check of what a plan takes and gives. Never does: build, allocate on the device, or run without a
//! [`Device`]: without a GPU the lean runtime returns a pointer that is no object.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::Arc;

use kernels::device::{Buffer, Device, Reserved, Stream};

use super::abi::{Dims32, Dims64, FLOAT, INPUT, OUTPUT, Owned, SELECTORS, USER_MANAGED, call};
use super::callbacks::{Logger, Recorder, forget_errors, last_error};
use super::library::{Abi, Library};
use super::{TensorRtError, said};

/// A runtime on one device.
pub(super) struct Runtime {
    // Dropped first: the recorder outlives what it is set on.
    object: Owned,
    recorder: Box<Recorder>,
    /// Keeps the context of the device.
    device: Device,
}

impl Runtime {
    /// A runtime. `device` proves that CUDA works here.
    ///
    /// # Errors
    /// [`TensorRtError::Call`].
    pub(super) fn new(
        library: &Arc<Library>,
        device: &Device,
        dla: Option<u32>,
    ) -> Result<Arc<Self>, TensorRtError> {
        forget_errors();
        device.make_current()?;
        let logger = Logger::of(library.abi == Abi::Eleven);
        // SAFETY: the logger lives for ever and has the layout of this version; the number is the library's own.
        let object = unsafe { Owned::new(library, (library.create_runtime)(logger, library.number)) };
        let object = object.ok_or_else(|| said("createInferRuntime", None))?.on(device);
        let recorder = Recorder::new(library.abi != Abi::Eight);
        let slots = library.slots;
        // SAFETY: VRuntime::setErrorRecorder(IErrorRecorder*); the recorder outlives the runtime.
        unsafe { call!(object.inner(), slots.runtime_recorder, fn(*mut c_void), recorder.raw()) };
        if let Some(core) = dla {
            // SAFETY: VRuntime::setDLACore(int32_t).
            unsafe { call!(object.inner(), slots.runtime_dla_core, fn(i32), core as i32) };
        }
        Ok(Arc::new(Self { object, recorder, device: device.clone() }))
    }

    /// Loads a plan, whose bytes are counted as the memory that TensorRT takes for it: weights, and code for the GPU.
    ///
    /// # Errors
    /// [`TensorRtError::Device`] if they do not fit the device's limit; [`TensorRtError::Call`] with TensorRT's own words when it refuses the plan.
    pub(super) fn engine(self: &Arc<Self>, plan: &[u8]) -> Result<Arc<Engine>, TensorRtError> {
        let memory = self.device.reserve(plan.len() as u64)?;
        forget_errors();
        self.device.make_current()?;
        let (library, inner) = (&self.object.library, self.object.inner());
        let (data, slot) = (plan.as_ptr().cast::<c_void>(), library.slots.runtime_deserialize);
        // SAFETY: VRuntime::deserializeCudaEngine(void const*, size_t), in 8 with an unused IPluginFactory*; `plan` is copied.
        let object = unsafe {
            let raw = match library.abi {
                Abi::Eight => {
                    type Factory = *mut c_void;
                    call!(
                        inner,
                        slot,
                        fn(*const c_void, usize, Factory) -> *mut c_void,
                        data,
                        plan.len(),
                        std::ptr::null_mut()
                    )
                }
                Abi::Ten | Abi::Eleven => {
                    call!(inner, slot, fn(*const c_void, usize) -> *mut c_void, data, plan.len())
                }
            };
            Owned::new(library, raw)
        };
        let object = object.ok_or_else(|| said("deserializeCudaEngine", self.recorder.take()))?;
        let object = object.on(&self.device);
        Ok(Arc::new(Engine { object, runtime: self.clone(), _memory: memory }))
    }
}

/// A tensor that an engine takes or gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorInfo {
    pub(super) name: String,
    pub(super) is_input: bool,
    pub(super) is_float: bool,
    /// −1 where the size may vary.
    pub(super) dims: Vec<i64>,
}

/// A plan in memory.
pub(super) struct Engine {
    object: Owned,
    runtime: Arc<Runtime>,
    _memory: Reserved,
}

// SAFETY: ICudaEngine's const methods and createExecutionContext may be called from several threads (NvInferRuntime.h, "thread safety").
unsafe impl Sync for Engine {}
// SAFETY: IRuntime::deserializeCudaEngine may be called from several threads (NvInferRuntime.h); the rest is set in `new` alone.
unsafe impl Sync for Runtime {}

impl Engine {
    /// Its inputs and outputs.
    pub(super) fn tensors(&self) -> Vec<TensorInfo> {
        let (slots, abi, inner) = (self.object.library.slots, self.object.library.abi, self.object.inner());
        // SAFETY: VCudaEngine::getNbIOTensors().
        let count = unsafe { call!(inner, slots.engine_tensors, fn() -> i32) };
        let info = |index| {
            // SAFETY: VCudaEngine::getIOTensorName(int32_t), getTensorIOMode, getTensorDataType and getTensorShape(char const*); the name
            // lives as long as the engine.
            unsafe {
                let raw = call!(inner, slots.engine_tensor_name, fn(i32) -> *const c_char, index);
                let name = (!raw.is_null()).then(|| CStr::from_ptr(raw))?;
                let mode = call!(inner, slots.engine_mode, fn(*const c_char) -> i32, raw);
                let kind = call!(inner, slots.engine_type, fn(*const c_char) -> i32, raw);
                let dims = inner.dims_of(abi, slots.engine_shape, name);
                let name = name.to_string_lossy().into_owned();
                matches!(mode, INPUT | OUTPUT).then_some(TensorInfo {
                    name,
                    is_input: mode == INPUT,
                    is_float: kind == FLOAT,
                    dims,
                })
            }
        };
        (0..count).filter_map(info).collect()
    }

    /// Optimisation profiles; a context of TensorRT 8 needs one of its own.
    pub(super) fn profiles(&self) -> usize {
        // SAFETY: VCudaEngine::getNbOptimizationProfiles().
        let count =
            unsafe { call!(self.object.inner(), self.object.library.slots.engine_profiles, fn() -> i32) };
        usize::try_from(count).unwrap_or(0)
    }

    /// Least, best and largest sizes of an input in the first profile.
    pub(super) fn range(&self, input: &CStr) -> [Vec<i64>; 3] {
        type Name = *const c_char;
        let (inner, slot) = (self.object.inner(), self.object.library.slots.engine_profile_shape);
        // SAFETY: VCudaEngine::getProfileShape(char const*, int32_t, OptProfileSelector).
        SELECTORS.map(|select| unsafe {
            match self.object.library.abi {
                Abi::Eight => {
                    call!(inner, slot, fn(Name, i32, i32) -> Dims32, input.as_ptr(), 0, select).sizes()
                }
                Abi::Ten | Abi::Eleven => {
                    call!(inner, slot, fn(Name, i32, i32) -> Dims64, input.as_ptr(), 0, select).sizes()
                }
            }
        })
    }

    /// Bytes of device memory that a context needs.
    pub(super) fn memory(&self) -> usize {
        // SAFETY: VCudaEngine::getDeviceMemorySize() and getDeviceMemorySizeV2(): size_t and int64_t.
        let bytes =
            unsafe { call!(self.object.inner(), self.object.library.slots.engine_memory, fn() -> i64) };
        usize::try_from(bytes).unwrap_or(0)
    }

    /// A context that works in memory of ours, on the optimisation profile `profile`.
    ///
    /// # Errors
    /// [`TensorRtError::Call`].
    pub(super) fn context(self: &Arc<Self>, profile: usize) -> Result<Context, TensorRtError> {
        forget_errors();
        let (library, inner) = (&self.object.library, self.object.inner());
        let slot = library.slots.engine_context;
        // SAFETY: VCudaEngine::createExecutionContextWithoutDeviceMemory() in 8, createExecutionContext(strategy) from 10 on.
        let object = unsafe {
            let raw = match library.abi {
                Abi::Eight => call!(inner, slot, fn() -> *mut c_void),
                Abi::Ten | Abi::Eleven => call!(inner, slot, fn(i32) -> *mut c_void, USER_MANAGED),
            };
            Owned::new(library, raw)
        };
        let object = object.ok_or_else(|| said("createExecutionContext", self.runtime.recorder.take()))?;
        let object = object.on(&self.runtime.device);
        let recorder = Recorder::new(library.abi != Abi::Eight);
        // SAFETY: VExecutionContext::setErrorRecorder(IErrorRecorder*); the recorder outlives the context.
        unsafe { call!(object.inner(), library.slots.context_recorder, fn(*mut c_void), recorder.raw()) };
        let profile = (profile > 0).then_some(profile as i32);
        Ok(Context { object, recorder, profile, _engine: self.clone() })
    }
}

/// An engine with the memory and the shapes of one caller.
pub(super) struct Context {
    object: Owned,
    recorder: Box<Recorder>,
    /// A profile to switch to with the first run.
    profile: Option<i32>,
    /// Outlives the context.
    _engine: Arc<Engine>,
}

impl Context {
    /// Puts one run on the stream: the input `input` of these sizes, every tensor at its address.
    ///
    /// # Errors
    /// [`TensorRtError::Call`].
    ///
    /// # Safety
    /// The addresses are device memory large enough for the shape, and they and `memory` stay allocated until the stream has done the work.
    pub(super) unsafe fn enqueue(
        &mut self,
        stream: &mut Stream,
        memory: &Buffer,
        (input, sizes): (&CStr, &[i64]),
        addresses: &[(&CString, u64)],
    ) -> Result<(), TensorRtError> {
        forget_errors();
        let (slots, inner) = (self.object.library.slots, self.object.inner());
        let slot = slots.context_shape;
        // SAFETY: VExecutionContext::setDeviceMemory(void*), setOptimizationProfileAsync(int32_t, cudaStream_t), setInputShape(char const*, Dims
        // const&), setTensorAddress(char const*, void*) and enqueueV3(cudaStream_t); a CUDA stream and a runtime API stream are the same.
        unsafe {
            call!(inner, slots.context_memory, fn(*mut c_void), memory.ptr() as *mut c_void);
            if let Some(profile) = self.profile {
                let done =
                    call!(inner, slots.context_profile, fn(i32, *mut c_void) -> bool, profile, stream.raw());
                self.done(done, "setOptimizationProfileAsync")?;
                self.profile = None;
            }
            let done = match self.object.library.abi {
                Abi::Eight => {
                    let dims = Dims32::new(sizes);
                    call!(
                        inner,
                        slot,
                        fn(*const c_char, *const Dims32) -> bool,
                        input.as_ptr(),
                        &raw const dims
                    )
                }
                Abi::Ten | Abi::Eleven => {
                    let dims = Dims64::new(sizes);
                    call!(
                        inner,
                        slot,
                        fn(*const c_char, *const Dims64) -> bool,
                        input.as_ptr(),
                        &raw const dims
                    )
                }
            };
            self.done(done, "setInputShape")?;
            for &(name, address) in addresses {
                let slot = slots.context_address;
                let done = call!(
                    inner,
                    slot,
                    fn(*const c_char, *mut c_void) -> bool,
                    name.as_ptr(),
                    address as *mut c_void
                );
                self.done(done, "setTensorAddress")?;
            }
            let done = call!(inner, slots.context_enqueue, fn(*mut c_void) -> bool, stream.raw());
            self.done(done, "enqueueV3")
        }
    }

    fn done(&self, done: bool, call: &'static str) -> Result<(), TensorRtError> {
        if done { Ok(()) } else { Err(said(call, self.recorder.take().or_else(last_error))) }
    }
}
