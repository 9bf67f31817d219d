//! What the appliance sends, built from an outcome: pictures, Secondary Captures, reports, segmentations, messages.
//!
//! Pure: no I/O, no clock, no randomness. The same arguments give the same bytes, so that a result that is built
//! again after a power cut is the same object to its receiver.
mod canvas;
pub mod case;
pub mod charset;
mod code;
mod colour;
mod dataset;
pub mod hl7;
mod masks;
pub mod picture;
pub mod procedure_step;
pub mod projection;
mod references;
mod resample;
pub mod secondary_capture;
pub mod segmentation;
pub mod slice_picture;
pub mod source;
pub mod structured_report;
#[cfg(test)]
mod testing;
pub mod time;
pub mod uid;
mod words;

pub use case::{Case, DicomResult, Identity, Kind};
pub use colour::lesion_colour;
pub use masks::Masks;
pub use picture::{Picture, render};
pub use projection::{CoronalProjection, ProjectionError};
pub use source::{RawElement, SOURCE_TAGS, SourceImage, SourceSeries, SourceStudy, SourceTag, Tag};
pub use time::DateTime;
pub use words::{score_text, share_text};
