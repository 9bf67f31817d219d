//! NVRTC, NVIDIA's compiler as a library, loaded from a wheel.
//!
//! Owns: the calls (signatures from nvrtc.h of CUDA 12.9, the same in 13.0). Never does: choose options.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use anyhow::{Context, ensure};
use libloading::Library;

use super::Sources;

type Program = *mut c_void;
type CreateProgram = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type CompileProgram = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type GetSize = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type GetText = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type DestroyProgram = unsafe extern "C" fn(*mut Program) -> c_int;
type ErrorString = unsafe extern "C" fn(c_int) -> *const c_char;

/// What the compiler made of a program.
pub struct Built {
    /// The image.
    pub cubin: Vec<u8>,
    /// Warnings, and what the assembler says of each kernel.
    pub log: String,
}

/// The compiler.
pub struct Nvrtc {
    library: Library,
    /// The compiler looks for it by name; having it loaded is enough.
    _builtins: Library,
}

impl Nvrtc {
    /// Loads the compiler and its built-in functions.
    pub fn open(library: &Path, builtins: &Path) -> anyhow::Result<Self> {
        let load = |path: &Path| {
            // SAFETY: NVIDIA's libraries, whose hashes pip has checked; their initializers only set up themselves.
            unsafe { Library::new(path) }.with_context(|| path.display().to_string())
        };
        Ok(Self { _builtins: load(builtins)?, library: load(library)? })
    }

    /// Compiles `root`, one of `sources`, which may include the others.
    pub fn compile(&self, root: &str, sources: &Sources, options: &[String]) -> anyhow::Result<Built> {
        let text = |s: &str| CString::new(s).with_context(|| format!("a zero byte in {:.40}", s));
        let source = text(sources.get(root).context("the root is one of the sources")?)?;
        let name = text(root)?;
        let others: Vec<_> = sources.iter().filter(|(name, _)| *name != root).collect();
        let names = others.iter().map(|(name, _)| text(name)).collect::<Result<Vec<_>, _>>()?;
        let contents = others.iter().map(|(_, content)| text(content)).collect::<Result<Vec<_>, _>>()?;
        let pointers = |all: &[CString]| all.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (name_pointers, content_pointers) = (pointers(&names), pointers(&contents));
        let options = options.iter().map(|o| text(o)).collect::<Result<Vec<_>, _>>()?;
        let option_pointers = pointers(&options);

        let mut program = Scoped { nvrtc: self, program: ptr::null_mut() };
        let create = self.function::<CreateProgram>(c"nvrtcCreateProgram")?;
        // SAFETY: every pointer is to a string or array of strings that lives until the call returns; NVRTC copies them.
        self.done("nvrtcCreateProgram", unsafe {
            create(
                &raw mut program.program,
                source.as_ptr(),
                name.as_ptr(),
                others.len() as c_int,
                content_pointers.as_ptr(),
                name_pointers.as_ptr(),
            )
        })?;
        let compile = self.function::<CompileProgram>(c"nvrtcCompileProgram")?;
        // SAFETY: a program that was created above, and as many options as said.
        let code =
            unsafe { compile(program.program, option_pointers.len() as c_int, option_pointers.as_ptr()) };
        let log = self.output(&program, c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog")?;
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
        ensure!(code == 0, "{}:\n{log}", self.error(code));
        let cubin = self.output(&program, c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN")?;
        Ok(Built { cubin, log })
    }

    fn output(&self, program: &Scoped<'_>, size: &CStr, text: &CStr) -> anyhow::Result<Vec<u8>> {
        let (get_size, get_text) = (self.function::<GetSize>(size)?, self.function::<GetText>(text)?);
        let mut bytes = 0;
        // SAFETY: a program that was created, and a place for its size.
        self.done("size", unsafe { get_size(program.program, &raw mut bytes) })?;
        let mut out = vec![0u8; bytes];
        // SAFETY: the buffer has the size that the compiler has just asked for.
        self.done("text", unsafe { get_text(program.program, out.as_mut_ptr().cast()) })?;
        Ok(out)
    }

    fn function<F: Copy>(&self, name: &CStr) -> anyhow::Result<F> {
        // SAFETY: the types above are those of nvrtc.h for these names.
        let symbol = unsafe { self.library.get::<F>(name.to_bytes_with_nul()) };
        Ok(*symbol.with_context(|| format!("no {name:?} in NVRTC"))?)
    }

    fn done(&self, call: &str, code: c_int) -> anyhow::Result<()> {
        ensure!(code == 0, "{call}: {}", self.error(code));
        Ok(())
    }

    fn error(&self, code: c_int) -> String {
        let Ok(describe) = self.function::<ErrorString>(c"nvrtcGetErrorString") else {
            return code.to_string();
        };
        // SAFETY: NVRTC returns a static string for every code.
        unsafe { CStr::from_ptr(describe(code)) }.to_string_lossy().into_owned()
    }
}

/// A program that is destroyed when it is no longer needed.
struct Scoped<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
}

impl Drop for Scoped<'_> {
    fn drop(&mut self) {
        if let Ok(destroy) = self.nvrtc.function::<DestroyProgram>(c"nvrtcDestroyProgram")
            && !self.program.is_null()
        {
            // SAFETY: created by the same library, destroyed once.
            unsafe { destroy(&raw mut self.program) };
        }
    }
}
