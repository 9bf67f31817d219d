//! Files that are refused, by the name of the node that doesn't fit, before anything is run; what is read nevertheless; and files with
//! random faults, which cost neither memory nor time.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod attributes;
mod build;
mod damaged;
mod memory;
mod same;
#[path = "../support/mod.rs"]
mod support;
mod values;

use std::time::{Duration, Instant};

use attributes::{ATTRIBUTES, RESIZES};
use engine::cpu::probe::Probe;
use memory::peak;
use support::File;
use values::{GRAPHS, HEADERS, SHAPES, VALUES};

/// A file of a few hundred bytes must not cost more, refused or not.
const BYTES_MAX: usize = 64 << 20;

/// What the refusal says, and a file that is refused; returns its output.
type Case = (&'static str, fn(&mut File) -> String);

#[test]
fn what_does_not_fit_is_refused_by_its_node() {
    let mut wrong = Vec::new();
    for &(message, build) in [VALUES, SHAPES, GRAPHS, HEADERS, ATTRIBUTES, RESIZES].concat().iter() {
        let mut file = File::default();
        let output = build(&mut file);
        let bytes = file.bytes(4, &[&output]);
        let start = Instant::now();
        let (error, allocated) = peak(|| Probe::new(&bytes, "portable").err());
        match error {
            None => wrong.push(format!("`{message}`: accepted")),
            Some(error) if !error.contains(message) => wrong.push(format!("`{message}`: `{error}`")),
            Some(_) => {}
        }
        // Nothing is allocated for what the file only claims; ten times the file and its weights in single precision are generous.
        let bound = BYTES_MAX + 10 * bytes.len();
        if allocated > bound || start.elapsed() > Duration::from_secs(20) {
            wrong.push(format!("`{message}`: {allocated} bytes, {:?}", start.elapsed()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
