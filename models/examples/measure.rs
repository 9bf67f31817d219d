//! Measures the steps of an analysis on a raw volume (16-bit little-endian HU, slice-major, head first):
//!
//! `cargo run --release -p engine --example measure -- FILE SLICES ROWS COLUMNS SLICE_MM ROW_MM COLUMN_MM [ZOO] [THREADS]`

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use engine::{Analyzer, Choice, Pixels, PreparedSlice, Setup, SourceSlice, SpacingMm, Zoo, default_zoo_dir};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, slices, rows, columns, slice_mm, row_mm, column_mm, rest @ ..] = &args[..] else {
        return Err("FILE SLICES ROWS COLUMNS SLICE_MM ROW_MM COLUMN_MM [ZOO] [THREADS]".into());
    };
    let (slices, rows, columns): (usize, usize, usize) = (slices.parse()?, rows.parse()?, columns.parse()?);
    let spacing = SpacingMm { slice: slice_mm.parse()?, row: row_mm.parse()?, column: column_mm.parse()? };
    let zoo = rest.first().map_or_else(default_zoo_dir, Into::into);
    let threads = rest.get(1).map_or(Ok(std::thread::available_parallelism()?.get()), |text| text.parse())?;

    let start = Instant::now();
    let analyzer = Analyzer::new(Zoo::open(&zoo)?, &Setup::new(Choice::Auto, threads))?;
    println!("load {:.2} s, {}", start.elapsed().as_secs_f64(), memory());

    let bytes = std::fs::read(file)?;
    let hu: Vec<f32> = bytes.chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]]))).collect();
    let pixels = rows * columns;
    if hu.len() != slices * pixels {
        return Err(format!("{file}: {} values, expected {}", hu.len(), slices * pixels).into());
    }
    let start = Instant::now();
    let next = AtomicUsize::new(0);
    let prepared: Mutex<Vec<Option<PreparedSlice>>> = Mutex::new(vec![None; slices]);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(hu) = hu.chunks_exact(pixels).nth(index) else { break };
                    let (row_spacing_mm, column_spacing_mm) = (spacing.row, spacing.column);
                    let pixels = Pixels::Hu(hu);
                    let slice = SourceSlice { rows, columns, row_spacing_mm, column_spacing_mm, pixels };
                    let slice = analyzer.prepare(slice).expect("the engine takes the slice");
                    prepared.lock().expect("no worker panicked")[index] = Some(slice);
                }
            });
        }
    });
    let prepared: Vec<PreparedSlice> = prepared.into_inner()?.into_iter().flatten().collect();
    println!("prepare {:.2} s, {}", start.elapsed().as_secs_f64(), memory());

    let analysis = analyzer.finish(&prepared, spacing, &|_, _| ())?;
    println!("{:?} in {:?}, {}", analysis.lung_box, analysis.grid, memory());
    let per_slice = |sum_ms: f64| sum_ms / slices as f64;
    let timings = analysis.timings;
    println!(
        "a slice: resample {:.2} ms, lungs {:.1} ms",
        per_slice(timings.resample_ms),
        per_slice(timings.lungs_ms)
    );
    let in_box = analysis.lung_box.slices.len() as f64;
    println!("a slice of the box: multitask {:.1} ms with {threads} threads", timings.multitask_ms / in_box);
    println!("{timings:?}");
    println!(
        "probability {:?}, lesions {:?}, lungs {:?} ml",
        analysis.probability, analysis.lesions, analysis.lung_volume_ml
    );
    Ok(())
}

/// Resident memory now and at its peak, and the processor time so far.
fn memory() -> String {
    // Fields 14 and 15 of proc_pid_stat(5), in ticks of 10 ms; the name in field 2 has no spaces here.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: f64 = stat.split(' ').skip(13).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lines = status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"));
    let lines: Vec<String> = lines.map(|line| line.replace('\t', " ")).collect();
    format!("cpu {:.2} s, {}", ticks / 100.0, lines.join(", "))
}
