//! Calls of TensorRT's methods by their place in a table of virtual functions.
//!
//! Owns: what crosses the boundary by value, the calls, the deletion of objects. Never does: know what a method means.
//!
//! A public object is `{ its own table, mImpl }`; its methods are inline in NVIDIA's headers and call those of `mImpl`, whose table is what
//! the places in [`slots`](super::slots) count. The object itself is used for its destructor only.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use kernels::device::Device;

use super::library::{Abi, Library};
use super::slots::shared;

/// `DataType::kFLOAT`.
pub(super) const FLOAT: i32 = 0;
/// `TensorIOMode::kINPUT` and `kOUTPUT`.
pub(super) const INPUT: i32 = 1;
pub(super) const OUTPUT: i32 = 2;
/// `OptProfileSelector::kMIN`, `kOPT` and `kMAX`.
pub(super) const SELECTORS: [i32; 3] = [0, 1, 2];
/// `MemoryPoolType::kWORKSPACE`.
pub(super) const WORKSPACE: i32 = 0;
/// `DeviceType::kDLA`.
pub(super) const DLA: i32 = 1;
/// `ExecutionContextAllocationStrategy::kUSER_MANAGED`.
pub(super) const USER_MANAGED: i32 = 2;

/// `BuilderFlag`, whose numbers moved between 8 and 10 (NvInfer.h 8.6, 10.7, 11.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flag {
    /// `kFP16`; gone in 11.
    Half,
    /// `kGPU_FALLBACK`: layers that the DLA can't run go to the GPU.
    GpuFallback,
    /// `kOBEY_PRECISION_CONSTRAINTS`; gone in 11.
    ObeyPrecision,
}

impl Flag {
    pub(super) fn number(self, abi: Abi) -> Option<i32> {
        match (self, abi) {
            (Self::Half, Abi::Eight | Abi::Ten) => Some(0),
            (Self::GpuFallback, _) => Some(3),
            (Self::ObeyPrecision, Abi::Eight) => Some(10),
            (Self::ObeyPrecision, Abi::Ten) => Some(9),
            (Self::Half | Self::ObeyPrecision, Abi::Eleven) => None,
        }
    }
}

/// Most dimensions of a tensor.
const DIMS_MAX: usize = 8;

/// `nvinfer1::Dims32`, of 8.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Dims32 {
    count: i32,
    sizes: [i32; DIMS_MAX],
}

/// `nvinfer1::Dims64`, from 10 on.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Dims64 {
    count: i32,
    sizes: [i64; DIMS_MAX],
}

impl Dims32 {
    pub(super) fn new(sizes: &[i64]) -> Self {
        let mut dims = Self { count: sizes.len() as i32, sizes: [0; DIMS_MAX] };
        dims.sizes.iter_mut().zip(sizes).for_each(|(to, &size)| *to = size as i32);
        dims
    }

    pub(super) fn sizes(&self) -> Vec<i64> {
        self.sizes
            .iter()
            .take(usize::try_from(self.count).unwrap_or(0))
            .map(|&size| i64::from(size))
            .collect()
    }
}

impl Dims64 {
    pub(super) fn new(sizes: &[i64]) -> Self {
        let mut dims = Self { count: sizes.len() as i32, sizes: [0; DIMS_MAX] };
        dims.sizes.iter_mut().zip(sizes).for_each(|(to, &size)| *to = size);
        dims
    }

    pub(super) fn sizes(&self) -> Vec<i64> {
        self.sizes.iter().take(usize::try_from(self.count).unwrap_or(0)).copied().collect()
    }
}

/// Something with a table of virtual functions: `mImpl` of a public object, or an object without one (the ONNX parser and its errors).
#[derive(Debug, Clone, Copy)]
pub(super) struct This(NonNull<c_void>);

impl This {
    /// # Safety
    /// `raw` is null or points to an object with a table of virtual functions.
    pub(super) unsafe fn new(raw: *mut c_void) -> Option<Self> {
        NonNull::new(raw).map(Self)
    }

    /// `mImpl` of a public object: its second word.
    ///
    /// # Safety
    /// `raw` is null or a public object of TensorRT's, alive while the result is used.
    pub(super) unsafe fn behind(raw: *mut c_void) -> Option<Self> {
        // SAFETY: the caller's promise.
        NonNull::new(raw).and_then(|raw| unsafe { Self::new(*raw.cast::<*mut c_void>().add(1).as_ptr()) })
    }

    pub(super) fn raw(self) -> *mut c_void {
        self.0.as_ptr()
    }

    /// The function at a place of the table, to be called with [`This::raw`] first.
    ///
    /// # Safety
    /// The table has that place.
    pub(super) unsafe fn method(self, slot: usize) -> *const c_void {
        // SAFETY: an object starts with the address of its table (Itanium C++ ABI).
        unsafe { *(*self.0.cast::<*const *const c_void>().as_ptr()).add(slot) }
    }

    /// Sizes of the tensor `name`, from the method at `slot`.
    ///
    /// # Safety
    /// The method takes a name and returns the `Dims` of this version.
    pub(super) unsafe fn dims_of(self, abi: Abi, slot: usize, name: &std::ffi::CStr) -> Vec<i64> {
        type Name = *const std::ffi::c_char;
        // SAFETY: the caller's promise.
        unsafe {
            match abi {
                Abi::Eight => call!(self, slot, fn(Name) -> Dims32, name.as_ptr()).sizes(),
                Abi::Ten | Abi::Eleven => call!(self, slot, fn(Name) -> Dims64, name.as_ptr()).sizes(),
            }
        }
    }
}

/// Calls the method at a place of an object's table: `call!(this, slot, fn(A, B) -> R, a, b)`.
macro_rules! call {
    ($this:expr, $slot:expr, fn($($kind:ty),*) $(-> $result:ty)?) => {
        $crate::tensorrt::abi::call!($this, $slot, fn($($kind),*) $(-> $result)?,)
    };
    ($this:expr, $slot:expr, fn($($kind:ty),*) $(-> $result:ty)?, $($argument:expr),*) => {{
        let this: $crate::tensorrt::abi::This = $this;
        type Function = unsafe extern "C" fn(*mut ::std::ffi::c_void $(, $kind)*) $(-> $result)?;
        let function: Function = ::std::mem::transmute(this.method($slot));
        function(this.raw() $(, $argument)*)
    }};
}
pub(super) use call;

/// An object of TensorRT's that is ours to delete.
#[derive(Debug)]
pub(super) struct Owned {
    object: NonNull<c_void>,
    delete: usize,
    pub(super) library: Arc<Library>,
    /// What it has memory on. Of a lost device nothing is deleted: TensorRT would wait for it, maybe for ever.
    device: Option<Device>,
}

// SAFETY: TensorRT's objects may be used and deleted by another thread than made them; `Owned` is not `Sync`.
unsafe impl Send for Owned {}

impl Owned {
    /// Takes what a `create` method or function returned; `None` if that was null.
    ///
    /// # Safety
    /// `object` is null or a public object of `library` that nothing else deletes.
    pub(super) unsafe fn new(library: &Arc<Library>, object: *mut c_void) -> Option<Self> {
        Some(Self {
            object: NonNull::new(object)?,
            delete: shared::DELETE,
            library: library.clone(),
            device: None,
        })
    }

    /// An ONNX parser, which has no `mImpl` and its destructor elsewhere.
    ///
    /// # Safety
    /// As [`Owned::new`].
    pub(super) unsafe fn parser(library: &Arc<Library>, object: *mut c_void) -> Option<Self> {
        let delete = library.slots.parser_delete;
        Some(Self { object: NonNull::new(object)?, delete, library: library.clone(), device: None })
    }

    /// The same, left alone when that device is lost.
    pub(super) fn on(self, device: &Device) -> Self {
        let mut this = self;
        this.device = Some(device.clone());
        this
    }

    /// The public object, as other methods take it.
    pub(super) fn raw(&self) -> *mut c_void {
        self.object.as_ptr()
    }

    /// What its methods are called on.
    pub(super) fn inner(&self) -> This {
        // SAFETY: a public object, alive.
        unsafe { This::behind(self.raw()) }.expect("TensorRT makes no object without its implementation")
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if self.device.as_ref().is_some_and(Device::is_lost) {
            return;
        }
        // SAFETY: the object is ours, alive, and deleted once. What it was made from outlives it: the owners' fields are in that order.
        unsafe { call!(This(self.object), self.delete, fn()) }
    }
}
