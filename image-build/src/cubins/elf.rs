//! The little of a cubin (an ELF file) that reports and tests need.
//!
//! Owns: section lookup, the architecture, a kernel's bound on threads. Never does: change a cubin.
//!
//! NVIDIA documents neither header flags nor `.nv.info`; what is read here was seen in the output of NVRTC 12.9 and 13.0.

use anyhow::{Context, ensure};

/// Sections `.nv.info.<kernel>` hold records: a form byte, an attribute byte, then two bytes of value or of length.
const LAUNCH_BOUNDS: u8 = 0x05;
/// Form of a record whose two bytes are the length of the data behind it.
const SIZED: u8 = 0x04;

/// Compute capability × 10.
pub fn architecture(cubin: &[u8]) -> anyhow::Result<u32> {
    ensure!(cubin.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF file");
    let abi = *cubin.get(8).context("a cut-off ELF header")?;
    let flags = u32::try_from(number(cubin, 48, 4)?)?;
    // ABI 8, of CUDA 13's newer architectures, moved it up a byte.
    Ok(if abi >= 8 { flags >> 8 } else { flags } & 0xff)
}

/// Threads that a kernel's `__launch_bounds__` or required block size allows.
pub fn threads_max(cubin: &[u8], kernel: &str) -> anyhow::Result<Option<u32>> {
    let Some(info) = section(cubin, &format!(".nv.info.{kernel}"))? else { return Ok(None) };
    let mut at = 0;
    while at + 4 <= info.len() {
        let [form, attribute] = [info[at], info[at + 1]];
        let size = if form == SIZED { usize::try_from(number(info, at + 2, 2)?)? } else { 0 };
        if form == SIZED && attribute == LAUNCH_BOUNDS {
            let sides = [4, 8, 12].map(|offset| number(info, at + offset, 4));
            let [x, y, z] = sides;
            return Ok(Some(u32::try_from(x? * y? * z?)?));
        }
        at += 4 + size;
    }
    Ok(None)
}

/// A section's bytes.
fn section<'a>(elf: &'a [u8], wanted: &str) -> anyhow::Result<Option<&'a [u8]>> {
    let [table, size, count, names] =
        [(40, 8), (58, 2), (60, 2), (62, 2)].map(|(at, bytes)| number(elf, at, bytes));
    let (table, size, count, names) = (table?, size?, count?, names?);
    let field =
        |section: u64, at: u64, bytes| number(elf, usize::try_from(table + section * size + at)?, bytes);
    let names = usize::try_from(field(names, 24, 8)?)?;
    for index in 0..count {
        let name = names + usize::try_from(field(index, 0, 4)?)?;
        let name = elf.get(name..).context("a section's name is outside the file")?;
        if name.starts_with(wanted.as_bytes()) && name.get(wanted.len()) == Some(&0) {
            let (start, bytes) =
                (usize::try_from(field(index, 24, 8)?)?, usize::try_from(field(index, 32, 8)?)?);
            return Ok(Some(elf.get(start..start + bytes).context("a section is outside the file")?));
        }
    }
    Ok(None)
}

/// A little-endian number of `bytes` bytes.
fn number(from: &[u8], at: usize, bytes: usize) -> anyhow::Result<u64> {
    let field =
        from.get(at..at + bytes).with_context(|| format!("{bytes} bytes at {at} of {}", from.len()))?;
    Ok(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}
