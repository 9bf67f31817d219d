//! A study on the software device, with networks that are a multiplication: against the same arithmetic on the processor, to the bit.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kernels::device::Arg;
use kernels::{Paste, PyramidPool, Stored};

use super::*;
use crate::backend::sigmoid;
use crate::job::{Pixels, SourceSlice};

/// Factor and offset of the lung net, the lesion net, and channel `c` of the features.
const LUNG: (f32, f32) = (40.0, -20.0);
const LESION: (f32, f32) = (-31.0, 20.5);
const CHANNELS: usize = 8;

fn feature(channel: usize) -> (f32, f32) {
    (channel as f32 - 3.5, 0.25 * channel as f32)
}

fn tiny() -> Zoo {
    Zoo::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny")).unwrap()
}

/// Networks on the software device.
struct Fake {
    device: Device,
    batch: usize,
    lanes: AtomicUsize,
    /// Calls until one fails.
    good_calls: AtomicUsize,
}

impl Fake {
    fn new(device: Device, batch: usize) -> Self {
        Self { device, batch, lanes: AtomicUsize::new(0), good_calls: AtomicUsize::new(usize::MAX) }
    }

    /// `count` values from `from` on, scaled, from byte `offset` of `to` on.
    fn scale(
        &self,
        stream: &mut Stream,
        from: u64,
        (to, offset): (&Buffer, usize),
        count: usize,
        (factor, shift): (f32, f32),
    ) -> Result<(), EngineError> {
        assert!(to.bytes() >= offset + count * 4);
        let args = [
            Arg::Ptr(from),
            Arg::Ptr(to.ptr() + offset as u64),
            Arg::I32(count as i32),
            Arg::F32(factor),
            Arg::F32(shift),
        ];
        let grid = [count.div_ceil(256) as u32, 1, 1];
        stream
            .launch("probe_scale_f32", grid, [256, 1, 1], 0, &args)
            .map_err(|error| device_error(self, error))
    }

    fn call(&self, [slices, rows, columns]: [usize; 3]) -> Result<(), EngineError> {
        assert!(slices <= self.batch && slices * rows * columns <= BATCH_PIXELS_MAX);
        let left =
            self.good_calls.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| Some(n.saturating_sub(1)));
        match left {
            Ok(0) => Err(EngineError::Device { engine: "fake", what: "out of order".into(), lost: false }),
            _ => Ok(()),
        }
    }
}

impl Networks for Fake {
    type Lane = ();

    fn name(&self) -> &'static str {
        "fake"
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn batch_max(&self) -> usize {
        self.batch
    }

    fn lane(&self) -> Result<(), EngineError> {
        self.lanes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn lungs(
        &self,
        (): &mut (),
        stream: &mut Stream,
        planes: &Buffer,
        shape: [usize; 3],
        logits: &Buffer,
    ) -> Result<(), EngineError> {
        self.call(shape)?;
        self.scale(stream, planes.ptr(), (logits, 0), shape.iter().product(), LUNG)
    }

    fn slices(
        &self,
        (): &mut (),
        stream: &mut Stream,
        planes: &Buffer,
        shape: [usize; 3],
        features: &Buffer,
        logits: &Buffer,
    ) -> Result<(), EngineError> {
        self.call(shape)?;
        let plane = shape[1] * shape[2];
        for slice in 0..shape[0] {
            let from = planes.ptr() + (slice * plane * 4) as u64;
            for channel in 0..CHANNELS {
                let offset = (slice * CHANNELS + channel) * plane * 4;
                self.scale(stream, from, (features, offset), plane, super::tests::feature(channel))?;
            }
        }
        self.scale(stream, planes.ptr(), (logits, 0), shape.iter().product(), LESION)
    }

    fn feature_format(&self) -> FeatureFormat {
        FeatureFormat { channels: CHANNELS, half: false, channels_last: false, channel_stride: CHANNELS }
    }
}

/// The same on the processor.
struct OnCpu(Head);

fn scaled(plane: &Plane<'_>, (factor, offset): (f32, f32)) -> Vec<f32> {
    plane.to_vec().into_iter().map(|value| value * factor + offset).collect()
}

impl Backend for OnCpu {
    fn name(&self) -> &'static str {
        "processor"
    }

    fn lungs(&self, slice: Plane<'_>) -> Result<Vec<f32>, EngineError> {
        let mut lungs = scaled(&slice, LUNG);
        sigmoid(&mut lungs, LUNGS)?;
        Ok(lungs)
    }

    fn multitask(&self, crop: &[Plane<'_>], emit: Emit<'_>) -> Result<f32, EngineError> {
        let mut pool = PyramidPool::new(CHANNELS, crop[0].rows(), crop[0].columns(), crop.len());
        for (index, slice) in crop.iter().enumerate() {
            let features: Vec<f32> = (0..CHANNELS).flat_map(|c| scaled(slice, feature(c))).collect();
            pool.push(index, &features)?;
            let mut lesions = scaled(slice, LESION);
            sigmoid(&mut lesions, MULTITASK)?;
            emit(index, &lesions);
        }
        self.0.probability(&pool.finish()?)
    }
}

/// The software device with a limit on its memory; `None` where it can't be built.
fn device(memory_max: u64) -> Option<Device> {
    match kernels::shim::load() {
        Ok(_) => Some(Device::open(0, memory_max).unwrap()),
        Err(why) => {
            println!("{why}");
            None
        }
    }
}

fn noise(seed: usize) -> u32 {
    let mixed = (seed as u64 ^ 0x9e37_79b9).wrapping_mul(0xd1b5_4a32_d192_ed03);
    (mixed ^ mixed >> 29).wrapping_mul(0x94d0_49bb_1331_11eb).wrapping_shr(33) as u32
}

/// Hounsfield units of a slice.
fn hu(slice: usize, pixels: usize) -> Vec<f32> {
    (0..pixels).map(|i| -1100.0 + (noise(slice * 1_000_003 + i) % 1500) as f32).collect()
}

fn slice_job<'a>(pixels: Pixels<'a>, [rows, columns]: [usize; 2], grid: [usize; 2]) -> SliceJob<'a> {
    let slice = SourceSlice { rows, columns, row_spacing_mm: 1.0, column_spacing_mm: 1.0, pixels };
    SliceJob { slice, grid, window_hu: [-1000.0, 300.0], lung_threshold: 0.5 }
}

/// A study of `slices` slices, prepared by `backend`.
fn prepared(backend: &dyn Backend, slices: usize, source: [usize; 2], grid: [usize; 2]) -> Vec<GridSlice> {
    let prepare = |slice: usize| {
        let hu = hu(slice, source[0] * source[1]);
        let mut found = backend.prepare(&slice_job(Pixels::Hu(&hu), source, grid)).unwrap();
        (found.resample_ms, found.lungs_ms) = (0.0, 0.0);
        found
    };
    (0..slices).map(prepare).collect()
}

/// The crop of a study: rows 2 to 2 less than all, columns from 1 on.
fn crop(
    backend: &dyn Backend,
    slices: &[GridSlice],
    grid: [usize; 2],
    source: [usize; 2],
) -> Result<(f32, Vec<u8>), EngineError> {
    let (rows, columns) = (2..grid[0] - 2, 1..grid[1]);
    let first = rows.start * grid[1] + columns.start;
    let window = |values: &'_ [f32]| -> Vec<f32> { values[first..].to_vec() };
    let planes: Vec<_> = slices.iter().map(|slice| window(&slice.plane)).collect();
    let lungs: Vec<_> = slices.iter().map(|slice| window(&slice.lungs)).collect();
    let view = |values| -> Vec<Plane<'_>> {
        let values: &Vec<Vec<f32>> = values;
        values.iter().map(|v| Plane::new(v, rows.len(), columns.len(), grid[1])).collect()
    };
    let (planes, lungs) = (view(&planes), view(&lungs));
    let paste = Paste::new(&rows, &columns, grid, source);
    let job = CropJob {
        planes: &planes,
        lungs: &lungs,
        paste: &paste,
        lung_threshold: 0.5,
        lesion_threshold: 0.2,
        threads: 2,
    };
    let mut labels = vec![0; slices.len() * source[0] * source[1]];
    let told = Mutex::new(Vec::new());
    let cropped = backend.crop(&job, &mut labels, &|done, all| told.lock().unwrap().push((done, all)))?;
    let expected: Vec<_> = (0..=slices.len()).map(|done| (done, slices.len())).collect();
    assert_eq!(told.into_inner().unwrap(), expected, "progress");
    Ok((cropped.probability, labels))
}

const SOURCE: [usize; 2] = [50, 41];
const GRID: [usize; 2] = [27, 22];

#[test]
fn a_study_equals_the_processors() {
    let Some(device) = device(1 << 30) else { return };
    let cpu = OnCpu(Head::load(&tiny()).unwrap());
    let slices = prepared(&cpu, 13, SOURCE, GRID);
    let expected = crop(&cpu, &slices, GRID, SOURCE).unwrap();
    assert!(expected.1.contains(&(LabelVolume::LESION | LabelVolume::RIGHT_LUNG)));
    assert!(slices.iter().all(|slice| slice.lung_box.is_some()));
    for batch in [1, 4, 13, 64] {
        let gpu = GpuBackend::new(Fake::new(device.clone(), batch), &tiny(), 2).unwrap();
        assert!(prepared(&gpu, 13, SOURCE, GRID) == slices, "prepared, batch {batch}");
        assert!(crop(&gpu, &slices, GRID, SOURCE).unwrap() == expected, "cropped, batch {batch}");
    }
}

#[test]
fn stored_pixels_and_empty_slices_equal_the_processors() {
    let Some(device) = device(1 << 30) else { return };
    let cpu = OnCpu(Head::load(&tiny()).unwrap());
    let gpu = GpuBackend::new(Fake::new(device, 4), &tiny(), 1).unwrap();
    let stored =
        Stored { bits: 12, shift: 0, signed: false, padding: Some(0), slope: 1.0, intercept: -1024.0 };
    for fill in [None, Some(0u16)] {
        let pixels = SOURCE[0] * SOURCE[1];
        let cells: Vec<u16> = (0..pixels).map(|i| fill.unwrap_or((noise(i) % 1400) as u16)).collect();
        let pixels = Pixels::Stored { cells: &cells, stored: &stored };
        let [mut found, mut expected] = [&gpu as &dyn Backend, &cpu]
            .map(|backend| backend.prepare(&slice_job(pixels, SOURCE, GRID)).unwrap());
        assert_eq!(found.lung_box.is_none(), fill.is_some());
        for slice in [&mut found, &mut expected] {
            (slice.resample_ms, slice.lungs_ms) = (0.0, 0.0);
        }
        assert!(found == expected);
    }
}

#[test]
fn the_networks_alone_equal_the_processors() {
    let Some(device) = device(1 << 30) else { return };
    let cpu = OnCpu(Head::load(&tiny()).unwrap());
    let gpu = GpuBackend::new(Fake::new(device, 3), &tiny(), 1).unwrap();
    let values: Vec<Vec<f32>> = (0..7).map(|s| hu(s, 9 * 14).iter().map(|hu| hu / 400.0).collect()).collect();
    let planes: Vec<Plane<'_>> = values.iter().map(|v| Plane::new(v, 9, 13, 14)).collect();
    assert!(gpu.lungs(planes[0]).unwrap() == cpu.lungs(planes[0]).unwrap());
    let run = |backend: &dyn Backend| {
        let seen = Mutex::new(vec![Vec::new(); 7]);
        let probability = backend
            .multitask(&planes, &|index, lesions| seen.lock().unwrap()[index] = lesions.to_vec())
            .unwrap();
        (probability, seen.into_inner().unwrap())
    };
    assert!(run(&gpu) == run(&cpu));
    assert!(matches!(gpu.multitask(&[], &|_, _| ()), Err(EngineError::Bounds { value: 0, .. })));
}

#[test]
fn callers_at_once_get_what_each_gets_alone() {
    let Some(device) = device(1 << 30) else { return };
    let gpu = GpuBackend::new(Fake::new(device, 4), &tiny(), 2).unwrap();
    let slices = prepared(&gpu, 6, SOURCE, GRID);
    let alone = crop(&gpu, &slices, GRID, SOURCE).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert!(prepared(&gpu, 6, SOURCE, GRID) == slices));
            scope.spawn(|| assert!(crop(&gpu, &slices, GRID, SOURCE).unwrap() == alone));
        }
    });
    assert!(gpu.networks().lanes.load(Ordering::SeqCst) <= 2);
}

#[test]
fn what_is_not_a_number_is_refused() {
    let Some(device) = device(1 << 30) else { return };
    let gpu = GpuBackend::new(Fake::new(device, 2), &tiny(), 1).unwrap();
    let mut slices = prepared(&gpu, 5, SOURCE, GRID);
    let good = slices[3].plane.clone();
    for bad in [f32::NAN, f32::INFINITY] {
        slices[3].plane[GRID[1] * 4 + 5] = bad;
        let error = crop(&gpu, &slices, GRID, SOURCE).unwrap_err();
        assert!(matches!(error, EngineError::NotFinite { model: MULTITASK }), "{error}");
        let error = gpu.lungs(Plane::new(&slices[3].plane, GRID[0], GRID[1], GRID[1])).unwrap_err();
        assert!(matches!(error, EngineError::NotFinite { model: LUNGS }), "{error}");
        slices[3].plane.clone_from(&good);
        crop(&gpu, &slices, GRID, SOURCE).unwrap();
    }
}

#[test]
fn a_lane_that_failed_is_replaced_and_its_memory_comes_back() {
    let Some(device) = device(1 << 30) else { return };
    let gpu = GpuBackend::new(Fake::new(device.clone(), 2), &tiny(), 1).unwrap();
    let slices = prepared(&OnCpu(Head::load(&tiny()).unwrap()), 6, SOURCE, GRID);
    let whole = crop(&gpu, &slices, GRID, SOURCE).unwrap();
    let used = device.memory_used();
    for calls in [0, 1, 2] {
        gpu.networks().good_calls.store(calls, Ordering::SeqCst);
        let error = crop(&gpu, &slices, GRID, SOURCE).unwrap_err();
        assert!(matches!(error, EngineError::Device { lost: false, .. }), "{error}");
        assert!(device.memory_used() < used, "a failed lane holds nothing");
        gpu.networks().good_calls.store(usize::MAX, Ordering::SeqCst);
        assert!(crop(&gpu, &slices, GRID, SOURCE).unwrap() == whole, "after {calls} calls");
        assert_eq!(device.memory_used(), used);
    }
    assert_eq!(gpu.networks().lanes.load(Ordering::SeqCst), 4);
}

#[test]
fn too_little_memory_is_an_error_of_the_device() {
    let Some(device) = device(4 << 20) else { return };
    let gpu = GpuBackend::new(Fake::new(device, 64), &tiny(), 1).unwrap();
    let cpu = OnCpu(Head::load(&tiny()).unwrap());
    let slices = prepared(&cpu, 4, SOURCE, GRID);
    let error = crop(&gpu, &slices, GRID, SOURCE).unwrap_err();
    assert!(matches!(&error, EngineError::Device { lost: false, engine: "fake", .. }), "{error}");
    assert!(error.to_string().contains("memory"), "{error}");
    // A slice still fits: nothing of the failed study is left.
    prepared(&gpu, 1, SOURCE, GRID);
}

/// 600 slices of 512² at 0.75 mm, lungs of 110 × 150 pixels of 2 mm. What the networks need comes on top.
#[test]
fn six_hundred_slices_stay_within_two_gibibytes() {
    const MEMORY_MAX: u64 = 2 << 30;
    const OURS_MAX: u64 = 64 << 20;
    let Some(device) = device(MEMORY_MAX) else { return };
    let gpu = GpuBackend::new(Fake::new(device.clone(), 32), &tiny(), 1).unwrap();
    let (source, grid) = ([512, 512], [192, 192]);
    let slice = prepared(&gpu, 1, source, grid).remove(0);
    let (rows, columns) = (41..151, 21..171);
    let first = rows.start * grid[1] + columns.start;
    let plane = |values| Plane::new(values, rows.len(), columns.len(), grid[1]);
    let (planes, lungs) = (vec![plane(&slice.plane[first..]); 600], vec![plane(&slice.lungs[first..]); 600]);
    let paste = Paste::new(&rows, &columns, grid, source);
    let mut labels = vec![0; 600 * source[0] * source[1]];
    let job = CropJob {
        planes: &planes,
        lungs: &lungs,
        paste: &paste,
        lung_threshold: 0.5,
        lesion_threshold: 0.2,
        threads: 2,
    };
    let start = Instant::now();
    gpu.crop(&job, &mut labels, &|_, _| ()).unwrap();
    let peak = device.memory_peak();
    println!("{} KiB of device memory, {} ms", peak >> 10, start.elapsed().as_millis());
    assert!(peak <= OURS_MAX, "{peak} bytes");
    // All slices are one slice, so all masks are one mask.
    let size = source[0] * source[1];
    assert!(labels[..size].iter().any(|label| *label != 0));
    assert!(labels.chunks_exact(size).all(|other| other == &labels[..size]));
}
