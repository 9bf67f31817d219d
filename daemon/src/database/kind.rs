//! What a result in the outbox is, and so over which protocol it goes and before which others.
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use std::fmt;

/// The kinds of results, in the order in which they are sent: what decides goes before what illustrates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An HL7 message, for a radiology information system.
    Hl7,
    /// A Unified Procedure Step, for a worklist manager.
    Ups,
    /// The Comprehensive SR.
    Report,
    /// The coronal picture.
    Picture,
    /// One of the most affected axial slices.
    Slices,
    /// Lungs and lesions.
    Segmentation,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Hl7, Self::Ups, Self::Report, Self::Picture, Self::Slices, Self::Segmentation];

    /// Its name in the database and for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hl7 => "hl7",
            Self::Ups => "ups",
            Self::Report => "report",
            Self::Picture => "picture",
            Self::Slices => "slices",
            Self::Segmentation => "segmentation",
        }
    }
}

impl From<results::Kind> for Kind {
    fn from(kind: results::Kind) -> Self {
        match kind {
            results::Kind::Picture => Self::Picture,
            results::Kind::Slices => Self::Slices,
            results::Kind::Report => Self::Report,
            results::Kind::Segmentation => Self::Segmentation,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl ToSql for Kind {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.name().into())
    }
}

impl FromSql for Kind {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let name = value.as_str()?;
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or(FromSqlError::InvalidType)
    }
}
