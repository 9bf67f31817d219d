//! The methods of the paper's Table 2: what each measures, and the processor's way of running those that need more than
//! [`Backend`](crate::Backend) offers.
//!
//! Owns: their names, and the step between the lung box and the masks. Never does: the lungs, the paste, severity; those
//! are the same for all ([`crate::analysis`]).
//!
//! | method | lesions | identification |
//! |---|---|---|
//! | `threshold` | density in the lungs, smoothed | by severity |
//! | `unet2d`, `unet2d-plus` | a net over slices | by severity |
//! | `unet3d` | a net over patches, stitched | by severity |
//! | `resnet50` | none, so no severity | pooled vectors of slices |
//! | `multitask-*` | a net over slices | its pooled features |

mod components;
mod patches;
mod run;
mod series;
mod smooth;
mod threshold;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::card::Task;

pub use components::drop_small;
pub(crate) use run::{Ran, Runner};
pub use smooth::gaussian;

/// A method, by its name in commands, configuration, results and the zoo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// −700 to 300 HU in the lungs, smoothed; small parts dropped.
    Threshold,
    /// 3-D U-Net over patches.
    Unet3d,
    /// 2-D U-Net over slices.
    Unet2d,
    /// The same, trained with negative series, too.
    Unet2dPlus,
    /// ResNet50 over slices; no lesions.
    Resnet50,
    /// Multitask, identification from the bridge of the U-Net.
    MultitaskLatent,
    /// Multitask, identification from the 4th upper level.
    #[serde(rename = "multitask-spatial-4")]
    MultitaskSpatial4,
    /// Multitask, identification from the uppermost level: the paper's proposal.
    #[default]
    #[serde(rename = "multitask-spatial-1")]
    MultitaskSpatial1,
}

impl Method {
    /// All of them, in the order of the paper's Table 2.
    pub const ALL: [Self; 8] = [
        Self::Threshold,
        Self::Unet3d,
        Self::Unet2d,
        Self::Unet2dPlus,
        Self::Resnet50,
        Self::MultitaskLatent,
        Self::MultitaskSpatial4,
        Self::MultitaskSpatial1,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Threshold => "threshold",
            Self::Unet3d => "unet3d",
            Self::Unet2d => "unet2d",
            Self::Unet2dPlus => "unet2d-plus",
            Self::Resnet50 => "resnet50",
            Self::MultitaskLatent => "multitask-latent",
            Self::MultitaskSpatial4 => "multitask-spatial-4",
            Self::MultitaskSpatial1 => "multitask-spatial-1",
        }
    }

    /// What its network is for; `None` where it has none.
    pub fn task(self) -> Option<Task> {
        match self {
            Self::Threshold => None,
            Self::Unet3d => Some(Task::Lesions3d),
            Self::Unet2d | Self::Unet2dPlus => Some(Task::Lesions),
            Self::Resnet50 => Some(Task::Series),
            Self::MultitaskLatent | Self::MultitaskSpatial4 | Self::MultitaskSpatial1 => {
                Some(Task::Multitask)
            }
        }
    }

    /// Whether it finds lesions, and so measures severity.
    pub fn measures_severity(self) -> bool {
        self.task().is_none_or(Task::has_lesions)
    }

    /// Whether it gives an identification probability. Those that don't identify by severity (paper, section 2.3).
    pub fn gives_probability(self) -> bool {
        self.task().is_some_and(Task::has_head)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|method| method.name() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("`{text}` is no method; known: {known}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_said_by_name_everywhere_alike() {
        for method in Method::ALL {
            assert_eq!(method.name().parse(), Ok(method));
            let json = serde_json::to_string(&method).unwrap();
            assert_eq!(json, format!("\"{method}\""));
            assert_eq!(serde_json::from_str::<Method>(&json).unwrap(), method);
            assert!(method.measures_severity() || method.gives_probability(), "{method} answers nothing");
        }
        assert!("unet".parse::<Method>().unwrap_err().contains("known: threshold, unet3d"));
    }
}
