//! Severity: the share of a lung that is affected, and its category (paper section 2.1: CT-0 to CT-4).
use crate::lungs::Sides;
use serde::{Deserialize, Serialize};
use std::fmt;

/// CT category of the larger of the two lungs' lesion fractions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Category {
    /// No lesion at all.
    #[serde(rename = "CT-0")]
    Ct0,
    /// Up to 25 %.
    #[serde(rename = "CT-1")]
    Ct1,
    /// Over 25 % and up to 50 %.
    #[serde(rename = "CT-2")]
    Ct2,
    /// Over 50 % and up to 75 %.
    #[serde(rename = "CT-3")]
    Ct3,
    /// Over 75 %.
    #[serde(rename = "CT-4")]
    Ct4,
}

impl Category {
    /// The category of a severity in 0 to 1.
    pub fn of(severity: f64) -> Self {
        match severity {
            s if s <= 0.0 => Self::Ct0,
            s if s <= 0.25 => Self::Ct1,
            s if s <= 0.50 => Self::Ct2,
            s if s <= 0.75 => Self::Ct3,
            _ => Self::Ct4,
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CT-{}", *self as u8)
    }
}

/// Lesion fraction of each lung, 0 to 1, from volumes in the same unit. A lung without volume has none.
pub fn fractions(lesion: Sides<f64>, lung: Sides<f64>) -> Sides<f64> {
    let fraction = |lesion: f64, lung: f64| if lung > 0.0 { lesion / lung } else { 0.0 };
    Sides { left: fraction(lesion.left, lung.left), right: fraction(lesion.right, lung.right) }
}

/// The severity of a study: the larger of the two lungs' lesion fractions.
pub fn severity(fractions: Sides<f64>) -> f64 {
    fractions.left.max(fractions.right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_in_steps_of_a_quarter() {
        let cases = [
            (0.0, "CT-0"),
            (1e-9, "CT-1"),
            (0.25, "CT-1"),
            (0.2501, "CT-2"),
            (0.5, "CT-2"),
            (0.75, "CT-3"),
            (0.76, "CT-4"),
            (1.0, "CT-4"),
        ];
        for (severity, want) in cases {
            assert_eq!(Category::of(severity).to_string(), want, "{severity}");
        }
    }

    #[test]
    fn an_absent_lung_is_no_division_by_zero() {
        let f = fractions(Sides { left: 0.0, right: 5.0 }, Sides { left: 0.0, right: 10.0 });
        assert_eq!((f.left, f.right, severity(f)), (0.0, 0.5, 0.5));
    }
}
