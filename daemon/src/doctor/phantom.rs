//! A small phantom through the engine, against what these models answered when they were released.
use super::Seen;
use crate::instance::Instance;
use crate::phantom::{Phantom, PhantomSpec, write_series};
use crate::pipeline::Pipeline;
use engine::{Analyzer, Method};
use std::path::Path;
use std::sync::Arc;
use study::{Findings, Lesions, Mode, Outcome, Policy, Verdict};

/// As few slices as the networks take, and as coarse: seconds on the slowest processor.
const SPEC: PhantomSpec =
    PhantomSpec { slices: 8, size: 256, left_percent: 30.0, right_percent: 10.0, seed: 1 };

/// What models answer to [`SPEC`].
struct Golden {
    /// The first digits of the hashes: lung net, multitask net.
    models: [&'static str; 2],
    /// `None` of a method that gives none.
    probability: Option<f64>,
    left: f64,
    right: f64,
}

/// Measured on the processor's engine.
const GOLDEN: &[Golden] = &[
    Golden { models: [LUNGS, "9ebadcab76a0"], probability: Some(0.9505), left: 0.2894, right: 0.1331 },
    Golden { models: [LUNGS, "e669121549d6"], probability: Some(0.917), left: 0.289, right: 0.133 },
    Golden { models: [LUNGS, "dac28bda54f7"], probability: Some(0.9348), left: 0.2894, right: 0.1331 },
    Golden { models: [LUNGS, "1023ce71ce48"], probability: None, left: 0.3461, right: 0.1466 },
    Golden { models: [LUNGS, "b1e844b8b12a"], probability: None, left: 0.2666, right: 0.1144 },
];
const LUNGS: &str = "d6f93dca72f9";
/// How far an answer may lie from it: promise 7 gives engines 0.01 of the probability, and fp16 moves edges of lesions.
const TOLERANCE: f64 = 0.02;

/// Makes the phantom, evaluates it, compares.
pub fn evaluate(analyzer: &Arc<Analyzer>, work_dir: &Path, threads: usize) -> Seen {
    let outcome = run(analyzer, work_dir, threads).map_err(|error| format!("{error:#}"))?;
    let is_flagged = matches!(outcome.verdict, Verdict::Flagged(_));
    let findings = match &outcome.verdict {
        Verdict::Flagged(findings) | Verdict::NotFlagged(findings) => findings,
        Verdict::NotEvaluated(reason) => return Err(format!("the phantom was not evaluated: {reason}")),
    };
    let zoo = analyzer.zoo();
    let hashes = [&zoo.lungs.sha256.model, &zoo.card().sha256.model];
    // The rule of thresholds has no model, and takes vessels for lesions by design.
    let has_model = zoo.method() != Method::Threshold;
    let golden = GOLDEN
        .iter()
        .filter(|_| has_model)
        .find(|golden| golden.models.iter().zip(hashes).all(|(known, hash)| hash.starts_with(known)));
    match golden {
        Some(golden) => judge(findings, is_flagged, golden),
        // A site's choice of method must not send every update back: what nobody measured on this phantom can't be wrong on it.
        None => Ok(format!("{}, not judged: these models' answer is not known", said(findings))),
    }
}

fn judge(f: &Findings, is_flagged: bool, golden: &Golden) -> Seen {
    let text = said(f);
    if !is_flagged {
        return Err(format!("{text}: the phantom was not flagged, and a third of its left lung is diseased"));
    }
    let near = |value: f64, want: f64| (value - want).abs() <= TOLERANCE;
    let right = f.lesions.is_some_and(|Lesions { fraction, .. }| {
        near(fraction.left, golden.left) && near(fraction.right, golden.right)
    }) && match (f.probability, golden.probability) {
        (Some(answer), Some(known)) => near(f64::from(answer), known),
        (answer, known) => answer.is_none() && known.is_none(),
    };
    let want = format!("{:.3}, {:.3}, {:?}", golden.left, golden.right, golden.probability);
    if right { Ok(text) } else { Err(format!("{text}; these models answer {want}")) }
}

fn said(f: &Findings) -> String {
    let severity = match f.lesions {
        Some(Lesions { fraction, .. }) => {
            format!("severity left {:.3}, right {:.3}", fraction.left, fraction.right)
        }
        None => "severity not measured by this method".to_owned(),
    };
    let probability = f.probability.map_or(String::new(), |p| format!(", probability {p:.3}"));
    format!("{severity}{probability} by {}", f.engine)
}

fn run(analyzer: &Arc<Analyzer>, work_dir: &Path, threads: usize) -> anyhow::Result<Outcome> {
    let dir = tempfile::Builder::new().prefix("doctor-").tempdir_in(work_dir)?;
    let series = dir.path().join("phantom");
    write_series(&Phantom::new(&SPEC)?, &series, || ())?;
    let names = (1..=SPEC.slices).map(|k| series.join(format!("IM{k:04}.dcm")));
    let instances =
        names.map(|path| Ok(Arc::new(Instance::read(&path)?))).collect::<anyhow::Result<Vec<_>>>()?;
    // Thresholds that the phantom is far above, whatever the site's are.
    let policy = Policy { mode: Mode::Both, operating_point: 0.5, severity_min: 0.05 };
    let pipeline = Pipeline::new(Arc::clone(analyzer), policy, threads)?;
    let study = instances[0].header.study.clone();
    Ok(pipeline.finish(&study, &instances, &|_| {}).outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{Choice, Setup, Zoo};

    /// A model that is trained anew needs its answers here.
    #[test]
    fn the_models_that_ship_give_their_golden_answers() {
        for method in [
            Method::MultitaskSpatial1,
            Method::MultitaskSpatial4,
            Method::MultitaskLatent,
            Method::Unet2d,
            Method::Unet2dPlus,
        ] {
            let zoo = Zoo::with_method(&engine::default_zoo_dir(), method, None).unwrap();
            let analyzer = Arc::new(Analyzer::new(zoo, &Setup::new(Choice::Cpu, 2)).unwrap());
            let dir = tempfile::tempdir().unwrap();
            let seen = evaluate(&analyzer, dir.path(), 2).unwrap();
            assert!(!seen.contains("not judged"), "{method}: {seen}");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn an_engine_that_answers_otherwise_is_noticed() {
        let sides = |left, right| study::Sides { left, right };
        let findings = |left, right, probability| Findings {
            probability: Some(probability),
            lesions: Some(Lesions { fraction: sides(left, right), volume_ml: sides(1.0, 1.0) }),
            lung_volume_ml: sides(1.0, 1.0),
            method: "m".into(),
            engine: "e".into(),
            model_version: "1".into(),
        };
        let golden = Golden { models: ["", ""], probability: Some(0.95), left: 0.29, right: 0.13 };
        assert!(judge(&findings(0.30, 0.12, 0.94), true, &golden).is_ok());
        for (left, right, probability) in
            [(0.32, 0.13, 0.95), (0.29, 0.10, 0.95), (0.29, 0.13, 0.90), (f64::NAN, 0.13, 0.95)]
        {
            assert!(
                judge(&findings(left, right, probability), true, &golden).is_err(),
                "{left} {right} {probability}"
            );
        }
        assert!(judge(&findings(0.30, 0.12, 0.94), false, &golden).unwrap_err().contains("was not flagged"));
        let without = Findings { probability: None, ..findings(0.30, 0.12, 0.0) };
        assert!(judge(&without, true, &golden).is_err());
        assert!(judge(&without, true, &Golden { probability: None, ..golden }).is_ok());
    }
}
