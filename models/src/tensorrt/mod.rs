//! TensorRT, bound in Rust alone: no headers, no C++, nothing at link time.
//!
//! Owns: the library and its versions, plans (built, cached, run), the networks of the `tensorrt` engine. Never does: the rest of a study on a
//! GPU (`gpu`), or anything when there is no library or no GPU but say so.
//!
//! TensorRT has a C++ interface only, but its objects cross the library's boundary as tables of virtual functions and its entry points are C. So
//! the binding is a table of places a major version (`slots`), checked in tests against C++ classes that a compiler lays out, and against the
//! real TensorRT-RTX. Versions: 8.5, 8.6, 10, 11, RTX from 1.5; any other is refused.
//!
//! ```text
//! model.onnx ─ onnx (types) ─▶ builder ─▶ plans (cache on disk) ─▶ runtime ─▶ nets (lanes of a study)
//! ```

mod abi;
mod builder;
mod callbacks;
mod library;
mod nets;
mod networks;
mod onnx;
mod plans;
mod provision;
mod runtime;
mod slots;
mod trtexec;

use std::path::PathBuf;

pub use builder::{Built, Range, Recipe, build};
pub use library::{Flavour, Library, Version};
pub use nets::open;
pub use networks::Network;
pub use plans::PlanError;
pub use provision::{Options, Step, provision};

/// Name in results and logs.
const NAME: &str = "tensorrt";

/// Why TensorRT can't serve.
#[derive(Debug, thiserror::Error)]
pub enum TensorRtError {
    /// There is no library.
    #[error("no TensorRT {place}")]
    NotFound {
        /// Where it was looked for.
        place: String,
    },
    /// A library is there, but not what it needs.
    #[error(
        "{path} is there, but {missing}, which it needs, was not found: install it, or add its folder to the loader's path (ldconfig)"
    )]
    Dependency {
        /// The library.
        path: PathBuf,
        /// Which one it needs.
        missing: String,
    },
    /// Another program provisions.
    #[error("another `triaged provision` is at work: {lock} is locked")]
    Busy {
        /// The file.
        lock: PathBuf,
    },
    /// A library can't be loaded.
    #[error("{path} can't be loaded: {why}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the loader said.
        why: String,
    },
    /// A library is not what its name says.
    #[error("{library} has no symbol {symbol}")]
    Symbol {
        /// The file.
        library: PathBuf,
        /// What it lacks.
        symbol: &'static str,
    },
    /// A version whose interface is not known; calling it would be a guess.
    #[error(
        "{library} says version {number}: {version} is not known; known: 8.5, 8.6, 10, 11 and RTX from 1.5"
    )]
    Version {
        /// The file.
        library: PathBuf,
        /// What `getInferLibVersion` returned.
        number: i32,
        /// What that means.
        version: String,
    },
    /// The library runs plans but builds none.
    #[error("{version} can't build plans: {why}")]
    NoBuilder {
        /// The library.
        version: String,
        /// What is missing.
        why: String,
    },
    /// A model's file can't be read.
    #[error("{path}: {why}")]
    Model {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// TensorRT does not take a network.
    #[error("{model}: {why}")]
    Parse {
        /// Which network.
        model: String,
        /// What its parser said.
        why: String,
    },
    /// A call failed.
    #[error("{call} failed: {said}")]
    Call {
        /// Which.
        call: &'static str,
        /// What TensorRT said.
        said: String,
    },
    /// There is no plan to use.
    #[error("{what}", what = remedied(.0))]
    Cache(#[from] PlanError),
    /// A plan is not one of the network that it is for.
    #[error("the plan of {network} does not fit: {why}")]
    Plan {
        /// Which network.
        network: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The tool that ships with TensorRT failed.
    #[error("{tool}: {why}")]
    Trtexec {
        /// The tool.
        tool: PathBuf,
        /// Its last words.
        why: String,
    },
    /// The device failed.
    #[error("{0}")]
    Device(#[from] kernels::device::DeviceError),
    /// There is no such DLA core.
    #[error("DLA core {core} does not exist; this device has {cores}")]
    Dla {
        /// What was asked for.
        core: u32,
        /// How many there are.
        cores: u32,
    },
}

/// A failed call, with what TensorRT said of it to the recorder or the logger.
fn said(call: &'static str, recorded: Option<String>) -> TensorRtError {
    let said =
        recorded.or_else(callbacks::last_error).unwrap_or_else(|| "TensorRT gave no reason".to_owned());
    TensorRtError::Call { call, said }
}

/// What is wrong with a plan, and what helps.
fn remedied(error: &PlanError) -> String {
    match error {
        PlanError::Unsafe { .. } => error.to_string(),
        _ => format!("{error}; `triaged provision` builds it"),
    }
}
