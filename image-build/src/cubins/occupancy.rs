//! What each kernel takes of a multiprocessor, from what the assembler printed.
//!
//! Owns: the parsing of its log and the arithmetic of NVIDIA's occupancy calculator. Never does: measure; the GPU suite does.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, ensure};

use super::elf;
use super::nvrtc::Built;

/// Threads of a block where a kernel states no bound.
const THREADS_ASSUMED: u32 = 256;

/// A kernel's needs.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Needs {
    /// Registers a thread.
    pub registers: u32,
    /// Static shared memory a block, bytes.
    pub shared: u32,
    /// Stack a thread, bytes.
    pub stack: u32,
    /// Spilled stores and loads a thread, bytes.
    pub spills: u32,
}

/// What a multiprocessor has (CUDA C++ programming guide, "Technical specifications per compute capability").
struct Multiprocessor {
    threads: u32,
    blocks: u32,
    shared: u32,
    /// Shared memory that the driver keeps of each block.
    shared_reserved: u32,
}

/// Registers of every multiprocessor here, given out 256 at a time to a warp.
const REGISTERS: u32 = 65536;

fn multiprocessor(architecture: u32) -> Multiprocessor {
    let of = |threads, blocks, shared_kib: u32, shared_reserved| Multiprocessor {
        threads,
        blocks,
        shared: shared_kib << 10,
        shared_reserved,
    };
    match architecture {
        ..70 => of(2048, 32, 96, 0),
        70..75 => of(2048, 32, 96, 0),
        75..80 => of(1024, 16, 64, 0),
        80 => of(2048, 32, 164, 1024),
        87 => of(1536, 16, 164, 1024),
        86..90 => of(1536, 24, 100, 1024),
        90 => of(2048, 32, 228, 1024),
        _ => of(1536, 24, 228, 1024),
    }
}

/// The kernels of a build as a Markdown table.
pub fn table(architecture: u32, built: &Built) -> anyhow::Result<String> {
    let all = needs(&built.log)?;
    ensure!(!all.is_empty(), "the assembler said nothing of any kernel");
    let mut out = format!(
        "### sm_{architecture}\n\n\
         Shared memory is the static part; occupancy is theoretical, without dynamic shared memory, for the largest block that the kernel allows \
         (or {THREADS_ASSUMED} threads, marked ~).\n\n\
         | kernel | threads | registers | shared, bytes | stack, bytes | spills, bytes | blocks | occupancy |\n|---|---|---|---|---|---|---|---|\n"
    );
    for (kernel, needs) in &all {
        let bound = elf::threads_max(&built.cubin, kernel)?;
        let threads = bound.unwrap_or(THREADS_ASSUMED);
        let (blocks, share) = occupancy(architecture, needs, threads);
        let about = if bound.is_none() { "~" } else { "" };
        let Needs { registers, shared, stack, spills } = needs;
        let _ = writeln!(
            out,
            "| `{kernel}` | {about}{threads} | {registers} | {shared} | {stack} | {spills} | {blocks} | {:.0} % |",
            share * 100.0
        );
    }
    Ok(out)
}

/// The kernels of a cubin: name, threads of the largest block, registers, shared memory, blocks on a multiprocessor, occupancy.
pub fn rows(architecture: u32, cubin: &[u8]) -> anyhow::Result<Vec<[String; 6]>> {
    let mut rows = Vec::new();
    for (kernel, registers) in elf::registers(cubin)? {
        let needs = Needs { registers, shared: elf::shared(cubin, &kernel)?, ..Needs::default() };
        let threads = elf::threads_max(cubin, &kernel)?.unwrap_or(THREADS_ASSUMED);
        let (blocks, share) = occupancy(architecture, &needs, threads);
        let [threads, registers, shared, blocks] =
            [threads, registers, needs.shared, blocks].map(|n| n.to_string());
        rows.push([kernel, threads, registers, shared, blocks, format!("{:.0} %", share * 100.0)]);
    }
    Ok(rows)
}

/// Blocks that fit a multiprocessor at once, and the share of its threads that they are.
fn occupancy(architecture: u32, needs: &Needs, threads: u32) -> (u32, f64) {
    let has = multiprocessor(architecture);
    let warps = threads.div_ceil(32);
    let a_warp = (needs.registers * 32).next_multiple_of(256).max(256);
    // Warps' registers lie in four partitions.
    let by_registers = (REGISTERS / 4 / a_warp * 4) / warps;
    let shared = needs.shared + has.shared_reserved;
    let by_shared = has.shared.checked_div(shared.next_multiple_of(256)).unwrap_or(has.blocks);
    let blocks = has.blocks.min(has.threads / 32 / warps).min(by_registers).min(by_shared);
    (blocks, f64::from(blocks * warps * 32) / f64::from(has.threads))
}

/// Reads the assembler's log (`--ptxas-options=-v`).
fn needs(log: &str) -> anyhow::Result<BTreeMap<String, Needs>> {
    let mut all = BTreeMap::new();
    let mut current: Option<String> = None;
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            current = rest.split('\'').next().map(str::to_owned);
        } else if line.contains("Function properties for ") {
            // A device function that was not inlined has properties of its own; the entry's come first or last, under its name.
            continue;
        } else if let Some(kernel) = &current {
            let entry: &mut Needs = all.entry(kernel.clone()).or_default();
            if line.contains("bytes stack frame") {
                entry.stack = entry.stack.max(before(line, " bytes stack frame").unwrap_or(0));
                let spilled = |what| before(line, what).unwrap_or(0);
                entry.spills += spilled(" bytes spill stores") + spilled(" bytes spill loads");
            } else if line.contains(" registers") {
                entry.registers = before(line, " registers").with_context(|| line.to_owned())?;
                entry.shared = before(line, " bytes smem").unwrap_or(0);
            }
        }
    }
    Ok(all)
}

/// The number just before `what`.
fn before(line: &str, what: &str) -> Option<u32> {
    let (head, _) = line.split_once(what)?;
    head.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "ptxas info    : 0 bytes gmem\n\
        ptxas info    : Compiling entry function 'pool_f16' for 'sm_70'\n\
        ptxas info    : Function properties for pool_f16\n\
        ptxas         .     48 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads\n\
        ptxas info    : Used 32 registers, used 1 barriers, 48 bytes cumulative stack size, 1024 bytes smem, 368 bytes cmem[0]\n\
        ptxas info    : Compile time = 7.906 ms\n\
        ptxas info    : Compiling entry function 'empty_f32' for 'sm_70'\n\
        ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
        ptxas info    : Used 8 registers, used 0 barriers, 352 bytes cmem[0]\n";

    #[test]
    fn the_log_is_read_kernel_by_kernel() {
        let all = needs(LOG).expect("a log");
        assert_eq!(all["pool_f16"], Needs { registers: 32, shared: 1024, stack: 48, spills: 24 });
        assert_eq!(all["empty_f32"], Needs { registers: 8, ..Needs::default() });
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn occupancy_is_that_of_the_calculator() {
        let of = |architecture, registers, shared, threads| {
            occupancy(architecture, &Needs { registers, shared, ..Needs::default() }, threads)
        };
        // Bound by threads, by registers, by shared memory, by blocks.
        assert_eq!(of(70, 32, 0, 256), (8, 1.0));
        assert_eq!(of(90, 128, 0, 256), (2, 0.25));
        assert_eq!(of(70, 32, 48 << 10, 256), (2, 0.25));
        assert_eq!(of(87, 32, 0, 32), (16, 1.0 / 3.0));
        // 33 registers are given as 40: 65536 / 1280 = 51 warps, 48 by partitions.
        assert_eq!(of(90, 33, 0, 256), (6, 0.75));
    }
}
