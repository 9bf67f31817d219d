//! Prepared data sets: which studies there are, what is known of each, and where its files lie.
//!
//! Two layouts. The paper's: `images/<id>/image.npy` (rows, columns, slices) with `spacing.json`, `lungs_masks/<id>/lungs_mask.npy`,
//! `covid_masks/<id>/<rater>/covid_mask.npy`, `covid_labels/<id>/covid_label.json`, `subsets/<name>/ids.json`. Or a folder with a `labels.csv`:
//!
//! | column | what |
//! |---|---|
//! | `id` | the study's name |
//! | `group` | `covid`, `normal`, `bacterial_pneumonia`, `nodules` or `other` |
//! | `image` | a NIfTI file or a folder with one DICOM study; by default `<id>.nii.gz`, `<id>.nii` or `<id>` |
//! | `category` | CT-0 to CT-4 |
//! | `lungs` | lung mask, NIfTI or .npy (rows, columns, slices) |
//! | `lesions` | lesion masks, one a rater, separated by `;` |
//! | `labels` | instead of both: a phantom's `truth/labels.npy` |
//!
//! All but the first two may be left out. Paths are relative to the CSV. Nothing is read but lists and labels; [`super::volume`] reads images.

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a study shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// COVID-19.
    Covid,
    /// Bacterial pneumonia.
    BacterialPneumonia,
    /// Lung nodules.
    Nodules,
    /// No pathology.
    Normal,
    /// Anything else but COVID-19; counts in "all others" only.
    Other,
}

impl Group {
    /// All, in the order of the paper's figure 5.
    pub const ALL: [Self; 5] =
        [Self::Covid, Self::BacterialPneumonia, Self::Nodules, Self::Normal, Self::Other];

    /// As data sets write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Covid => "covid",
            Self::BacterialPneumonia => "bacterial_pneumonia",
            Self::Nodules => "nodules",
            Self::Normal => "normal",
            Self::Other => "other",
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Covid => "COVID-19",
            Self::BacterialPneumonia => "Bac. pneum.",
            Self::Nodules => "Nodules",
            Self::Normal => "Normal",
            Self::Other => "Other",
        }
    }

    fn of(name: &str) -> anyhow::Result<Self> {
        let found = Self::ALL.into_iter().find(|group| group.name() == name.trim());
        found
            .with_context(|| format!("{name:?} is no group; known: {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// Where a study's image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// The paper's array and its spacing.
    Npy {
        /// Rows × columns × slices.
        image: PathBuf,
        /// Row, column and slice spacing in mm.
        spacing: PathBuf,
    },
    /// NIfTI, compressed or not.
    Nifti(PathBuf),
    /// A folder with one DICOM study.
    Dicom(PathBuf),
}

/// The truth, as far as it is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Truth {
    /// Lung mask.
    pub lungs: Option<PathBuf>,
    /// Lesion masks by rater.
    pub lesions: BTreeMap<String, PathBuf>,
    /// A phantom's labels: both at once.
    pub labels: Option<PathBuf>,
}

/// A study of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Study {
    /// Its name; no path.
    pub id: String,
    /// What it shows; an error, in words, where nothing says so.
    pub group: Result<Group, String>,
    /// CT-0 to CT-4, where readers gave one.
    pub category: Option<u8>,
    /// Its image.
    pub image: Image,
    /// What is known of its masks.
    pub truth: Truth,
}

/// A data set.
#[derive(Debug)]
pub struct Dataset {
    /// Its name: the folder's.
    pub name: String,
    /// Its studies, by name.
    pub studies: Vec<Study>,
}

impl Dataset {
    /// Opens a folder in either layout.
    ///
    /// # Errors
    /// A folder in neither, a list that can't be read, two studies of one name, no study at all.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        let csv = root.join("labels.csv");
        let mut studies = if csv.is_file() {
            by_csv(root, &csv)?
        } else if root.join("images").is_dir() {
            by_paper(root)?
        } else {
            bail!("{} is no data set: it has neither labels.csv nor a folder images", root.display());
        };
        studies.sort_by(|a, b| a.id.cmp(&b.id));
        if let Some(twice) = studies.windows(2).find(|pair| pair[0].id == pair[1].id) {
            bail!("{}: two studies are named {:?}", root.display(), twice[0].id);
        }
        if studies.is_empty() {
            bail!("{} holds no study", root.display());
        }
        let name = root.canonicalize().ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
        Ok(Self { name: name.unwrap_or_else(|| "data set".to_owned()), studies })
    }

    /// A hash of the studies' names and groups: results of another data set don't belong beside this one's.
    pub fn fingerprint(&self) -> String {
        let mut hasher = Sha256::new();
        for study in &self.studies {
            let group = study.group.as_ref().map_or("?", |group| group.name());
            hasher.update(format!("{}\0{group}\n", study.id));
        }
        hex(&hasher.finalize()[..8])
    }
}

impl Study {
    /// A hash of the files' names, sizes and times: whether a result is of this study as it is now.
    pub fn fingerprint(&self) -> String {
        let image: Vec<&Path> = match &self.image {
            Image::Npy { image, spacing } => vec![image, spacing],
            Image::Nifti(path) | Image::Dicom(path) => vec![path],
        };
        let truth = &self.truth;
        let masks = truth.lungs.iter().chain(truth.lesions.values()).chain(&truth.labels);
        let mut files: Vec<PathBuf> = Vec::new();
        for path in image.into_iter().chain(masks.map(PathBuf::as_path)) {
            match path.read_dir() {
                Ok(entries) => files.extend(entries.flatten().map(|entry| entry.path())),
                Err(_) => files.push(path.to_owned()),
            }
        }
        files.sort();
        let mut hasher = Sha256::new();
        for file in files {
            let meta = std::fs::metadata(&file);
            let of = |m: std::fs::Metadata| (m.len(), m.modified().ok());
            hasher.update(format!("{:?} {:?}\n", file.file_name(), meta.map(of).ok()));
        }
        hex(&hasher.finalize()[..8])
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A name that is one component of a path, and a plain one.
fn check_id(id: &str) -> anyhow::Result<()> {
    let plain = Path::new(id).file_name().is_some_and(|name| name == id) && !id.starts_with('.');
    if plain { Ok(()) } else { bail!("{id:?} can't be the name of a study") }
}

fn by_paper(root: &Path) -> anyhow::Result<Vec<Study>> {
    let subset = |name: &str| -> anyhow::Result<Vec<String>> {
        let path = root.join("subsets").join(name).join("ids.json");
        if path.is_file() { json(&path) } else { Ok(Vec::new()) }
    };
    let mut groups = BTreeMap::new();
    for group in Group::ALL {
        for id in subset(group.name())? {
            if groups.insert(id.clone(), group).is_some_and(|other| other != group) {
                bail!("{}: study {id:?} is in two subsets", root.display());
            }
        }
    }
    let mut categories = BTreeMap::new();
    for category in 0..=4u8 {
        subset(&format!("CT-{category}"))?.into_iter().for_each(|id| {
            categories.insert(id, category);
        });
    }
    names(&root.join("images"))?
        .into_iter()
        .map(|id| {
            let images = root.join("images").join(&id);
            let group = match groups.get(&id) {
                Some(group) => Ok(*group),
                None => label(&root.join("covid_labels").join(&id).join("covid_label.json")),
            };
            let lungs = root.join("lungs_masks").join(&id).join("lungs_mask.npy");
            let masks = root.join("covid_masks").join(&id);
            let raters = if masks.is_dir() { names(&masks)? } else { Vec::new() };
            let rater = |rater: String| {
                let path = masks.join(&rater).join("covid_mask.npy");
                path.is_file().then_some((rater, path))
            };
            Ok(Study {
                category: categories.get(&id).copied(),
                image: Image::Npy { image: images.join("image.npy"), spacing: images.join("spacing.json") },
                truth: Truth {
                    lungs: lungs.is_file().then_some(lungs),
                    lesions: raters.into_iter().filter_map(rater).collect(),
                    labels: None,
                },
                id,
                group,
            })
        })
        .collect()
}

/// The paper's label: true or 1 for COVID-19.
fn label(path: &Path) -> Result<Group, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|_| "no label: neither in a subset nor in covid_labels".to_owned())?;
    match text.trim() {
        "true" | "1" | "1.0" => Ok(Group::Covid),
        "false" | "0" | "0.0" => Ok(Group::Other),
        other => Err(format!("{}: {other:?} is no label", path.display())),
    }
}

/// Folders in a folder, by name.
fn names(dir: &Path) -> anyhow::Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    Ok(names)
}

/// A row of `labels.csv`.
#[derive(Deserialize)]
struct Row {
    id: String,
    group: String,
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    category: Option<String>,
    #[serde(default)]
    lungs: Option<String>,
    #[serde(default)]
    lesions: Option<String>,
    #[serde(default)]
    labels: Option<String>,
}

fn by_csv(root: &Path, csv: &Path) -> anyhow::Result<Vec<Study>> {
    let mut reader = csv::Reader::from_path(csv).with_context(|| csv.display().to_string())?;
    let rows = reader.deserialize().collect::<Result<Vec<Row>, _>>();
    let rows = rows.with_context(|| csv.display().to_string())?;
    let study = |row: Row| -> anyhow::Result<Study> {
        check_id(&row.id)?;
        let given = |text: Option<String>| text.filter(|t| !t.trim().is_empty()).map(|t| root.join(t.trim()));
        let image = match given(row.image) {
            Some(path) => path,
            None => ["nii.gz", "nii"]
                .map(|ending| root.join(format!("{}.{ending}", row.id)))
                .into_iter()
                .find(|path| path.is_file())
                .unwrap_or_else(|| root.join(&row.id)),
        };
        let category = match row.category.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => {
                let digit = text.strip_prefix("CT-").unwrap_or(text).parse::<u8>().ok();
                Some(digit.filter(|d| *d <= 4).with_context(|| format!("{text:?} is no category"))?)
            }
        };
        let raters = row.lesions.unwrap_or_default();
        let raters = raters.split(';').map(str::trim).filter(|path| !path.is_empty());
        let lesions = raters.map(|path| (path.to_owned(), root.join(path))).collect();
        let is_nifti = [".nii", ".nii.gz"].iter().any(|e| image.to_string_lossy().ends_with(e));
        Ok(Study {
            group: Ok(Group::of(&row.group)?),
            category,
            image: if is_nifti { Image::Nifti(image) } else { Image::Dicom(image) },
            truth: Truth { lungs: given(row.lungs), lesions, labels: given(row.labels) },
            id: row.id,
        })
    };
    let numbered = rows.into_iter().zip(2..);
    numbered
        .map(|(row, line)| study(row).with_context(|| format!("{}, line {line}", csv.display())))
        .collect()
}

/// Reads a JSON file.
pub fn json<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
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
        let found = Dataset::open(root).unwrap();
        let groups: Vec<_> = found.studies.iter().map(|study| study.group.clone().ok()).collect();
        assert_eq!(groups, [Some(Group::Covid), Some(Group::Nodules), Some(Group::Other), None]);
        let first = &found.studies[0];
        assert_eq!(first.truth.lesions.keys().collect::<Vec<_>>(), ["first", "second"]);
        assert!(first.category == Some(2) && first.truth.lungs.is_some());
        let before = first.fingerprint();
        assert_eq!(before, Dataset::open(root).unwrap().studies[0].fingerprint());
        put(root, "images/a/image.npy", "changed");
        assert_ne!(before, Dataset::open(root).unwrap().studies[0].fingerprint());
        put(root, "subsets/normal/ids.json", "[\"a\"]");
        assert!(Dataset::open(root).unwrap_err().to_string().contains("\"a\" is in two subsets"));
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
        let found = Dataset::open(root).unwrap();
        assert_eq!(found.studies[0].image, Image::Nifti(root.join("x.nii.gz")));
        assert_eq!((found.studies[0].truth.lesions.len(), found.studies[0].category), (2, Some(3)));
        assert_eq!(found.studies[1].image, Image::Dicom(root.join("y")));
        assert_eq!(found.studies[1].truth.labels, Some(root.join("y/truth/labels.npy")));
        for (text, want) in [
            ("id,group\nx,flu\n", "\"flu\" is no group; known: covid"),
            ("id,group\n../x,covid\n", "can't be the name of a study"),
            ("id,group\nx,covid\nx,normal\n", "two studies are named \"x\""),
            ("id,group,category\nx,covid,9\n", "line 2: \"9\" is no category"),
            ("id\nx\n", "missing field `group`"),
            ("id,group\n", "holds no study"),
        ] {
            put(root, "labels.csv", text);
            let error = format!("{:#}", Dataset::open(root).unwrap_err());
            assert!(error.contains(want), "{error}");
        }
    }
}
