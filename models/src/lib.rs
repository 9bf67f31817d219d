//! The triage networks behind one backend trait, and the analysis of a study from slices to findings.
//!
//! Owns: model cards and the zoo on disk, the backends that run the networks, and the way of a study through them: 2 mm grid, window,
//! lungs, crop, the method's network, pasted masks, volumes, severity. Never does: DICOM, files other than the zoo's, triage decisions.
//!
//! ```text
//! SourceSlice ── Analyzer::prepare, on arrival, any thread ──▶ PreparedSlice ┐
//! SourceSlice ── Analyzer::prepare ─────────────────────────▶ PreparedSlice ┴── Analyzer::finish ──▶ Analysis
//! ```

pub mod analysis;
pub mod backend;
pub mod card;
mod choice;
pub mod cpu;
pub mod cuda;
pub mod engines;
mod gpu;
mod graph;
pub mod job;
mod labels;
pub mod limits;
pub mod methods;
mod prepare;
pub mod tensorrt;
pub mod zoo;

pub use analysis::{Analysis, AnalysisError, Analyzer, Box3, SpacingMm, Timings};
pub use backend::{Backend, EngineError, Plane};
pub use card::{CardError, ModelCard, Task};
pub use choice::{Choice, PLAN_DIR, Setup};
pub use engines::{EngineState, EngineStatus, Engines};
pub use job::{Pixels, SourceSlice};
pub use labels::LabelVolume;
pub use methods::Method;
pub use prepare::PreparedSlice;
pub use zoo::{Zoo, default_zoo_dir};
