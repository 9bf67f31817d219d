use super::*;
use crate::case::Identity;
use crate::source::SourceStudy;
use crate::testing::{
    case, findings, identity, not_evaluated, outcome, python, series, skip, source, text, value,
};
use crate::testing::{verify, write};
use std::path::{Path, PathBuf};
use std::process::Command;
use study::{Outcome, Verdict};

const RIGHT_LUNG: u8 = 1;
const LEFT_LUNG: u8 = 2;
const IS_LESION: u8 = 4;

fn masks(labels: &[u8]) -> Masks<'_> {
    Masks { labels, right_lung: RIGHT_LUNG, left_lung: LEFT_LUNG, lesion: IS_LESION }
}

/// Labels without any order. Slice 0 is empty, slice 1 has lesions outside of the lungs only, where there are so many.
fn labels(slices: usize, pixels: usize) -> Vec<u8> {
    let mut state = 12345u32;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        [0, 0, 1, 2, 4, 5, 6, 1][(state >> 29) as usize]
    };
    let mut labels: Vec<u8> = (0..slices * pixels).map(|_| next()).collect();
    if slices > 3 {
        labels[..pixels].fill(0);
        labels[pixels..2 * pixels].iter_mut().for_each(|label| *label &= IS_LESION);
    }
    labels
}

/// Whether a voxel belongs to a segment, said in the plainest way.
fn belongs(label: u8, segment: usize) -> bool {
    match segment {
        0 => label & RIGHT_LUNG != 0,
        1 => label & LEFT_LUNG != 0,
        _ => label & IS_LESION != 0 && label & (RIGHT_LUNG | LEFT_LUNG) != 0,
    }
}

struct Study {
    source: SourceStudy,
    series: SourceSeries,
    outcome: Outcome,
    identity: Identity,
}

fn study(series: SourceSeries) -> Study {
    Study { source: source(), series, outcome: outcome(Verdict::Flagged(findings())), identity: identity() }
}

impl Study {
    fn build(&self, labels: &[u8]) -> Option<DicomResult> {
        build(&case(&self.source, Some(&self.series), &self.outcome, &self.identity), &masks(labels))
    }
}

#[test]
fn every_bit_is_a_voxel_and_runs_on_over_the_frames() {
    for (slices, rows, columns) in [(1, 1, 1), (3, 7, 9), (5, 8, 8), (4, 5, 3), (6, 3, 4), (9, 1, 2)] {
        let labels = labels(slices, rows * columns);
        let object = study(series(slices, rows, columns)).build(&labels);
        let mut bits = Vec::new();
        for segment in 0..3 {
            for slice in labels.chunks_exact(rows * columns) {
                let frame: Vec<bool> = slice.iter().map(|label| belongs(*label, segment)).collect();
                if frame.contains(&true) {
                    bits.extend(frame);
                }
            }
        }
        if bits.is_empty() {
            assert!(object.is_none());
            continue;
        }
        let object = object.unwrap();
        let frames = (bits.len() / rows / columns).to_string();
        assert_eq!(text(object.data_set(), 0x0028, 0x0008), frames);
        bits.resize(bits.len().next_multiple_of(16), false);
        let bytes: Vec<u8> =
            bits.chunks(8).map(|bits| (0..8).map(|i| u8::from(bits[i]) << i).sum()).collect();
        let pixels = value(object.data_set(), Tag(0x7fe0, 0x0010));
        assert_eq!(pixels, Some(bytes.as_slice()), "{slices} × {rows} × {columns}");
    }
}

/// Whoever configures a display or a receiver by segment number relies on this order.
#[test]
fn the_segments_are_named_in_the_order_of_their_numbers() {
    assert_eq!(SEGMENTS, ["Right lung", "Left lung", "Lesions"]);
}

#[test]
fn where_nothing_is_segmented_there_is_no_object() {
    let mut study = study(series(4, 7, 9));
    let some = labels(4, 63);
    assert!(study.build(&some).is_some());
    assert!(study.build(&[0; 4 * 63]).is_none());
    assert!(study.build(&[IS_LESION; 4 * 63]).is_none(), "lesions outside of the lungs only");
    assert!(study.build(&some[1..]).is_none(), "a label is missing");
    study.series.rows = 0;
    assert!(study.build(&[]).is_none());
    study.series.rows = 7;
    let no_series = case(&study.source, None, &study.outcome, &study.identity);
    assert!(build(&no_series, &masks(&some)).is_none());
    study.outcome = not_evaluated();
    assert!(study.build(&some).is_none());
}

#[test]
fn the_same_facts_give_the_same_bytes_and_revisions_lie_side_by_side() {
    let study = study(series(4, 7, 9));
    let labels = labels(4, 63);
    let first = study.build(&labels).unwrap();
    assert_eq!(study.build(&labels).unwrap(), first);
    let case = case(&study.source, Some(&study.series), &study.outcome, &study.identity);
    let second = build(&Case { revision: 2, ..case }, &masks(&labels)).unwrap();
    assert_eq!(second.series_uid, first.series_uid);
    assert_ne!(second.sop_instance_uid, first.sop_instance_uid);
    assert_eq!(text(second.data_set(), 0x0020, 0x4000), "REVISION 2 - REPLACES EARLIER RESULTS");
    assert_eq!(value(first.data_set(), Tag(0x0020, 0x4000)), None);
    let folder = tempfile::tempdir().unwrap();
    verify(&write(folder.path(), "second", &second), "Segmentation");
    assert_eq!(first.kind, Kind::Segmentation);
    assert_eq!(text(first.data_set(), 0x0020, 0x0052), "1.2.826.0.1.3680043.8.498.4");
}

#[test]
fn a_source_without_a_frame_of_reference_gets_one_for_all_revisions() {
    let mut study = study(series(4, 7, 9));
    study.series.frame_of_reference_uid = None;
    let object = study.build(&labels(4, 63)).unwrap();
    let uid = text(object.data_set(), 0x0020, 0x0052);
    assert!(study::ids::is_standard_uid(&uid), "{uid}");
    study.outcome.series_uid = None;
    assert_eq!(text(study.build(&labels(4, 63)).unwrap().data_set(), 0x0020, 0x0052), uid);
}

/// Objects of odd and even sizes with their labels, in `folder`.
fn files(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut none = study(series(5, 7, 9));
    none.series.frame_of_reference_uid = None;
    none.series.images.iter_mut().for_each(|image| image.thickness_mm = None);
    let no_lesions: Vec<u8> = labels(5, 63).iter().map(|label| label & !IS_LESION).collect();
    let mut thirds = study(series(6, 16, 24));
    thirds.series.pixel_spacing_mm = [2.0 / 3.0, 0.703_125];
    for (k, image) in thirds.series.images.iter_mut().enumerate() {
        image.position_mm = [-179.648_437_5, -1.0 / 3.0, 100.0 - 2.5 * k as f64];
    }
    let cases = [
        ("odd", study(series(8, 7, 9)), labels(8, 63)),
        ("no-lesions", none, no_lesions),
        ("thirds", thirds, labels(6, 16 * 24)),
    ];
    let built = cases.into_iter().map(|(name, study, labels)| {
        let path = write(folder, name, &study.build(&labels).unwrap());
        let wanted = path.with_extension("labels");
        std::fs::write(&wanted, &labels).unwrap();
        (path, wanted)
    });
    built.collect()
}

#[test]
fn dciodvfy_finds_no_error() {
    let folder = tempfile::tempdir().unwrap();
    for (path, _) in files(folder.path()) {
        verify(&path, "Segmentation");
    }
}

/// What both readers are asked: `wanted` is segments × slices × rows × columns, slice 0 at the head.
const WANTED: &str = "import sys, numpy as np, pydicom\n\
    d = pydicom.dcmread(sys.argv[1])\n\
    refs = [i.ReferencedSOPInstanceUID for i in d.ReferencedSeriesSequence[0].ReferencedInstanceSequence]\n\
    labels = np.fromfile(sys.argv[2], np.uint8).reshape(len(refs), d.Rows, d.Columns)\n\
    lungs = labels & 3 != 0\n\
    wanted = np.stack([labels & 1 != 0, labels & 2 != 0, (labels & 4 != 0) & lungs])\n";

#[test]
fn highdicom_reads_every_bit_in_its_place() {
    let script = WANTED.to_owned()
        + "import highdicom as hd\n\
        seg = hd.seg.segread(sys.argv[1])\n\
        assert seg.number_of_segments == 3 and seg.segmentation_type.value == 'BINARY'\n\
        got = seg.get_pixels_by_source_instance(source_sop_instance_uids=refs, segment_numbers=[1, 2, 3],\n\
            assert_missing_frames_are_empty=True)\n\
        assert (np.moveaxis(got, 3, 0) == wanted).all()\n\
        used = np.flatnonzero(wanted.any(axis=(0, 2, 3)))\n\
        volume = seg.get_volume(segment_numbers=[1, 2, 3], allow_missing_positions=True)\n\
        first, spacing = d.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient, 2.5\n\
        ends = [volume.map_indices_to_reference(np.array([[z, 0, 0]]))[0] for z in (0, volume.shape[0] - 1)]\n\
        array = volume.array if ends[0][2] > ends[1][2] else volume.array[::-1]\n\
        assert (np.moveaxis(array, 3, 0) == wanted[:, used[0]:used[-1] + 1]).all()\n\
        assert np.allclose(max(ends, key=lambda e: e[2])[:2], first[:2]) and np.allclose(volume.spacing[0], 2.5)\n\
        assert volume.frame_of_reference_uid == d.FrameOfReferenceUID\n\
        right, left, lesion = (seg.get_segment_description(n) for n in (1, 2, 3))\n\
        for lung, side in ((right, 'Right'), (left, 'Left')):\n\
        \x20   assert lung.segmented_property_type == hd.sr.CodedConcept('39607008', 'SCT', 'Lung')\n\
        \x20   assert lung.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == side\n\
        assert lesion.segmented_property_type == hd.sr.CodedConcept('52988006', 'SCT', 'Lesion')\n\
        assert lesion.anatomic_regions[0].meaning == 'Lung' and lesion.algorithm_type.value == 'AUTOMATIC'\n\
        assert lesion.algorithm_identification.version == '1'\n";
    let folder = tempfile::tempdir().unwrap();
    for (path, labels) in files(folder.path()) {
        python("highdicom, numpy", &script, &[&path, &labels]);
    }
}

/// dcmqi lies beside the Python that it was installed with.
fn dcmqi(program: &str) -> PathBuf {
    let python = PathBuf::from(std::env::var("TRIAGED_PYTHON").unwrap_or_default());
    let beside = python.with_file_name(program);
    if beside.is_file() { beside } else { program.into() }
}

#[test]
fn dcmqi_reads_every_bit_in_its_place() {
    let script = WANTED.to_owned()
        + "import gzip, pathlib, json\n\
        for n in (1, 2, 3):\n\
        \x20   path = pathlib.Path(sys.argv[3]) / f'{n}.nrrd'\n\
        \x20   if not wanted[n - 1].any():\n\
        \x20       assert not path.exists() or not np.frombuffer(gzip.decompress(path.read_bytes().split(b'\\n\\n', 1)[1]), np.uint8).any()\n\
        \x20       continue\n\
        \x20   head, data = path.read_bytes().split(b'\\n\\n', 1)\n\
        \x20   head = dict(l.split(': ', 1) for l in head.decode().splitlines() if ': ' in l)\n\
        \x20   columns, rows, slices = map(int, head['sizes'].split())\n\
        \x20   dtype = {'short': '<i2', 'unsigned char': 'u1', 'unsigned short': '<u2'}[head['type']]\n\
        \x20   data = gzip.decompress(data) if head['encoding'] == 'gzip' else data\n\
        \x20   got = np.frombuffer(data, dtype).reshape(slices, rows, columns) != 0\n\
        \x20   vector = lambda text: np.array([float(v) for v in text.strip('()').split(',')])\n\
        \x20   origin, steps = vector(head['space origin']), [vector(v) for v in head['space directions'].split()]\n\
        \x20   positions = {tuple(np.round(f.PlanePositionSequence[0].ImagePositionPatient, 4)):\n\
        \x20       refs.index(f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)\n\
        \x20       for f in d.PerFrameFunctionalGroupsSequence}\n\
        \x20   seen = np.zeros_like(wanted[n - 1])\n\
        \x20   for z in range(slices):\n\
        \x20       place = positions.get(tuple(np.round(origin + z * steps[2], 4)))\n\
        \x20       assert place is not None or not got[z].any(), (origin, steps, positions)\n\
        \x20       if place is not None: seen[place] = got[z]\n\
        \x20   assert (seen == wanted[n - 1]).all()\n\
        \x20   measures = d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing\n\
        \x20   assert np.allclose([steps[1][1], steps[0][0]], measures), steps\n\
        meta = json.loads((pathlib.Path(sys.argv[3]) / 'meta.json').read_text())\n\
        labels = [s[0]['SegmentLabel'] for s in meta['segmentAttributes']]\n\
        assert 'Right lung' in labels and 'Left lung' in labels, labels\n";
    let reader = dcmqi("segimage2itkimage");
    if Command::new(&reader).arg("--help").output().is_err() {
        return skip("dcmqi's segimage2itkimage");
    }
    let folder = tempfile::tempdir().unwrap();
    for (path, labels) in files(folder.path()) {
        let out = path.with_extension("out");
        std::fs::create_dir(&out).unwrap();
        let mut command = Command::new(&reader);
        command.arg("--inputDICOM").arg(&path).arg("--outputDirectory").arg(&out).args(["-t", "nrrd"]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        println!("{said}");
        assert!(output.status.success(), "{said}");
        python("pydicom, numpy", &script, &[&path, &labels, &out]);
    }
}

#[test]
#[ignore = "measures: 300 slices of 512 × 512 with the lungs of a phantom"]
fn how_long_a_large_one_takes() {
    let (slices, side) = (300, 512);
    let mut labels = vec![0; slices * side * side];
    for (at, label) in labels.iter_mut().enumerate() {
        let (z, y, x) = (at / (side * side), at / side % side, at % side);
        let inside = |cx: f64| {
            let (x, y, z) = ((x as f64 - cx) / 80.0, (y as f64 - 260.0) / 130.0, (z as f64 - 150.0) / 150.0);
            x * x + y * y + z * z < 1.0
        };
        let lesion = if y > 300 { IS_LESION } else { 0 };
        *label = if inside(150.0) { RIGHT_LUNG | lesion } else { 0 }
            | if inside(360.0) { LEFT_LUNG | lesion } else { 0 };
    }
    let study = study(series(slices, side, side));
    for (name, labels) in [("lungs", &labels), ("everything", &vec![7; labels.len()])] {
        for _ in 0..5 {
            let start = std::time::Instant::now();
            let object = study.build(labels).unwrap();
            println!("{name}: {:?}, {} bytes", start.elapsed(), object.bytes.len());
        }
    }
}

#[test]
fn where_no_lesions_were_looked_for_there_is_no_segment_of_them() {
    let holds = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|at| at == text.as_bytes());
    let mut without = study(series(4, 16, 12));
    let pixels = without.series.rows * without.series.columns;
    let labels: Vec<u8> = labels(4, pixels).iter().map(|label| label & !IS_LESION).collect();
    let looked_for = without.build(&labels).unwrap().bytes;
    assert!(holds(&looked_for, "Ground-glass"), "an empty segment: looked for, and none found");
    without.outcome = outcome(Verdict::Flagged(study::Findings { lesions: None, ..findings() }));
    let not_looked_for = without.build(&labels).unwrap().bytes;
    assert!(holds(&not_looked_for, "Right lung") && holds(&not_looked_for, "Left lung"));
    assert!(!holds(&not_looked_for, "Ground-glass") && !holds(&not_looked_for, "Lungs and lesions"));
}
