use super::*;
use crate::evaluation::dataset::{Group, Image};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A NumPy array of rows × columns × slices, in C order.
fn npy(path: &Path, shape: [usize; 3], values: &[u8]) {
    let [rows, columns, slices] = shape;
    let header =
        format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({rows}, {columns}, {slices}), }}");
    let header = format!("{header:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(values);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn study(root: &Path, lungs: Option<PathBuf>) -> Study {
    let lesions = BTreeMap::from([("reader".to_owned(), root.join("lesions.npy"))]);
    Study {
        id: "x".into(),
        group: Ok(Group::Covid),
        category: None,
        image: Image::Nifti(root.join("x.nii")),
        truth: Truth { lungs, lesions, labels: None },
    }
}

#[test]
fn without_lungs_a_prediction_keeps_what_can_be_measured() {
    let dir = tempfile::tempdir().unwrap();
    let (root, others) = (dir.path(), dir.path().join("others"));
    npy(&root.join("lesions.npy"), [2, 2, 1], &[1, 1, 0, 0]);
    npy(&others.join("x/lesions_mask.npy"), [2, 2, 1], &[1, 0, 0, 0]);
    std::fs::write(others.join("x/covid_proba.json"), "0.7").unwrap();
    let found = prediction(&others, &study(root, None), 1).unwrap();
    assert_eq!((found.probability, found.dice), (Some(0.7), Some(2.0 / 3.0)));
    assert_eq!((found.severity, found.true_severity, found.problem), (None, None, None));
    assert_eq!(found.note.unwrap(), "severity not measured: the data set has no lung mask of this study");
    // Labels or probabilities are no mask.
    npy(&others.join("x/lesions_mask.npy"), [2, 2, 1], &[1, 0, 4, 0]);
    let error = prediction(&others, &study(root, None), 1).unwrap_err().to_string();
    assert!(error.contains("x/lesions_mask.npy: a mask of 0 and 1 is needed, and it holds 4"), "{error}");
}

#[test]
fn the_severity_of_a_method_is_the_appliances_own() {
    // Two lungs of 4 columns each in the data set; the appliance found only half of the right one, all of it lesion.
    let shape = [3, 8, 20];
    let (lung, whole) = (|c: usize| !(4..16).contains(&c), |c: usize| !(2..16).contains(&c));
    let mask = |of: &dyn Fn(usize) -> bool| -> Vec<bool> { (0..480).map(|i| of(i % 20)).collect() };
    let masks = Masks { shape, lungs: Some(mask(&lung)), raters: vec![mask(&|c| c < 2)] };
    let mut labels = LabelVolume::of_masks(shape, &mask(&whole), &mask(&|c| c < 2));
    let fraction = labels.fractions(1).unwrap();
    let analysis = Analysis {
        probability: None,
        labels,
        lung_volume_ml: study::Sides { left: 1.0, right: 1.0 },
        lesions: Some(study::Lesions { fraction, ..study::Lesions::default() }),
        lung_box: engine::Box3 { slices: 0..3, rows: 0..8, columns: 0..20 },
        grid: shape,
        engine: "cpu".into(),
        timings: engine::Timings::default(),
    };
    let found = masks.score(&analysis, 1);
    assert_eq!((found.severity, found.true_severity, found.dice), (Some(1.0), Some(0.5), Some(1.0)));
    // Without lungs in the data set the truth has no severity; the appliance has.
    let found = Masks { lungs: None, ..masks }.score(&analysis, 1);
    assert_eq!((found.severity, found.true_severity, found.dice), (Some(1.0), None, Some(1.0)));
    assert!(found.note.unwrap().starts_with("true severity not measured"));
}

#[test]
fn probability_and_severity_are_not_ranked_together() {
    use crate::evaluation::dataset::Dataset;
    use crate::evaluation::table::{Bootstrap, line, markdown};
    let groups = [Group::Covid, Group::Covid, Group::Normal, Group::Normal];
    let studies = groups.map(|group| Study { group: Ok(group), ..study(Path::new("/"), None) });
    let dataset = Dataset { name: "d".into(), studies: studies.into() };
    let of = |probability, severity| Scored { probability, severity, ..Scored::default() };
    // By severity the second study would come before all, by probability it has no answer.
    let results =
        [of(Some(0.3), Some(0.1)), of(None, Some(0.9)), of(Some(0.2), Some(0.1)), of(Some(0.4), Some(0.2))];
    let bootstrap = Bootstrap { rounds: 0, seed: 1 };
    let mixed = line("m", &dataset, &[&results], bootstrap);
    assert_eq!((mixed.cells[0].mean, mixed.cells[0].studies, mixed.studies), (Some(0.5), 3, 4));
    let severities = results.map(|scored| Scored { probability: None, ..scored });
    let by_severity = line("s", &dataset, &[&severities], bootstrap);
    assert_eq!((by_severity.cells[0].mean, by_severity.cells[0].studies), (Some(0.625), 4));
    assert!(markdown(&dataset, &[mixed], bootstrap).contains("| 0.50 (n = 3) |"));
}
