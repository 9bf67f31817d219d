//! One slice through a network, on one thread: our engine on every instruction set that the processor has, against `rten`, interleaved.
//!
//! `cargo bench -p engine --bench slice -- [MODEL ROWS COLUMNS]`; without a model the zoo's lung net at 180 × 180 and its multitask net at 110 × 150.
//! `--ours MODEL DEPTH ROWS COLUMNS` leaves rten out, which has no operators for volumes; `--at-once` is two slices at once only.
//! Prints CPU time a slice (median), the largest difference of an output, each layer's share of the peak of multiply-adds that this core
//! reaches just then, and how long one slice takes when several threads share it.
//!
//! `--serve ENGINE MODEL DEPTH ROWS COLUMNS` (ENGINE: `ours`, `rten`) is one engine for `slice.py` beside this file, which adds onnxruntime and
//! OpenVINO: for each number read it runs so many slices and answers with their mean CPU time in ms.
#![allow(clippy::unwrap_used, reason = "a panic is how a benchmark fails")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::cpu::CpuBackend;
use engine::cpu::probe::{Probe, instruction_sets};
use engine::{Backend, Plane, Zoo};
use rten::{ModelOptions, RunOptions, ThreadPool};
use rten_tensor::{AsView, NdTensor};

const ROUNDS: usize = 31;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let dims = |dims: &[String]| [0, 1, 2].map(|axis| dims[axis].parse::<usize>().unwrap());
    match &args[..] {
        [flag, engine, model, of @ ..] if flag == "--serve" => {
            return serve(engine, Path::new(model), dims(of));
        }
        [flag] if flag == "--at-once" => return at_once(&Path::new(env!("CARGO_MANIFEST_DIR")).join("zoo")),
        [flag, model, of @ ..] if flag == "--ours" => return alone(Path::new(model), dims(of)),
        _ => {}
    }
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("zoo");
    let jobs: Vec<(PathBuf, [usize; 2])> = match &args[..] {
        [model, rows, columns] => vec![(model.into(), [rows.parse().unwrap(), columns.parse().unwrap()])],
        _ => vec![
            (zoo.join("lungs/model.onnx"), [180, 180]),
            (zoo.join("multitask-spatial-1/model.onnx"), [110, 150]),
        ],
    };
    for (model, size) in jobs {
        compare(&model, size);
    }
    at_once(&zoo);
}

/// Two slices at once by an engine with two lanes, which may share a slice, against two engines with one, which can't.
fn at_once(zoo: &Path) {
    let zoo = Zoo::open(zoo).unwrap();
    let load = |lanes| CpuBackend::load(&zoo, lanes).unwrap();
    let (both, one, other) = (load(2), load(1), load(1));
    let input = slice(180, 180);
    let time = |engines: [&CpuBackend; 2]| {
        let start = std::time::Instant::now();
        std::thread::scope(|scope| {
            for engine in engines {
                let run =
                    || (0..10).for_each(|_| drop(engine.lungs(Plane::new(&input, 180, 180, 180)).unwrap()));
                scope.spawn(run);
            }
        });
        start.elapsed().as_secs_f64() * 1e3 / 20.0
    };
    let (mut ratios, mut times) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (shared, apart) = (time([&both, &both]), time([&one, &other]));
        times.push(shared);
        ratios.push(shared / apart);
    }
    let (time, ratio) = (median(&mut times), median(&mut ratios));
    println!(
        "\ntwo slices at once, two lanes: {time:.2} ms a slice, {ratio:.3} of two engines of one lane each"
    );
}

fn compare(path: &Path, [rows, columns]: [usize; 2]) {
    println!("\n{}: {rows} x {columns}", path.display());
    let input = slice(rows, columns);
    let dims = [1, rows, columns];
    let mut ours: Vec<(&str, Probe, Vec<f64>)> = instruction_sets()
        .into_iter()
        .map(|set| (set, Probe::load(path, set).unwrap(), Vec::new()))
        .collect();
    let run_theirs = by_rten(path, [rows, columns]);
    let run_theirs = || run_theirs(&input);
    let expected = run_theirs();
    let mut their_times = Vec::new();
    for round in 0..ROUNDS {
        for (set, probe, times) in &mut ours {
            // The fallback is slow; five rounds of it are enough.
            if *set == "portable" && round > 5 {
                continue;
            }
            let start = cpu_ms();
            let outputs = probe.run(&input, dims).unwrap();
            times.push(cpu_ms() - start);
            if round == 0 {
                let pairs = outputs.iter().zip(&expected).flat_map(|(a, b)| a.iter().zip(b));
                let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, worse);
                println!("  {set}: differs from rten by at most {worst:.1e}");
            }
        }
        if round < 9 {
            let start = cpu_ms();
            run_theirs();
            their_times.push(cpu_ms() - start);
        }
    }
    let reference = median(&mut their_times);
    println!("  {:<12}{reference:>8.2} ms CPU a slice", "rten");
    for (set, probe, times) in &mut ours {
        let time = median(times);
        println!(
            "  {set:<12}{time:>8.2} ms CPU a slice, {:.3} of rten; activations {:.1} MiB",
            time / reference,
            probe.workspace_bytes() as f64 / f64::from(1 << 20)
        );
    }
    layers(&mut ours[0].1, &input, dims, 100);
    latency(path, &input, dims, 10 * ROUNDS);
}

/// Our engine by itself.
fn alone(path: &Path, dims: [usize; 3]) {
    let input = slice(dims[0] * dims[1], dims[2]);
    layers(&mut Probe::load(path, instruction_sets()[0]).unwrap(), &input, dims, 7);
    latency(path, &input, dims, 7);
}

/// Wall time of one slice by one thread and by several, in turn; the shares of a busy machine are in the ratio, the least is of a quiet moment.
fn latency(path: &Path, input: &[f32], dims: [usize; 3], rounds: usize) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let probe = |threads| Probe::load(path, instruction_sets()[0]).unwrap().with_threads(threads);
    let mut runs: Vec<(usize, Probe, Vec<f64>)> =
        (1..=cores).map(|threads| (threads, probe(threads), Vec::new())).collect();
    for _ in 0..rounds {
        for (_, probe, times) in &mut runs {
            let start = std::time::Instant::now();
            probe.run(input, dims).unwrap();
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let alone = runs[0].2.clone();
    for (threads, probe, times) in &mut runs {
        let mut ratios: Vec<f64> = times.iter().zip(&alone).map(|(time, alone)| time / alone).collect();
        let least = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
        println!(
            "  one slice by {threads} threads: {:.2} ms, least {:.2} ms; {:.2} of one thread's, least to least {:.2}; activations {:.1} MiB",
            median(&mut times.clone()),
            least(times),
            median(&mut ratios),
            least(times) / least(&alone),
            probe.workspace_bytes() as f64 / f64::from(1 << 20)
        );
    }
}

/// A network on rten, on one thread.
fn by_rten(path: &Path, [rows, columns]: [usize; 2]) -> impl Fn(&[f32]) -> Vec<Vec<f32>> + use<> {
    let bytes = std::fs::read(path).unwrap();
    let model = ModelOptions::with_all_ops().prepack_weights(true).load(bytes).unwrap();
    let pool = Arc::new(ThreadPool::with_num_threads(1));
    move |input| {
        let tensor = NdTensor::from_data([1, 1, rows, columns], input.to_vec());
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&pool)));
        let outputs = model
            .run(vec![(model.input_ids()[0], tensor.into())], model.output_ids(), Some(options))
            .unwrap();
        outputs.into_iter().map(|out| out.into_tensor::<f32>().unwrap().to_vec()).collect()
    }
}

/// From a slice to a network's outputs.
type Run = dyn FnMut(&[f32]) -> Vec<Vec<f32>>;

fn serve(engine: &str, path: &Path, dims: [usize; 3]) {
    let idle = resident_mib();
    let mut run: Box<Run> = if engine == "rten" {
        Box::new(by_rten(path, [dims[1], dims[2]]))
    } else {
        let mut probe = Probe::load(path, instruction_sets()[0]).unwrap();
        Box::new(move |input| probe.run(input, dims).unwrap())
    };
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (count, file) = line.split_once(' ').unwrap();
        let bytes = std::fs::read(file).unwrap();
        let input: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let count: u32 = count.parse().unwrap();
        let (start, mut outputs) = (cpu_ms(), Vec::new());
        (0..count).for_each(|_| outputs = run(&input));
        let mean = (cpu_ms() - start) / f64::from(count);
        let bytes: Vec<u8> = outputs.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(format!("{file}.{engine}"), bytes).unwrap();
        println!("{mean} {} {idle}", resident_mib());
    }
}

/// The most memory that this process ever had resident.
fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn layers(probe: &mut Probe, input: &[f32], dims: [usize; 3], rounds: u32) {
    let peak = probe.peak();
    let layers = probe.profile(input, dims, rounds).unwrap();
    println!(
        "  peak {:.0} GFLOP/s; layers, the least of {rounds} runs each, and share of peak:",
        2.0 * peak / 1e9
    );
    let (mut seconds, mut work) = (0.0, 0);
    for layer in layers {
        let share = layer.multiply_adds as f64 / layer.seconds / peak;
        println!("    {:<60}{:>8.3} ms {:>5.1} %", layer.layer, layer.seconds * 1e3, share * 100.0);
        seconds += layer.seconds;
        work += layer.multiply_adds;
    }
    println!("    {:<60}{:>8.3} ms {:>5.1} %", "all", seconds * 1e3, work as f64 / seconds / peak * 100.0);
}

/// Smooth values in [0, 1] with some noise, the same on every machine.
fn slice(rows: usize, columns: usize) -> Vec<f32> {
    let value = |i: usize| {
        let (y, x) = (i / columns, i % columns);
        let noise = (i as u64).wrapping_mul(2_654_435_761) % (1 << 32);
        let wave = (y as f32 / 17.0).sin() * (x as f32 / 23.0).cos();
        (0.5 + 0.4 * wave + 0.1 * (noise as f32 / 4.3e9 - 0.5)).clamp(0.0, 1.0)
    };
    (0..rows * columns).map(value).collect()
}

/// CPU time of all threads of this process.
fn cpu_ms() -> f64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap();
    time.tv_sec() as f64 * 1e3 + time.tv_nsec() as f64 / 1e6
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The larger difference; what is no number is the worst.
fn worse(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) }
}
