//! `triaged phantom`: a digital chest phantom as a DICOM series.
use crate::phantom::{Phantom, PhantomSpec, write_series};
use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `triaged phantom`.
#[derive(clap::Args)]
pub struct Args {
    /// New or empty folder for the slices; the truth goes into its subfolder `truth`.
    dir: PathBuf,
    /// Number of slices, 8 to 2000; together they cover 300 mm (10 mm apart at most).
    #[arg(long, default_value_t = 150)]
    slices: usize,
    /// Diseased share of the patient's left and right lung, per cent.
    #[arg(long, value_name = "LEFT,RIGHT", default_value = "30,10", value_parser = parse_lesions)]
    lesions: (f64, f64),
    /// The patient: anatomy, vessels, noise and the places of the lesions.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Columns and rows of a slice, 64 to 1024.
    #[arg(long, default_value_t = 512)]
    size: usize,
}

fn parse_lesions(text: &str) -> Result<(f64, f64), String> {
    let share = |s: &str| s.trim().parse::<f64>().map_err(|_| format!("{s:?} is not a number"));
    let (left, right) =
        text.split_once(',').ok_or("two numbers with a comma between: LEFT,RIGHT in per cent")?;
    Ok((share(left)?, share(right)?))
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let spec = PhantomSpec {
        slices: args.slices,
        size: args.size,
        left_percent: args.lesions.0,
        right_percent: args.lesions.1,
        seed: args.seed,
    };
    let phantom = Phantom::new(&spec)?;
    // Drawn on standard error, and only when that is a terminal.
    let bar = ProgressBar::with_draw_target(Some(spec.slices as u64), ProgressDrawTarget::stderr());
    bar.set_style(
        ProgressStyle::with_template("phantom {bar:40} {pos}/{len} slices").context("progress bar")?,
    );
    let truth = write_series(&phantom, &args.dir, || bar.inc(1))?;
    bar.finish_and_clear();
    println!(
        "{}: {} slices, {:.2} mm apart, pixels of {:.3} mm; left lung {:.0} ml, {:.1} % diseased; right lung {:.0} ml, {:.1} %",
        args.dir.display(),
        spec.slices,
        truth.spacing.slice_mm,
        truth.spacing.column_mm,
        truth.lung_volume_ml.left,
        100.0 * truth.lesion_fraction.left,
        truth.lung_volume_ml.right,
        100.0 * truth.lesion_fraction.right,
    );
    Ok(ExitCode::SUCCESS)
}
