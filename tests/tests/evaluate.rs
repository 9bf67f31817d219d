//! `triaged evaluate` on phantoms in all three layouts: killed half way, resumed, the same answers from each, and other people's predictions.
#![allow(clippy::unwrap_used)] // Test code throughout.
use e2e::daemon::triaged;
use e2e::peers::{have_python, run_ok, script};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// Name, group, category, lesions of the left and right lung in per cent.
const STUDIES: [(&str, &str, &str, &str); 5] = [
    ("p1", "covid", "CT-1", "20,5"),
    ("p2", "covid", "CT-3", "60,40"),
    ("p3", "covid", "CT-2", "30,40"),
    ("p4", "normal", "", "0,0"),
    ("p5", "nodules", "", "3,0"),
];

fn phantoms(dir: &Path) {
    let mut rows = vec!["id,group,category,labels".to_owned()];
    for (seed, (name, group, category, lesions)) in (7101..).zip(STUDIES) {
        run_ok(
            triaged(&["phantom", "--slices", "12", "--size", "256", "--lesions", lesions, "--seed"])
                .arg(seed.to_string())
                .arg(dir.join(name)),
        );
        rows.push(format!("{name},{group},{category},{name}/truth/labels.npy"));
    }
    fs::create_dir(dir.join("empty")).unwrap();
    rows.push("empty,normal,,".to_owned());
    fs::write(dir.join("labels.csv"), rows.join("\n") + "\n").unwrap();
}

fn evaluate(dataset: &Path, out: &Path) -> Command {
    let mut command = triaged(&["evaluate", "--method", "threshold", "--method", "multitask-spatial-1"]);
    command.args(["--bootstrap", "200", "--out"]).arg(out).arg(dataset);
    command
}

fn table(out: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(out.join("table2.json")).unwrap()).unwrap()
}

fn cell(table: &Value, method: &str, column: &str) -> Value {
    let columns = table["columns"].as_array().unwrap();
    let at = columns.iter().position(|name| name == column).unwrap();
    let lines = table["methods"].as_array().unwrap();
    lines.iter().find(|line| line["name"] == method).unwrap()["cells"][at].clone()
}

fn kept(out: &Path) -> Vec<(PathBuf, SystemTime)> {
    let mut found = Vec::new();
    for run in fs::read_dir(out.join("results")).into_iter().flatten().flatten() {
        for study in fs::read_dir(run.path()).unwrap().flatten() {
            let path = study.path().join("result.json");
            if let Ok(meta) = fs::metadata(&path) {
                found.push((path, meta.modified().unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Those without a problem.
fn answers(out: &Path) -> Vec<(PathBuf, SystemTime)> {
    let answer = |kept: &(PathBuf, SystemTime)| {
        let result: Value = serde_json::from_str(&fs::read_to_string(&kept.0).unwrap()).unwrap();
        result["problem"].is_null()
    };
    kept(out).into_iter().filter(answer).collect()
}

#[test]
fn a_data_set_is_evaluated_resumed_and_the_same_in_every_layout() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    phantoms(&at("dicom"));

    // Killed when the first answer is there; the first result is that of `empty`, which is done again each time.
    let out = at("out-dicom");
    let mut child = evaluate(&at("dicom"), &out).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while answers(&out).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(120) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!out.join("table2.json").exists(), "killed half way");
    let before = answers(&out);
    assert!(!before.is_empty() && before.len() < 2 * STUDIES.len(), "killed half way: {before:?}");

    let done = evaluate(&at("dicom"), &out).output().unwrap();
    let (said, complained) = (
        String::from_utf8_lossy(&done.stdout).into_owned(),
        String::from_utf8_lossy(&done.stderr).into_owned(),
    );
    assert!(done.status.success(), "{said}\n{complained}");
    assert!(complained.contains("studies an hour"), "{complained}");
    assert!(
        complained.contains("of empty: ") && complained.contains("doesn't hold one DICOM study"),
        "{complained}"
    );
    let after = kept(&out);
    assert_eq!(after.len(), 2 * (STUDIES.len() + 1));
    assert!(before.iter().all(|kept| after.contains(kept)), "what was finished is not done again");

    let found = table(&out);
    for (method, column) in [("threshold", "spearman_rho"), ("multitask-spatial-1", "dice")] {
        let value = cell(&found, method, column);
        assert!(value["mean"].as_f64().unwrap() > 0.3, "{method} {column}: {value}");
    }
    let auc = cell(&found, "multitask-spatial-1", "auc_normal");
    assert_eq!(auc["mean"], json!(1.0), "lesions against none");
    let none = cell(&found, "multitask-spatial-1", "auc_bacterial_pneumonia");
    assert!(none["mean"].is_null() && none["reason"].as_str().unwrap().contains("0 negative studies"));
    assert_eq!(found["methods"][0]["studies"], 5);
    assert!(said.contains("The paper's own figures") && said.contains("Not for diagnostic use"), "{said}");
    for file in ["table2.md", "table2.csv", "studies.csv", "roc.svg", "roc.png"] {
        assert!(fs::metadata(out.join(file)).unwrap().len() > 100, "{file}");
    }
    assert_eq!(found["methods"][1]["weights"][0]["model"].as_str().unwrap().len(), 64);
    for figure in ["figure5", "figure6"] {
        for ending in ["png", "svg"] {
            assert!(out.join(format!("{figure}-multitask-spatial-1.{ending}")).is_file());
        }
    }
    // Once more: nothing is left to do.
    let before = answers(&out);
    let again = evaluate(&at("dicom"), &out).output().unwrap();
    assert!(again.status.success());
    assert_eq!(before.len(), 2 * STUDIES.len());
    assert_eq!(answers(&out), before, "results are written again");
    assert_eq!(table(&out)["methods"][1]["cells"], found["methods"][1]["cells"]);

    others_are_ranked(&scratch.path().join("others"), &at("dicom"), &out);
    if have_python("nibabel") && have_python("pydicom") {
        layouts(scratch.path(), &out);
    }
}

/// Lungs that the box would refuse get no answer, and a file that can't be read is told of.
#[test]
fn dicom_is_judged_as_on_the_box() {
    let scratch = tempfile::tempdir().unwrap();
    let (dataset, out) = (scratch.path().join("dicom"), scratch.path().join("out"));
    for name in ["whole", "cut"] {
        let phantom = ["phantom", "--slices", "24", "--size", "256", "--lesions", "20,5", "--seed", "7101"];
        run_ok(triaged(&phantom).arg(dataset.join(name)));
    }
    let mut slices: Vec<PathBuf> =
        fs::read_dir(dataset.join("cut")).unwrap().flatten().map(|e| e.path()).collect();
    slices.retain(|path| path.extension().is_some_and(|ending| ending == "dcm"));
    slices.sort();
    assert_eq!(slices.len(), 24);
    slices[12..].iter().for_each(|path| fs::remove_file(path).unwrap());
    let bytes = fs::read(&slices[0]).unwrap();
    fs::write(dataset.join("whole/half.dcm"), &bytes[..300]).unwrap();
    fs::write(dataset.join("labels.csv"), "id,group\nwhole,covid\ncut,covid\n").unwrap();
    let mut command = triaged(&["evaluate", "--method", "threshold", "--out"]);
    let done = command.arg(&out).arg(&dataset).output().unwrap();
    let complained = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{complained}");
    let rows = fs::read_to_string(out.join("studies.csv")).unwrap();
    let row = |name: &str| rows.lines().find(|row| row.split(',').nth(1) == Some(name)).unwrap();
    assert!(row("cut").contains("not evaluated: the lungs are cut by the field of view"), "{rows}");
    assert!(row("whole").contains("left out: ") && row("whole").contains("half.dcm"), "{rows}");
    assert!(!row("whole").contains("not evaluated"), "{rows}");
}

/// Somebody's perfect probabilities come before those that are not; they have no masks, which is no fault.
fn others_are_ranked(others: &Path, dataset: &Path, out: &Path) {
    for (name, group, _, _) in STUDIES {
        fs::create_dir_all(others.join(name)).unwrap();
        fs::write(others.join(name).join("covid_proba.json"), if group == "covid" { "0.9" } else { "0.1" })
            .unwrap();
    }
    fs::create_dir_all(others.join("empty")).unwrap();
    fs::write(others.join("empty/covid_proba.json"), "0.2").unwrap();
    // Other studies have a board of their own.
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("labels.csv"), "id,group\nx,covid\n").unwrap();
    run_ok(&mut evaluate(other.path(), out));
    let argument = format!("perfect={}", others.display());
    run_ok(evaluate(dataset, out).args(["--predictions", &argument]));
    let boards: Vec<Value> = boards(out)
        .iter()
        .map(|path| serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap())
        .collect();
    let board = boards.iter().find(|board| board["dataset"] == "dicom").unwrap();
    assert_eq!((boards.len(), &board["unread"]), (2, &json!(["empty"])));
    // Ours is as good in its answers, and has severities besides; that it can't read `empty` costs it no rank.
    let names: Vec<&Value> =
        board["entries"].as_array().unwrap().iter().map(|entry| &entry["name"]).collect();
    assert_eq!(names, ["multitask-spatial-1", "perfect", "threshold"], "{board}");
    let perfect = &board["entries"][1];
    assert!(perfect["metrics"]["auc_all"] == json!(1.0) && perfect["metrics"]["dice"].is_null(), "{board}");
    assert_eq!(perfect["answered"]["auc_all"], json!(STUDIES.len() + 1));
    let refused = evaluate(dataset, out).args(["--predictions", "perfect=/nowhere"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("/nowhere is no folder"), "{refused:?}");
}

fn boards(out: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(out).unwrap().flatten().map(|entry| entry.path());
    let is_board = |path: &PathBuf| path.to_string_lossy().contains("/leaderboard-");
    files.filter(|path| is_board(path) && path.extension().is_some_and(|ending| ending == "json")).collect()
}

/// The paper's arrays and NIfTI, whose axes run the other way, hold the same voxels.
fn layouts(scratch: &Path, out: &Path) {
    let labels: serde_json::Map<String, Value> = STUDIES
        .iter()
        .map(|(name, group, category, _)| ((*name).to_owned(), json!([group, category])))
        .collect();
    let file = scratch.join("labels.json");
    fs::write(&file, Value::Object(labels).to_string()).unwrap();
    let [paper, nifti] = ["paper", "nifti"].map(|name| scratch.join(name));
    run_ok(script("data_sets.py").arg(scratch.join("dicom")).arg(file).args([&paper, &nifti]));
    // Two sets of studies are not taken together without a word.
    for (subset, ids) in [("train", "[\"p2\"]"), ("test", "[\"p1\"]")] {
        fs::create_dir_all(paper.join("subsets").join(subset)).unwrap();
        fs::write(paper.join("subsets").join(subset).join("ids.json"), ids).unwrap();
    }
    let refused = evaluate(&paper, &scratch.join("out-refused")).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("several subsets (test, train)"), "{said}");
    let results = |out: &Path| -> Vec<Vec<String>> {
        let text = fs::read_to_string(out.join("studies.csv")).unwrap();
        let rows = text.lines().skip(1).map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
        // Run, study, group, category, probability, severity, true severity, Dice; not the time.
        rows.filter(|row| row[1] != "empty" && row[0] != "perfect").map(|row| row[..8].to_vec()).collect()
    };
    let expected = results(out);
    assert_eq!(expected.len(), 2 * STUDIES.len());
    for (dataset, name) in [(&paper, "out-paper"), (&nifti, "out-nifti")] {
        let out = scratch.join(name);
        run_ok(evaluate(dataset, &out).args(["--subset", "all"]));
        for (ours, theirs) in results(&out).iter().zip(&expected) {
            assert_eq!(ours[..4], theirs[..4], "{name}");
            for (a, b) in ours[4..].iter().zip(&theirs[4..]) {
                let same = match (a.parse::<f64>(), b.parse::<f64>()) {
                    (Ok(a), Ok(b)) => (a - b).abs() < 1e-6,
                    _ => a == b,
                };
                assert!(same, "{name}: {ours:?} for {theirs:?}");
            }
        }
    }
    without_lungs(&paper, scratch);
}

/// As the paper's own test set is: severities are in the lungs that the lung net finds. And two sets of weights, both the zoo's.
fn without_lungs(paper: &Path, scratch: &Path) {
    fs::remove_dir_all(paper.join("lungs_masks")).unwrap();
    let (masks, out) = (scratch.join("masks"), scratch.join("out-without"));
    for (name, ..) in STUDIES {
        fs::create_dir_all(masks.join(name)).unwrap();
        let first = paper.join("covid_masks").join(name).join("first/covid_mask.npy");
        fs::copy(first, masks.join(name).join("lesions_mask.npy")).unwrap();
    }
    let predictions = format!("readers={}", masks.display());
    let alone = || {
        let mut command = triaged(&["evaluate", "--subset", "all", "--predictions", &predictions, "--out"]);
        run_ok(command.arg(&out).arg(paper));
    };
    alone();
    let found = table(&out);
    assert_eq!(found["methods"].as_array().unwrap().len(), 1, "predictions alone run no method");
    for column in ["spearman_rho", "auc_normal", "dice"] {
        assert_eq!(cell(&found, "readers", column)["mean"], json!(1.0), "{column}");
    }
    let lungs = || fs::metadata(out.join("results/lungs/p1/lungs.gz")).unwrap().modified().unwrap();
    let before = lungs();
    alone();
    assert_eq!(lungs(), before, "lungs are found once");

    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/zoo/multitask-spatial-1");
    let sets = ["a", "b"].map(|name| scratch.join(name));
    for set in &sets {
        fs::create_dir_all(set.join("multitask-spatial-1")).unwrap();
        for file in fs::read_dir(&zoo).unwrap().flatten() {
            fs::copy(file.path(), set.join("multitask-spatial-1").join(file.file_name())).unwrap();
        }
    }
    let mut command = triaged(&["evaluate", "--subset", "all", "--method", "multitask-spatial-1", "--out"]);
    run_ok(command.arg(&out).arg(paper).arg("--weights").args(&sets));
    let found = table(&out);
    let (rho, weights) =
        (cell(&found, "multitask-spatial-1", "spearman_rho"), &found["methods"][0]["weights"]);
    assert!(rho["mean"].as_f64().unwrap() > 0.3 && rho["std"] == json!(0.0), "{rho}");
    assert_eq!((&weights[0]["set"], &weights[1]["set"]), (&json!("a"), &json!("b")));
}
