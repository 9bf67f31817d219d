//! What the appliance sends: pictures and Secondary Captures, built from an outcome.
//!
//! Pure: no I/O, no clock, no randomness. The same arguments give the same bytes, so that a result that is built
//! again after a power cut is the same object to its receiver.
mod canvas;
mod colour;
mod dataset;
pub mod picture;
pub mod projection;
pub mod secondary_capture;
pub mod source;
pub mod time;
mod uid;

pub use colour::lesion_colour;
pub use picture::{Picture, render};
pub use projection::{CoronalProjection, ProjectionError};
pub use secondary_capture::{Identity, SecondaryCapture, build};
pub use source::{RawElement, SOURCE_TAGS, SourceStudy, SourceTag, Tag};
pub use time::DateTime;
