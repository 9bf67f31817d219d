//! The part `studies`: from decoded pixels to the outcome, by stage.
//!
//! Owns: what is timed. Slices are prepared on all threads as fast as they go, then the study is finished: what a burst of slices costs when the
//! network that brings them takes no time.

use std::time::Instant;

use engine::{Analysis, Analyzer, Zoo};

use crate::engines;
use crate::part::Part;
use crate::volume::{Volume, threads};

/// Runs all.
pub fn run(
    part: &mut Part,
    zoo: &Zoo,
    phantom: &Volume,
    sizes: &[usize],
    names: &[String],
    place: &engines::Place,
    quick: bool,
) -> anyhow::Result<()> {
    let (rounds, side) = if quick { (1, crate::side(true)) } else { (5, crate::side(false)) };
    part.table(
        "Whole studies, from decoded pixels to the outcome",
        &format!("Slices of {side}², {} threads; medians of {rounds} rounds after one to warm up; ms of wall time. Prepare: ingest and lung net of all slices.", threads()),
        &["engine", "slices", "prepare", "multitask net, pyramid, head, masks", "lungs pasted", "lungs split", "finish", "whole", "probability", "severity %"],
    )?;
    let mut opened = Vec::new();
    for name in names {
        match engines::open(zoo, name, place) {
            Ok(analyzer) => opened.push((name, analyzer)),
            Err(why) => println!("  {name}: skipped: {why}"),
        }
    }
    for &slices in sizes {
        let study = phantom.study(slices, side);
        for (name, analyzer) in &opened {
            time(part, name, analyzer, &study, rounds)?;
        }
    }
    Ok(())
}

fn time(
    part: &mut Part,
    name: &str,
    analyzer: &Analyzer,
    study: &Volume,
    rounds: usize,
) -> anyhow::Result<()> {
    let mut all = Vec::new();
    // The processor's engine is only there to compare with.
    let rounds = if name == "cpu" { 1 } else { rounds };
    for round in 0..=rounds {
        let start = Instant::now();
        let slices = study.prepare(analyzer, threads())?;
        let prepare = start.elapsed().as_secs_f64() * 1e3;
        let analysis = analyzer.finish(&slices, study.spacing, &|_, _| ())?;
        let whole = start.elapsed().as_secs_f64() * 1e3;
        if round > 0 || name == "cpu" {
            all.push((prepare, whole, analysis));
        }
    }
    let median = |of: &dyn Fn(&(f64, f64, Analysis)) -> f64| {
        let mut values: Vec<f64> = all.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (_, _, last) = &all[0];
    let (probability, severity) = engines::numbers(last)?;
    let severity = 100.0 * severity.left.max(severity.right);
    let whole = median(&|round| round.1);
    let ms = |value: f64| format!("{value:.1}");
    let engine =
        if last.engine == name { name.to_owned() } else { format!("{name}, done by {}", last.engine) };
    part.row(vec![
        engine,
        study.shape[0].to_string(),
        ms(median(&|round| round.0)),
        ms(median(&|round| round.2.timings.multitask_ms)),
        ms(median(&|round| round.2.timings.paste_ms)),
        ms(median(&|round| round.2.timings.split_ms)),
        ms(median(&|round| round.2.timings.finish_ms)),
        ms(whole),
        format!("{probability:.4}"),
        format!("{severity:.2}"),
    ])?;
    if last.engine == name {
        let key = format!("study_{}_{name}", study.shape[0]);
        part.figure(format!("{key}_s"), whole / 1e3)?;
        part.figure(format!("{key}_probability"), f64::from(probability))?;
        part.figure(format!("{key}_severity_percent"), severity)?;
    }
    Ok(())
}
