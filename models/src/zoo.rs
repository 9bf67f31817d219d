//! The zoo: the folder that holds the models, and where it is.
//!
//! Owns: finding the folder and opening its cards. Never does: load weights; a backend does that.

use std::path::{Path, PathBuf};

use crate::card::{CardError, ModelCard, Task};
use crate::methods::Method;

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
    /// Card of the multitask net that every engine runs.
    pub multitask: ModelCard,
    /// Folder of the multitask net.
    multitask_dir: PathBuf,
    method: Method,
    /// Card and folder of a method that is another one.
    other: Option<(ModelCard, PathBuf)>,
}

impl Zoo {
    /// Opens the zoo at `dir` with the default method and verifies every file against its card.
    ///
    /// # Errors
    /// [`CardError`], also when a card is for another task, or has another name, than its folder.
    pub fn open(dir: &Path) -> Result<Self, CardError> {
        Self::with_method(dir, Method::default(), None)
    }

    /// The same with any method, whose weights may come from another folder, `weights`/METHOD.
    ///
    /// # Errors
    /// As [`Zoo::open`]; [`CardError::Untrained`] for a method without weights.
    pub fn with_method(dir: &Path, method: Method, weights: Option<&Path>) -> Result<Self, CardError> {
        let lungs = open(&dir.join(LUNGS), LUNGS, Task::Lungs)?;
        let folder = weights.unwrap_or(dir).join(method.name());
        let default = method == Method::MultitaskSpatial1;
        let multitask_dir = if default { folder.clone() } else { dir.join(MULTITASK) };
        let multitask = open(&multitask_dir, MULTITASK, Task::Multitask)?;
        let other = match method.task().filter(|_| !default) {
            Some(task) => Some((open(&folder, method.name(), task)?, folder)),
            None => None,
        };
        // One grid serves all nets: the crop is cut from the planes of the lung net.
        let others = [Some((&multitask, &multitask_dir)), other.as_ref().map(|(card, dir)| (card, dir))];
        for (card, dir) in others.into_iter().flatten() {
            let (a, b) = (&lungs.input, &card.input);
            if (a.spacing_mm, a.window_hu) != (b.spacing_mm, b.window_hu) {
                return Err(CardError::Invalid {
                    path: dir.join("card.toml"),
                    what: "spacing_mm or window_hu differs from the lung net's".to_owned(),
                });
            }
        }
        Ok(Self { dir: dir.to_path_buf(), lungs, multitask, multitask_dir, method, other })
    }

    /// The method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Card of the method: its ranges, version and thresholds. That of the lung net where the method has no network of its own.
    pub fn card(&self) -> &ModelCard {
        match (&self.other, self.method) {
            (Some((card, _)), _) => card,
            (None, Method::Threshold) => &self.lungs,
            (None, _) => &self.multitask,
        }
    }

    /// The lung net.
    pub fn lungs_model(&self) -> PathBuf {
        self.dir.join(LUNGS).join(&self.lungs.files.model)
    }

    /// The multitask net over slices.
    pub fn multitask_model(&self) -> PathBuf {
        self.multitask_dir.join(&self.multitask.files.model)
    }

    /// The identification head over the pyramid.
    pub fn multitask_head(&self) -> PathBuf {
        self.multitask_dir.join(head(&self.multitask))
    }

    /// The network of the method.
    pub(crate) fn method_model(&self) -> PathBuf {
        self.method_dir().join(&self.card().files.model)
    }

    /// The head of the method.
    ///
    /// # Panics
    /// When the method has none.
    pub(crate) fn method_head(&self) -> PathBuf {
        self.method_dir().join(head(self.card()))
    }

    fn method_dir(&self) -> &Path {
        self.other.as_ref().map_or(&self.multitask_dir, |(_, dir)| dir)
    }
}

fn head(card: &ModelCard) -> &str {
    card.files.head.as_ref().expect("ModelCard::load: a card of a task with a head names it")
}

/// Opens the card of a folder: a network under another's name would be reported as what it isn't.
fn open(dir: &Path, name: &str, task: Task) -> Result<ModelCard, CardError> {
    let card = ModelCard::load(dir)?;
    let what = if card.name != name {
        format!("name is {:?}, expected {name:?}", card.name)
    } else if card.task != task {
        format!("task is {:?}, expected {task:?}", card.task)
    } else {
        return Ok(card);
    };
    Err(CardError::Invalid { path: dir.join("card.toml"), what })
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
