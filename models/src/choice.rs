//! Which engines a box has.
//!
//! Owns: the order TensorRT, CUDA, processor, and whether one that is missing may come. Never does: fall; [`Engines`] does.

mod check;

use std::path::PathBuf;

use kernels::device::{Device, DeviceError};
use log::error;

use crate::backend::{Backend, EngineError};
use crate::cpu::CpuBackend;
use crate::engines::{Again, Engines, Opened, Pauses};
use crate::limits::THREADS_MAX;
use crate::zoo::Zoo;
use crate::{cuda, tensorrt};
use check::check;

/// Where plans are unless a configuration says otherwise. Never the working folder: what lies there may be anybody's.
pub const PLAN_DIR: &str = "/var/lib/triaged/plans";

/// Callers that a GPU's engine serves at once: one uploads while another computes, and no more fit a small GPU's memory.
const GPU_LANES_MAX: usize = 4;

/// Which engine to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// The fastest one that works here: TensorRT, then CUDA, then the processor.
    #[default]
    Auto,
    /// TensorRT, and the processor where it fails.
    TensorRt,
    /// Our own kernels on a GPU, and the processor where they fail.
    Cuda,
    /// The processor.
    Cpu,
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "tensorrt" => Ok(Self::TensorRt),
            "cuda" => Ok(Self::Cuda),
            "cpu" => Ok(Self::Cpu),
            _ => Err(format!("`{text}` is no engine; known: auto, tensorrt, cuda, cpu")),
        }
    }
}

/// How the engines of a box are set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Which of them.
    pub choice: Choice,
    /// Threads of the processor's engine, and callers at once.
    pub threads: usize,
    /// Which GPU.
    pub gpu: usize,
    /// Bytes of its memory that are used at most.
    pub gpu_memory_max: u64,
    /// Where TensorRT's library and plans are.
    pub tensorrt: tensorrt::Options,
    /// Whether an engine that was chosen by name must be there. A daemon goes on without: a dead GPU must not end the reception.
    pub required: bool,
}

impl Setup {
    /// The first GPU with at most 2 GiB of its memory, TensorRT where the system has it, plans where `triaged provision` leaves them.
    pub fn new(choice: Choice, threads: usize) -> Self {
        let tensorrt =
            tensorrt::Options { plan_dir: PathBuf::from(PLAN_DIR), ..tensorrt::Options::default() };
        Self {
            choice,
            threads: threads.clamp(1, THREADS_MAX),
            gpu: 0,
            gpu_memory_max: 2 << 30,
            tensorrt,
            required: true,
        }
    }

    /// Loads the zoo's networks into the chosen engine and into those that it may fall to. A daemon looks again for a GPU that is not there yet, and
    /// for one that it lost.
    ///
    /// # Errors
    /// [`EngineError::Load`] for models that the processor can't run; the error of an engine that was chosen by name.
    pub fn open(&self, zoo: &Zoo) -> Result<Engines, EngineError> {
        let cpu = CpuBackend::load(zoo, self.threads)?;
        let Found { mut opened, error } = self.open_gpus(zoo, &cpu, false);
        if let (Some(error), true) = (error, self.choice != Choice::Auto) {
            if self.required {
                return Err(error);
            }
            error!("the engine that was chosen can't work, the processor's does: {error}");
        }
        opened.engines.push(Box::new(cpu));
        let engines = Engines::new(opened.engines, opened.missing);
        if self.required || self.choice == Choice::Cpu {
            return Ok(engines);
        }
        let (setup, zoo) = (self.clone(), zoo.clone());
        let reopen = move |cpu: &dyn Backend, lost: bool| setup.open_gpus(&zoo, cpu, lost).opened;
        Ok(engines.looking(opened.again, Box::new(reopen), Pauses::default()))
    }

    /// Opens the GPU once, for all engines that want it: they share its memory limit.
    fn open_gpus(&self, zoo: &Zoo, cpu: &dyn Backend, after_loss: bool) -> Found {
        let wanted: &[Choice] = match self.choice {
            Choice::Auto => &[Choice::TensorRt, Choice::Cuda],
            Choice::Cpu => &[],
            Choice::TensorRt => &[Choice::TensorRt],
            Choice::Cuda => &[Choice::Cuda],
        };
        let mut found = Found::default();
        if wanted.is_empty() {
            return found;
        }
        let device = match Device::open(self.gpu, self.gpu_memory_max) {
            Ok(device) => device,
            Err(error) => {
                found.opened.again = again(&error);
                for choice in wanted {
                    found.failed(
                        choice.name(),
                        EngineError::Device {
                            engine: choice.name(),
                            what: error.to_string(),
                            lost: error.is_lost(),
                        },
                    );
                }
                return found;
            }
        };
        for choice in wanted {
            let opened = self.open_one(*choice, zoo, &device, after_loss);
            match opened.and_then(|engine| check(&*engine, cpu).map(|()| engine)) {
                Ok(engine) => found.opened.engines.push(engine),
                Err(error) => found.failed(choice.name(), error),
            }
        }
        if device.is_lost() {
            // Whoever passed before has lost it, too.
            for engine in found.opened.engines.drain(..) {
                found
                    .opened
                    .missing
                    .push((engine.name(), "its GPU was lost while another engine was opened".into()));
            }
            found.opened.again = Again::Lost;
        }
        found
    }

    fn open_one(
        &self,
        choice: Choice,
        zoo: &Zoo,
        device: &Device,
        after_loss: bool,
    ) -> Result<Box<dyn Backend>, EngineError> {
        let lanes = self.threads.min(GPU_LANES_MAX);
        if choice != Choice::TensorRt {
            return cuda::open(zoo, device, lanes, cuda::Precision::default());
        }
        if after_loss {
            // The CUDA runtime inside TensorRT does not know that its context is another one. Where there is none, that is what is to be said.
            let there = tensorrt::Library::find(self.tensorrt.library_dir.as_deref());
            let what = there.map_or_else(
                |error| error.to_string(),
                |_| "the GPU was lost, and TensorRT starts once in a process: restart the daemon, or switch the box off and on".to_owned(),
            );
            return Err(EngineError::Device { engine: choice.name(), what, lost: false });
        }
        tensorrt::open(zoo, device, lanes, &self.tensorrt)
    }
}

impl Choice {
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::TensorRt => "tensorrt",
            Self::Cuda => "cuda",
            Self::Cpu => "cpu",
        }
    }
}

/// What came of opening a GPU's engines.
struct Found {
    opened: Opened,
    /// The last error.
    error: Option<EngineError>,
}

impl Default for Found {
    fn default() -> Self {
        Self { opened: Opened { engines: Vec::new(), missing: Vec::new(), again: Again::No }, error: None }
    }
}

impl Found {
    fn failed(&mut self, name: &'static str, error: EngineError) {
        self.opened.missing.push((name, error.to_string()));
        self.error = Some(error);
    }
}

/// Whether a GPU that can't be opened may come: its driver is loaded late, or what is left of a lost one goes.
fn again(error: &DeviceError) -> Again {
    match error {
        DeviceError::NoDriver { .. } | DeviceError::NoDevice { .. } => Again::NotThereYet,
        DeviceError::Gone { for_good: true, .. } => Again::No,
        error if error.is_lost() => Again::Lost,
        _ => Again::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_said_by_name() {
        for choice in [Choice::Auto, Choice::TensorRt, Choice::Cuda, Choice::Cpu] {
            assert_eq!(choice.name().parse(), Ok(choice));
        }
        assert!("gpu".parse::<Choice>().unwrap_err().contains("known: auto, tensorrt, cuda, cpu"));
    }

    #[test]
    fn what_may_come_is_looked_for_again() {
        let gone = |for_good| DeviceError::Gone { why: "ECC".into(), for_good };
        for (error, expected) in [
            (DeviceError::NoDriver { what: "libcuda.so.1 was not found".into() }, Again::NotThereYet),
            (DeviceError::NoDevice { ordinal: 0, count: 0 }, Again::NotThereYet),
            (DeviceError::OldDriver { version: 11_000, oldest: 11_040 }, Again::No),
            (DeviceError::NoKernels { compute_capability: (3, 5), built: "5.2".into() }, Again::No),
            (gone(false), Again::Lost),
            (gone(true), Again::No),
            (DeviceError::Hung { call: "cuModuleLoadData", waited_ms: 20_000 }, Again::Lost),
        ] {
            assert_eq!(again(&error), expected, "{error}");
        }
    }
}
