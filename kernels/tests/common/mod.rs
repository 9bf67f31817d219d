//! What the tests of kernels on the software device share.
#![allow(dead_code, reason = "each test file uses a part")]

use kernels::device::{Buffer, Device, Plain, Stream};

/// The software device, or nothing where it can't be built, which is told.
pub fn device() -> Option<Device> {
    match kernels::shim::load() {
        Ok(_) => Some(Device::open(0, 1 << 30).unwrap()),
        Err(why) => {
            println!("{why}");
            None
        }
    }
}

/// A buffer with these values, for any stream.
pub fn buffer<T: Plain>(stream: &mut Stream, values: &[T]) -> Buffer {
    let buffer = stream.device().clone().buffer(size_of_val(values)).unwrap();
    stream.upload(&buffer, 0, values).unwrap();
    stream.synchronize().unwrap();
    buffer
}

/// Reproducible numbers without structure.
pub fn noise(seed: usize) -> u64 {
    let mixed = (seed as u64 ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xd1b5_4a32_d192_ed03);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 32
}

/// From 0 up to 1.
pub fn unit(seed: usize) -> f32 {
    (noise(seed) >> 40) as f32 / 16_777_216.0
}
