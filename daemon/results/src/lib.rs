//! What the appliance sends, built from an outcome: pictures, Secondary Captures, reports, segmentations, messages.
//!
//! Pure: no I/O, no clock, no randomness. The same arguments give the same bytes, so that a result that is built
//! again after a power cut is the same object to its receiver.
mod canvas;
pub mod case;
mod colour;
mod dataset;
pub mod hl7;
pub mod picture;
pub mod projection;
pub mod secondary_capture;
pub mod source;
#[cfg(test)]
mod testing;
pub mod time;
mod uid;

pub use case::{Case, DicomResult, Identity, Kind};
pub use colour::lesion_colour;
pub use picture::{Picture, render};
pub use projection::{CoronalProjection, ProjectionError};
pub use source::{RawElement, SOURCE_TAGS, SourceImage, SourceSeries, SourceStudy, SourceTag, Tag};
pub use time::DateTime;
