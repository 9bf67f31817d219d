//! Opens TensorRT: which library it is, which version, and its entry points.
//!
//! Owns: the search, the refusal of what is not known, the symbols. Never does: link, read headers, or call a method of an object.

use std::ffi::{c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};

use super::TensorRtError;
use super::slots::{self, Slots};

/// What a library of the family can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// `libnvinfer`: builds and runs.
    Full,
    /// `libnvinfer_lean`: runs plans that were built to be version compatible; builds none.
    Lean,
    /// `libtensorrt_rtx`: builds and runs; compute capability 7.5 and later.
    Rtx,
}

/// A version of TensorRT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Kind of library.
    pub flavour: Flavour,
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Patch.
    pub patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.flavour {
            Flavour::Full => "TensorRT",
            Flavour::Lean => "TensorRT lean runtime",
            Flavour::Rtx => "TensorRT-RTX",
        };
        write!(f, "{name} {}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Layout of objects and constants; the numbers of methods are in [`Slots`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    /// 8.5 and 8.6: 32-bit dimensions, plain callbacks.
    Eight,
    /// 10: 64-bit dimensions, versioned recorder.
    Ten,
    /// 11 and RTX: as 10, versioned logger, precision in the network alone.
    Eleven,
}

impl Version {
    /// The version that `getInferLibVersion` means, in a library of this flavour.
    ///
    /// 8 counts major · 1000 + minor · 100 + patch, 10 and later major · 10000 + …; so RTX 1.7.1 says 10701, which is no full TensorRT's number
    /// (10.7.1 says 100701).
    fn decode(number: i32, flavour: Flavour) -> Self {
        let number = u32::try_from(number).unwrap_or(0);
        let unit = if number < 10_000 { 1000 } else { 10_000 };
        Self { flavour, major: number / unit, minor: number % unit / 100, patch: number % 100 }
    }

    fn layout(&self) -> Option<(Abi, &'static Slots)> {
        match (self.flavour, self.major, self.minor) {
            (Flavour::Full, 8, 5 | 6) | (Flavour::Lean, 8, 6) => Some((Abi::Eight, &slots::EIGHT)),
            (Flavour::Full | Flavour::Lean, 10, _) => Some((Abi::Ten, &slots::TEN)),
            (Flavour::Full | Flavour::Lean, 11, _) => Some((Abi::Eleven, &slots::ELEVEN)),
            (Flavour::Rtx, 1, 5..) => Some((Abi::Eleven, &slots::ELEVEN)),
            _ => None,
        }
    }
}

/// `createInferRuntime_INTERNAL` and its kin: (what it is made for, logger, version) or (logger, version).
type Create = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;
type CreateParser = unsafe extern "C" fn(*mut c_void, *mut c_void, c_int) -> *mut c_void;
type Number = unsafe extern "C" fn() -> c_int;

/// An opened library. It stays loaded until the process ends: TensorRT's own threads and statics do not survive being unloaded.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    version: Version,
    /// What `getInferLibVersion` said; every `create` wants it back.
    pub(super) number: c_int,
    pub(super) abi: Abi,
    pub(super) slots: &'static Slots,
    pub(super) create_runtime: Create,
    pub(super) create_builder: Result<Create, String>,
    parser: Result<Parser, String>,
}

/// The ONNX parser, a library of its own.
#[derive(Debug)]
pub(super) struct Parser {
    pub(super) create: CreateParser,
    pub(super) number: c_int,
}

/// Names under which a library may lie, the best first: (library, its parser).
const NAMES: [(&str, &str); 9] = [
    ("libnvinfer.so.11", "libnvonnxparser.so.11"),
    ("libnvinfer.so.10", "libnvonnxparser.so.10"),
    ("libnvinfer.so.8", "libnvonnxparser.so.8"),
    ("libnvinfer.so", "libnvonnxparser.so"),
    ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"),
    ("libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so"),
    ("libnvinfer_lean.so.11", "libnvonnxparser.so.11"),
    ("libnvinfer_lean.so.10", "libnvonnxparser.so.10"),
    ("libnvinfer_lean.so.8", "libnvonnxparser.so.8"),
];

impl Library {
    /// Finds TensorRT in `dir`, or where the system's loader looks when there is none given.
    ///
    /// # Errors
    /// [`TensorRtError::NotFound`] with what was tried; a library that is there and can't serve (of an unknown version, without an entry
    /// point) is an error at once.
    pub fn find(dir: Option<&Path>) -> Result<Arc<Self>, TensorRtError> {
        let mut tried = Vec::new();
        for (name, parser) in NAMES {
            let (path, parser) = match dir {
                Some(dir) if !dir.join(name).exists() => continue,
                Some(dir) => (dir.join(name), dir.join(parser)),
                None => (PathBuf::from(name), PathBuf::from(parser)),
            };
            match Self::open(&path, &parser) {
                // The loader knows no such file; one that is there but broken, or lacks another one, is told.
                Err(TensorRtError::Open { why, .. })
                    if dir.is_none() && lacks(&why).as_deref() == Some(name) =>
                {
                    tried.push(name);
                }
                Err(TensorRtError::Open { path, why }) => {
                    return Err(match lacks(&why) {
                        Some(missing) if Some(missing.as_str()) != path.to_str() => {
                            TensorRtError::Dependency { path, missing }
                        }
                        _ => TensorRtError::Open { path, why },
                    });
                }
                other => return other,
            }
        }
        let place = dir.map_or_else(
            || format!("in the loader's path (tried {})", tried.join(", ")),
            |dir| format!("in {} (no {})", dir.display(), NAMES.map(|(name, _)| name).join(", ")),
        );
        Err(TensorRtError::NotFound { place })
    }

    /// Opens the library at `path`; its ONNX parser, at `parser`, may be missing.
    ///
    /// # Errors
    /// [`TensorRtError::Open`], [`TensorRtError::Symbol`], [`TensorRtError::Version`].
    pub fn open(path: &Path, parser: &Path) -> Result<Arc<Self>, TensorRtError> {
        let handle = load(path)?;
        // SAFETY: the type is that of NvInferRuntimeBase.h, the same in 8.5 to 11.4; it only returns a number.
        let number = unsafe { symbol::<Number>(&handle, path, "getInferLibVersion")?() };
        let version = Version::decode(number, flavour(&handle, path));
        let (abi, slots) = version.layout().ok_or_else(|| TensorRtError::Version {
            library: path.to_path_buf(),
            number,
            version: version.to_string(),
        })?;
        // SAFETY: NvInferRuntime.h and NvInfer.h of every version in NAMES: `void* (void* logger, int32_t version)`.
        let create_runtime = unsafe { symbol::<Create>(&handle, path, "createInferRuntime_INTERNAL")? };
        // SAFETY: as above.
        let create_builder = unsafe { symbol::<Create>(&handle, path, "createInferBuilder_INTERNAL") };
        let parser = Parser::open(parser).map_err(|error| error.to_string());
        std::mem::forget(handle);
        let library = Self {
            path: path.to_path_buf(),
            version,
            number,
            abi,
            slots,
            create_runtime,
            create_builder: create_builder.map_err(|error| error.to_string()),
            parser,
        };
        log::debug!("{version} from {}", path.display());
        Ok(Arc::new(library))
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it can build plans.
    ///
    /// # Errors
    /// [`TensorRtError::NoBuilder`] with what is missing.
    pub fn can_build(&self) -> Result<(), TensorRtError> {
        self.builder().map(drop)
    }

    /// The entry points for building.
    pub(super) fn builder(&self) -> Result<(Create, &Parser), TensorRtError> {
        let missing =
            |why: &String| TensorRtError::NoBuilder { version: self.version.to_string(), why: why.clone() };
        Ok((*self.create_builder.as_ref().map_err(missing)?, self.parser.as_ref().map_err(missing)?))
    }
}

impl Parser {
    fn open(path: &Path) -> Result<Self, TensorRtError> {
        let handle = load(path)?;
        // SAFETY: NvOnnxParser.h 8.6 to 11.4: `int ()`.
        let number = unsafe { symbol::<Number>(&handle, path, "getNvOnnxParserVersion")?() };
        // SAFETY: NvOnnxParser.h 8.6 to 11.4: `void* (void* network, void* logger, int version)`.
        let create = unsafe { symbol::<CreateParser>(&handle, path, "createNvOnnxParser_INTERNAL")? };
        std::mem::forget(handle);
        Ok(Self { create, number })
    }
}

/// RTX says major 1, in the entry points of its own count and in the name of its file; the lean runtime is known by its name alone.
fn flavour(handle: &Handle, path: &Path) -> Flavour {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // SAFETY: NvInferRuntime.h 10.0 to 11.4 and RTX: `int32_t ()`.
    let major = unsafe { symbol::<Number>(handle, path, "getInferLibMajorVersion").map(|major| major()) };
    if name.contains("tensorrt_rtx") || matches!(major, Ok(1)) {
        Flavour::Rtx
    } else if name.contains("lean") {
        Flavour::Lean
    } else {
        Flavour::Full
    }
}

fn load(path: &Path) -> Result<Handle, TensorRtError> {
    // SAFETY: the initialisers of a library that the operator installed as TensorRT run; nothing else is trusted until its version is known.
    let handle = unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    handle.map_err(|error| TensorRtError::Open { path: path.to_path_buf(), why: chain(&error) })
}

/// # Safety
/// `T` is the type of the function `name`.
unsafe fn symbol<T: Copy>(handle: &Handle, path: &Path, name: &'static str) -> Result<T, TensorRtError> {
    // SAFETY: the caller's promise. The addresses are used only while the library is loaded: its handle is forgotten when all are found.
    let found = unsafe { handle.get::<T>(name) };
    match found {
        Ok(found) => Ok(*found),
        Err(_) => Err(TensorRtError::Symbol { library: path.to_path_buf(), symbol: name }),
    }
}

/// The file that the loader did not find: it begins with its name (dlerror of glibc and musl).
fn lacks(why: &str) -> Option<String> {
    let (before, _) = why.split_once(": cannot open shared object file")?;
    // libloading says more before it.
    Some(before.rsplit([' ', '"']).next().unwrap_or(before).to_owned())
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_told_by_its_name() {
        for (why, file) in [
            (
                "libnvinfer.so.10: cannot open shared object file: No such file or directory",
                Some("libnvinfer.so.10"),
            ),
            (
                "libcudart.so.12: cannot open shared object file: No such file or directory",
                Some("libcudart.so.12"),
            ),
            (
                "dlopen failed: libx.so: cannot open shared object file: No such file or directory",
                Some("libx.so"),
            ),
            ("/x/libnvinfer.so.10: file too short", None),
        ] {
            assert_eq!(lacks(why).as_deref(), file);
        }
    }

    #[test]
    fn versions_are_told_apart_and_unknown_ones_refused() {
        use Flavour::{Full, Lean, Rtx};
        for (number, flavour, expected, known) in [
            (8502, Full, "TensorRT 8.5.2", true),
            (8601, Full, "TensorRT 8.6.1", true),
            (8411, Full, "TensorRT 8.4.11", false),
            (100_001, Full, "TensorRT 10.0.1", true),
            (101_600, Full, "TensorRT 10.16.0", true),
            (110_400, Lean, "TensorRT lean runtime 11.4.0", true),
            (10_701, Rtx, "TensorRT-RTX 1.7.1", true),
            // The same number without RTX's name and symbols.
            (10_701, Full, "TensorRT 1.7.1", false),
            (10_400, Rtx, "TensorRT-RTX 1.4.0", false),
            (9300, Full, "TensorRT 9.3.0", false),
            (120_000, Full, "TensorRT 12.0.0", false),
            (0, Full, "TensorRT 0.0.0", false),
            (-1, Full, "TensorRT 0.0.0", false),
        ] {
            let version = Version::decode(number, flavour);
            assert_eq!(version.to_string(), expected);
            assert_eq!(version.layout().is_some(), known, "{version}");
        }
    }
}
