//! The variants of a board's image.
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What an image has beside what every image of its board has; `/usr/lib/triaged/variant` of the image says which it is. Where nothing is said,
/// in an image or in a manifest, it is [`Variant::Plain`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// Nothing more.
    #[default]
    Plain,
    /// NVIDIA's driver and TensorRT, and slots that have room for them.
    Nvidia,
}

/// A variant that nobody knows.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no variant: plain and nvidia are")]
pub struct UnknownVariant(pub String);

impl Variant {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Plain, Self::Nvidia];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Nvidia => "nvidia",
        }
    }

    /// Whether it goes without saying: what a manifest leaves out can be read by boxes that know no variants.
    pub(crate) fn is_plain(&self) -> bool {
        *self == Self::Plain
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Variant {
    type Err = UnknownVariant;

    fn from_str(text: &str) -> Result<Self, UnknownVariant> {
        let name = text.trim();
        Self::ALL
            .into_iter()
            .find(|variant| variant.name() == name)
            .ok_or_else(|| UnknownVariant(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variants_name_is_the_same_in_text_and_in_toml() {
        #[derive(Serialize, Deserialize)]
        struct Line {
            variant: Variant,
        }
        for variant in Variant::ALL {
            assert_eq!(format!("{variant}\n").parse(), Ok(variant));
            let line = toml::to_string(&Line { variant }).unwrap();
            assert_eq!(line, format!("variant = \"{variant}\"\n"));
            assert_eq!(toml::from_str::<Line>(&line).unwrap().variant, variant);
        }
        assert_eq!("".parse::<Variant>(), Err(UnknownVariant(String::new())));
    }
}
