use super::*;
use std::process::Command;

#[test]
fn what_is_not_defined_has_a_reason() {
    let single = roc_auc(&[(0.1, true), (0.2, true)]).unwrap_err();
    assert_eq!(single.to_string(), "2 positive and 0 negative studies; at least one of each is needed");
    assert!(roc_curve(&[]).is_err() && roc_auc(&[]).is_err());
    for pairs in [&[][..], &[(0.3, 0.4)], &[(0.1, 0.5), (0.2, 0.5), (0.3, 0.5)]] {
        assert!(matches!(spearman(pairs), Err(Undefined::NoRanks { .. })), "{pairs:?}");
    }
    assert_eq!(mean_std(&[]), Err(Undefined::Empty));
    assert_eq!((dice(&[false; 3], &[false; 3]), dice(&[true, false], &[false, true])), (1.0, 0.0));
}

#[test]
fn known_answers() {
    let scored = [(0.1, false), (0.4, false), (0.35, true), (0.8, true)];
    assert_eq!(roc_auc(&scored), Ok(0.75));
    assert_eq!(roc_curve(&scored).unwrap(), [(0.0, 0.0), (0.0, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0)]);
    // All equal: the diagonal.
    let flat = [(0.5, true), (0.5, false)];
    assert_eq!((roc_auc(&flat), roc_curve(&flat).unwrap()), (Ok(0.5), vec![(0.0, 0.0), (1.0, 1.0)]));
    assert_eq!(spearman(&[(1.0, 9.0), (2.0, 8.0), (3.0, 7.0)]), Ok(-1.0));
    assert_eq!(mean_std(&[1.0, 3.0]), Ok((2.0, 1.0)));
}

#[test]
fn an_interval_is_repeatable_and_holds_the_value() {
    let scored: Vec<(f64, bool)> =
        (0..60).map(|i| (f64::from(i * 37 % 60) + f64::from(i % 2) * 20.0, i % 2 == 1)).collect();
    let auc = roc_auc(&scored).unwrap();
    let [low, high] = bootstrap(&scored, 500, 7, roc_auc).unwrap();
    assert!(low < auc && auc < high && high - low < 0.4, "{low} {auc} {high}");
    assert_eq!(bootstrap(&scored, 500, 7, roc_auc), Some([low, high]));
    assert_ne!(bootstrap(&scored, 500, 8, roc_auc), Some([low, high]));
    assert_eq!(bootstrap(&[(1.0, true)], 100, 7, roc_auc), None);
}

const PEER: &str = r#"
import json, sys, warnings
import numpy as np
from medpy.metric.binary import dc
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score, roc_curve
warnings.simplefilter("ignore")
number = lambda v: None if np.isnan(v) else float(v)
out = []
for case in json.load(sys.stdin):
    labels, scores, other = map(np.array, (case["labels"], case["scores"], case["other"]))
    both = 0 < labels.sum() < len(labels)
    curve = roc_curve(labels, scores, drop_intermediate=False)[:2] if both else None
    a, b = np.array(case["a"], bool), np.array(case["b"], bool)
    out.append({
        "auc": float(roc_auc_score(labels, scores)) if both else None,
        "curve": np.transpose(curve).tolist() if both else None,
        "rho": number(spearmanr(scores, other)[0]) if len(scores) > 1 else None,
        "dice": float(dc(a, b)),
        "mean": float(np.mean(scores)), "std": float(np.std(scores)),
        "interval": np.percentile(scores, [2.5, 97.5]).tolist(),
    })
json.dump(out, sys.stdout)
"#;

/// scikit-learn, SciPy, MedPy and NumPy on random cases with ties, empty masks and sets of one class.
#[test]
fn the_metrics_are_those_of_other_libraries() {
    let python = std::env::var("TRIAGED_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", "import medpy, scipy, sklearn"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        assert!(
            std::env::var_os("TRIAGED_REQUIRE_PEERS").is_none(),
            "no Python with scikit-learn, SciPy, MedPy"
        );
        println!("skipped: no Python with scikit-learn, SciPy and MedPy");
        return;
    }
    let mut random = Random(2020);
    let cases: Vec<serde_json::Value> = (0..300)
        .map(|case| {
            let studies = 1 + random.below(60);
            // From all equal to hardly ever equal.
            let levels = [1, 2, 5, 1 << 30][case % 4];
            let mut scores = || -> Vec<f64> {
                (0..studies).map(|_| random.below(levels) as f64 / levels as f64).collect()
            };
            let (scores, other) = (scores(), scores());
            let one_class = case % 7 == 0;
            let labels: Vec<u8> =
                (0..studies).map(|_| u8::from(!one_class && random.below(3) == 0)).collect();
            let mut mask =
                |share: usize| -> Vec<u8> { (0..90).map(|_| u8::from(random.below(10) < share)).collect() };
            let (a, b) = (mask(case % 5), mask(case / 5 % 4));
            serde_json::json!({ "labels": labels, "scores": scores, "other": other, "a": a, "b": b })
        })
        .collect();
    use std::io::Write;
    let mut peer = Command::new(python)
        .args(["-c", PEER])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    peer.stdin.take().unwrap().write_all(&serde_json::to_vec(&cases).unwrap()).unwrap();
    let output = peer.wait_with_output().unwrap();
    assert!(output.status.success());
    let theirs: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let close = |ours: f64, theirs: &serde_json::Value| (ours - theirs.as_f64().unwrap()).abs() <= 1e-9;
    let mut compared = [0; 3];
    for (case, theirs) in cases.iter().zip(&theirs) {
        let floats = |key: &str| -> Vec<f64> { serde_json::from_value(case[key].clone()).unwrap() };
        let mask = |key: &str| -> Vec<bool> { floats(key).iter().map(|v| *v > 0.0).collect() };
        let (scores, labels) = (floats("scores"), floats("labels"));
        let scored: Vec<(f64, bool)> = scores.iter().zip(&labels).map(|(s, l)| (*s, *l > 0.0)).collect();
        match roc_auc(&scored) {
            Ok(auc) => {
                compared[0] += 1;
                assert!(close(auc, &theirs["auc"]), "{auc}: {theirs}");
                let curve = roc_curve(&scored).unwrap();
                let their_curve = theirs["curve"].as_array().unwrap();
                assert_eq!(curve.len(), their_curve.len());
                for ((x, y), theirs) in curve.iter().zip(their_curve) {
                    assert!(close(*x, &theirs[0]) && close(*y, &theirs[1]));
                }
            }
            Err(_) => assert!(theirs["auc"].is_null(), "{theirs}"),
        }
        let pairs: Vec<(f64, f64)> = scores.iter().copied().zip(floats("other")).collect();
        match spearman(&pairs) {
            Ok(rho) => {
                compared[1] += 1;
                assert!(close(rho, &theirs["rho"]), "{rho}: {theirs}");
            }
            Err(_) => assert!(theirs["rho"].is_null(), "{theirs}"),
        }
        let (a, b) = (mask("a"), mask("b"));
        compared[2] += 1;
        // Two empty masks among them: 1, as in the paper's code.
        assert!(close(dice(&a, &b), &theirs["dice"]), "{theirs}");
        let (mean, std) = mean_std(&scores).unwrap();
        assert!(close(mean, &theirs["mean"]) && close(std, &theirs["std"]));
        let mut sorted = scores;
        sorted.sort_by(f64::total_cmp);
        for (share, theirs) in [(0.025, &theirs["interval"][0]), (0.975, &theirs["interval"][1])] {
            assert!(close(percentile(&sorted, share), theirs));
        }
    }
    assert!(compared.iter().all(|count| *count > 100), "{compared:?}");
}
