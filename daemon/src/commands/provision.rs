//! `triaged provision`: builds the networks' TensorRT plans on the box that will run them.
//!
//! A plan is good for one TensorRT, one card and one model: run it when a box is set up, and after an update of any of the three. It keeps what is
//! good and builds the rest; the daemon, which must be stopped on a small board, finds the plans at its next start and works without them till then.
//! Run it as the daemon's user: a plan is code, so the daemon reads none that anybody but itself and root could have written.
//!
//! | exit code | means |
//! |---|---|
//! | 0 | all plans are there |
//! | 1 | a build failed, a folder can't be written or may be written by others, or another `provision` is at work; plans that were finished stay |
//! | 2 | the command line or the configuration is wrong |
//! | 3 | no GPU, or its driver does not work |
//! | 4 | no TensorRT, or one that can't build |
use crate::config::Config;
use crate::status::Teller;
use engine::tensorrt::{Library, Options, Step, TensorRtError};
use engine::{PLAN_DIR, Zoo, default_zoo_dir};
use kernels::device::{Device, DeviceError};
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit codes besides success.
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NO_GPU: u8 = 3;
const NO_TENSORRT: u8 = 4;

/// Arguments of `triaged provision`.
#[derive(clap::Args)]
pub struct Args {
    /// The daemon's configuration file (TOML): its models, and its storage folder, where the plans go.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the plans; by default `plans` in the storage folder.
    #[arg(long, value_name = "DIR")]
    engine_dir: Option<PathBuf>,
    /// Folder of TensorRT's libraries; by default the system's loader finds them.
    #[arg(long, value_name = "DIR")]
    tensorrt_dir: Option<PathBuf>,
    /// The models' folder; by default the configuration's, or the one that was installed with the binary.
    #[arg(long, value_name = "DIR")]
    zoo: Option<PathBuf>,
    /// Number of the GPU; by default the configuration's, or 0.
    #[arg(long)]
    gpu: Option<usize>,
    /// Run on this DLA core (Orin, Xavier) what it can run. A DLA takes layers of fixed sizes only, so all of it may run on the GPU.
    #[arg(long, value_name = "CORE")]
    dla: Option<u32>,
    /// File that the box's page shows.
    #[arg(long, value_name = "FILE")]
    status: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut teller = Teller::new(args.status.as_deref());
    let mut lines = Vec::new();
    let provisioned = provision(args, &mut |line| {
        println!("{line}");
        lines.push(line);
        teller.tell("building", &lines);
    });
    Ok(match provisioned {
        Ok(()) => {
            teller.tell("ready", &lines);
            ExitCode::SUCCESS
        }
        Err((code, why)) => {
            eprintln!("triaged: {why}");
            let state = if matches!(code, NO_GPU | NO_TENSORRT) { "not here" } else { "failed" };
            lines.push(why);
            teller.tell(state, &lines);
            ExitCode::from(code)
        }
    })
}

fn provision(args: &Args, tell: &mut dyn FnMut(String)) -> Result<(), (u8, String)> {
    let config = args.config.as_deref().map(Config::load).transpose();
    let config = config.map_err(|error| (USAGE, format!("{error:#}")))?;
    let zoo_dir = args.zoo.clone().or_else(|| config.as_ref().and_then(|config| config.engine.zoo.clone()));
    let zoo =
        Zoo::open(&zoo_dir.unwrap_or_else(default_zoo_dir)).map_err(|error| (USAGE, error.to_string()))?;
    // As the daemon will look for them.
    let engine = config.as_ref().map(|config| config.engine.clone()).unwrap_or_default();
    let gpu = args.gpu.unwrap_or(engine.gpu);
    let library_dir = args.tensorrt_dir.clone().or(engine.tensorrt_dir);
    let dla = args.dla.or(engine.dla);
    let plan_dir = args.engine_dir.clone().unwrap_or_else(|| {
        config.as_ref().map_or_else(|| PathBuf::from(PLAN_DIR), |config| config.storage.dir.join("plans"))
    });
    // The card first: without one TensorRT is of no use, and some of its calls misbehave.
    let device = Device::open(gpu, engine.gpu_memory_mib << 20).map_err(|error| match error {
        DeviceError::NoKernels { .. } => (FAILED, error.to_string()),
        error => (NO_GPU, error.to_string()),
    })?;
    let (major, minor) = device.compute_capability();
    tell(format!("GPU {gpu}: {}, compute capability {major}.{minor}", device.name()));
    let library = Library::find(library_dir.as_deref()).map_err(|error| (NO_TENSORRT, error.to_string()))?;
    tell(format!("{} ({})", library.version(), library.path().display()));
    let options = Options { library_dir, plan_dir, dla };
    let mut step = |step| tell(said(step));
    engine::tensorrt::provision(&zoo, &device, &library, &options, &mut step).map_err(|error| {
        let code = if matches!(error, TensorRtError::NoBuilder { .. }) { NO_TENSORRT } else { FAILED };
        (code, error.to_string())
    })?;
    tell(format!("all plans are in {}", options.plan_dir.display()));
    Ok(())
}

fn said(step: Step) -> String {
    match step {
        Step::Kept { network } => format!("{network}: the plan is good"),
        Step::Building { network, why, tool: None } => {
            format!("{network}: {why}; building, this takes minutes")
        }
        Step::Building { network, why, tool: Some(tool) } => {
            format!("{network}: {why}; building with {}, this takes minutes", tool.display())
        }
        Step::Done { network, seconds, bytes, path } => {
            let mib = bytes as f64 / f64::from(1 << 20);
            format!("{network}: built in {seconds:.1} s, {mib:.1} MiB, {}", path.display())
        }
    }
}
