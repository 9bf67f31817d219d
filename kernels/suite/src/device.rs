//! What the GPU and the machine are.

use anyhow::ensure;
use cudarc::driver::{result, sys::CUdevice_attribute as Attribute};
use kernels::device::{Buffer, Device, Plain, Stream};

use crate::part::Part;
use crate::volume::threads;

/// The part `device`.
pub fn facts(part: &mut Part, gpu: &Device, ordinal: usize) -> anyhow::Result<()> {
    part.table("Device", "", &["what", "value"])?;
    let (major, minor) = gpu.compute_capability();
    let driver = gpu.driver_version();
    let rows = [
        ("GPU", gpu.name().to_owned()),
        ("compute capability", format!("{major}.{minor}")),
        ("multiprocessors", gpu.multiprocessors().to_string()),
        ("memory", format!("{:.1} GiB", gpu.memory_bytes() as f64 / f64::from(1 << 30))),
        (
            "memory's theoretical bandwidth",
            peak_bandwidth(ordinal).map_or_else(|| "not told".to_owned(), |b| format!("{:.0} GB/s", b / 1e9)),
        ),
        ("CUDA of the driver", format!("{}.{}", driver / 1000, driver % 1000 / 10)),
        ("driver", first_line("/sys/module/nvidia/version").unwrap_or_else(|| "not told".to_owned())),
        ("processor", processor().unwrap_or_else(|| "not told".to_owned())),
        ("its threads that are used", threads().to_string()),
        ("date", std::env::var("SUITE_DATE").unwrap_or_else(|_| "not told".to_owned())),
    ];
    for (what, value) in rows {
        part.row(vec![what.to_owned(), value])?;
    }
    Ok(())
}

/// Bytes a second of the device's memory: twice its clock (two transfers a cycle) times its width.
pub fn peak_bandwidth(ordinal: usize) -> Option<f64> {
    let handle = result::device::get(i32::try_from(ordinal).ok()?).ok()?;
    let of = |attribute| {
        // SAFETY: a device that the driver has just named.
        unsafe { result::device::get_attribute(handle, attribute) }.ok().filter(|&value| value > 0)
    };
    let clock_khz = of(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
    let bits = of(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
    Some(2.0 * f64::from(clock_khz) * 1e3 * f64::from(bits) / 8.0)
}

fn first_line(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.lines().next()?.trim().to_owned())
}

fn processor() -> Option<String> {
    let all = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = all.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// A device and a stream, with values in and out of buffers.
pub struct Bench {
    /// Where work goes.
    pub stream: Stream,
}

impl Bench {
    /// On a stream of its own.
    pub fn new(gpu: &Device) -> anyhow::Result<Self> {
        Ok(Self { stream: gpu.stream()? })
    }

    /// A buffer of so many bytes, zero.
    pub fn zeros(&mut self, bytes: usize) -> anyhow::Result<Buffer> {
        let buffer = self.stream.device().clone().buffer(bytes)?;
        self.stream.fill_zero(&buffer, 0, bytes)?;
        Ok(buffer)
    }

    /// A buffer with these values.
    pub fn put<T: Plain>(&mut self, values: &[T]) -> anyhow::Result<Buffer> {
        let buffer = self.stream.device().clone().buffer(size_of_val(values))?;
        self.stream.upload(&buffer, 0, values)?;
        Ok(buffer)
    }

    /// The first `count` values of a buffer.
    pub fn get<T: Plain + Default>(&mut self, buffer: &Buffer, count: usize) -> anyhow::Result<Vec<T>> {
        let mut values = vec![T::default(); count];
        self.stream.download(buffer, 0, &mut values)?;
        Ok(values)
    }

    /// Median seconds of a call of `work`, which gets the number of the call, over rounds of several calls each, timed on the device.
    pub fn time(
        &mut self,
        rounds: usize,
        calls: usize,
        mut work: impl FnMut(&mut Stream, usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<f64> {
        ensure!(rounds > 0 && calls > 0, "nothing to time");
        // Warm: code is loaded at the first launch, clocks rise.
        for call in 0..calls.min(5) {
            work(&mut self.stream, call)?;
        }
        self.stream.synchronize()?;
        let mut seconds = Vec::new();
        for _ in 0..rounds {
            let start = self.stream.mark()?;
            for call in 0..calls {
                work(&mut self.stream, call)?;
            }
            let stop = self.stream.mark()?;
            seconds.push(f64::from(stop.elapsed_ms(&start)?) / 1e3 / calls as f64);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[seconds.len() / 2])
    }
}
