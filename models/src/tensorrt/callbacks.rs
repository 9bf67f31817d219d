//! The objects that TensorRT calls back: its logger and its error recorders.
//!
//! Owns: their tables of virtual functions, in the two layouts that exist, and the memory of what TensorRT said last. Never does: unwind into C++.
//!
//! From 10 (recorder) and 11 (logger) on these classes derive from `IVersionedInterface`, whose two methods and destructor come first; before,
//! there is only the class itself. With the wrong layout TensorRT calls the wrong function, so the layout is chosen by major version alone.
//! Read from `NvInferRuntimeCommon.h` 8.4 and `NvInferRuntimeBase.h` 8.6, 10.7 and 11.4.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Errors kept between two looks; TensorRT repeats itself for every candidate of a layer.
const ERRORS_MAX: usize = 16;
/// Characters of one message that are kept.
const TEXT_MAX: usize = 2000;

/// `nvinfer1::InterfaceInfo`, returned by value.
#[repr(C)]
#[derive(Clone, Copy)]
struct InterfaceInfo {
    kind: *const c_char,
    major: i32,
    minor: i32,
}

type Method = *const c_void;

/// What precedes a table of virtual functions: the offset to the whole object, and its type information, which TensorRT does not ask for.
#[repr(C)]
struct Table<const N: usize> {
    offset: isize,
    kind: Method,
    slots: [Method; N],
}

// SAFETY: addresses of functions, never written.
unsafe impl<const N: usize> Sync for Table<N> {}

const fn table<const N: usize>(slots: [Method; N]) -> Table<N> {
    Table { offset: 0, kind: null(), slots }
}

extern "C" fn language(_: *const c_void) -> i32 {
    0 // APILanguage::kCPP
}

/// Nothing that TensorRT borrows is its to destroy.
extern "C" fn keep(_: *mut c_void) {}

/// The logger: no state of its own, so one object for all.
#[repr(C)]
pub(super) struct Logger {
    methods: *const Method,
}

// SAFETY: a pointer to a constant table.
unsafe impl Sync for Logger {}

static LOGGER_PLAIN: Table<3> = table([log_message as Method, keep as Method, keep as Method]);
static LOGGER_VERSIONED: Table<5> =
    table([language as Method, logger_info as Method, keep as Method, keep as Method, log_message as Method]);
static PLAIN: Logger = Logger { methods: LOGGER_PLAIN.slots.as_ptr() };
static VERSIONED: Logger = Logger { methods: LOGGER_VERSIONED.slots.as_ptr() };

impl Logger {
    /// The logger for a layout: `versioned` from 11 on. It lives as long as the process, as TensorRT keeps the first one that it is given.
    pub(super) fn of(versioned: bool) -> *mut c_void {
        let logger: &'static Logger = if versioned { &VERSIONED } else { &PLAIN };
        // TensorRT takes it as a mutable reference; its one method does not write.
        std::ptr::from_ref(logger).cast_mut().cast()
    }
}

extern "C" fn logger_info(_: *const c_void) -> InterfaceInfo {
    InterfaceInfo { kind: c"ILogger".as_ptr(), major: 1, minor: 0 }
}

thread_local! {
    /// Errors that this thread caused, for messages that reach no recorder (a plan refused before there is an object).
    static LAST: Cell<Option<String>> = const { Cell::new(None) };
}
/// The last error from a thread of TensorRT's own.
static LAST_ANYWHERE: Mutex<Option<String>> = Mutex::new(None);

extern "C" fn log_message(_: *mut c_void, severity: i32, text: *const c_char) {
    // A panic must not reach C++; there is nobody to tell.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let text = text_of(text);
        let level = match severity {
            // ILogger::Severity: internal error, error, warning, info, verbose.
            i32::MIN..=1 => log::Level::Error,
            2 => log::Level::Warn,
            3 => log::Level::Debug,
            _ => log::Level::Trace,
        };
        log::log!(target: "tensorrt", level, "{text}");
        if level == log::Level::Error {
            *locked(&LAST_ANYWHERE) = Some(text.clone());
            LAST.with(|last| last.set(Some(text)));
        }
    }));
}

/// Forgets what was said before a call.
pub(super) fn forget_errors() {
    LAST.with(|last| last.set(None));
    *locked(&LAST_ANYWHERE) = None;
}

/// The last error that the logger heard since [`forget_errors`], this thread's first.
pub(super) fn last_error() -> Option<String> {
    LAST.with(Cell::take).or_else(|| locked(&LAST_ANYWHERE).take())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A text of TensorRT's, shortened, on one line.
pub(super) fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: TensorRT hands out C strings that live at least until the call returns.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    text.trim().chars().take(TEXT_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// An `IErrorRecorder` of ours: keeps the errors of the objects that it is set on. Must outlive them.
#[repr(C)]
pub(super) struct Recorder {
    methods: *const Method,
    errors: Mutex<Vec<(i32, CString)>>,
    references: AtomicI32,
}

// SAFETY: `methods` points to a constant table; the rest is synchronised.
unsafe impl Send for Recorder {}
// SAFETY: as above.
unsafe impl Sync for Recorder {}

/// 8: the class has no base, its destructor comes first.
static RECORDER_PLAIN: Table<10> = table([
    keep as Method,
    keep as Method,
    count as Method,
    code as Method,
    description as Method,
    overflowed as Method,
    clear as Method,
    report as Method,
    reference as Method,
    release as Method,
]);
/// From 10 on.
static RECORDER_VERSIONED: Table<12> = table([
    language as Method,
    recorder_info as Method,
    keep as Method,
    keep as Method,
    count as Method,
    code as Method,
    description as Method,
    overflowed as Method,
    clear as Method,
    report as Method,
    reference as Method,
    release as Method,
]);

impl Recorder {
    /// An empty one, of the layout `versioned` from 10 on.
    pub(super) fn new(versioned: bool) -> Box<Self> {
        let methods =
            if versioned { RECORDER_VERSIONED.slots.as_ptr() } else { RECORDER_PLAIN.slots.as_ptr() };
        Box::new(Self { methods, errors: Mutex::default(), references: AtomicI32::new(1) })
    }

    /// As TensorRT takes it.
    pub(super) fn raw(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// What was recorded since the last look, one text.
    pub(super) fn take(&self) -> Option<String> {
        let errors = std::mem::take(&mut *locked(&self.errors));
        let texts: Vec<_> =
            errors.iter().map(|(code, text)| format!("{} (code {code})", text.to_string_lossy())).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

/// # Safety
/// `this` is a [`Recorder`], as TensorRT calls only what it was given.
unsafe fn recorder<'a>(this: *const c_void) -> &'a Recorder {
    // SAFETY: the caller's promise; the recorder outlives the objects that it is set on.
    unsafe { &*this.cast::<Recorder>() }
}

extern "C" fn recorder_info(_: *const c_void) -> InterfaceInfo {
    InterfaceInfo { kind: c"IErrorRecorder".as_ptr(), major: 1, minor: 0 }
}

extern "C" fn count(this: *const c_void) -> i32 {
    // SAFETY: called through our table.
    locked(&unsafe { recorder(this) }.errors).len() as i32
}

extern "C" fn code(this: *const c_void, index: i32) -> i32 {
    // SAFETY: called through our table.
    let errors = locked(&unsafe { recorder(this) }.errors);
    usize::try_from(index).ok().and_then(|i| errors.get(i)).map_or(0, |(code, _)| *code)
}

extern "C" fn description(this: *const c_void, index: i32) -> *const c_char {
    // SAFETY: called through our table.
    let errors = locked(&unsafe { recorder(this) }.errors);
    usize::try_from(index).ok().and_then(|i| errors.get(i)).map_or(c"".as_ptr(), |(_, text)| text.as_ptr())
}

extern "C" fn overflowed(this: *const c_void) -> bool {
    // SAFETY: called through our table.
    locked(&unsafe { recorder(this) }.errors).len() >= ERRORS_MAX
}

extern "C" fn clear(this: *mut c_void) {
    // SAFETY: called through our table.
    locked(&unsafe { recorder(this) }.errors).clear();
}

/// Returns whether the error is fatal for the caller: never, the method that failed says so itself.
extern "C" fn report(this: *mut c_void, code: i32, text: *const c_char) -> bool {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let text = text_of(text);
        log::debug!(target: "tensorrt", "error {code}: {text}");
        // SAFETY: called through our table.
        let mut errors = locked(&unsafe { recorder(this) }.errors);
        if errors.len() < ERRORS_MAX {
            errors.push((code, CString::new(text).unwrap_or_default()));
        }
    }));
    false
}

extern "C" fn reference(this: *mut c_void) -> i32 {
    // SAFETY: called through our table.
    unsafe { recorder(this) }.references.fetch_add(1, Ordering::Relaxed) + 1
}

extern "C" fn release(this: *mut c_void) -> i32 {
    // SAFETY: called through our table.
    unsafe { recorder(this) }.references.fetch_sub(1, Ordering::Relaxed) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorder_keeps_a_bounded_number_of_errors_and_gives_them_once() {
        let recorder = Recorder::new(true);
        for i in 0..40 {
            assert!(!report(recorder.raw(), i, c"no\nmemory".as_ptr()));
        }
        assert_eq!(count(recorder.raw()), ERRORS_MAX as i32);
        assert!(overflowed(recorder.raw()));
        assert_eq!(code(recorder.raw(), 3), 3);
        assert_eq!(code(recorder.raw(), -1), 0);
        let text = recorder.take().unwrap();
        assert!(text.starts_with("no memory (code 0); "), "{text}");
        assert_eq!(recorder.take(), None);
        assert_eq!((reference(recorder.raw()), release(recorder.raw())), (2, 1));
    }

    #[test]
    fn the_last_error_of_this_thread_comes_first() {
        forget_errors();
        log_message(std::ptr::null_mut(), 1, c"mine".as_ptr());
        std::thread::spawn(|| log_message(std::ptr::null_mut(), 0, c"theirs".as_ptr())).join().unwrap();
        log_message(std::ptr::null_mut(), 2, c"only a warning".as_ptr());
        assert_eq!(last_error().as_deref(), Some("mine"));
        log_message(std::ptr::null_mut(), 1, std::ptr::null());
        assert_eq!(last_error().as_deref(), Some(""));
    }
}
