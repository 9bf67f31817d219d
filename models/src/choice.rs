//! Which engines a box has, and the proof that each gives the processor's answers.
//!
//! Owns: the order TensorRT, CUDA, processor, and the check before an engine is trusted with a study. Never does: fall; [`Engines`] does.

use std::path::PathBuf;
use std::sync::Mutex;

use log::{error, info};

use crate::backend::{Backend, EngineError, Plane};
use crate::cpu::CpuBackend;
use crate::engines::Engines;
use crate::limits::THREADS_MAX;
use crate::zoo::Zoo;
use crate::{cuda, tensorrt};

/// Where plans are unless a configuration says otherwise. Never the working folder: what lies there may be anybody's.
pub const PLAN_DIR: &str = "/var/lib/triaged/plans";

/// Callers that a GPU's engine serves at once: one uploads while another computes, and no more fit a small GPU's memory.
const GPU_LANES_MAX: usize = 4;

/// Largest difference of a probability from the processor's in the check: fp16 has moved lesions of the zoo's nets by a tenth of that.
const DIFFERENCE_MAX: f32 = 0.05;
/// Largest difference of the identification probability: promise 7 of the specification.
const IDENTIFICATION_DIFFERENCE_MAX: f32 = 0.01;

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

    /// Loads the zoo's networks into the chosen engine and into those that it may fall to.
    ///
    /// # Errors
    /// [`EngineError::Load`] for models that the processor can't run; the error of an engine that was chosen by name.
    pub fn open(&self, zoo: &Zoo) -> Result<Engines, EngineError> {
        let cpu = CpuBackend::load(zoo, self.threads)?;
        let wanted: &[Choice] = match self.choice {
            Choice::Auto => &[Choice::TensorRt, Choice::Cuda],
            Choice::Cpu => &[],
            Choice::TensorRt => &[Choice::TensorRt],
            Choice::Cuda => &[Choice::Cuda],
        };
        let (mut engines, mut missing) = (Vec::new(), Vec::new());
        for choice in wanted {
            let (name, opened) = self.open_gpu(*choice, zoo);
            let checked = opened.and_then(|engine| check(&*engine, &cpu).map(|()| engine));
            match checked {
                Ok(engine) => engines.push(engine),
                Err(error) if self.required && self.choice != Choice::Auto => return Err(error),
                Err(error) => {
                    if self.choice != Choice::Auto {
                        error!("engine {name} was chosen and can't work, the processor's does: {error}");
                    }
                    missing.push((name, error.to_string()));
                }
            }
        }
        engines.push(Box::new(cpu));
        Ok(Engines::new(engines, missing))
    }

    fn open_gpu(&self, choice: Choice, zoo: &Zoo) -> (&'static str, Result<Box<dyn Backend>, EngineError>) {
        let lanes = self.threads.min(GPU_LANES_MAX);
        if choice == Choice::TensorRt {
            return ("tensorrt", tensorrt::open(zoo, self.gpu, lanes, self.gpu_memory_max, &self.tensorrt));
        }
        let precision = cuda::Precision::default();
        ("cuda", cuda::open(zoo, self.gpu, lanes, self.gpu_memory_max, precision))
    }
}

/// Slices, rows and columns of the check's volume: no multiples of anything.
const CHECK: [usize; 3] = [9, 45, 61];

/// Runs a made-up chest through an engine and the processor: a wrong driver, plan or card shows before a patient's study does.
///
/// # Errors
/// What the engine says, or [`EngineError::Device`] with the largest difference.
fn check(engine: &dyn Backend, cpu: &dyn Backend) -> Result<(), EngineError> {
    let [slices, rows, columns] = CHECK;
    let volume = made_up_chest();
    let planes: Vec<Plane<'_>> = volume
        .chunks_exact(rows * columns)
        .map(|values| Plane::new(values, rows, columns, columns))
        .collect();
    let run = |engine: &dyn Backend| -> Result<(Vec<f32>, Vec<f32>, f32), EngineError> {
        let lungs = engine.lungs(planes[slices / 2])?;
        let lesions = Mutex::new(vec![0.0; volume.len()]);
        let identification = engine.multitask(&planes, &|index, values| {
            let mut all = lesions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            all[index * values.len()..][..values.len()].copy_from_slice(values);
        })?;
        Ok((lungs, lesions.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner), identification))
    };
    let theirs = run(cpu)?;
    // Twice: the second time an engine may replay what it recorded the first time.
    run(engine)?;
    let ours = run(engine)?;
    // What is no number is the largest difference.
    let apart = |a: f32, b: f32| if (a - b).is_finite() { (a - b).abs() } else { f32::INFINITY };
    let largest = |a: &[f32], b: &[f32]| match a.len() == b.len() {
        true => a.iter().zip(b).map(|(a, b)| apart(*a, *b)).fold(0.0, f32::max),
        false => f32::INFINITY,
    };
    let (lungs, lesions) = (largest(&ours.0, &theirs.0), largest(&ours.1, &theirs.1));
    let identification = apart(ours.2, theirs.2);
    info!(
        "engine {} against the processor's: lungs {lungs:.4}, lesions {lesions:.4}, identification {identification:.4}",
        engine.name()
    );
    if lungs.max(lesions) > DIFFERENCE_MAX || identification > IDENTIFICATION_DIFFERENCE_MAX {
        let what = format!(
            "it gives other results than the processor (lungs by {lungs:.3}, lesions by {lesions:.3}, identification by \
             {identification:.3}); update the driver, or build the plans again by `triaged provision`"
        );
        error!("engine {}: {what}", engine.name());
        return Err(EngineError::Device { engine: engine.name(), what, lost: false });
    }
    Ok(())
}

/// Two dark lungs in a bright body, one of them with a lesion: windowed to [0, 1].
fn made_up_chest() -> Vec<f32> {
    let [slices, rows, columns] = CHECK;
    let mut volume = Vec::with_capacity(slices * rows * columns);
    for slice in 0..slices {
        for row in 0..rows {
            for column in 0..columns {
                let at = |r: f32, c: f32, height: f32, width: f32| {
                    ((row as f32 - r) / height).powi(2) + ((column as f32 - c) / width).powi(2) < 1.0
                };
                let texture = ((slice * 7 + row * 13 + column * 5) % 17) as f32 / 170.0;
                let value = if at(24.0, 44.0, 5.0, 4.0 + slice as f32 / 3.0) {
                    0.45
                } else if at(22.0, 18.0, 14.0, 10.0) || at(22.0, 43.0, 14.0, 10.0) {
                    0.12
                } else if at(22.0, 30.0, 21.0, 29.0) {
                    0.8
                } else {
                    0.0
                };
                volume.push(value + texture);
            }
        }
    }
    volume
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Emit;
    use crate::zoo::default_zoo_dir;

    /// The processor's engine with another name, and wrong by a little.
    struct Wrong(CpuBackend, f32);

    impl Backend for Wrong {
        fn name(&self) -> &'static str {
            "cuda"
        }

        fn lungs(&self, slice: Plane<'_>) -> Result<Vec<f32>, EngineError> {
            self.0.lungs(slice)
        }

        fn multitask(&self, crop: &[Plane<'_>], emit: Emit<'_>) -> Result<f32, EngineError> {
            self.0.multitask(crop, emit).map(|p| p + self.1)
        }
    }

    #[test]
    fn the_made_up_chest_has_lungs_and_a_lesion() {
        let zoo = Zoo::open(&default_zoo_dir()).unwrap();
        let cpu = CpuBackend::load(&zoo, 1).unwrap();
        let volume = made_up_chest();
        let [slices, rows, columns] = CHECK;
        let plane = |slice: usize| Plane::new(&volume[slice * rows * columns..], rows, columns, columns);
        let lungs = cpu.lungs(plane(slices / 2)).unwrap();
        let (low, high) = lungs.iter().fold((1.0f32, 0.0f32), |(low, high), p| (low.min(*p), high.max(*p)));
        assert!(low < 0.2 && high > 0.8, "an engine that answers nothing would pass: {low} to {high}");
    }

    #[test]
    fn an_engine_that_differs_from_the_processors_is_not_trusted() {
        let zoo = Zoo::open(&default_zoo_dir()).unwrap();
        let cpu = || CpuBackend::load(&zoo, 1).unwrap();
        check(&Wrong(cpu(), 0.001), &cpu()).unwrap();
        let error = check(&Wrong(cpu(), 0.02), &cpu()).unwrap_err();
        assert!(matches!(error, EngineError::Device { lost: false, .. }), "{error}");
        assert!(error.to_string().contains("identification by 0.020"), "{error}");
    }

    #[test]
    fn choices_are_said_by_name() {
        for (text, choice) in [("auto", Choice::Auto), ("tensorrt", Choice::TensorRt), ("cuda", Choice::Cuda)]
        {
            assert_eq!(text.parse(), Ok(choice));
        }
        assert!("gpu".parse::<Choice>().unwrap_err().contains("known: auto, tensorrt, cuda, cpu"));
    }
}
