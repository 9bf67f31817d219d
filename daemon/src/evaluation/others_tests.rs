use super::*;
use crate::evaluation::dataset::{Group, Image, Truth};
use std::collections::BTreeMap;

/// A NumPy array of rows × columns × slices, in C order.
fn npy(path: &Path, shape: [usize; 3], values: &[u8]) {
    let [rows, columns, slices] = shape;
    let header =
        format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({rows}, {columns}, {slices}), }}");
    let header = format!("{header:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(values);
    put(path, &bytes);
}

fn put(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn study(root: &Path) -> Study {
    let lesions = BTreeMap::from([("reader".to_owned(), root.join("lesions.npy"))]);
    Study {
        id: "x".into(),
        group: Ok(Group::Covid),
        category: None,
        image: Image::Nifti(root.join("x.nii")),
        truth: Truth { lungs: None, lesions, labels: None },
    }
}

#[test]
fn a_mask_is_measured_in_the_lungs_that_are_found_where_the_data_set_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let (root, others) = (dir.path(), dir.path().join("others"));
    // Two lungs of 4 columns; the reader marked all of one of them, the prediction half of it.
    let columns =
        |of: &dyn Fn(usize) -> bool| (0..480).map(|i| of(i / 3 % 20)).map(u8::from).collect::<Vec<_>>();
    npy(&root.join("lesions.npy"), [8, 20, 3], &columns(&|c| c < 4));
    npy(&others.join("x/lesions_mask.npy"), [8, 20, 3], &columns(&|c| c < 2));
    let lungs = |_| Ok((0..480).map(|i| !(4..16).contains(&(i % 20))).collect());
    let found = prediction(&others, &study(root), &lungs, 1).unwrap();
    assert_eq!((found.severity, found.true_severity), (Some(0.5), Some(1.0)));
    assert_eq!((found.dice, found.note), (Some(2.0 / 3.0), None));
}

#[test]
fn without_any_lungs_a_prediction_keeps_what_can_be_measured() {
    let dir = tempfile::tempdir().unwrap();
    let (root, others) = (dir.path(), dir.path().join("others"));
    npy(&root.join("lesions.npy"), [2, 2, 1], &[1, 1, 0, 0]);
    npy(&others.join("x/lesions_mask.npy"), [2, 2, 1], &[1, 0, 0, 0]);
    put(&others.join("x/covid_proba.json"), b"0.7");
    let none = |_| bail!("no lungs found");
    let found = prediction(&others, &study(root), &none, 1).unwrap();
    assert_eq!((found.probability, found.dice), (Some(0.7), Some(2.0 / 3.0)));
    assert_eq!((found.severity, found.true_severity, found.problem), (None, None, None));
    assert_eq!(found.note.unwrap(), "severity not measured: no lungs found");
    // Labels or probabilities are no mask.
    npy(&others.join("x/lesions_mask.npy"), [2, 2, 1], &[1, 0, 4, 0]);
    let error = prediction(&others, &study(root), &none, 1).unwrap_err().to_string();
    assert!(error.contains("x/lesions_mask.npy: a mask of 0 and 1 is needed, and it holds 4"), "{error}");
}

#[test]
fn what_would_replace_a_good_line_by_an_empty_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    put(&dir.path().join("good/x/covid_proba.json"), b"0.5");
    put(&dir.path().join("stranger/y/covid_proba.json"), b"0.5");
    let dataset = Dataset { name: "d".into(), studies: vec![study(dir.path())] };
    let of = |name: &str, folder: &str| Others { name: name.into(), dir: dir.path().join(folder) };
    Others::check(&[of("a", "good"), of("b", "good")], &dataset).unwrap();
    for (others, want) in [
        (vec![of("a", "good"), of("a", "good")], "two --predictions are named \"a\""),
        (vec![of("threshold", "good")], "is the name of a method"),
        (vec![of("unet2d@first", "good")], "is the name of a method"),
        (vec![of("a", "mistyped")], "mistyped is no folder"),
        (vec![of("a", "stranger")], "of any study of the data set"),
    ] {
        let error = Others::check(&others, &dataset).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn a_broken_prediction_costs_itself() {
    let dir = tempfile::tempdir().unwrap();
    put(&dir.path().join("x/covid_proba.json"), b"0.5");
    put(&dir.path().join("z/covid_proba.json"), b"no number");
    let studies = ["x", "y", "z"].map(|id| Study { id: id.into(), ..study(dir.path()) });
    let dataset = Dataset { name: "d".into(), studies: studies.into() };
    let (others, seen) = (Others { name: "a".into(), dir: dir.path().into() }, std::cell::Cell::new(0));
    let lungs = Lungs::new(dir.path(), None, 1);
    let found = others.evaluate(&dataset, &lungs, 1, &|_| seen.set(seen.get() + 1));
    assert_eq!((found[0].probability, seen.get()), (Some(0.5), 3));
    assert!(found[1].problem.as_ref().unwrap().contains("y has neither covid_proba.json"));
    assert!(found[2].problem.as_ref().unwrap().contains("z/covid_proba.json"));
}
