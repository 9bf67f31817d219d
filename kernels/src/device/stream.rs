//! Work in order on one device: copies, launches, events, graphs.
//!
//! Owns: the order of the work, and the host memory that copies still read.
//! Never does: allocate device memory.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::sys;

use super::error::{answer, driver};
use super::memory::{Buffer, Pinned, Plain};
use super::patience::poll;
use super::staging::Staging;
use super::{Device, DeviceError};

/// Arguments that a kernel may have.
const ARGUMENTS_MAX: usize = 32;

/// An argument of a kernel. Nothing checks it against the kernel's own list on a real GPU; the software device does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// A device address: [`Buffer::ptr`], with an offset in bytes added where need be.
    Ptr(u64),
    /// `int`
    I32(i32),
    /// `unsigned int`
    U32(u32),
    /// `unsigned long long`
    U64(u64),
    /// `float`
    F32(f32),
    /// `double`
    F64(f64),
}

impl Arg {
    /// The value in the low bytes of a word, where the driver reads it (both our hosts are little-endian).
    fn word(self) -> u64 {
        match self {
            Arg::Ptr(value) | Arg::U64(value) => value,
            Arg::I32(value) => u64::from(value as u32),
            Arg::U32(value) => u64::from(value),
            Arg::F32(value) => u64::from(value.to_bits()),
            Arg::F64(value) => value.to_bits(),
        }
    }
}

/// A queue of work on the device; each piece starts after the one before has ended. Not ordered with other streams.
pub struct Stream {
    device: Device,
    handle: sys::CUstream,
    staging: Option<Staging>,
    /// Page-locked memory that queued copies still read; let go when the stream is known to be idle.
    held: Vec<Arc<Pinned>>,
    capturing: bool,
}

// SAFETY: the handle is a token of the driver that any thread may use; `&mut self` keeps it to one at a time.
unsafe impl Send for Stream {}

impl Stream {
    pub(super) fn new(device: Device) -> Result<Stream, DeviceError> {
        const NON_BLOCKING: u32 = 1; // CU_STREAM_NON_BLOCKING: not ordered with the legacy default stream
        let mut handle = std::ptr::null_mut();
        device.with(|| driver!(cuStreamCreate(&mut handle, NON_BLOCKING)))?;
        Ok(Stream { device, handle, staging: None, held: Vec::new(), capturing: false })
    }

    /// The device that it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The driver's `CUstream`, for libraries that queue work of their own. The device's context must be current on
    /// the thread, as it is after any call on this stream.
    pub fn raw(&self) -> *mut c_void {
        self.handle.cast()
    }

    /// Copies `from` to the device, `offset_bytes` into `to`. `from` may be reused on return: it goes through the
    /// stream's own page-locked memory. Not allowed while capturing.
    pub fn upload<T: Plain>(
        &mut self,
        to: &Buffer,
        offset_bytes: usize,
        from: &[T],
    ) -> Result<(), DeviceError> {
        self.not_capturing("upload of memory that is not held by the graph")?;
        let bytes = size_of_val(from);
        let mut target = to.range(&self.device, offset_bytes, bytes)?;
        let mut staging = self.staging()?;
        let mut source: *const u8 = from.as_ptr().cast();
        let mut left = bytes;
        let result = self.device.with(|| {
            while left > 0 {
                let piece = staging.place(left, &self.device, self.handle)?;
                // SAFETY: `source` has `left >= piece.bytes` bytes, and no queued copy reads the piece any more.
                unsafe { piece.start.copy_from_nonoverlapping(source, piece.bytes) };
                driver!(cuMemcpyHtoDAsync_v2(target, piece.start.cast(), piece.bytes, self.handle))?;
                source = source.wrapping_add(piece.bytes);
                target += piece.bytes as u64;
                left -= piece.bytes;
            }
            Ok(())
        });
        self.staging = Some(staging);
        result
    }

    /// Copies `range` of page-locked memory to the device without a stop on the host. The stream shares `from` until
    /// it is next synchronised, so that `Arc::get_mut` refuses to write to it meanwhile.
    pub fn upload_pinned(
        &mut self,
        to: &Buffer,
        offset_bytes: usize,
        from: &Arc<Pinned>,
        range: Range<usize>,
    ) -> Result<(), DeviceError> {
        let Some(source) = from.get(range.clone()) else {
            let what = format!("bytes {range:?} of {} of page-locked memory", from.len());
            return Err(DeviceError::Usage { what });
        };
        let target = to.range(&self.device, offset_bytes, source.len())?;
        if source.is_empty() {
            return Ok(());
        }
        if !self.held.iter().any(|held| Arc::ptr_eq(held, from)) {
            self.held.push(from.clone());
        }
        let (source, bytes) = (source.as_ptr(), source.len());
        self.device.with(|| driver!(cuMemcpyHtoDAsync_v2(target, source.cast(), bytes, self.handle)))
    }

    /// Copies from the device into `to`, after all work queued before; complete on return. It goes through the stream's
    /// own page-locked memory: into any other the driver would wait by itself, and for ever.
    pub fn download<T: Plain>(
        &mut self,
        from: &Buffer,
        offset_bytes: usize,
        to: &mut [T],
    ) -> Result<(), DeviceError> {
        self.not_capturing("download")?;
        let mut left = size_of_val(to);
        let mut source = from.range(&self.device, offset_bytes, left)?;
        let mut target: *mut u8 = to.as_mut_ptr().cast();
        while left > 0 {
            let mut staging = self.staging()?;
            let placed = staging.place(left, &self.device, self.handle);
            self.staging = Some(staging);
            let piece = placed?;
            let (start, bytes) = (piece.start, piece.bytes);
            self.device.with(|| driver!(cuMemcpyDtoHAsync_v2(start.cast(), source, bytes, self.handle)))?;
            self.synchronize()?;
            // SAFETY: `target` has `left >= bytes` bytes of a type without invalid bit patterns; the copy into the piece is complete.
            unsafe { target.copy_from_nonoverlapping(start, bytes) };
            target = target.wrapping_add(bytes);
            source += bytes as u64;
            left -= bytes;
        }
        self.synchronize()
    }

    /// Copies `bytes` bytes from the device to the start of page-locked memory, after all work queued before; complete on return.
    pub fn download_pinned(
        &mut self,
        from: &Buffer,
        offset_bytes: usize,
        to: &mut Pinned,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        self.not_capturing("download")?;
        let source = from.range(&self.device, offset_bytes, bytes)?;
        if bytes > to.len() {
            let what = format!("{bytes} bytes into {} of page-locked memory", to.len());
            return Err(DeviceError::Usage { what });
        }
        if bytes > 0 {
            let target = to.as_ptr().cast();
            self.device.with(|| driver!(cuMemcpyDtoHAsync_v2(target, source, bytes, self.handle)))?;
        }
        // If this fails the device is lost, and page-locked memory of a lost device is never freed.
        self.synchronize()
    }

    fn staging(&mut self) -> Result<Staging, DeviceError> {
        self.staging.take().map_or_else(|| Staging::new(&self.device), Ok)
    }

    /// Sets `bytes` bytes from `offset` to zero.
    pub fn fill_zero(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<(), DeviceError> {
        let target = buffer.range(&self.device, offset, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        self.device.with(|| driver!(cuMemsetD8Async(target, 0, bytes, self.handle)))
    }

    /// Copies between places on the device that do not overlap.
    pub fn copy(
        &mut self,
        from: &Buffer,
        from_offset: usize,
        to: &Buffer,
        to_offset: usize,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        let source = from.range(&self.device, from_offset, bytes)?;
        let target = to.range(&self.device, to_offset, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        self.device.with(|| driver!(cuMemcpyDtoDAsync_v2(target, source, bytes, self.handle)))
    }

    /// Queues a kernel: `grid` blocks of `block` threads (x, y, z), `shared_bytes` of dynamic shared memory.
    ///
    /// The caller answers for `args`: their number, types and extents must be the kernel's.
    pub fn launch(
        &mut self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        args: &[Arg],
    ) -> Result<(), DeviceError> {
        if args.len() > ARGUMENTS_MAX {
            let what = format!("{} arguments for {kernel}: at most {ARGUMENTS_MAX}", args.len());
            return Err(DeviceError::Usage { what });
        }
        #[cfg(feature = "shim")]
        crate::shim::check_arguments(kernel, args)?;
        let mut words = [0u64; ARGUMENTS_MAX];
        let mut pointers = [std::ptr::null_mut::<c_void>(); ARGUMENTS_MAX];
        for ((word, pointer), arg) in words.iter_mut().zip(&mut pointers).zip(args) {
            *word = arg.word();
            *pointer = std::ptr::from_mut(word).cast();
        }
        let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
        self.device.with(|| {
            let function = self.device.function(kernel, shared_bytes)?;
            driver!(cuLaunchKernel(
                function,
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                shared_bytes,
                self.handle,
                pointers.as_mut_ptr(),
                std::ptr::null_mut()
            ))
            .map_err(|error| with_launch(error, kernel, grid, block, shared_bytes))
        })
    }

    /// Waits until all queued work is done. Errors of the work itself appear here, or at any call after it.
    pub fn synchronize(&mut self) -> Result<(), DeviceError> {
        self.not_capturing("synchronize")?;
        let result = poll(&self.device, "cuStreamQuery", || answer!(cuStreamQuery(self.handle)));
        if result.is_ok() {
            self.held.clear();
            if let Some(staging) = &mut self.staging {
                staging.reset();
            }
        }
        result
    }

    /// Records what `work` queues on this stream, without running it. Only launches, copies and fills on the device
    /// may be queued; every kernel in it should have run once before (its code may be loaded at first use, which a
    /// capture does not allow).
    pub fn capture(
        &mut self,
        work: impl FnOnce(&mut Stream) -> Result<(), DeviceError>,
    ) -> Result<Graph, DeviceError> {
        self.not_capturing("capture")?;
        // Thread-local: other threads may go on allocating and copying on their own streams.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.device.with(|| driver!(cuStreamBeginCapture_v2(self.handle, mode)))?;
        self.capturing = true;
        let held_before = std::mem::take(&mut self.held);
        let worked = work(self);
        let held = std::mem::replace(&mut self.held, held_before);
        self.capturing = false;
        self.device.with(|| {
            let mut graph = std::ptr::null_mut();
            // The capture is ended even if the work failed, or the stream would stay unusable.
            let ended = driver!(cuStreamEndCapture(self.handle, &mut graph));
            let mut handle = std::ptr::null_mut();
            let made =
                worked.and(ended).and_then(|()| driver!(cuGraphInstantiateWithFlags(&mut handle, graph, 0)));
            if !graph.is_null() {
                driver!(cuGraphDestroy(graph))?;
            }
            made.map(|()| Graph { device: self.device.clone(), handle, held })
        })
    }

    /// Queues all work of a graph as one piece. Its buffers must still exist.
    pub fn replay(&mut self, graph: &Graph) -> Result<(), DeviceError> {
        for held in &graph.held {
            if !self.held.iter().any(|other| Arc::ptr_eq(held, other)) {
                self.held.push(held.clone());
            }
        }
        self.device.with(|| driver!(cuGraphLaunch(graph.handle, self.handle)))
    }

    /// A mark in the order of the work, to measure from or to wait for.
    pub fn mark(&mut self) -> Result<Event, DeviceError> {
        self.not_capturing("mark")?;
        Event::record(&self.device, self.handle)
    }

    /// Lets the work queued from here on start only after `event`, which another stream recorded.
    pub fn wait(&mut self, event: &Event) -> Result<(), DeviceError> {
        self.device.with(|| driver!(cuStreamWaitEvent(self.handle, event.handle, 0)))
    }

    fn not_capturing(&self, call: &str) -> Result<(), DeviceError> {
        if self.capturing {
            return Err(DeviceError::Usage {
                what: format!("{call} is not allowed while a graph is captured"),
            });
        }
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Queued copies may still read `held` and `staging`: wait before they are freed. If the wait fails the device is
        // lost, and they are not.
        let _ = poll(&self.device, "cuStreamQuery", || answer!(cuStreamQuery(self.handle)));
        let _ = self.device.with(|| driver!(cuStreamDestroy_v2(self.handle)));
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({:?})", self.device)
    }
}

/// Recorded work, to be queued again and again as one piece.
#[derive(Debug)]
pub struct Graph {
    device: Device,
    handle: sys::CUgraphExec,
    held: Vec<Arc<Pinned>>,
}

// SAFETY: a token of the driver that any thread may use; launches of one graph are ordered by the driver.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.device.with(|| driver!(cuGraphExecDestroy(self.handle)));
    }
}

/// A moment in the order of a stream's work.
#[derive(Debug)]
pub struct Event {
    device: Device,
    handle: sys::CUevent,
}

// SAFETY: a token of the driver that any thread may use.
unsafe impl Send for Event {}
// SAFETY: the driver's functions on events are thread-safe.
unsafe impl Sync for Event {}

impl Event {
    pub(super) fn record(device: &Device, stream: sys::CUstream) -> Result<Event, DeviceError> {
        let mut handle = std::ptr::null_mut();
        device.with(|| {
            driver!(cuEventCreate(&mut handle, 0))?;
            let event = Event { device: device.clone(), handle };
            driver!(cuEventRecord(event.handle, stream))?;
            Ok(event)
        })
    }

    /// Waits until the stream has come past this moment.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        poll(&self.device, "cuEventQuery", || answer!(cuEventQuery(self.handle)))
    }

    /// Time on the device from `earlier` to this moment, in milliseconds; waits for both.
    pub fn elapsed_ms(&self, earlier: &Event) -> Result<f32, DeviceError> {
        earlier.synchronize()?;
        self.synchronize()?;
        let mut elapsed_ms = 0.0;
        self.device.with(|| driver!(cuEventElapsedTime(&mut elapsed_ms, earlier.handle, self.handle)))?;
        Ok(elapsed_ms)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = self.device.with(|| driver!(cuEventDestroy_v2(self.handle)));
    }
}

/// Names the launch in an error of it.
fn with_launch(
    error: DeviceError,
    kernel: &str,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
) -> DeviceError {
    match error {
        DeviceError::Driver { call, code, what } => {
            let what =
                format!("{kernel}, grid {grid:?}, block {block:?}, {shared_bytes} bytes shared: {what}");
            DeviceError::Driver { call, code, what }
        }
        other => other,
    }
}
