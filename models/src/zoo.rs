//! The zoo: the folder that holds the models, and where it is.
//!
//! Owns: finding the folder and opening its cards. Never does: load weights; a backend does that.

use std::path::{Path, PathBuf};

use crate::card::{CardError, ModelCard, Task};

/// Folder of the lung net inside the zoo.
const LUNGS: &str = "lungs";
/// Folder of the multitask net inside the zoo.
const MULTITASK: &str = "multitask-spatial-1";

/// The models that an analysis needs, their files checked against their cards.
#[derive(Debug, Clone)]
pub struct Zoo {
    dir: PathBuf,
    /// Card of the lung net.
    pub lungs: ModelCard,
    /// Card of the multitask net: the method of the analysis, its version, the ranges of the gate.
    pub multitask: ModelCard,
}

impl Zoo {
    /// Opens the zoo at `dir` and verifies every file against its card.
    ///
    /// # Errors
    /// [`CardError`], also when a card is for another task than its folder.
    pub fn open(dir: &Path) -> Result<Self, CardError> {
        let open = |name: &str, task: Task| {
            let card = ModelCard::load(&dir.join(name))?;
            if card.task == task {
                Ok(card)
            } else {
                let path = dir.join(name).join("card.toml");
                Err(CardError::Invalid { path, what: format!("task is {:?}, expected {task:?}", card.task) })
            }
        };
        let zoo = Self {
            dir: dir.to_path_buf(),
            lungs: open(LUNGS, Task::Lungs)?,
            multitask: open(MULTITASK, Task::Multitask)?,
        };
        // One grid serves both nets: the crop of the second is cut from the planes of the first.
        let (a, b) = (&zoo.lungs.input, &zoo.multitask.input);
        if (a.spacing_mm, a.window_hu) != (b.spacing_mm, b.window_hu) {
            let path = dir.join(MULTITASK).join("card.toml");
            return Err(CardError::Invalid {
                path,
                what: "spacing_mm or window_hu differs from the lung net's".to_owned(),
            });
        }
        Ok(zoo)
    }

    /// The lung net.
    pub fn lungs_model(&self) -> PathBuf {
        self.dir.join(LUNGS).join(&self.lungs.files.model)
    }

    /// The multitask net over slices.
    pub fn multitask_model(&self) -> PathBuf {
        self.dir.join(MULTITASK).join(&self.multitask.files.model)
    }

    /// The identification head over the pyramid.
    pub fn multitask_head(&self) -> PathBuf {
        let head =
            self.multitask.files.head.as_ref().expect("ModelCard::load: a multitask card names a head");
        self.dir.join(MULTITASK).join(head)
    }
}

/// Where the zoo is when the configuration does not say: `zoo/` beside the binary, else `../share/triaged/zoo` from it (an installed box), else
/// this crate's own `zoo/` (a checkout).
pub fn default_zoo_dir() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    beside
        .into_iter()
        .flat_map(|dir| [dir.join("zoo"), dir.join("../share/triaged/zoo")])
        .find(|dir| dir.is_dir())
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("zoo"))
}
