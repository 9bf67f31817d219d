//! The report: all parts, and what was asked of them.
//!
//! Owns: `report.json`, `report.md`, the targets. A part that left nothing is missing, and the report says so.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::part::{Found, Table};

/// Parts in the order of the report; the last is the Python part's.
const PARTS: [&str; 7] = ["device", "kernels", "plans", "engines", "studies", "bandwidth", "pytorch"];

/// A figure and what was asked of it.
#[derive(Debug, PartialEq, Serialize)]
struct Target {
    what: &'static str,
    /// The least (`at_least`) or the most.
    asked: f64,
    at_least: bool,
    /// Absent if it was not measured.
    measured: Option<f64>,
    met: Option<bool>,
}

#[derive(Serialize)]
struct Report<'a> {
    /// A rehearsal: figures mean nothing.
    quick: bool,
    right: bool,
    targets: Vec<Target>,
    missing: Vec<&'static str>,
    /// Lines that the script left: parts that ran out of time, tools that are not there.
    notes: Vec<String>,
    parts: &'a BTreeMap<String, Found>,
}

/// Joins the parts of `out`; returns whether all that ran was right.
pub fn write(out: &Path) -> anyhow::Result<bool> {
    let mut parts = BTreeMap::new();
    for entry in
        std::fs::read_dir(out.join("parts")).with_context(|| format!("no parts in {}", out.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "json") {
            let text = std::fs::read_to_string(&path)?;
            let found: Found = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
            parts.insert(found.part.clone(), found);
        }
    }
    let notes = std::fs::read_to_string(out.join("notes.txt")).unwrap_or_default();
    let report = Report {
        quick: parts.values().any(|part| part.quick),
        right: parts.values().all(|part| part.finished && part.checks.iter().all(|check| check.passed)),
        targets: targets(&parts),
        missing: PARTS.into_iter().filter(|name| !parts.contains_key(*name)).collect(),
        notes: notes.lines().map(str::to_owned).collect(),
        parts: &parts,
    };
    std::fs::write(out.join("report.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    let text = markdown(&report);
    std::fs::write(out.join("report.md"), &text)?;
    println!("{text}");
    Ok(report.right)
}

/// What issue and documents ask, with what was measured.
fn targets(parts: &BTreeMap<String, Found>) -> Vec<Target> {
    let figure = |name: &str| parts.values().find_map(|part| part.figures.get(name).copied());
    let least = |names: &[&str]| names.iter().filter_map(|name| figure(name)).min_by(f64::total_cmp);
    let study = least(&["study_300_cuda_s", "study_300_tensorrt_s"]);
    let ratio = |theirs: Option<f64>, ours: Option<f64>| Some(theirs? / ours?);
    let target = |what, asked, at_least, measured: Option<f64>| Target {
        what,
        asked,
        at_least,
        measured,
        met: measured.map(|m| if at_least { m >= asked } else { m <= asked }),
    };
    vec![
        target("300 slices from decoded pixels to the outcome, seconds", 0.25, false, study),
        target(
            "that, times faster than the paper's pipeline in PyTorch, fp32",
            20.0,
            true,
            ratio(figure("pytorch_study_300_fp32_s"), study),
        ),
        target(
            "pyramid, 8 × 110 × 150 × 300 fp16: share of the memory's theoretical bandwidth",
            0.85,
            true,
            figure("pyramid_f16_share_of_theory"),
        ),
        target(
            "whole pyramid, times faster than PyTorch's four max_pool3d calls, fp16",
            5.0,
            true,
            ratio(figure("pytorch_pyramid_fp16_us"), figure("pyramid_f16_whole_us")),
        ),
    ]
}

fn markdown(report: &Report<'_>) -> String {
    let mut out = String::from("# GPU suite\n");
    let title = |name: &str| Table { title: name.to_owned(), ..Table::default() };
    if report.quick {
        out.push_str("\n**A rehearsal with small sizes: its times mean nothing.**\n");
    }
    let verdict =
        if report.right { "All checks that ran passed." } else { "**Something is wrong; see below.**" };
    let _ = writeln!(out, "\n{verdict}");
    if !report.missing.is_empty() {
        let _ = writeln!(out, "\nNot run: {}.", report.missing.join(", "));
    }
    for note in &report.notes {
        let _ = writeln!(out, "\n{note}");
    }
    let mut targets = Table {
        columns: ["what", "asked", "measured", "met"].map(str::to_owned).to_vec(),
        ..title("Targets")
    };
    for target in &report.targets {
        targets.rows.push(vec![
            target.what.to_owned(),
            format!("{} {}", if target.at_least { "at least" } else { "at most" }, target.asked),
            target.measured.map_or_else(|| "not measured".to_owned(), |m| format!("{m:.3}")),
            target.met.map_or("–", |met| if met { "yes" } else { "**no**" }).to_owned(),
        ]);
    }
    table(&mut out, &targets);
    let ordered = PARTS.iter().filter_map(|name| report.parts.get(*name));
    let others = report.parts.values().filter(|part| !PARTS.contains(&part.part.as_str()));
    for part in ordered.chain(others) {
        let _ = writeln!(out, "\n## Part {} ({:.0} s)", part.part, part.seconds);
        if let Some(error) = &part.error {
            let _ = writeln!(out, "\n**Stopped: {error}**");
        } else if !part.finished {
            out.push_str("\n**Did not come to its end; what it had is below.**\n");
        }
        if !part.checks.is_empty() {
            let mut checks =
                Table { columns: ["check", "", "detail"].map(str::to_owned).to_vec(), ..title("Checks") };
            let cells = |check: &crate::part::Check| {
                vec![
                    check.name.clone(),
                    if check.passed { "ok" } else { "**wrong**" }.to_owned(),
                    check.detail.clone(),
                ]
            };
            checks.rows.extend(part.checks.iter().map(cells));
            table(&mut out, &checks);
        }
        part.tables.iter().for_each(|rows| table(&mut out, rows));
    }
    out
}

fn table(out: &mut String, table: &Table) {
    let line = |cells: &[String]| {
        format!("| {} |\n", cells.iter().map(|c| c.replace('|', "\\|")).collect::<Vec<_>>().join(" | "))
    };
    let _ = write!(out, "\n### {}\n\n", table.title);
    if !table.note.is_empty() {
        let _ = write!(out, "{}\n\n", table.note);
    }
    out.push_str(&line(&table.columns));
    let _ = writeln!(out, "|{}", "---|".repeat(table.columns.len()));
    table.rows.iter().for_each(|row| out.push_str(&line(row)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_of_the_faster_engine_and_of_the_same_run() {
        let with = |name: &str, figures: &[(&str, f64)]| {
            let figures = figures.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect();
            (name.to_owned(), Found { part: name.to_owned(), figures, ..Found::default() })
        };
        let parts = BTreeMap::from([
            with("studies", &[("study_300_cuda_s", 0.2), ("study_300_tensorrt_s", 0.3)]),
            with("pytorch", &[("pytorch_study_300_fp32_s", 3.0)]),
            with("bandwidth", &[("pyramid_f16_share_of_theory", 0.85)]),
        ]);
        let all = targets(&parts);
        let met: Vec<_> = all.iter().map(|target| target.met).collect();
        assert_eq!(met, [Some(true), Some(false), Some(true), None]);
        assert_eq!(all[1].measured, Some(3.0 / 0.2));
    }

    #[test]
    fn a_part_that_crashed_and_one_that_is_missing_are_told() {
        let dir = std::env::temp_dir().join(format!("gpu-suite-report-{}", std::process::id()));
        let mut part = crate::part::Part::start(&dir, "kernels", true).expect("a folder");
        part.check("pyramid", true, "exact").expect("written");
        drop(part);
        assert!(!write(&dir).expect("a report"), "a part that did not finish is not right");
        let text = std::fs::read_to_string(dir.join("report.md")).expect("a report");
        std::fs::remove_dir_all(&dir).expect("removed");
        for wanted in [
            "Did not come to its end",
            "Not run: device, plans, engines, studies, bandwidth, pytorch",
            "| pyramid | ok | exact |",
        ] {
            assert!(text.contains(wanted), "{wanted}:\n{text}");
        }
    }
}
