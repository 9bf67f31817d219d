//! The shipped weights on the digital phantom: the severity of each lung within 5 percentage points of the truth.
#![allow(clippy::unwrap_used)] // Test code throughout.
use e2e::daemon::triaged;
use e2e::peers::run_ok;
use serde_json::Value;
use std::fs;

const TOLERANCE: f64 = 0.05;

/// Asked shares of the left and the right lung, per cent, and the patient. The seeds are none of those that the
/// networks were trained on (`models/training/triage_models/phantoms.py`).
const CASES: [(u32, u32, u32); 6] =
    [(0, 0, 9001), (10, 30, 9002), (30, 10, 9003), (60, 0, 9004), (80, 60, 9005), (0, 80, 9006)];

#[test]
fn the_weights_find_the_phantoms_disease() {
    let scratch = tempfile::tempdir().unwrap();
    let mut worst: f64 = 0.0;
    for (left, right, seed) in CASES {
        let dir = scratch.path().join(seed.to_string());
        let lesions = format!("{left},{right}");
        let seed = seed.to_string();
        run_ok(
            triaged(&["phantom", "--slices", "60", "--size", "384", "--lesions", &lesions, "--seed", &seed])
                .arg(&dir),
        );
        let said = triaged(&["analyze", "--json"]).arg(&dir).output().unwrap();
        let found: Value = serde_json::from_slice(&said.stdout).unwrap_or_else(|e| panic!("{e}: {said:?}"));
        let truth: Value =
            serde_json::from_str(&fs::read_to_string(dir.join("truth/truth.json")).unwrap()).unwrap();
        for side in ["left", "right"] {
            let ours = found["severity"][side].as_f64().unwrap_or_else(|| panic!("{found}"));
            let true_share = truth["lesion_fraction"][side].as_f64().unwrap();
            println!("seed {seed}, {side}: true {true_share:.3}, found {ours:.3}");
            worst = worst.max((ours - true_share).abs());
        }
        // 5 % and more in a lung flags (the default of `analyze`); a healthy phantom is not flagged.
        let want = if left + right == 0 { "not_flagged" } else { "flagged" };
        assert_eq!(found["outcome"], want, "{lesions}: {found}");
    }
    assert!(worst <= TOLERANCE, "off by {:.1} percentage points", 100.0 * worst);
}
