//! The part `engines`: every engine that works here against the processor's, on studies of several shapes.
//!
//! Owns: the studies, the tolerances that every engine must keep, and the plans that TensorRT needs. Never does: time studies.

use engine::tensorrt::{self, Library, Options, Step};
use engine::{Analysis, Analyzer, Choice, EngineState, LabelVolume, Setup, Zoo};

use anyhow::Context;
use kernels::device::Device;
use study::Sides;

use crate::part::Part;
use crate::volume::{Volume, threads};

/// Largest difference of the identification probability.
const PROBABILITY_MAX: f64 = 0.01;
/// Largest difference of a lung's severity, in percentage points.
const SEVERITY_MAX: f64 = 0.5;
/// Least overlap of the lesion masks.
const DICE_MIN: f64 = 0.995;

/// The engines of a GPU, as the configuration names them.
pub const NAMES: [&str; 2] = ["cuda", "tensorrt"];

/// Where engines are opened.
pub struct Place {
    /// The GPU's number.
    pub gpu: usize,
    /// TensorRT's library, and the plans that the part `plans` made.
    pub tensorrt: Options,
}

/// The part `plans`: builds TensorRT's plans for this GPU, if there is a TensorRT.
pub fn plans(part: &mut Part, zoo: &Zoo, gpu: &Device, place: &Place) -> anyhow::Result<()> {
    part.table("TensorRT's plans", "Built on this machine.", &["network", "what", "seconds", "MiB"])?;
    let library = match Library::find(place.tensorrt.library_dir.as_deref()) {
        Ok(library) => library,
        // A folder that was named must serve.
        Err(error) if place.tensorrt.library_dir.is_some() => return Err(error.into()),
        Err(error) => {
            return part
                .row(["".to_owned(), format!("skipped: {error}"), String::new(), String::new()].to_vec());
        }
    };
    let mut steps = Vec::new();
    let built = tensorrt::provision(zoo, gpu, &library, &place.tensorrt, &mut |step| steps.push(step));
    for step in steps {
        let (network, what, seconds, bytes) = match step {
            Step::Kept { network } => (network, "was there".to_owned(), None, None),
            Step::Building { .. } => continue,
            Step::Done { network, seconds, bytes, .. } => {
                (network, format!("built by {}", library.version()), Some(seconds), Some(bytes))
            }
        };
        let seconds = seconds.map_or_else(String::new, |seconds| format!("{seconds:.1}"));
        let mib = bytes.map_or_else(String::new, |bytes| format!("{:.1}", bytes as f64 / f64::from(1 << 20)));
        part.row(vec![network.to_owned(), what, seconds, mib])?;
    }
    part.check(
        "TensorRT's plans",
        built.is_ok(),
        built.err().map_or_else(|| "built".to_owned(), |e| e.to_string()),
    )
}

/// The engine `name` with its models loaded, or why it can't work here. It falls to no other.
pub fn open(zoo: &Zoo, name: &str, place: &Place) -> Result<Analyzer, String> {
    let choice: Choice = name.parse()?;
    let tensorrt = place.tensorrt.clone();
    let setup = Setup { gpu: place.gpu, tensorrt, ..Setup::new(choice, threads()) };
    let analyzer = Analyzer::new(zoo.clone(), &setup).map_err(|error| error.to_string())?;
    if analyzer.engines().first().name() == name {
        return Ok(analyzer);
    }
    let why = analyzer.engines().status().into_iter().find(|status| status.name == name);
    Err(match why.map(|status| status.state) {
        Some(EngineState::Missing { why } | EngineState::Out { why }) => why,
        _ => "the program was built without it".to_owned(),
    })
}

/// Analyses a study from its cells.
pub fn analyze(analyzer: &Analyzer, study: &Volume) -> anyhow::Result<Analysis> {
    let slices = study.prepare(analyzer, threads())?;
    Ok(analyzer.finish(&slices, study.spacing, &|_, _| ())?)
}

/// Runs all.
pub fn run(part: &mut Part, zoo: &Zoo, phantom: &Volume, place: &Place, quick: bool) -> anyhow::Result<()> {
    let sizes: &[[usize; 2]] = if quick { &[[8, 64]] } else { &[[8, 256], [33, 320], [40, 512], [150, 512]] };
    let cpu = open(zoo, "cpu", place).map_err(anyhow::Error::msg)?;
    let mut studies = Vec::new();
    for &[slices, side] in sizes {
        let study = phantom.study(slices, side);
        let expected = analyze(&cpu, &study)?;
        studies.push((study, expected));
    }
    let mut found = 0;
    part.table(
        "Engines against the processor's",
        "Tolerances: probability 0.01, severity 0.5 percentage points, Dice of the lesions at least 0.995.",
        &[
            "engine",
            "study",
            "probability",
            "of the processor",
            "severity, points apart",
            "lesion Dice",
            "lung Dice",
        ],
    )?;
    for name in NAMES {
        let analyzer = match open(zoo, name, place) {
            Ok(analyzer) => analyzer,
            Err(why) => {
                part.row(vec![
                    name.to_owned(),
                    format!("skipped: {why}"),
                    String::new(),
                    String::new(),
                    String::new(),
                    String::new(),
                    String::new(),
                ])?;
                continue;
            }
        };
        found += 1;
        for (study, expected) in &studies {
            let got = analyze(&analyzer, study)?;
            compare(part, name, study, &got, expected)?;
        }
    }
    part.check("an engine of the GPU works", found > 0, format!("{found} of {NAMES:?}"))
}

fn compare(
    part: &mut Part,
    name: &str,
    study: &Volume,
    got: &Analysis,
    expected: &Analysis,
) -> anyhow::Result<()> {
    let [(got_probability, got_severity), (expected_probability, expected_severity)] =
        [numbers(got)?, numbers(expected)?];
    let probability = f64::from(got_probability - expected_probability).abs();
    let sides = [(got_severity.left, expected_severity.left), (got_severity.right, expected_severity.right)];
    let severity = sides.iter().map(|(a, b)| 100.0 * (a - b).abs()).fold(0.0, f64::max);
    let lesions = dice(&got.labels, &expected.labels, LabelVolume::LESION);
    let lungs = dice(&got.labels, &expected.labels, LabelVolume::LUNGS);
    let [slices, rows, columns] = study.shape;
    let shape = format!("{slices} × {rows} × {columns}");
    part.row(vec![
        name.to_owned(),
        shape.clone(),
        format!("{got_probability:.4}"),
        format!("{expected_probability:.4}"),
        format!("{severity:.3}"),
        format!("{lesions:.5}"),
        format!("{lungs:.5}"),
    ])?;
    let right = probability <= PROBABILITY_MAX
        && severity <= SEVERITY_MAX
        && lesions >= DICE_MIN
        && lungs >= DICE_MIN;
    let same = got.engine == name;
    part.check(
        format!("{name}, {shape}"),
        right && same,
        format!("by {}: probability off by {probability:.1e}, severity by {severity:.1e} points, Dice {lesions:.5}", got.engine),
    )
}

/// Identification probability and severity, which the default method has both.
pub fn numbers(of: &Analysis) -> anyhow::Result<(f32, Sides<f64>)> {
    let lesions = of.lesions.as_ref().context("the method finds no lesions")?;
    Ok((of.probability.context("the method gives no probability")?, lesions.fraction))
}

/// Overlap of the voxels with any of `bits`; 1 when neither has one.
fn dice(a: &LabelVolume, b: &LabelVolume, bits: u8) -> f64 {
    let (mut both, mut sum) = (0u64, 0u64);
    for (a, b) in a.voxels.iter().zip(&b.voxels) {
        let (a, b) = (a & bits != 0, b & bits != 0);
        both += u64::from(a && b);
        sum += u64::from(a) + u64::from(b);
    }
    if sum == 0 { 1.0 } else { 2.0 * both as f64 / sum as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_is_of_the_bits_asked_for() {
        let volume = |voxels: [u8; 4]| LabelVolume { shape: [1, 2, 2], voxels: voxels.to_vec() };
        let (a, b) = (volume([5, 4, 1, 0]), volume([4, 0, 1, 1]));
        assert_eq!(dice(&a, &b, LabelVolume::LESION), 2.0 / 3.0);
        assert_eq!(dice(&a, &b, LabelVolume::LUNGS), 0.5);
        assert_eq!(dice(&a, &b, 8), 1.0);
    }
}
