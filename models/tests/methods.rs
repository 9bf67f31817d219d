//! The methods of Table 2 on a small chest, with nets whose answer is known; and smoothing and connected parts against SciPy.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/chest.rs"]
mod chest;
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use chest::{SHAPE, SPACING, chest};
use engine::methods::{drop_small, gaussian};
use engine::{
    Analysis, Analyzer, Box3, CardError, Choice, LabelVolume, Method, Pixels, Setup, SourceSlice, SpacingMm,
    Zoo,
};
use kernels::pyramid::windows;
use sha2::{Digest, Sha256};
use support::{Attribute, Data, File, Noise};

const INPUT: &str = r#"
[input]
spacing_mm = 2.0
window_hu = [-1000.0, 300.0]
kvp = [80.0, 140.0]
slice_spacing_mm = [0.5, 10.0]
pixel_spacing_mm = [0.3, 1.5]
min_slices = 8
preferred_kernels = ["B30f"]
preferred_slice_thickness_mm = [1.0, 3.0]
"#;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny")
}

/// Writes a method's folder: the net, its head, and a card with `more` at its end.
fn write(weights: &Path, method: Method, task: &str, model: &[u8], head: Option<&[u8]>, more: &str) {
    let dir = weights.join(method.name());
    std::fs::create_dir_all(&dir).unwrap();
    let digest = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    std::fs::write(dir.join("model.onnx"), model).unwrap();
    let (mut files, mut sha256) =
        ("model = \"model.onnx\"".to_owned(), format!("model = \"{}\"", digest(model)));
    if let Some(head) = head {
        std::fs::write(dir.join("head.onnx"), head).unwrap();
        files += ", head = \"head.onnx\"";
        sha256 += &format!(", head = \"{}\"", digest(head));
    }
    let card = format!(
        "name = \"{method}\"\nversion = \"0\"\ntask = \"{task}\"\nmethod = \"test\"\nlicence = \"MIT\"\n\
         files = {{ {files} }}\nsha256 = {{ {sha256} }}\n{INPUT}\n{more}\n"
    );
    std::fs::write(dir.join("card.toml"), card).unwrap();
}

fn analyze(method: Method, weights: Option<&Path>, threads: usize) -> Analysis {
    analyze_at(SPACING, method, weights, threads)
}

/// The chest, its voxels taken to lie `spacing` apart.
fn analyze_at(spacing: SpacingMm, method: Method, weights: Option<&Path>, threads: usize) -> Analysis {
    analyze_in(&tiny(), spacing, method, weights, threads)
}

/// The same with the lung net of another zoo.
fn analyze_in(
    zoo: &Path,
    spacing: SpacingMm,
    method: Method,
    weights: Option<&Path>,
    threads: usize,
) -> Analysis {
    let zoo = Zoo::with_method(zoo, method, weights).unwrap();
    let analyzer = Analyzer::new(zoo, &Setup::new(Choice::Cpu, threads)).unwrap();
    let [_, rows, columns] = SHAPE;
    let hu = chest();
    let slices: Vec<_> = hu
        .chunks_exact(rows * columns)
        .map(|slice| {
            let (row_spacing_mm, column_spacing_mm) = (spacing.row, spacing.column);
            let pixels = Pixels::Hu(slice);
            let slice = SourceSlice { rows, columns, row_spacing_mm, column_spacing_mm, pixels };
            analyzer.prepare(slice).unwrap()
        })
        .collect();
    analyzer.finish(&slices, spacing, &|_, _| ()).unwrap()
}

fn lesions(analysis: &Analysis) -> usize {
    analysis.labels.voxels.iter().filter(|label| **label & LabelVolume::LESION != 0).count()
}

fn with_inputs(inputs: Vec<(String, u64, Vec<Option<u64>>)>) -> File {
    let mut file = File::default();
    file.inputs = inputs;
    file
}

/// A net of one value: `weight` · x + `bias` of each voxel, as lesion logit.
fn voxelwise(input: &str, axes: usize, weight: f32, bias: f32) -> Vec<u8> {
    voxelwise_to("lesions", input, axes, weight, bias)
}

fn voxelwise_to(output: &str, input: &str, axes: usize, weight: f32, bias: f32) -> Vec<u8> {
    let mut file = with_inputs(vec![(input.to_owned(), 1, vec![None; axes + 2])]);
    file.inputs[0].2[1] = Some(1);
    let w = file.tensor(&vec![1; axes + 2], Data::F32(vec![weight]));
    let b = file.tensor(&[1], Data::F32(vec![bias]));
    file.node_to("Conv", &[input, &w, &b], &[output], vec![]);
    file.bytes(axes + 2, &[output])
}

/// A head whose answer is a weighted sum.
fn head(weights: &[f32]) -> Vec<u8> {
    let count = weights.len();
    let mut file = with_inputs(vec![("pyramid".to_owned(), 1, vec![None, Some(count as u64)])]);
    let w = file.tensor(&[1, count], Data::F32(weights.to_vec()));
    let b = file.tensor(&[1], Data::F32(vec![0.25]));
    file.node_to("Gemm", &["pyramid", &w, &b], &["covid"], vec![("transB", Attribute::Int(1))]);
    file.bytes(2, &["covid"])
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[test]
fn a_net_of_lesions_finds_what_the_multitask_net_finds() {
    let dir = tempfile::tempdir().unwrap();
    let model = std::fs::read(tiny().join("multitask-spatial-1/model.onnx")).unwrap();
    let both = std::fs::read(tiny().join("multitask-spatial-1/head.onnx")).unwrap();
    for method in [Method::Unet2d, Method::Unet2dPlus] {
        write(dir.path(), method, "lesions", &model, None, "[thresholds]\nprobability = 0.2");
    }
    let points = "[thresholds]\nprobability = 0.2\noperating_point = 0.5";
    write(dir.path(), Method::MultitaskSpatial4, "multitask", &model, Some(&both), points);
    let expected = analyze(Method::MultitaskSpatial1, None, 2);
    assert!(lesions(&expected) > 0);
    for method in [Method::Unet2d, Method::Unet2dPlus, Method::MultitaskSpatial4] {
        let got = analyze(method, Some(dir.path()), 3);
        assert!(got.labels == expected.labels && got.lesions == expected.lesions, "{method}");
        let probability = (method == Method::MultitaskSpatial4).then_some(expected.probability.unwrap());
        assert_eq!((got.probability, got.engine.as_str()), (probability, "cpu"), "{method}");
    }
}

#[test]
fn a_volume_is_stitched_without_seams() {
    let dir = tempfile::tempdir().unwrap();
    let (weight, bias) = (8.0, -3.0);
    let slices = voxelwise("slice", 2, weight, bias);
    write(dir.path(), Method::Unet2d, "lesions", &slices, None, "[thresholds]\nprobability = 0.5");
    let expected = analyze(Method::Unet2d, Some(dir.path()), 1);
    assert!(lesions(&expected) > 0);
    let volume = voxelwise("volume", 3, weight, bias);
    // Smaller than the crop along some axes, larger along others.
    for size in [[16, 16, 16], [160, 160, 160], [16, 40, 70]] {
        let more = format!("[thresholds]\nprobability = 0.5\n[patch]\nsize = {size:?}");
        write(dir.path(), Method::Unet3d, "lesions3d", &volume, None, &more);
        let got = analyze(Method::Unet3d, Some(dir.path()), 2);
        let wrong = got.labels.voxels.iter().zip(&expected.labels.voxels).filter(|(a, b)| a != b).count();
        // Averages of overlapping patches round.
        assert!(wrong <= 3, "{size:?}: {wrong} voxels differ");
        assert_eq!(got.probability, None);
    }
}

#[test]
fn vectors_of_slices_are_pooled_along_the_slices() {
    let dir = tempfile::tempdir().unwrap();
    let weights = Noise(7).values(3);
    let mut file = with_inputs(vec![("slice".to_owned(), 1, vec![None, Some(1), None, None])]);
    let w = file.tensor(&[3, 1, 1, 1], Data::F32(weights.clone()));
    let maps = file.node("Conv", &["slice", &w], vec![]);
    let pooled = file.node("GlobalAveragePool", &[&maps], vec![]);
    file.node_to("Flatten", &[&pooled], &["features"], vec![("axis", Attribute::Int(1))]);
    let model = file.bytes(2, &["features"]);
    let of_cells: Vec<f32> = Noise(11).values(45);
    write(
        dir.path(),
        Method::Resnet50,
        "series",
        &model,
        Some(&head(&of_cells)),
        "[thresholds]\noperating_point = 0.5",
    );
    let got = analyze(Method::Resnet50, Some(dir.path()), 2);
    assert_eq!((got.lesions, lesions(&got)), (None, 0), "it finds none, and doesn't say that there are none");
    assert!(got.lung_volume_ml.left > 100.0);

    let means = box_means(&got);
    let mut expected = 0.25;
    let mut cells = of_cells.iter();
    for level in 0..4 {
        for weight in &weights {
            for window in windows(means.len(), level) {
                let largest = window.map(|s| means[s] * f64::from(*weight)).fold(f64::MIN, f64::max);
                expected += largest * f64::from(*cells.next().unwrap());
            }
        }
    }
    let probability = f64::from(got.probability.unwrap());
    assert!((probability - sigmoid(expected)).abs() < 1e-5, "{probability} for {}", sigmoid(expected));
    assert!(analyze(Method::Resnet50, Some(dir.path()), 1).probability == got.probability, "one thread");
}

/// Mean of the windowed planes over the lung box, slice by slice.
fn box_means(analysis: &Analysis) -> Vec<f64> {
    let of = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    box_values(analysis).iter().map(|slice| of(slice)).collect()
}

/// The windowed planes in the lung box, slice by slice.
fn box_values(analysis: &Analysis) -> Vec<Vec<f64>> {
    let [_, rows, columns] = SHAPE;
    let zoo = Zoo::open(&tiny()).unwrap();
    let analyzer = Analyzer::new(zoo, &Setup::new(Choice::Cpu, 1)).unwrap();
    let hu = chest();
    let found = &analysis.lung_box;
    let values = |slice: &[f32]| {
        let (row_spacing_mm, column_spacing_mm) = (SPACING.row, SPACING.column);
        let pixels = Pixels::Hu(slice);
        let slice = SourceSlice { rows, columns, row_spacing_mm, column_spacing_mm, pixels };
        let prepared = analyzer.prepare(slice).unwrap();
        let plane = prepared.windowed();
        let values = found.rows.clone().flat_map(|row| &plane.row(row)[found.columns.clone()]);
        values.map(|v| f64::from(*v)).collect()
    };
    hu.chunks_exact(rows * columns).skip(found.slices.start).take(found.slices.len()).map(values).collect()
}

#[test]
fn features_may_have_any_channels_and_level() {
    let dir = tempfile::tempdir().unwrap();
    let points = "[thresholds]\nprobability = 0.5\noperating_point = 0.5";
    let ints = |list: &[i64]| Attribute::Ints(list.to_vec());
    // Two levels down: maxima of 2 × 2, of 20 channels that are weights times the pixel.
    let weights = Noise(3).values(20);
    let mut file = with_inputs(vec![("slice".to_owned(), 1, vec![None, Some(1), None, None])]);
    let one = file.tensor(&[1, 1, 1, 1], Data::F32(vec![8.0]));
    let bias = file.tensor(&[1], Data::F32(vec![-3.0]));
    file.node_to("Conv", &["slice", &one, &bias], &["lesions"], vec![]);
    let w = file.tensor(&[20, 1, 1, 1], Data::F32(weights.clone()));
    let maps = file.node("Conv", &["slice", &w], vec![]);
    file.node_to(
        "MaxPool",
        &[&maps],
        &["features"],
        vec![("kernel_shape", ints(&[2, 2])), ("strides", ints(&[2, 2])), ("ceil_mode", Attribute::Int(1))],
    );
    let model = file.bytes(4, &["lesions", "features"]);
    // Only the cell of the whole volume of each channel counts: the largest value, or the least for a negative weight.
    let mut of_cells = vec![0.0; 585 * 20];
    of_cells[..20].fill(0.125);
    write(dir.path(), Method::MultitaskSpatial4, "multitask", &model, Some(&head(&of_cells)), points);
    let got = analyze(Method::MultitaskSpatial4, Some(dir.path()), 2);
    assert!(got.lesions.unwrap().fraction.right > 0.0 && lesions(&got) > 0);
    let all: Vec<f64> = box_values(&got).concat();
    let (least, most) = all.iter().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
    let largest = |weight: &f32| f64::from(*weight) * if *weight > 0.0 { most } else { least };
    let expected = sigmoid(0.25 + weights.iter().map(largest).sum::<f64>() * 0.125);
    let probability = f64::from(got.probability.unwrap());
    assert!((probability - expected).abs() < 1e-5, "{probability} for {expected}");

    // The same net with a vector a slice: its mean, pooled along the slices.
    let mut file = with_inputs(vec![("slice".to_owned(), 1, vec![None, Some(1), None, None])]);
    let one = file.tensor(&[1, 1, 1, 1], Data::F32(vec![8.0]));
    let bias = file.tensor(&[1], Data::F32(vec![-3.0]));
    file.node_to("Conv", &["slice", &one, &bias], &["lesions"], vec![]);
    let pooled = file.node("GlobalAveragePool", &["slice"], vec![]);
    file.node_to("Flatten", &[&pooled], &["features"], vec![("axis", Attribute::Int(1))]);
    let model = file.bytes(4, &["lesions", "features"]);
    let mut of_cells = vec![0.0; 15];
    of_cells[0] = 2.0;
    write(dir.path(), Method::MultitaskLatent, "multitask", &model, Some(&head(&of_cells)), points);
    let latent = analyze(Method::MultitaskLatent, Some(dir.path()), 2);
    assert!(latent.labels == got.labels);
    let largest = box_means(&latent).into_iter().fold(f64::MIN, f64::max);
    let probability = f64::from(latent.probability.unwrap());
    assert!((probability - sigmoid(2.0 * largest + 0.25)).abs() < 1e-5, "{probability}");
}

const THRESHOLD: &str = r#"
import sys
import numpy as np
from triage_models import threshold
folder, shape = sys.argv[1], [int(n) for n in sys.argv[2:5]]
hu = np.fromfile(folder + "/hu", "<f4").reshape(shape)
lungs = np.fromfile(folder + "/lungs", np.uint8).reshape(shape) != 0
threshold.lesions(hu, lungs).astype(np.uint8).tofile(folder + "/lesions")
"#;

/// Voxels of 2 mm, so that nothing is resampled: the same box and lungs, and SciPy's mask of them.
#[test]
fn density_in_the_lungs_is_lesion_where_there_is_enough_of_it() {
    let spacing = SpacingMm { row: 2.0, column: 2.0, ..SPACING };
    // Lungs that hold what is dense, too: all that is denser than -870 HU.
    let zoo = tempfile::tempdir().unwrap();
    let lungs = zoo.path().join("lungs");
    std::fs::create_dir(&lungs).unwrap();
    let net = voxelwise_to("lungs", "slice", 2, 80.0, -8.0);
    std::fs::write(lungs.join("model.onnx"), &net).unwrap();
    let digest: String = Sha256::digest(&net).iter().map(|b| format!("{b:02x}")).collect();
    let card = std::fs::read_to_string(tiny().join("lungs/card.toml")).unwrap();
    let (before, after) = card.split_once("sha256 = { model = \"").unwrap();
    let card = format!("{before}sha256 = {{ model = \"{digest}{}", &after[64..]);
    std::fs::write(lungs.join("card.toml"), card).unwrap();
    // Its card has the ranges of the gate.
    std::os::unix::fs::symlink(tiny().join("multitask-spatial-1"), zoo.path().join("multitask-spatial-1"))
        .unwrap();
    let got = analyze_in(zoo.path(), spacing, Method::Threshold, None, 2);
    assert_eq!((got.probability, got.grid), (None, SHAPE));
    assert!(analyze_in(zoo.path(), spacing, Method::Threshold, None, 1).labels == got.labels, "one thread");

    let training = Path::new(env!("CARGO_MANIFEST_DIR")).join("training");
    let python = |code: &str| {
        let mut command = Command::new(python());
        command.env("PYTHONPATH", &training).env("PYTHONDONTWRITEBYTECODE", "1").args(["-c", code]);
        command
    };
    if !python("import triage_models.threshold").output().is_ok_and(|o| o.status.success()) {
        assert!(
            std::env::var_os("TRIAGED_REQUIRE_PEERS").is_none(),
            "no Python with the training's packages"
        );
        println!("skipped: no Python with the training's packages");
        return;
    }
    let hu = chest();
    let Box3 { slices, rows, columns } = &got.lung_box;
    let shape = [slices.len(), rows.len(), columns.len()];
    let voxels: Vec<usize> = slices
        .clone()
        .flat_map(|s| rows.clone().map(move |r| (s * SHAPE[1] + r) * SHAPE[2]))
        .flat_map(|row| columns.clone().map(move |c| row + c))
        .collect();
    let (labels, inside) = (&got.labels.voxels, &voxels);
    let bits = |bits: u8| inside.iter().map(move |v| u8::from(labels[*v] & bits != 0));
    let folder = tempfile::tempdir().unwrap();
    let values: Vec<u8> = voxels.iter().flat_map(|v| hu[*v].to_le_bytes()).collect();
    std::fs::write(folder.path().join("hu"), values).unwrap();
    std::fs::write(folder.path().join("lungs"), bits(LabelVolume::LUNGS).collect::<Vec<_>>()).unwrap();
    let done = python(THRESHOLD).arg(folder.path()).args(shape.map(|n| n.to_string())).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let theirs = std::fs::read(folder.path().join("lesions")).unwrap();
    let wrong = bits(LabelVolume::LESION).zip(&theirs).filter(|(ours, theirs)| ours != *theirs).count();
    let lesions = theirs.iter().filter(|v| **v != 0).count();
    assert!(lesions > 100 && lesions < theirs.len() - 100, "{lesions} of {} voxels", theirs.len());
    assert_eq!(wrong, 0, "of {lesions} voxels of lesion");
}

#[test]
fn a_card_of_another_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let net = voxelwise("slice", 2, 8.0, -3.0);
    write(dir.path(), Method::Unet2d, "lesions", &net, None, "[thresholds]\nprobability = 0.5");
    std::fs::rename(dir.path().join("unet2d"), dir.path().join("unet2d-plus")).unwrap();
    let error = Zoo::with_method(&tiny(), Method::Unet2dPlus, Some(dir.path())).unwrap_err();
    assert!(error.to_string().contains("name is \"unet2d\", expected \"unet2d-plus\""), "{error}");
}

#[test]
fn a_recipe_without_weights_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("unet3d");
    std::fs::create_dir(&folder).unwrap();
    let card = format!(
        "name = \"unet3d\"\nversion = \"0\"\ntask = \"lesions3d\"\nmethod = \"test\"\nlicence = \"MIT\"\ntrained = false\n\
         {INPUT}\n[thresholds]\nprobability = 0.5\n[patch]\nsize = [160, 160, 160]\n"
    );
    std::fs::write(folder.join("card.toml"), card).unwrap();
    let error = Zoo::with_method(&tiny(), Method::Unet3d, Some(dir.path())).unwrap_err();
    assert!(matches!(error, CardError::Untrained { .. }), "{error}");
    assert!(error.to_string().starts_with("unet3d is untrained: recipe only"), "{error}");
}

fn python() -> String {
    std::env::var("TRIAGED_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

const PEER: &str = r#"
import sys, numpy as np
from scipy import ndimage
folder, slices, rows, columns, sigma, least = sys.argv[1], *map(int, sys.argv[2:5]), *map(float, sys.argv[5:7])
volume = np.fromfile(folder + "/volume", "<f4").reshape(slices, rows, columns)
smooth = ndimage.gaussian_filter(volume, sigma)
smooth.astype("<f4").tofile(folder + "/smooth")
mask = volume > 0.6
labels, count = ndimage.label(mask)
sizes = np.bincount(labels.ravel(), minlength=count + 1)
keep = sizes >= least
keep[0] = False
keep[labels].astype(np.uint8).tofile(folder + "/kept")
"#;

#[test]
fn smoothing_and_parts_are_scipys() {
    if !Command::new(python()).args(["-c", "import scipy.ndimage"]).output().is_ok_and(|o| o.status.success())
    {
        assert!(std::env::var_os("TRIAGED_REQUIRE_PEERS").is_none(), "no Python with SciPy");
        println!("skipped: no Python with SciPy");
        return;
    }
    let mut noise = Noise(2020);
    // Axes shorter than the kernel, and of one sample.
    for (shape, sigma, least) in [
        ([5, 31, 44], 4.0, 2.0),
        ([1, 1, 1], 4.0, 1.0),
        ([40, 1, 7], 1.5, 3.0),
        ([3, 90, 2], 4.0, 5.5),
        ([24, 24, 24], 0.7, 40.0),
    ] {
        let volume: Vec<f32> = noise.values(shape.iter().product()).iter().map(|v| v.abs()).collect();
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = volume.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(folder.path().join("volume"), bytes).unwrap();
        let numbers = shape.map(|n| n.to_string()).into_iter().chain([sigma.to_string(), least.to_string()]);
        let done =
            Command::new(python()).args(["-c", PEER]).arg(folder.path()).args(numbers).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let smooth = std::fs::read(folder.path().join("smooth")).unwrap();
        let theirs = smooth.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        let ours = gaussian(&volume, shape, sigma, 2);
        let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 2e-7, "{shape:?}: {worst:e}");
        let mut mask: Vec<bool> = volume.iter().map(|v| *v > 0.6).collect();
        drop_small(&mut mask, shape, least);
        let kept = std::fs::read(folder.path().join("kept")).unwrap();
        assert!(kept.iter().map(|v| *v != 0).eq(mask), "{shape:?}");
    }
}
