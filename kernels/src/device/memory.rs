//! Device memory under a limit, and page-locked host memory.
//!
//! Owns: the account of bytes, and the life of each allocation.
//! Never does: copies (a [`Stream`](super::Stream) orders them), or free anything of a lost device: the device may still
//! write to it, and the driver may never return.

use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::driver;
use super::{Device, DeviceError};

/// The driver hands out device memory in units of at least this; accounts would drift from its own without it.
const UNIT_BYTES: u64 = 512;

/// Bytes in use, their peak and their limit.
pub(super) struct Account {
    max: u64,
    used: AtomicU64,
    peak: AtomicU64,
}

impl Account {
    pub(super) fn new(max: u64) -> Account {
        Account { max, used: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }

    pub(super) fn max(&self) -> u64 {
        self.max
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    fn take(&self, asked: u64) -> Result<(), DeviceError> {
        let add = |used: u64| used.checked_add(asked).filter(|&sum| sum <= self.max);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(before) => {
                self.peak.fetch_max(before + asked, Ordering::Relaxed);
                Ok(())
            }
            Err(used) => Err(DeviceError::Budget { asked, used, max: self.max }),
        }
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Device memory, freed on drop. Work that was queued on it before is finished first (the driver waits for it); a
/// [`Graph`](super::Graph) that uses it must not be replayed afterwards.
pub struct Buffer {
    device: Device,
    pointer: u64,
    bytes: usize,
    counted_bytes: u64,
}

impl Buffer {
    pub(super) fn new(device: Device, bytes: usize) -> Result<Buffer, DeviceError> {
        let counted_bytes = (bytes.max(1) as u64).next_multiple_of(UNIT_BYTES);
        device.inner.account.take(counted_bytes)?;
        let result = device.apart("cuMemAlloc", move || {
            let mut pointer = 0;
            driver!(cuMemAlloc_v2(&mut pointer, bytes.max(1))).map(|()| pointer)
        });
        match result {
            Ok(pointer) => Ok(Buffer { device, pointer, bytes, counted_bytes }),
            Err(error) => {
                device.inner.account.give_back(counted_bytes);
                Err(match error {
                    DeviceError::Driver { code: 2, .. } => {
                        DeviceError::OutOfMemory { asked: counted_bytes, used: device.memory_used() }
                    }
                    other => other,
                })
            }
        }
    }

    /// The device address, for [`Arg::Ptr`](super::Arg::Ptr); a multiple of 256.
    pub fn ptr(&self) -> u64 {
        self.pointer
    }

    /// The size asked for, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The device address `offset` bytes in, once `bytes` from there are known to lie inside, on this device.
    pub(super) fn range(&self, device: &Device, offset: usize, bytes: usize) -> Result<u64, DeviceError> {
        if !std::sync::Arc::ptr_eq(&self.device.inner, &device.inner) {
            return Err(DeviceError::Usage { what: "a buffer of another device".into() });
        }
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(self.pointer + offset as u64),
            _ => {
                let size = self.bytes;
                let what = format!("{bytes} bytes at offset {offset} exceed a device buffer of {size} bytes");
                Err(DeviceError::Usage { what })
            }
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let pointer = self.pointer;
        // The driver waits for the device here. A lost one cannot free, and its memory goes with its context.
        let _ = self.device.apart("cuMemFree", move || driver!(cuMemFree_v2(pointer)));
        self.device.inner.account.give_back(self.counted_bytes);
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes)
    }
}

/// Bytes of the account that something else takes of the device's memory, such as a library. Given back on drop.
pub struct Reserved {
    device: Device,
    counted_bytes: u64,
}

impl Reserved {
    pub(super) fn new(device: Device, bytes: u64) -> Result<Reserved, DeviceError> {
        let counted_bytes = bytes.next_multiple_of(UNIT_BYTES);
        device.inner.account.take(counted_bytes)?;
        Ok(Reserved { device, counted_bytes })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.device.inner.account.give_back(self.counted_bytes);
    }
}

impl std::fmt::Debug for Reserved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reserved({} bytes)", self.counted_bytes)
    }
}

/// Page-locked host memory, which a GPU copies from and to without the host's help. Not counted against the limit.
pub struct Pinned {
    device: Device,
    pointer: *mut u8,
    bytes: usize,
}

// SAFETY: plain memory with one owner; the driver's portable flag makes it page-locked for every context.
unsafe impl Send for Pinned {}
// SAFETY: shared references only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(super) fn new(device: Device, bytes: usize) -> Result<Pinned, DeviceError> {
        const PORTABLE: u32 = 1; // CU_MEMHOSTALLOC_PORTABLE
        let address = device.apart("cuMemHostAlloc", move || {
            let mut pointer: *mut c_void = std::ptr::null_mut();
            driver!(cuMemHostAlloc(&mut pointer, bytes.max(1), PORTABLE))
                .map(|()| pointer.expose_provenance())
        })?;
        let pointer = std::ptr::with_exposed_provenance_mut::<u8>(address);
        // SAFETY: the driver allocated that many bytes there.
        unsafe { pointer.write_bytes(0, bytes.max(1)) };
        Ok(Pinned { device, pointer, bytes })
    }

    /// The memory as values of `T`; a rest shorter than one value is left out.
    pub fn as_slice<T: Plain>(&self) -> &[T] {
        // SAFETY: the driver aligns to pages, every bit pattern is a `T`, and all bytes were initialised.
        unsafe { std::slice::from_raw_parts(self.pointer.cast(), self.bytes / size_of::<T>()) }
    }

    /// The memory as values of `T`, to write.
    pub fn as_mut_slice<T: Plain>(&mut self) -> &mut [T] {
        // SAFETY: as above, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.cast(), self.bytes / size_of::<T>()) }
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.pointer
    }
}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let address = self.pointer.expose_provenance();
        let _ = self.device.apart("cuMemFreeHost", move || {
            driver!(cuMemFreeHost(std::ptr::with_exposed_provenance_mut(address)))
        });
    }
}

impl std::fmt::Debug for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pinned({} bytes)", self.bytes)
    }
}

/// Numbers that may be copied to and from a device as bytes.
///
/// # Safety
/// The type has no padding and no invalid bit pattern.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}

macro_rules! plain {
    ($($number:ty)*) => {
        $(
            // SAFETY: a primitive number has neither padding nor invalid bit patterns.
            unsafe impl Plain for $number {}
        )*
    };
}
plain!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_keeps_its_limit_and_its_peak() {
        let account = Account::new(1000);
        assert_eq!(account.take(600), Ok(()));
        assert_eq!(account.take(500), Err(DeviceError::Budget { asked: 500, used: 600, max: 1000 }));
        assert_eq!(account.take(400), Ok(()));
        account.give_back(600);
        assert_eq!(
            account.take(u64::MAX),
            Err(DeviceError::Budget { asked: u64::MAX, used: 400, max: 1000 })
        );
        assert_eq!((account.used(), account.peak()), (400, 1000));
    }
}
