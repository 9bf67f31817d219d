//! One NVIDIA GPU with our kernels loaded: memory under a limit, streams, launches, graphs.
//!
//! Owns: the primary context of one GPU, our module, the account of device memory, and the translation of every
//! answer of the driver into a [`DeviceError`].
//! Never does: arithmetic, a choice between engines, a retry; and never calls a driver function that the driver of
//! CUDA 11.4 (JetPack 5) lacks. libcuda is opened at run time: a machine without one gets [`DeviceError::NoDriver`].
//!
//! Any thread may use these objects: each call makes the context current on its thread first. Handles are freed on
//! drop; errors of freeing are ignored, because a lost device answers nothing else.

pub(crate) mod cubins;
mod error;
mod memory;
mod staging;
mod stream;

use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys;

pub use error::DeviceError;
use error::driver;
pub use memory::{Buffer, Pinned, Plain};
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
    handle: sys::CUdevice,
    context: sys::CUcontext,
    module: sys::CUmodule,
    functions: Mutex<HashMap<String, Function>>,
    account: memory::Account,
    facts: Facts,
    lost: AtomicBool,
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
    pub fn open(ordinal: usize, memory_max: u64) -> Result<Device, DeviceError> {
        let count = Device::count()?;
        if ordinal >= count {
            return Err(DeviceError::NoDevice { ordinal, count });
        }
        let mut handle = 0;
        driver!(cuDeviceGet(&mut handle, ordinal as c_int))?;
        let facts = Facts::read(handle)?;
        let image = cubins::unpack(cubins::choose(cubins::CUBINS, facts.compute_capability)?);
        let mut context = std::ptr::null_mut();
        driver!(cuDevicePrimaryCtxRetain(&mut context, handle))?;
        let mut inner = Inner {
            handle,
            context,
            module: std::ptr::null_mut(),
            functions: Mutex::default(),
            account: memory::Account::new(memory_max),
            facts,
            lost: AtomicBool::new(false),
        };
        inner.enter()?;
        // A failure from here on drops `inner`, which releases the context.
        driver!(cuModuleLoadData(&mut inner.module, image.as_ptr().cast()))?;
        Ok(Device { inner: Arc::new(inner) })
    }

    /// The number of GPUs that the driver shows.
    pub fn count() -> Result<usize, DeviceError> {
        // SAFETY: opens the library by its usual names and closes it again; no other effect.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::NoDriver { what: "libcuda.so.1 was not found".into() });
        }
        match driver!(cuInit(0)) {
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

    /// True once any call has answered with an error that [is final](DeviceError::is_lost).
    pub fn is_lost(&self) -> bool {
        self.inner.lost.load(Ordering::Relaxed)
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
        let result = self.inner.enter().and_then(|()| work());
        if let Err(error) = &result
            && error.is_lost()
        {
            self.inner.lost.store(true, Ordering::Relaxed);
        }
        result
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
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Nothing can be done about an error here: the device is lost or the driver is shutting down.
        let _ = self.enter().and_then(|()| {
            if !self.module.is_null() {
                driver!(cuModuleUnload(self.module))?;
            }
            driver!(cuDevicePrimaryCtxRelease_v2(self.handle))
        });
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
