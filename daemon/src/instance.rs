//! A DICOM instance as a file: its facts and its pixels.
//!
//! Owns reading: the walk over the bytes ([`scan`]), the facts that decide ([`header`]) and the image in Hounsfield
//! units ([`pixels`]). It is bounded whatever the file holds: a file is refused above [`INSTANCE_BYTES_MAX`], every length is
//! checked against what is left, and an image's size is checked before anything is decoded. It never changes a file,
//! never guesses a missing value, and never decodes text or private elements.
mod codec;
mod error;
mod header;
mod pixels;
mod scan;
#[cfg(test)]
pub(crate) mod testing;

pub use error::{InstanceError, Problem};
pub use pixels::{StoredSlice, TRANSFER_SYNTAXES, read_pixels};
pub use scan::RawElement;

use crate::limits::INSTANCE_BYTES_MAX;
use scan::{PixelLocation, Scan};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use study::SliceHeader;

/// One instance: what its header says, and where in the file its pixels are.
#[derive(Debug, Clone)]
pub struct Instance {
    /// The file.
    pub path: PathBuf,
    /// The facts by which its series is judged.
    pub header: SliceHeader,
    /// SOP Class UID (0008,0016), as received; empty where the file has none.
    pub sop_class: String,
    /// Transfer Syntax UID (0002,0010).
    pub transfer_syntax: String,
    /// How many instances the header announces for the series: (0020,1209).
    pub announced_count: Option<u32>,
    /// Instance Number (0020,0013), where it is a number.
    pub instance_number: Option<u32>,
    /// Frame of Reference UID (0020,0052), where it is a UID.
    pub frame_of_reference: Option<String>,
    /// The elements of [`results::SOURCE_TAGS`] that the file holds, as received, in the order of the file.
    pub source: Vec<RawElement>,
    /// What the header says about the pixels.
    pub(crate) facts: header::PixelFacts,
    /// Where the pixels are.
    pub(crate) location: PixelLocation,
}

impl Instance {
    /// Reads the header of a file: Part 10, or a bare little-endian data set.
    ///
    /// A file that breaks off after its UIDs is an instance, so that its study is not judged as if the image had never
    /// been sent: [`Instance::damage`] tells, and [`read_pixels`] fails.
    ///
    /// # Errors
    /// [`InstanceError`]: no DICOM, an unreadable file, or none of the UIDs by which it could be filed.
    pub fn read(path: &Path) -> Result<Self, InstanceError> {
        let fail = |problem| InstanceError::new(path, problem);
        let mut file = File::open(path).map_err(|e| fail(Problem::Io(e)))?;
        let meta = file.metadata().map_err(|e| fail(Problem::Io(e)))?;
        if !meta.is_file() {
            return Err(fail(Problem::NotDicom { looks_like: "something other than a file" }));
        }
        if meta.len() > INSTANCE_BYTES_MAX {
            // A film or an archive is no oversized image: say what it is.
            let mut start = vec![0; scan::PREAMBLE_BYTES + 4];
            file.read_exact(&mut start).map_err(|e| fail(Problem::Io(e)))?;
            scan::recognise(&start).map_err(fail)?;
            return Err(fail(Problem::TooLarge { bytes: meta.len() }));
        }
        let mut bytes = Vec::with_capacity(meta.len() as usize);
        // A file that grows while it is read stays within the bound.
        file.take(INSTANCE_BYTES_MAX).read_to_end(&mut bytes).map_err(|e| fail(Problem::Io(e)))?;
        Self::parse(path, &bytes)
    }

    /// As [`Instance::read`], of bytes that are to be, or already are, the file's.
    ///
    /// # Errors
    /// As for [`Instance::read`], without the input and output ones.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, InstanceError> {
        let scan: Scan = scan::scan(bytes, &header::wanted()).map_err(|p| InstanceError::new(path, p))?;
        header::instance(path, scan).map_err(|p| InstanceError::new(path, p))
    }

    /// What is broken in the file although its header could be read: it can't be evaluated.
    pub fn damage(&self) -> Option<&str> {
        match &self.location {
            PixelLocation::Damaged { what } => Some(what),
            _ => None,
        }
    }
}
