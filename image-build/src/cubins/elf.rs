//! The little of a cubin (an ELF file) that reports and tests need.
//!
//! Owns: section lookup, the architecture, a kernel's registers, shared memory and bound on threads. Never does: change a cubin.
//!
//! NVIDIA documents neither header flags nor `.nv.info`; what is read here was seen in the output of NVRTC 12.9 and 13.0.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};

/// Sections `.nv.info` and `.nv.info.<kernel>` hold records: a form byte, an attribute byte, then two bytes of value or of length.
const LAUNCH_BOUNDS: u8 = 0x05;
/// Data: symbol, registers.
const REGISTER_COUNT: u8 = 0x2f;
/// Form of a record whose two bytes are the length of the data behind it.
const SIZED: u8 = 0x04;
/// Bytes of an entry of `.symtab`.
const SYMBOL_BYTES: usize = 24;

/// Compute capability × 10.
pub fn architecture(cubin: &[u8]) -> anyhow::Result<u32> {
    ensure!(cubin.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF file");
    let abi = *cubin.get(8).context("a cut-off ELF header")?;
    let flags = number(cubin, 48, 4)?;
    // ABI 8, of CUDA 13's newer architectures, moved it up a byte.
    Ok(u32::try_from(if abi >= 8 { flags >> 8 } else { flags } & 0xff)?)
}

/// Threads that a kernel's `__launch_bounds__` or required block size allows.
pub fn threads_max(cubin: &[u8], kernel: &str) -> anyhow::Result<Option<u32>> {
    let Some(info) = section(cubin, &format!(".nv.info.{kernel}"))? else { return Ok(None) };
    let Some((_, data)) = records(info)?.into_iter().find(|(attribute, _)| *attribute == LAUNCH_BOUNDS)
    else {
        return Ok(None);
    };
    let [x, y, z] = [0, 4, 8].map(|at| number(data, at, 4));
    Ok(Some(u32::try_from(x? * y? * z?)?))
}

/// Registers a thread of each kernel.
pub fn registers(cubin: &[u8]) -> anyhow::Result<BTreeMap<String, u32>> {
    let part = |name| section(cubin, name)?.with_context(|| format!("no section {name}"));
    let (info, symbols, names) = (part(".nv.info")?, part(".symtab")?, part(".strtab")?);
    let mut all = BTreeMap::new();
    for (_, data) in records(info)?.iter().filter(|(attribute, _)| *attribute == REGISTER_COUNT) {
        let symbol = usize::try_from(number(data, 0, 4)?)?;
        let name = usize::try_from(number(symbols, symbol * SYMBOL_BYTES, 4)?)?;
        let name = names.get(name..).context("a symbol's name is outside its section")?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        all.insert(String::from_utf8_lossy(name).into_owned(), u32::try_from(number(data, 4, 4)?)?);
    }
    Ok(all)
}

/// Static shared memory of a block of a kernel, bytes.
pub fn shared(cubin: &[u8], kernel: &str) -> anyhow::Result<u32> {
    // The section takes no place in the file: only its header tells.
    let Some(at) = header(cubin, &format!(".nv.shared.{kernel}"))? else { return Ok(0) };
    Ok(u32::try_from(number(cubin, at + 32, 8)?)?)
}

/// Attributes and data of the sized records.
fn records(info: &[u8]) -> anyhow::Result<Vec<(u8, &[u8])>> {
    let (mut all, mut at) = (Vec::new(), 0);
    while at + 4 <= info.len() {
        let size = if info[at] == SIZED { usize::try_from(number(info, at + 2, 2)?)? } else { 0 };
        let data = info.get(at + 4..at + 4 + size).context("a record is cut off")?;
        if info[at] == SIZED {
            all.push((info[at + 1], data));
        }
        at += 4 + size;
    }
    Ok(all)
}

/// A section's bytes.
pub fn section<'a>(elf: &'a [u8], wanted: &str) -> anyhow::Result<Option<&'a [u8]>> {
    let Some(at) = header(elf, wanted)? else { return Ok(None) };
    let (start, bytes) =
        (usize::try_from(number(elf, at + 24, 8)?)?, usize::try_from(number(elf, at + 32, 8)?)?);
    Ok(Some(elf.get(start..start + bytes).context("a section is outside the file")?))
}

/// Where a section's header is.
fn header(elf: &[u8], wanted: &str) -> anyhow::Result<Option<usize>> {
    let place = |at, bytes| -> anyhow::Result<usize> { Ok(usize::try_from(number(elf, at, bytes)?)?) };
    let (table, size, count, names) = (place(40, 8)?, place(58, 2)?, place(60, 2)?, place(62, 2)?);
    let names = place(table + names * size + 24, 8)?;
    for section in (0..count).map(|index| table + index * size) {
        let name = elf.get(names + place(section, 4)?..).context("a section's name is outside the file")?;
        if name.starts_with(wanted.as_bytes()) && name.get(wanted.len()) == Some(&0) {
            return Ok(Some(section));
        }
    }
    Ok(None)
}

/// A little-endian number of `bytes` bytes.
pub fn number(from: &[u8], at: usize, bytes: usize) -> anyhow::Result<u64> {
    let field =
        from.get(at..at + bytes).with_context(|| format!("{bytes} bytes at {at} of {}", from.len()))?;
    Ok(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}
