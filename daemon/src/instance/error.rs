//! What can be wrong with a file, in words that name it and say what to do.
use crate::limits::INSTANCE_BYTES_MAX;
use std::path::{Path, PathBuf};

/// A file that could not be read, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct InstanceError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

impl InstanceError {
    pub(super) fn new(path: &Path, problem: Problem) -> Self {
        Self { path: path.to_owned(), problem }
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The operating system refused.
    #[error("cannot be read: {0}")]
    Io(std::io::Error),
    /// No DICOM.
    #[error("not DICOM, it looks like {looks_like}")]
    NotDicom {
        /// What the first bytes look like.
        looks_like: &'static str,
    },
    /// DICOM, but an index of other files.
    #[error("a DICOMDIR: the index of a medium, which holds no image itself")]
    Directory,
    /// Above the bound.
    #[error("{bytes} bytes, more than the {INSTANCE_BYTES_MAX} that are read; send single slices")]
    TooLarge {
        /// Size of the file.
        bytes: u64,
    },
    /// A transfer syntax whose data set can't be walked.
    #[error("transfer syntax {uid} ({name}) is not supported; convert the file to explicit VR little endian")]
    DataSetEncoding {
        /// Its UID.
        uid: String,
        /// Its name.
        name: &'static str,
    },
    /// The file is broken before the identifiers.
    #[error("broken DICOM, {what}; send or copy the file again")]
    Broken {
        /// Where and how.
        what: String,
    },
    /// An identifier without which the instance belongs nowhere.
    #[error("{name} can't be used: {why}")]
    Identifier {
        /// The attribute.
        name: &'static str,
        /// What is wrong.
        why: study::UidError,
    },
    /// The pixels are broken.
    #[error("the image is broken: {what}; send or copy the file again")]
    Image {
        /// Where and how.
        what: String,
    },
    /// The image is of a kind that is not read.
    #[error("{what} is not supported for CT")]
    Unsupported {
        /// What the header says.
        what: String,
    },
    /// PS3.3 section C.8.2.1: both are required of a CT image; without them the values mean nothing.
    #[error(
        "no Rescale Slope (0028,1053) and Rescale Intercept (0028,1052): the values are not in Hounsfield units"
    )]
    NoRescale,
    /// A compression that this build can't undo.
    #[error("transfer syntax {uid} can't be decompressed by this build; send it uncompressed or lossless")]
    Compression {
        /// Its UID.
        uid: String,
    },
}
