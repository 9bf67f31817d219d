//! One NVIDIA GPU with our kernels loaded: memory under a limit, streams, launches, graphs.
//!
//! Owns: the primary context of one GPU, our module, the account of device memory, and the translation of every
//! answer of the driver into a [`DeviceError`].
//! Never does: arithmetic, a choice between engines, a retry; and never calls a driver function that the driver of
//! CUDA 11.4 (JetPack 5) lacks. libcuda is opened at run time: a machine without one gets [`DeviceError::NoDriver`].
//!
//! Any thread may use these objects: each call makes the context current on its thread first. No wait is longer than
//! [`WAIT_MAX`]. Handles are freed on drop; of a lost device nothing is freed and nothing called, because its driver may
//! never return: what it held goes when the device is opened anew, or with the process.

pub(crate) mod cubins;
mod error;
mod losses;
mod memory;
mod patience;
mod staging;
mod stream;

use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use cudarc::driver::sys;

pub use error::DeviceError;
use error::driver;
pub use memory::{Buffer, Pinned, Plain, Reserved};
pub use patience::WAIT_MAX;
pub use stream::{Arg, Event, Graph, Stream};

/// The oldest driver that has every function we call: `cuGraphInstantiateWithFlags` came with CUDA 11.4.
const DRIVER_VERSION_MIN: u32 = 11_040;
/// Dynamic shared memory that a kernel may have without asking for more (CUDA programming guide, compute
/// capabilities).
const SHARED_BYTES_UNASKED: u32 = 48 * 1024;

/// One GPU, opened. Clones are the same device.
#[derive(Clone)]
pub struct Device {
    inner: Arc<Inner>,
}

struct Inner {
    ordinal: usize,
    handle: sys::CUdevice,
    context: sys::CUcontext,
    module: sys::CUmodule,
    functions: Mutex<HashMap<String, Function>>,
    account: memory::Account,
    facts: Facts,
    wait_max_ms: AtomicU64,
    /// How it was lost.
    lost: OnceLock<String>,
}

/// What the driver says of the device once, at opening.
struct Facts {
    name: String,
    uuid: String,
    compute_capability: (u32, u32),
    driver_version: u32,
    multiprocessors: u32,
    memory_bytes: u64,
    integrated: bool,
}

/// What opening makes.
struct Loaded {
    context: sys::CUcontext,
    module: sys::CUmodule,
}

// SAFETY: tokens of the driver, as in `Inner`.
unsafe impl Send for Loaded {}

/// A kernel of the module.
#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory that it may have, as set so far.
    shared_bytes_max: u32,
}

// SAFETY: the handles are opaque tokens of the driver, whose API is thread-safe; they are valid in any thread that has
// made the context current, which every method does first.
unsafe impl Send for Inner {}
// SAFETY: as above; the changing parts are behind a mutex or atomic.
unsafe impl Sync for Inner {}

impl Device {
    /// Opens GPU `ordinal` (from 0) and loads our kernels; at most `memory_max` bytes are ever allocated through it.
    /// One that this process has lost is reset first, if nothing of it is left.
    pub fn open(ordinal: usize, memory_max: u64) -> Result<Device, DeviceError> {
        let count = Device::count()?;
        if ordinal >= count {
            return Err(DeviceError::NoDevice { ordinal, count });
        }
        let mut handle = 0;
        driver!(cuDeviceGet(&mut handle, ordinal as c_int))?;
        losses::enter(handle, WAIT_MAX)?;
        let made = Facts::read(handle).map(|facts| Inner {
            ordinal,
            handle,
            context: std::ptr::null_mut(),
            module: std::ptr::null_mut(),
            functions: Mutex::default(),
            account: memory::Account::new(memory_max),
            facts,
            wait_max_ms: AtomicU64::new(u64::try_from(WAIT_MAX.as_millis()).unwrap_or(u64::MAX)),
            lost: OnceLock::new(),
        });
        // From here on `inner` leaves when it is dropped.
        let mut inner = made.inspect_err(|_| losses::leave(handle))?;
        let cubin = cubins::choose(cubins::CUBINS, inner.facts.compute_capability)?;
        cubin.check(inner.facts.driver_version, inner.facts.compute_capability)?;
        let image = cubins::unpack(cubin.image);
        let loaded = patience::apart("cuModuleLoadData", WAIT_MAX, move || {
            let (mut context, mut module) = (std::ptr::null_mut(), std::ptr::null_mut());
            driver!(cuDevicePrimaryCtxRetain(&mut context, handle))?;
            let loaded = driver!(cuCtxSetCurrent(context))
                .and_then(|()| driver!(cuModuleLoadData(&mut module, image.as_ptr().cast())));
            if let Err(error) = loaded {
                let _ = driver!(cuDevicePrimaryCtxRelease_v2(handle));
                return Err(error);
            }
            Ok(Loaded { context, module })
        });
        let Loaded { context, module } = loaded.inspect_err(|error| inner.note(error))?;
        (inner.context, inner.module) = (context, module);
        Ok(Device { inner: Arc::new(inner) })
    }

    /// The number of GPUs that the driver shows.
    pub fn count() -> Result<usize, DeviceError> {
        // SAFETY: opens the library by its usual names and closes it again; no other effect.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::NoDriver { what: "libcuda.so.1 was not found".into() });
        }
        match patience::apart("cuInit", WAIT_MAX, || driver!(cuInit(0))) {
            Ok(()) => {}
            Err(DeviceError::Driver { code: 100, .. }) => return Ok(0), // CUDA_ERROR_NO_DEVICE
            Err(DeviceError::Driver { what, .. }) => return Err(DeviceError::NoDriver { what }),
            Err(other) => return Err(other),
        }
        let version = driver_version()?;
        if version < DRIVER_VERSION_MIN {
            return Err(DeviceError::OldDriver { version, oldest: DRIVER_VERSION_MIN });
        }
        let mut count = 0;
        driver!(cuDeviceGetCount(&mut count))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// Its number, from 0.
    pub fn ordinal(&self) -> usize {
        self.inner.ordinal
    }

    /// The GPU's name, such as `NVIDIA H100 80GB HBM3`.
    pub fn name(&self) -> &str {
        &self.inner.facts.name
    }

    /// Major and minor number, such as (8, 7) for Orin.
    pub fn compute_capability(&self) -> (u32, u32) {
        self.inner.facts.compute_capability
    }

    /// The GPU's identity as nvidia-smi writes it: `GPU-` and a UUID.
    pub fn uuid(&self) -> String {
        self.inner.facts.uuid.clone()
    }

    /// 1000 × major + 10 × minor of the CUDA release that the driver serves.
    pub fn driver_version(&self) -> u32 {
        self.inner.facts.driver_version
    }

    /// Number of streaming multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.inner.facts.multiprocessors
    }

    /// All memory of the GPU, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.inner.facts.memory_bytes
    }

    /// True if the GPU shares the host's memory (Jetson).
    pub fn is_integrated(&self) -> bool {
        self.inner.facts.integrated
    }

    /// The limit given to [`Device::open`], in bytes.
    pub fn memory_max(&self) -> u64 {
        self.inner.account.max()
    }

    /// Bytes of device memory in use through this device.
    pub fn memory_used(&self) -> u64 {
        self.inner.account.used()
    }

    /// The highest value that [`Device::memory_used`] has had.
    pub fn memory_peak(&self) -> u64 {
        self.inner.account.peak()
    }

    /// True once any call has answered with an error that [is final](DeviceError::is_lost). No call is made from then on.
    pub fn is_lost(&self) -> bool {
        self.inner.lost.get().is_some()
    }

    /// Longest wait for the device: [`WAIT_MAX`], unless it was set.
    pub fn wait_max(&self) -> Duration {
        Duration::from_millis(self.inner.wait_max_ms.load(Ordering::Relaxed))
    }

    /// Sets the longest wait: tests of a hang do not wait for long, and tools that slow kernels down a hundredfold do.
    pub fn set_wait_max(&self, wait_max: Duration) {
        let wait_max_ms = u64::try_from(wait_max.as_millis()).unwrap_or(u64::MAX);
        self.inner.wait_max_ms.store(wait_max_ms, Ordering::Relaxed);
    }

    /// Counts bytes against the limit that a library allocates on the device by itself.
    pub fn reserve(&self, bytes: u64) -> Result<Reserved, DeviceError> {
        Reserved::new(self.clone(), bytes)
    }

    /// Makes the context current on this thread, for a library that asks CUDA which device it works on (TensorRT).
    pub fn make_current(&self) -> Result<(), DeviceError> {
        self.with(|| Ok(()))
    }

    /// A new stream of work; streams run independently of each other.
    pub fn stream(&self) -> Result<Stream, DeviceError> {
        Stream::new(self.clone())
    }

    /// Device memory of `bytes` bytes, not initialised. Counted against the limit in units of 512 bytes, as the
    /// driver allocates.
    pub fn buffer(&self, bytes: usize) -> Result<Buffer, DeviceError> {
        Buffer::new(self.clone(), bytes)
    }

    /// Page-locked host memory of `bytes` zero bytes, which a GPU can copy from and to by itself.
    pub fn pinned(&self, bytes: usize) -> Result<Pinned, DeviceError> {
        Pinned::new(self.clone(), bytes)
    }

    /// The kernel of that name, allowed to have `shared_bytes` of dynamic shared memory.
    fn function(&self, kernel: &str, shared_bytes: u32) -> Result<sys::CUfunction, DeviceError> {
        let mut functions = self.inner.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(kernel)
            && function.shared_bytes_max >= shared_bytes
        {
            return Ok(function.handle);
        }
        let missing = || DeviceError::NoKernel { kernel: kernel.into() };
        let mut handle = std::ptr::null_mut();
        let name = CString::new(kernel).map_err(|_| missing())?;
        driver!(cuModuleGetFunction(&mut handle, self.inner.module, name.as_ptr())).map_err(|error| {
            match error {
                DeviceError::Driver { code: 500, .. } => missing(), // CUDA_ERROR_NOT_FOUND
                other => other,
            }
        })?;
        if shared_bytes > SHARED_BYTES_UNASKED {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            driver!(cuFuncSetAttribute(handle, attribute, shared_bytes as c_int))?;
        }
        let shared_bytes_max = shared_bytes.max(SHARED_BYTES_UNASKED);
        functions.insert(kernel.into(), Function { handle, shared_bytes_max });
        Ok(handle)
    }

    /// Makes the context current on this thread and runs `work`; an error that is final marks the device as lost.
    fn with<T>(&self, work: impl FnOnce() -> Result<T, DeviceError>) -> Result<T, DeviceError> {
        self.inner.still_there()?;
        self.inner.enter().and_then(|()| work()).inspect_err(|error| self.inner.note(error))
    }

    /// The same for a call that may wait inside the driver: on a thread of its own, and for [`Device::wait_max`] at most.
    fn apart<T: Send + 'static>(
        &self,
        call: &'static str,
        work: impl FnOnce() -> Result<T, DeviceError> + Send + 'static,
    ) -> Result<T, DeviceError> {
        self.inner.still_there()?;
        // Not the device itself: a thread that never ends would keep it.
        let context = self.inner.context.expose_provenance();
        let result = patience::apart(call, self.wait_max(), move || {
            driver!(cuCtxSetCurrent(std::ptr::with_exposed_provenance_mut(context)))?;
            work()
        });
        result.inspect_err(|error| self.inner.note(error))
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = self.compute_capability();
        write!(f, "Device({}, compute capability {major}.{minor})", self.name())
    }
}

impl Inner {
    fn enter(&self) -> Result<(), DeviceError> {
        driver!(cuCtxSetCurrent(self.context))
    }

    fn still_there(&self) -> Result<(), DeviceError> {
        self.lost.get().map_or(Ok(()), |why| Err(DeviceError::Gone { why: why.clone(), for_good: false }))
    }

    /// Remembers an error after which nothing works.
    fn note(&self, error: &DeviceError) {
        if error.is_lost() && !matches!(error, DeviceError::Gone { .. }) {
            let why = self.lost.get_or_init(|| error.to_string());
            losses::note(self.handle, why);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.lost.get().is_none() && !self.context.is_null() {
            let (handle, context) = (self.handle, self.context.expose_provenance());
            let module = self.module.expose_provenance();
            let released = patience::apart("cuDevicePrimaryCtxRelease", WAIT_MAX, move || {
                driver!(cuCtxSetCurrent(std::ptr::with_exposed_provenance_mut(context)))?;
                driver!(cuModuleUnload(std::ptr::with_exposed_provenance_mut(module)))?;
                driver!(cuDevicePrimaryCtxRelease_v2(handle))
            });
            // Nothing else can be done about an error: the driver is shutting down, or hangs.
            let _ = released.inspect_err(|error| self.note(error));
        }
        losses::leave(self.handle);
    }
}

impl Facts {
    fn read(device: sys::CUdevice) -> Result<Facts, DeviceError> {
        use sys::CUdevice_attribute as A;
        let attribute = |which: A| {
            let mut value = 0;
            driver!(cuDeviceGetAttribute(&mut value, which, device))?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let mut name = [0; 256];
        driver!(cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, device))?;
        let mut uuid = sys::CUuuid { bytes: [0; 16] };
        driver!(cuDeviceGetUuid(&mut uuid, device))?;
        let mut memory_bytes = 0;
        driver!(cuDeviceTotalMem_v2(&mut memory_bytes, device))?;
        Ok(Facts {
            name: name.iter().take_while(|&&c| c != 0).map(|&c| char::from(c as u8)).collect(),
            uuid: uuid_text(uuid.bytes.map(|byte| byte as u8)),
            compute_capability: (
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            driver_version: driver_version()?,
            multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            memory_bytes: memory_bytes as u64,
            integrated: attribute(A::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
        })
    }
}

fn driver_version() -> Result<u32, DeviceError> {
    let mut version = 0;
    driver!(cuDriverGetVersion(&mut version))?;
    Ok(u32::try_from(version).unwrap_or(0))
}

fn uuid_text(bytes: [u8; 16]) -> String {
    let mut text = String::from("GPU");
    for (index, byte) in bytes.iter().enumerate() {
        if [0, 4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_is_written_as_nvidia_smi_does() {
        let bytes = std::array::from_fn(|i| (i * 17) as u8);
        assert_eq!(uuid_text(bytes), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }
}
