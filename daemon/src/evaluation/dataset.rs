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

use crate::commands::analyze::files;
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What is read of an image file to tell it from another: a page, of some hundred thousand DICOM files.
const IMAGE_SAMPLE_BYTES: u64 = 4096;
/// The name of the subset that holds every study.
pub const ALL: &str = "all";

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
    /// Opens a folder in either layout; of the paper's, the studies of a subset, [`ALL`] for every one.
    ///
    /// # Errors
    /// A folder in neither, a list that can't be read, two studies of one name, no study at all; a subset that isn't there, or none named where
    /// there are several.
    pub fn open(root: &Path, subset: Option<&str>) -> anyhow::Result<Self> {
        let csv = root.join("labels.csv");
        let mut studies = if csv.is_file() {
            if let Some(name) = subset.filter(|name| *name != ALL) {
                bail!(
                    "{}: a data set with labels.csv has no subsets, so none is named {name:?}",
                    root.display()
                );
            }
            by_csv(root, &csv)?
        } else if root.join("images").is_dir() {
            let mut studies = by_paper(root)?;
            if let Some(name) = chosen(root, subset)? {
                retain(&mut studies, root, name)?;
            }
            studies
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
        let mut name = name.unwrap_or_else(|| "data set".to_owned());
        if let Some(subset) = subset.filter(|subset| *subset != ALL) {
            name = format!("{name}, subset {subset}");
        }
        Ok(Self { name, studies })
    }

    /// How many studies have no lung mask.
    pub fn without_lungs(&self) -> usize {
        let without = |study: &&Study| study.truth.lungs.is_none() && study.truth.labels.is_none();
        self.studies.iter().filter(without).count()
    }

    /// A hash of the studies' names, groups, images and masks, wherever they lie: figures over others can't be ranked with these. Of masks
    /// every byte counts, of images their size and a sample: a data set's are a hundred times as large, and rarely corrected.
    ///
    /// # Errors
    /// A file that is there and can't be read.
    pub fn fingerprint(&self) -> anyhow::Result<String> {
        let mut hasher = Sha256::new();
        for study in &self.studies {
            let group = study.group.as_ref().map_or("?", |group| group.name());
            hasher.update(format!("{}\0{group}\n", study.id));
            for (role, path) in study.files() {
                hasher.update(format!("{role:?}\n"));
                // A file that isn't there is another data set than one where it is.
                for file in files::under(std::slice::from_ref(path)).unwrap_or_default() {
                    let most = if role == Role::Image { IMAGE_SAMPLE_BYTES } else { u64::MAX };
                    hasher.update(digest(&file, most).with_context(|| file.display().to_string())?);
                }
            }
        }
        Ok(hex(&hasher.finalize()[..8]))
    }
}

/// What a file of a study is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Image,
    Spacing,
    Lungs,
    Lesions,
    Labels,
}

impl Study {
    /// Its files, each with what it is for.
    fn files(&self) -> Vec<(Role, &PathBuf)> {
        let mut files = match &self.image {
            Image::Npy { image, spacing } => vec![(Role::Image, image), (Role::Spacing, spacing)],
            Image::Nifti(path) | Image::Dicom(path) => vec![(Role::Image, path)],
        };
        files.extend(self.truth.lungs.iter().map(|path| (Role::Lungs, path)));
        files.extend(self.truth.lesions.values().map(|path| (Role::Lesions, path)));
        files.extend(self.truth.labels.iter().map(|path| (Role::Labels, path)));
        files
    }

    /// A hash of the files' places, sizes and times: whether a result is of this study as it is now.
    pub fn fingerprint(&self) -> String {
        let mut hasher = Sha256::new();
        for (role, path) in self.files() {
            // The same mask as lungs and as lesions is not the same study.
            hasher.update(format!("{role:?} {:?}\n", path.file_name()));
            // Folders at any depth: DICOM of a study often lies in one a series. What can't be read fails when it is opened.
            for file in files::under(std::slice::from_ref(path)).unwrap_or_default() {
                let of = |m: std::fs::Metadata| (m.len(), m.modified().ok());
                let meta = std::fs::metadata(&file).map(of).ok();
                hasher.update(format!("{:?} {meta:?}\n", file.strip_prefix(path)));
            }
        }
        hex(&hasher.finalize()[..8])
    }
}

/// The subset to take; `None` for all studies. Groups and CT categories lie among the subsets, too: they are labels, and none of them has to be
/// named; training and test sets must not be mixed without a word.
fn chosen<'a>(root: &Path, wanted: Option<&'a str>) -> anyhow::Result<Option<&'a str>> {
    let folder = root.join("subsets");
    let there = if folder.is_dir() { names(&folder)? } else { Vec::new() };
    match wanted {
        Some(ALL) => Ok(None),
        Some(name) if there.iter().any(|other| other == name) => Ok(Some(name)),
        Some(name) => bail!("{}: no subset {name:?}; there are: {}", root.display(), there.join(", ")),
        None => {
            let is_label = |name: &str| Group::of(name).is_ok() || category(name).is_some();
            let sets: Vec<&str> = there.iter().map(String::as_str).filter(|name| !is_label(name)).collect();
            match sets.as_slice() {
                [] => {}
                [one] => eprintln!("all studies of {} are taken, not only its subset {one}", root.display()),
                _ => bail!(
                    "{} has several subsets ({}): name one with --subset NAME, or take all studies with --subset {ALL}",
                    root.display(),
                    sets.join(", ")
                ),
            }
            Ok(None)
        }
    }
}

/// Keeps the studies of a subset.
fn retain(studies: &mut Vec<Study>, root: &Path, subset: &str) -> anyhow::Result<()> {
    let path = root.join("subsets").join(subset).join("ids.json");
    let ids: BTreeSet<String> = json(&path)?;
    if let Some(absent) = ids.iter().find(|id| studies.iter().all(|study| study.id != **id)) {
        bail!("{}: study {absent:?} has neither a folder in images nor a label", path.display());
    }
    studies.retain(|study| ids.contains(&study.id));
    Ok(())
}

/// CT-0 to CT-4 as a number.
fn category(text: &str) -> Option<u8> {
    text.strip_prefix("CT-").unwrap_or(text).parse::<u8>().ok().filter(|digit| *digit <= 4)
}

/// Digest of a file's size and of its bytes, or of `most` of them from its middle on.
fn digest(path: &Path, most: u64) -> std::io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > most {
        file.seek(SeekFrom::Start((length - most) / 2))?;
    }
    let mut hasher = Sha256::new();
    hasher.update(length.to_le_bytes());
    std::io::copy(&mut file.take(most), &mut hasher)?;
    Ok(hasher.finalize().into())
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
            check_id(&id).with_context(|| format!("{}, subset {}", root.display(), group.name()))?;
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
    // A labelled study whose image is missing stays: as a row that says so.
    let mut ids: BTreeSet<String> = names(&root.join("images"))?.into_iter().collect();
    ids.extend(groups.keys().cloned());
    let labels = root.join("covid_labels");
    ids.extend(if labels.is_dir() { names(&labels)? } else { Vec::new() });
    ids.into_iter()
        .map(|id| {
            let images = root.join("images").join(&id);
            let group = match groups.get(&id) {
                Some(group) => Ok(*group),
                None => label(&labels.join(&id).join("covid_label.json")),
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
            Some(text) => Some(self::category(text).with_context(|| format!("{text:?} is no category"))?),
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
#[path = "dataset_tests.rs"]
mod tests;
