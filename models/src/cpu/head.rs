//! The identification head: pooled features → probability. A few thousand multiplications, in f32, for every engine.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::net::Workspace;
use super::{Model, check};
use crate::backend::{EngineError, sigmoid};
use crate::zoo::Zoo;

/// The head, with a workspace of its own.
pub(crate) struct Head {
    model: Model<1>,
    workspace: Mutex<Workspace>,
}

impl Head {
    /// Loads the zoo's head, which takes the pyramid of 8 channels.
    ///
    /// # Errors
    /// [`EngineError::Load`].
    pub(crate) fn load(zoo: &Zoo) -> Result<Self, EngineError> {
        Self::open(&zoo.multitask_head(), kernels::pyramid::CELLS * 8)
    }

    /// Loads a head of so many values.
    ///
    /// # Errors
    /// [`EngineError::Load`].
    pub(crate) fn open(path: &Path, values: usize) -> Result<Self, EngineError> {
        let model = Model::<1>::head(path, "identification head", values, "covid")?;
        Ok(Self { model, workspace: Mutex::default() })
    }

    /// Identification probability of a study's pooled features.
    ///
    /// # Errors
    /// [`EngineError`].
    pub(crate) fn probability(&self, pyramid: &[f32]) -> Result<f32, EngineError> {
        // A workspace is valid whatever it holds.
        let mut workspace = self.workspace.lock().unwrap_or_else(PoisonError::into_inner);
        let mut covid = self.model.vector(pyramid, &mut workspace)?;
        check(self.model.name(), covid.len(), 1)?;
        sigmoid(&mut covid, self.model.name())?;
        Ok(covid[0])
    }
}
