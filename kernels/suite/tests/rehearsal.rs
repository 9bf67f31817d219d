//! The suite on the software device, and its PyTorch part on the processor: so that nothing is run for the first time on a machine with a GPU.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const SHAPE: [usize; 3] = [14, 90, 112];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Tells that something is missing; a failure where peers are required.
fn skipped(what: &str) {
    assert!(std::env::var_os("TRIAGED_REQUIRE_PEERS").is_none(), "{what}");
    println!("{what}");
}

/// A chest of ellipses, as the bundle's phantom lies in its folder.
fn write_data(dir: &Path) {
    let [slices, rows, columns] = SHAPE.map(|n| n as i64);
    let square = |v: i64| v * v;
    let mut cells = Vec::new();
    for s in 0..slices {
        for r in 0..rows {
            for c in 0..columns {
                let body = 9 * square(r - 45) + 5 * square(c - 56) <= 12_600;
                let radius = 22 + s.min(slices - 1 - s);
                let lung = [33, 79].iter().any(|at| square(r - 44) + 3 * square(c - at) <= square(radius));
                let lesion = square(r - 55) + square(c - 30) + 4 * square(s - 7) <= 80;
                let hu = match (lesion, lung, body) {
                    (true, _, _) => -250,
                    (_, true, _) => -850,
                    (_, _, true) => 40,
                    _ => -1000,
                };
                cells.extend(((hu + 1024) as u16).to_le_bytes());
            }
        }
    }
    let file = std::fs::File::create(dir.join("phantom.cells.gz")).unwrap();
    let mut out = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    out.write_all(&cells).unwrap();
    out.finish().unwrap();
    let header = serde_json::json!({
        "slices": slices, "rows": rows, "columns": columns,
        "slice_mm": 7.5, "row_mm": 2.9, "column_mm": 2.4, "intercept": -1024,
    });
    std::fs::write(dir.join("phantom.json"), header.to_string()).unwrap();
    let occupancy = serde_json::json!({ "90": [["a_kernel_f16", "128", "32", "0", "16", "100 %"]] });
    std::fs::write(dir.join("occupancy.json"), occupancy.to_string()).unwrap();
}

fn part(out: &Path, name: &str) -> Value {
    let path = out.join("parts").join(format!("{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

struct Rehearsal {
    dir: tempfile::TempDir,
    driver: Option<PathBuf>,
}

impl Rehearsal {
    fn new(driver: Option<PathBuf>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_data(dir.path());
        Self { dir, driver }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// Exit code of the suite.
    fn suite(&self, zoo: &str, arguments: &[&str]) -> i32 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-suite"));
        command
            .args(arguments)
            .arg("--quick")
            .arg("--out")
            .arg(self.out())
            .arg("--data")
            .arg(self.dir.path());
        command.arg("--zoo").arg(root().join(zoo));
        // Without one, not that of this machine either.
        command.env("LD_LIBRARY_PATH", self.driver.as_deref().unwrap_or(self.dir.path()));
        command.env("CUDA_VISIBLE_DEVICES", if self.driver.is_some() { "0" } else { "-1" });
        let output = command.output().unwrap();
        println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        output.status.code().unwrap()
    }
}

#[test]
fn without_a_gpu_it_says_so_and_writes_nothing() {
    let rehearsal = Rehearsal::new(None);
    for name in ["device", "kernels", "bandwidth", "engines", "studies"] {
        assert_eq!(rehearsal.suite("models/tests/tiny", &[name]), 77, "{name}");
    }
    assert!(!rehearsal.out().exists());
}

#[test]
fn every_part_runs_on_the_software_device() {
    let driver = match kernels::shim::build() {
        Ok(library) => {
            if library.is_dir() {
                library
            } else {
                library.parent().unwrap().to_owned()
            }
        }
        Err(why) => return skipped(&why),
    };
    let rehearsal = Rehearsal::new(Some(driver));
    let tiny = "models/tests/tiny";
    let plans = rehearsal.dir.path().join("plans");
    for name in ["device", "kernels", "plans", "bandwidth", "engines"] {
        assert_eq!(rehearsal.suite(tiny, &[name, "--plans", plans.to_str().unwrap()]), 0, "{name}");
        assert_eq!(rehearsal.suite(tiny, &[name, "--gpu", "1"]), 77, "{name}: no such GPU");
        assert_eq!(part(&rehearsal.out(), name)["finished"], true);
    }
    // A folder without TensorRT, that was named.
    assert_eq!(rehearsal.suite(tiny, &["plans", "--tensorrt", rehearsal.dir.path().to_str().unwrap()]), 1);
    assert_eq!(rehearsal.suite(tiny, &["plans", "--plans", plans.to_str().unwrap()]), 0);
    let kernels = part(&rehearsal.out(), "kernels");
    let text = kernels["checks"].to_string();
    // In the rehearsal's two widths there are 1 and 2 kernels of tensor cores.
    assert!(text.contains("convolution 3 x 3, Tensor") && text.contains("3 cases"), "{text}");
    assert_eq!(rehearsal.suite(tiny, &["studies", "--slices", "9,12"]), 0);
    let studies = part(&rehearsal.out(), "studies");
    for figure in ["study_9_cuda_s", "study_12_cuda_s", "study_12_cpu_s"] {
        assert!(studies["figures"][figure].as_f64().unwrap() > 0.0, "{figure}: {studies}");
    }
    assert_eq!(rehearsal.suite(tiny, &["report"]), 0);
    let text = std::fs::read_to_string(rehearsal.out().join("report.md")).unwrap();
    for wanted in
        ["A rehearsal with small sizes", "Not run: pytorch.", "| GPU | software device |", "a_kernel_f16"]
    {
        assert!(text.contains(wanted), "{wanted}:\n{text}");
    }
}

/// On the processor: the same pixels and weights give the same outcome in PyTorch and in our engine.
#[test]
fn the_pipeline_in_pytorch_agrees() {
    let python = std::env::var("TRIAGED_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", "import numpy, torch"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        return skipped("skipped: no PyTorch");
    }
    let driver = match kernels::shim::build() {
        Ok(library) => {
            if library.is_dir() {
                library
            } else {
                library.parent().unwrap().to_owned()
            }
        }
        Err(why) => return skipped(&why),
    };
    let rehearsal = Rehearsal::new(Some(driver));
    let (zoo, pixels) = ("models/zoo", rehearsal.dir.path().join("12.cells"));
    assert_eq!(rehearsal.suite(zoo, &["studies", "--slices", "12", "--engines", "cpu"]), 0);
    assert_eq!(rehearsal.suite(zoo, &["pixels", "12", pixels.to_str().unwrap()]), 0);
    let output = Command::new(&python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("bundle/pytorch_pipeline.py"))
        .args(["--slices", "12", "--side", "96", "--device", "cpu", "--quick"])
        .arg("--zoo")
        .arg(root().join(zoo))
        .arg("--data")
        .arg(rehearsal.dir.path())
        .arg("--pixels")
        .arg(rehearsal.dir.path())
        .arg("--out")
        .arg(rehearsal.out())
        .env("PYTHONPATH", root().join("models/training/triage_models"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success());
    let found = part(&rehearsal.out(), "pytorch");
    let check = &found["checks"][0];
    assert_eq!((&check["name"], &check["passed"]), (&"cpu and PyTorch fp32, 12 slices".into(), &true.into()));
    assert!(found["figures"]["pytorch_pyramid_fp32_us"].as_f64().unwrap() > 0.0);
}
