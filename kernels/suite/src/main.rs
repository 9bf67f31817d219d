//! `gpu-suite`: checks every kernel and engine on a machine with a GPU, and measures them.
//!
//! Owns: the parts of the suite and their report. Never does: train, touch DICOM, or need more than the driver of the GPU.
//!
//! Each part is a process of its own and writes `OUT/parts/NAME.json` as it goes, so that a part that crashes or runs out of time
//! keeps what it had. `report` joins them. Exit codes: 0 all well, 1 something is wrong, 77 no GPU (as in Automake's tests: skipped).

mod bandwidth;
mod checks;
mod device;
mod engines;
mod layers;
mod part;
mod report;
mod studies;
mod volume;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use kernels::device::{Device, DeviceError};

use part::Part;
use volume::Volume;

/// Longest wait for a kernel by itself; a part of the suite may take less.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// Exit code without a GPU.
const NO_GPU: u8 = 77;

#[derive(Parser)]
#[command(about = "Checks and measures the kernels and engines on a machine with a GPU")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Folder for the results.
    #[arg(long, global = true, default_value = "out")]
    out: PathBuf,
    /// The models' folder.
    #[arg(long, global = true)]
    zoo: Option<PathBuf>,
    /// Folder of the phantom.
    #[arg(long, global = true, default_value = "data")]
    data: PathBuf,
    /// Small sizes and few repeats: a rehearsal, whose times mean nothing.
    #[arg(long, global = true)]
    quick: bool,
    /// GPU, from 0.
    #[arg(long, global = true, default_value_t = 0)]
    gpu: usize,
    /// Folder of TensorRT's libraries; by default the system's loader finds them.
    #[arg(long, global = true)]
    tensorrt: Option<PathBuf>,
    /// Folder of TensorRT's plans.
    #[arg(long, global = true, default_value = "plans")]
    plans: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// What the GPU and the machine are.
    Device,
    /// Every kernel against the processor's reference.
    Kernels,
    /// Builds TensorRT's plans, if there is one.
    Plans,
    /// Achieved bandwidth of each kernel.
    Bandwidth,
    /// Every engine against the processor's.
    Engines,
    /// Latency of whole studies by stage.
    Studies {
        /// Numbers of slices.
        #[arg(long, value_delimiter = ',', default_values_t = [40, 150, 300, 600])]
        slices: Vec<usize>,
        /// Engines; those that can't work here are left out.
        #[arg(long, value_delimiter = ',', default_values_t = ["cuda", "tensorrt", "cpu"].map(String::from))]
        engines: Vec<String>,
    },
    /// Writes the pixels of a study for other programs: 16-bit cells, slice by slice.
    Pixels {
        /// Number of slices.
        slices: usize,
        /// The file.
        file: PathBuf,
    },
    /// Joins the parts into report.json and report.md.
    Report,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => match error.downcast_ref::<DeviceError>() {
            Some(DeviceError::NoDriver { .. } | DeviceError::NoDevice { .. }) => {
                eprintln!("skipped: no GPU: {error:#}");
                ExitCode::from(NO_GPU)
            }
            _ => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

/// Whether all is well.
fn run(cli: &Cli) -> anyhow::Result<bool> {
    let name = match &cli.command {
        Command::Device => "device",
        Command::Kernels => "kernels",
        Command::Plans => "plans",
        Command::Bandwidth => "bandwidth",
        Command::Engines => "engines",
        Command::Studies { .. } => "studies",
        Command::Pixels { slices, file } => {
            let study = Volume::open(&cli.data)?.study(*slices, side(cli.quick));
            study.write(file).with_context(|| file.display().to_string())?;
            return Ok(true);
        }
        Command::Report => return report::write(&cli.out),
    };
    // Without a GPU nothing is written.
    let gpu = Device::open(cli.gpu, u64::MAX)?;
    // compute-sanitizer slows kernels down a hundredfold.
    gpu.set_wait_max(WAIT_MAX);
    let tensorrt = engine::tensorrt::Options {
        library_dir: cli.tensorrt.clone(),
        plan_dir: cli.plans.clone(),
        ..engine::tensorrt::Options::default()
    };
    let place = engines::Place { gpu: cli.gpu, tensorrt };
    let mut part = Part::start(&cli.out, name, cli.quick)?;
    let done = match &cli.command {
        Command::Device => device::facts(&mut part, &gpu, cli.gpu),
        Command::Kernels => checks::run(&mut part, &gpu, cli.quick),
        Command::Bandwidth => bandwidth::run(&mut part, &gpu, cli.gpu, &cli.data, cli.quick),
        Command::Plans => engines::plans(&mut part, &zoo(cli)?, &gpu, &place),
        Command::Engines => {
            drop(gpu);
            engines::run(&mut part, &zoo(cli)?, &Volume::open(&cli.data)?, &place, cli.quick)
        }
        Command::Studies { slices, engines } => {
            drop(gpu);
            studies::run(&mut part, &zoo(cli)?, &Volume::open(&cli.data)?, slices, engines, &place, cli.quick)
        }
        Command::Pixels { .. } | Command::Report => Ok(()),
    };
    part.finish(done)
}

fn zoo(cli: &Cli) -> anyhow::Result<engine::Zoo> {
    Ok(engine::Zoo::open(&cli.zoo.clone().unwrap_or_else(engine::default_zoo_dir))?)
}

/// Rows and columns of a slice.
fn side(quick: bool) -> usize {
    if quick { 96 } else { 512 }
}
