//! The boards that there are images for.
use crate::Variant;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A board; `/usr/lib/triaged/board` of its image says which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Board {
    /// A V100-class server, or any other x86-64 machine with UEFI.
    #[serde(rename = "x86-64")]
    X86_64,
    /// Jetson Orin (JetPack 6).
    JetsonOrin,
    /// Jetson Xavier (JetPack 5).
    JetsonXavier,
}

/// A board that nobody knows.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no board: x86-64, jetson-orin and jetson-xavier are")]
pub struct UnknownBoard(pub String);

impl Board {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::X86_64, Self::JetsonOrin, Self::JetsonXavier];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86-64",
            Self::JetsonOrin => "jetson-orin",
            Self::JetsonXavier => "jetson-xavier",
        }
    }

    /// The folder of its set of a variant in an update.
    pub fn folder(self, variant: Variant) -> String {
        match variant {
            Variant::Plain => self.name().to_owned(),
            Variant::Nvidia => format!("{self}-{variant}"),
        }
    }
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Board {
    type Err = UnknownBoard;

    fn from_str(text: &str) -> Result<Self, UnknownBoard> {
        let name = text.trim();
        Self::ALL.into_iter().find(|board| board.name() == name).ok_or_else(|| UnknownBoard(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boards_name_is_the_same_in_text_and_in_toml() {
        #[derive(Serialize, Deserialize)]
        struct Line {
            board: Board,
        }
        for board in Board::ALL {
            assert_eq!(format!("{board}\n").parse(), Ok(board));
            let line = toml::to_string(&Line { board }).unwrap();
            assert_eq!(line, format!("board = \"{board}\"\n"));
            assert_eq!(toml::from_str::<Line>(&line).unwrap().board, board);
        }
        assert_eq!("x86".parse::<Board>(), Err(UnknownBoard("x86".into())));
    }
}
