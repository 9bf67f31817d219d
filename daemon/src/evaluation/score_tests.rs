use super::*;
use crate::evaluation::dataset::{Dataset, Group, Image, Study};
use crate::evaluation::table::{Bootstrap, Weights, line, markdown};
use std::collections::BTreeMap;

fn study() -> Study {
    Study {
        id: "x".into(),
        group: Ok(Group::Covid),
        category: None,
        image: Image::Nifti("x.nii".into()),
        truth: Truth { lungs: None, lesions: BTreeMap::new(), labels: None },
    }
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
    // In the lungs that the appliance found the readers' mask is all of the right one, too.
    let found_lungs = mask(&whole);
    let found = Masks { lungs: Some(found_lungs), raters: masks.raters.clone(), ..masks }.score(&analysis, 1);
    assert_eq!(found.true_severity, Some(1.0));
    // Without any lungs the truth has no severity; the appliance has.
    let found = Masks { lungs: None, ..masks }.score(&analysis, 1);
    assert_eq!((found.severity, found.true_severity, found.dice), (Some(1.0), None, Some(1.0)));
    assert!(found.note.unwrap().starts_with("true severity not measured"));
}

#[test]
fn probability_and_severity_are_not_ranked_together() {
    let groups = [Group::Covid, Group::Covid, Group::Normal, Group::Normal];
    let studies = groups.map(|group| Study { group: Ok(group), ..study() });
    let dataset = Dataset { name: "d".into(), studies: studies.into() };
    let of = |probability, severity| Scored { probability, severity, ..Scored::default() };
    // By severity the second study would come before all, by probability it has no answer.
    let results =
        [of(Some(0.3), Some(0.1)), of(None, Some(0.9)), of(Some(0.2), Some(0.1)), of(Some(0.4), Some(0.2))];
    let bootstrap = Bootstrap { rounds: 0, seed: 1 };
    let mixed = line("m", &dataset, Vec::new(), &[&results], bootstrap);
    assert_eq!((mixed.cells[0].mean, mixed.cells[0].studies, mixed.studies), (Some(0.5), 3, 4));
    let severities = results.map(|scored| Scored { probability: None, ..scored });
    let by_severity = line("s", &dataset, Vec::new(), &[&severities], bootstrap);
    assert_eq!((by_severity.cells[0].mean, by_severity.cells[0].studies), (Some(0.625), 4));
    assert!(markdown(&dataset, &[mixed], bootstrap).contains("| 0.50 (n = 3) |"));
}

/// Each study has one score in the first set and another in the second; drawn alike, every round's mean is that of all.
#[test]
fn the_interval_is_of_the_mean_over_weight_sets() {
    let groups = [Group::Covid, Group::Covid, Group::Covid, Group::Covid];
    let studies = groups.map(|group| Study { group: Ok(group), ..study() });
    let dataset = Dataset { name: "d".into(), studies: studies.into() };
    let of = |dice| Scored { dice: Some(dice), severity: Some(0.1), ..Scored::default() };
    let (first, second) = ([0.2, 0.4, 0.6, 0.8].map(of), [0.8, 0.6, 0.4, 0.2].map(of));
    let weights = |set: &str| Weights {
        set: Some(set.into()),
        version: "1".into(),
        model: "0123456789abcdef".into(),
        head: Some("fedcba9876543210".into()),
        lungs: "lungs".into(),
        engine: "cpu".into(),
    };
    let bootstrap = Bootstrap { rounds: 200, seed: 1 };
    let both = vec![weights("a"), weights("b")];
    let line = line("unet2d", &dataset, both, &[&first, &second], bootstrap);
    let dice = &line.cells[5];
    assert!((dice.mean.unwrap() - 0.5).abs() < 1e-12 && dice.std.unwrap() < 1e-12, "{dice:?}");
    let [low, high] = dice.interval.unwrap();
    assert!((low - 0.5).abs() < 1e-12 && (high - 0.5).abs() < 1e-12, "{dice:?}");
    let text = markdown(&dataset, &[line], bootstrap);
    assert!(text.contains("| unet2d (2 sets) |"), "{text}");
    assert!(text.contains("a 1, model 0123456789ab, head fedcba987654, lungs lungs, cpu; b 1,"), "{text}");
}
