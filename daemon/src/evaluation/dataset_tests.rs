use super::*;

fn put(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[test]
fn the_papers_layout() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for id in ["a", "b", "c", "d"] {
        put(root, &format!("images/{id}/image.npy"), "");
    }
    put(root, "subsets/covid/ids.json", "[\"a\"]");
    put(root, "subsets/nodules/ids.json", "[\"b\"]");
    put(root, "subsets/CT-2/ids.json", "[\"a\"]");
    put(root, "covid_labels/c/covid_label.json", "false");
    put(root, "covid_masks/a/second/covid_mask.npy", "");
    put(root, "covid_masks/a/first/covid_mask.npy", "");
    put(root, "lungs_masks/a/lungs_mask.npy", "");
    let found = Dataset::open(root, None).unwrap();
    let groups: Vec<_> = found.studies.iter().map(|study| study.group.clone().ok()).collect();
    assert_eq!(groups, [Some(Group::Covid), Some(Group::Nodules), Some(Group::Other), None]);
    let first = &found.studies[0];
    assert_eq!(first.truth.lesions.keys().collect::<Vec<_>>(), ["first", "second"]);
    assert!(first.category == Some(2) && first.truth.lungs.is_some());
    let before = first.fingerprint();
    assert_eq!(before, Dataset::open(root, None).unwrap().studies[0].fingerprint());
    put(root, "images/a/image.npy", "changed");
    assert_ne!(before, Dataset::open(root, None).unwrap().studies[0].fingerprint());
    let before = first.fingerprint();
    let swapped = Truth { lungs: None, labels: first.truth.lungs.clone(), ..first.truth.clone() };
    assert_ne!(before, Study { truth: swapped, ..first.clone() }.fingerprint(), "a mask in another role");
    // Groups and categories are labels; a training and a test set are told apart.
    put(root, "subsets/test/ids.json", "[\"a\", \"d\"]");
    assert_eq!(Dataset::open(root, None).unwrap().studies.len(), 4, "one subset only");
    put(root, "subsets/train/ids.json", "[\"b\", \"gone\"]");
    let error = Dataset::open(root, None).unwrap_err().to_string();
    assert!(error.contains("several subsets (test, train)") && error.contains("--subset all"), "{error}");
    let of = |subset: &str| Dataset::open(root, Some(subset)).map(|found| (found.name, found.studies.len()));
    assert!(of("test").unwrap().0.ends_with(", subset test"));
    assert_eq!((of("test").unwrap().1, of("all").unwrap().1, of("covid").unwrap().1), (2, 4, 1));
    assert!(
        of("train").unwrap_err().to_string().contains("\"gone\" has neither a folder in images nor a label")
    );
    assert!(of("x").unwrap_err().to_string().contains("no subset \"x\"; there are: CT-2, covid"));
    std::fs::remove_dir_all(root.join("subsets/train")).unwrap();
    put(root, "subsets/normal/ids.json", "[\"a\"]");
    assert!(Dataset::open(root, None).unwrap_err().to_string().contains("\"a\" is in two subsets"));
}

#[test]
fn a_labelled_study_without_an_image_stays_and_a_label_is_no_path() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    put(root, "images/a/image.npy", "");
    put(root, "subsets/covid/ids.json", "[\"b\"]");
    put(root, "covid_labels/c/covid_label.json", "false");
    let found = Dataset::open(root, None).unwrap();
    let ids: Vec<&str> = found.studies.iter().map(|study| study.id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    let range = engine::Zoo::open(&engine::default_zoo_dir()).unwrap().card().input.range();
    let error = crate::evaluation::volume::Volume::open(&found.studies[1].image, &range, 1).err().unwrap();
    assert!(format!("{error:#}").contains("images/b/image.npy: No such file"), "{error:#}");
    put(root, "subsets/covid/ids.json", "[\"../b\"]");
    let error = format!("{:#}", Dataset::open(root, None).unwrap_err());
    assert!(error.contains("subset covid: \"../b\" can't be the name of a study"), "{error}");
}

#[test]
fn a_data_sets_fingerprint_is_of_its_contents_wherever_they_lie() {
    let fill = |root: &Path| {
        put(root, "images/a/image.npy", &"i".repeat(10_000));
        put(root, "covid_masks/a/reader/covid_mask.npy", &"m".repeat(10_000));
        put(root, "subsets/covid/ids.json", "[\"a\"]");
    };
    let of = |root: &Path| Dataset::open(root, None).unwrap().fingerprint().unwrap();
    let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    fill(first.path());
    fill(second.path());
    let (root, before) = (first.path(), of(first.path()));
    assert_eq!(before, of(second.path()), "a copy");
    // A revised mask of the same size, its first voxel changed.
    put(root, "covid_masks/a/reader/covid_mask.npy", &format!("x{}", "m".repeat(9_999)));
    let revised = of(root);
    assert_ne!(before, revised);
    put(root, "images/a/image.npy", &"j".repeat(10_000));
    assert_ne!(revised, of(root), "another image");
    fill(root);
    assert_eq!(before, of(root));
    put(root, "subsets/covid/ids.json", "[]");
    assert_ne!(before, of(root), "another group");
}

#[test]
fn a_csv_of_labels() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    put(root, "x.nii.gz", "");
    put(
        root,
        "labels.csv",
        "id,group,category,lesions,labels\nx,covid,CT-3,m/1.nii.gz;m/2.nii.gz,\ny,normal,,,y/truth/labels.npy\n",
    );
    let found = Dataset::open(root, None).unwrap();
    assert_eq!(found.studies[0].image, Image::Nifti(root.join("x.nii.gz")));
    assert_eq!((found.studies[0].truth.lesions.len(), found.studies[0].category), (2, Some(3)));
    assert_eq!(found.studies[1].image, Image::Dicom(root.join("y")));
    put(root, "y/series/1.dcm", "a");
    let before = found.studies[1].fingerprint();
    put(root, "y/series/deeper/2.dcm", "b");
    let added = found.studies[1].fingerprint();
    assert_ne!(before, added, "a file in a folder of the folder");
    std::fs::rename(root.join("y/series"), root.join("y/other")).unwrap();
    assert_ne!(added, found.studies[1].fingerprint(), "the same files at another place");
    assert_eq!(found.studies[1].truth.labels, Some(root.join("y/truth/labels.npy")));
    assert!(Dataset::open(root, Some("test")).unwrap_err().to_string().contains("has no subsets"));
    for (text, want) in [
        ("id,group\nx,flu\n", "\"flu\" is no group; known: covid"),
        ("id,group\n../x,covid\n", "can't be the name of a study"),
        ("id,group\nx,covid\nx,normal\n", "two studies are named \"x\""),
        ("id,group,category\nx,covid,9\n", "line 2: \"9\" is no category"),
        ("id\nx\n", "missing field `group`"),
        ("id,group\n", "holds no study"),
    ] {
        put(root, "labels.csv", text);
        let error = format!("{:#}", Dataset::open(root, None).unwrap_err());
        assert!(error.contains(want), "{error}");
    }
}
