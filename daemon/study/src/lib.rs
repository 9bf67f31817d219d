//! The domain of chest CT triage, pure: identifiers, slice geometry, the input gate and the choice of a series,
//! left and right lung, severity, the triage policy and the outcome of a study.
//!
//! It never does I/O, never starts a thread and never reads a clock: times are arguments.
pub mod gate;
pub mod geometry;
pub mod ids;
pub mod lungs;
pub mod outcome;
pub mod policy;
pub mod series;
pub mod severity;

pub use gate::{InputRange, NotEvaluated};
pub use geometry::SliceGeometry;
pub use ids::{SeriesUid, SopInstanceUid, StudyUid, UidError};
pub use lungs::{Side, Sides};
pub use outcome::{Findings, Lesions, Outcome, Verdict};
pub use policy::{Mode, Policy, Priority};
pub use series::{ChosenSeries, SliceHeader};
pub use severity::Category;
