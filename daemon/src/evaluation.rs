//! `triaged evaluate`: the paper's comparison of methods on a prepared data set.
//!
//! Owns what is done once a study or a data set: reading, scoring, tables, figures, the leaderboard. It never decides about a patient, and
//! leaves the data set as it is.
//!
//! ```text
//! dataset ─▶ volume ─▶ run (the networks) ─▶ score ─▶ table, figures, leaderboard
//!                           others' predictions ─▶ score ┘
//! ```

pub mod dataset;
mod drawing;
pub mod figures;
pub mod leaderboard;
pub mod lungs;
pub mod metrics;
pub mod others;
pub mod run;
pub mod score;
pub mod table;
mod volume;

pub use drawing::Drawing;
