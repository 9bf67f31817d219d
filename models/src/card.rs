//! The model card: what a network is, what it was made for, and the digests of its files.
//!
//! Owns: the format of `card.toml` and the check of the files against it. Never does: run a model, or judge a study; the gate reads the
//! ranges from here as plain data.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use study::InputRange;

use crate::limits::{PATCH_MAX, PATCH_MIN};

/// Why a model can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// A file of the model can't be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The card is no valid TOML, has an unknown key, or lacks one.
    #[error("{path}: {source}")]
    Parse {
        /// The card.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value of the card makes no sense.
    #[error("{path}: {what}")]
    Invalid {
        /// The card.
        path: PathBuf,
        /// Which value, and why.
        what: String,
    },
    /// A file is not the one that the card describes.
    #[error("{path}: SHA-256 is {got}, the card says {expected}")]
    Digest {
        /// The file.
        path: PathBuf,
        /// Digest of the file.
        got: String,
        /// Digest in the card.
        expected: String,
    },
    /// There are no weights: whoever has the data can train them.
    #[error("{name} is untrained: recipe only ({path} says so; models/training has the recipe)")]
    Untrained {
        /// The model.
        name: String,
        /// Its card.
        path: PathBuf,
    },
}

/// What a network is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Slice → lung probability.
    Lungs,
    /// Slice → features and lesion probability; pyramid of the features → identification probability.
    Multitask,
    /// Slice → lesion probability.
    Lesions,
    /// Patch of a volume → lesion probability.
    Lesions3d,
    /// Slice → vector of features; 1-D pyramid of them over the slices → identification probability.
    Series,
}

impl Task {
    /// Whether it answers with a lesion probability for each voxel.
    pub fn has_lesions(self) -> bool {
        matches!(self, Self::Multitask | Self::Lesions | Self::Lesions3d)
    }

    /// Whether it answers with an identification probability for the study.
    pub fn has_head(self) -> bool {
        matches!(self, Self::Multitask | Self::Series)
    }
}

/// A model card, as `card.toml` has it. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCard {
    /// The card as it is written, for people.
    #[serde(skip)]
    pub text: String,
    /// The model's name; the method's name in results.
    pub name: String,
    /// Version of the weights, echoed as `model_version`.
    pub version: String,
    /// What the network is for.
    pub task: Task,
    /// The method and its publication, for people.
    pub method: String,
    /// Licence of the weights.
    pub licence: String,
    /// Whether there are weights; a card without them describes a recipe.
    #[serde(default = "yes")]
    pub trained: bool,
    /// File names inside the model's folder; empty where it is untrained.
    #[serde(default)]
    pub files: Files,
    /// SHA-256 of each file, in hexadecimal.
    #[serde(default)]
    pub sha256: Files,
    /// What the network takes, and the range of acquisitions it was made for.
    pub input: Input,
    /// Where probabilities become decisions.
    pub thresholds: Thresholds,
    /// The patches of a network of volumes.
    pub patch: Option<Patch>,
    /// Training data, free form.
    #[serde(default)]
    pub data: toml::Table,
    /// Measured figures, free form.
    #[serde(default)]
    pub quality: toml::Table,
    /// What was not measured, free form.
    #[serde(default)]
    pub not_measured: toml::Table,
}

fn yes() -> bool {
    true
}

/// One entry a file of the model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// The network that runs on slices or patches.
    pub model: String,
    /// The network that runs on the pyramid, where there is one.
    pub head: Option<String>,
}

/// The patches of a network of volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// Slices, rows and columns of a patch, on the networks' grid.
    pub size: [usize; 3],
}

/// What the network takes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// In-plane grid of the network.
    pub spacing_mm: f64,
    /// Window that becomes [0, 1].
    pub window_hu: [f32; 2],
    /// Tube voltage, lowest and highest.
    pub kvp: [f64; 2],
    /// Distance between slices, lowest and highest.
    pub slice_spacing_mm: [f64; 2],
    /// In-plane spacing of the source, lowest and highest.
    pub pixel_spacing_mm: [f64; 2],
    /// Fewest slices.
    pub min_slices: usize,
    /// Reconstruction kernels, best first.
    pub preferred_kernels: Vec<String>,
    /// Slice thickness that is preferred, lowest and highest.
    pub preferred_slice_thickness_mm: [f64; 2],
}

impl Input {
    /// The part that the input gate judges by.
    pub fn range(&self) -> InputRange {
        InputRange {
            kvp: self.kvp,
            slice_spacing_mm: self.slice_spacing_mm,
            pixel_spacing_mm: self.pixel_spacing_mm,
            min_slices: self.min_slices,
            preferred_kernels: self.preferred_kernels.clone(),
            preferred_slice_thickness_mm: self.preferred_slice_thickness_mm,
        }
    }
}

/// Where probabilities become decisions.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// A voxel at or above this belongs to the mask; left out (NaN) where the network makes none.
    #[serde(default = "none")]
    pub probability: f32,
    /// An identification probability at or above this is positive; left out where the network gives none.
    pub operating_point: Option<f32>,
}

fn none() -> f32 {
    f32::NAN
}

impl ModelCard {
    /// Reads `dir/card.toml` and checks its values and the digests of the files it names.
    ///
    /// # Errors
    /// [`CardError`], naming the file; [`CardError::Untrained`] for a recipe without weights.
    pub fn load(dir: &Path) -> Result<Self, CardError> {
        let path = dir.join("card.toml");
        let text = std::fs::read_to_string(&path)
            .map_err(|source| CardError::Read { path: path.clone(), source })?;
        let mut card: Self = toml::from_str(&text)
            .map_err(|source| CardError::Parse { path: path.clone(), source: Box::new(source) })?;
        card.text = text;
        card.check().map_err(|what| CardError::Invalid { path: path.clone(), what })?;
        if !card.trained {
            return Err(CardError::Untrained { name: card.name, path });
        }
        verify(&dir.join(&card.files.model), &card.sha256.model)?;
        if let (Some(head), Some(digest)) = (&card.files.head, &card.sha256.head) {
            verify(&dir.join(head), digest)?;
        }
        Ok(card)
    }

    fn check(&self) -> Result<(), String> {
        self.check_files()?;
        match (self.task, self.patch) {
            (Task::Lesions3d, Some(Patch { size }))
                if size.iter().all(|side| (PATCH_MIN..=PATCH_MAX).contains(side)) => {}
            (Task::Lesions3d, patch) => {
                return Err(format!("patch is {patch:?}; its sides must be {PATCH_MIN} to {PATCH_MAX}"));
            }
            (_, None) => {}
            (task, Some(_)) => return Err(format!("a {task:?} model has no patch")),
        }
        let input = &self.input;
        if !(input.spacing_mm > 0.0 && input.spacing_mm.is_finite()) {
            return Err(format!("input.spacing_mm is {}", input.spacing_mm));
        }
        let [low, high] = input.window_hu;
        for (name, [low, high]) in [
            ("window_hu", [f64::from(low), f64::from(high)]),
            ("kvp", input.kvp),
            ("slice_spacing_mm", input.slice_spacing_mm),
            ("pixel_spacing_mm", input.pixel_spacing_mm),
            ("preferred_slice_thickness_mm", input.preferred_slice_thickness_mm),
        ] {
            if !(low < high && low.is_finite() && high.is_finite()) {
                return Err(format!("input.{name} is [{low}, {high}]; it must rise"));
            }
        }
        let masks = self.task == Task::Lungs || self.task.has_lesions();
        let probability = Some(self.thresholds.probability).filter(|p| masks || !p.is_nan());
        let points = [probability, self.thresholds.operating_point];
        if let Some(point) = points.into_iter().flatten().find(|point| !(*point > 0.0 && *point < 1.0)) {
            return Err(format!("a threshold is {point}; it must lie between 0 and 1"));
        }
        Ok(())
    }

    fn check_files(&self) -> Result<(), String> {
        if !self.trained {
            let none = Files::default();
            return match (&self.files, &self.sha256) {
                (files, sha256) if (files, sha256) == (&none, &none) => Ok(()),
                _ => Err("an untrained model has no files".to_owned()),
            };
        }
        let names = [Some(&self.files.model), self.files.head.as_ref()];
        if let Some(name) = names.into_iter().flatten().find(|name| !is_file_name(name)) {
            return Err(format!("`{name}` is not a plain file name"));
        }
        let has_head = (
            self.files.head.is_some(),
            self.sha256.head.is_some(),
            self.thresholds.operating_point.is_some(),
        );
        let wants_head = self.task.has_head();
        if has_head != (wants_head, wants_head, wants_head) {
            return Err(format!(
                "a {:?} model has files.head, sha256.head and operating_point: {wants_head}",
                self.task
            ));
        }
        Ok(())
    }
}

/// A name without any way out of its folder.
fn is_file_name(name: &str) -> bool {
    let path = Path::new(name);
    path.file_name().is_some_and(|last| last == path.as_os_str())
}

fn verify(path: &Path, expected: &str) -> Result<(), CardError> {
    let read = |source| CardError::Read { path: path.to_path_buf(), source };
    let mut file = std::fs::File::open(path).map_err(read)?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher).map_err(read)?;
    let got: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if got.eq_ignore_ascii_case(expected) {
        Ok(())
    } else {
        Err(CardError::Digest { path: path.to_path_buf(), got, expected: expected.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(change: impl Fn(String) -> String) -> Result<ModelCard, CardError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("model.onnx"), "net").unwrap();
        let digest: String = Sha256::digest("net").iter().map(|byte| format!("{byte:02x}")).collect();
        let text = format!(
            r#"
            name = "lungs"
            version = "1"
            task = "lungs"
            method = "U-Net"
            licence = "MIT"
            files = {{ model = "model.onnx" }}
            sha256 = {{ model = "{digest}" }}
            [input]
            spacing_mm = 2.0
            window_hu = [-1000.0, 300.0]
            kvp = [80.0, 140.0]
            slice_spacing_mm = [0.5, 10.0]
            pixel_spacing_mm = [0.3, 1.5]
            min_slices = 8
            preferred_kernels = ["B30f"]
            preferred_slice_thickness_mm = [1.0, 3.0]
            [thresholds]
            probability = 0.5
            [quality]
            dice = 0.98
            "#
        );
        std::fs::write(dir.path().join("card.toml"), change(text)).unwrap();
        ModelCard::load(dir.path())
    }

    #[test]
    fn reads_a_card() {
        let card = card(|text| text).unwrap();
        assert_eq!(
            (card.task, card.thresholds.probability, card.thresholds.operating_point),
            (Task::Lungs, 0.5, None)
        );
        assert_eq!(card.input.range().kvp, [80.0, 140.0]);
        assert_eq!(card.quality["dice"].as_float(), Some(0.98));
    }

    #[test]
    fn a_recipe_without_weights_does_not_run() {
        let error = card(|text| {
            let lines = text.lines().filter(|line| !line.contains("files =") && !line.contains("sha256 ="));
            let text = lines.collect::<Vec<_>>().join("\n");
            text.replace("version = \"1\"", "version = \"1\"\ntrained = false")
        });
        let error = error.expect_err("untrained").to_string();
        assert!(error.starts_with("lungs is untrained: recipe only"), "{error}");
    }

    #[test]
    fn refuses_with_the_reason() {
        for (from, to, message) in [
            ("kvp", "kpv", "unknown field `kpv`"),
            ("version = \"1\"", "", "missing field `version`"),
            ("[quality]", "[patch]\nsize = [160, 160, 160]\n[quality]", "a Lungs model has no patch"),
            ("task = \"lungs\"", "task = \"lesions3d\"", "patch is None; its sides must be 16 to 256"),
            ("version = \"1\"", "version = \"1\"\ntrained = false", "an untrained model has no files"),
            ("probability = 0.5", "", "a threshold is NaN"),
            ("task = \"lungs\"", "task = \"liver\"", "unknown variant `liver`"),
            (
                "\"model.onnx\" }\n            sha",
                "\"../model.onnx\" }\n            sha",
                "not a plain file name",
            ),
            (
                "\"model.onnx\" }\n            sha",
                "\"model.bin\" }\n            sha",
                "model.bin: No such file",
            ),
            ("sha256 = { model = \"", "sha256 = { model = \"0", "the card says 0"),
            ("[-1000.0, 300.0]", "[300.0, -1000.0]", "input.window_hu is [300, -1000]"),
            ("spacing_mm = 2.0", "spacing_mm = 0.0", "input.spacing_mm is 0"),
            ("probability = 0.5", "probability = 1.5", "a threshold is 1.5"),
            ("probability = 0.5", "probability = 0.5\noperating_point = 0.5", "Lungs model has files.head"),
        ] {
            let error = card(|text| {
                assert!(text.contains(from), "{from}");
                text.replacen(from, to, 1)
            });
            let error = error.expect_err(message).to_string();
            assert!(error.contains(message), "`{error}` lacks `{message}`");
        }
    }
}
