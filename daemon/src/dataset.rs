//! The data sets of the services (PS3.4): read from memory, and written.
//!
//! Owns the access to elements and items by tag, with bounds: a peer's data set costs the memory that it was received
//! into, and a few words for each item that the caller asks for. It never decodes a character set.
pub(crate) mod element;

use dicom_core::Tag;
use dimse::uids;
use element::{Encoding, ITEM, SEQUENCE_END, UNDEFINED};

/// Transfer syntaxes of the services' data sets, in our order.
pub const TRANSFER_SYNTAXES: &[&str] = &[uids::EXPLICIT_VR_LITTLE_ENDIAN, uids::IMPLICIT_VR_LITTLE_ENDIAN];

/// What is wrong with a data set.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DataSetError {
    /// It can't be walked over.
    #[error("broken data set: {what}")]
    Broken {
        /// Where, and why.
        what: String,
    },
    /// A sequence has more items than the caller takes.
    #[error("{tag} has more than {max} items")]
    TooManyItems {
        /// The sequence.
        tag: Tag,
        /// The most that is taken.
        max: usize,
    },
    /// Not one of [`TRANSFER_SYNTAXES`].
    #[error("transfer syntax {uid} is none of a service's data set")]
    TransferSyntax {
        /// What it is.
        uid: String,
    },
}

/// A data set, or an item of a sequence in it.
#[derive(Debug, Clone, Copy)]
pub struct DataSet<'a> {
    bytes: &'a [u8],
    encoding: Encoding,
}

impl<'a> DataSet<'a> {
    /// Nothing is read yet.
    ///
    /// # Errors
    /// Another transfer syntax than [`TRANSFER_SYNTAXES`].
    pub fn new(bytes: &'a [u8], transfer_syntax: &str) -> Result<Self, DataSetError> {
        let encoding = match transfer_syntax {
            uids::IMPLICIT_VR_LITTLE_ENDIAN => Encoding::Implicit,
            uids::EXPLICIT_VR_LITTLE_ENDIAN => Encoding::Explicit,
            other => return Err(DataSetError::TransferSyntax { uid: other.to_owned() }),
        };
        Ok(Self { bytes, encoding })
    }

    /// The value of an element with its padding; `None` where it is absent. A sequence's value is its items, encoded.
    pub fn value(&self, tag: Tag) -> Result<Option<&'a [u8]>, DataSetError> {
        Ok(self.find(tag)?.map(|(value, _)| value))
    }

    /// The value as text without its padding; empty where the element is, `None` where it is absent. For identifiers and
    /// codes: what is not UTF-8 becomes visible as replacement characters.
    pub fn text(&self, tag: Tag) -> Result<Option<String>, DataSetError> {
        let text = |value: &[u8]| String::from_utf8_lossy(value).trim_matches(['\0', ' ']).to_owned();
        Ok(self.value(tag)?.map(text))
    }

    /// The first number of an element of VR US.
    pub fn u16(&self, tag: Tag) -> Result<Option<u16>, DataSetError> {
        Ok(self.value(tag)?.and_then(|value| element::word(value, 0)))
    }

    /// The items of a sequence; none where it is absent or empty.
    ///
    /// # Errors
    /// More than `max` items, or a sequence that can't be walked over.
    pub fn items(&self, tag: Tag, max: usize) -> Result<Vec<DataSet<'a>>, DataSetError> {
        let Some((bytes, encoding)) = self.find(tag)? else { return Ok(Vec::new()) };
        let mut items = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let item = element::item(bytes, at).map_err(broken)?;
            let (end, next) = match (item.tag, item.length) {
                (SEQUENCE_END, _) => break,
                (ITEM, UNDEFINED) => element::skip_item(bytes, item.value, encoding).map_err(broken)?,
                (ITEM, _) => {
                    let end = item.value + element::defined(bytes, &item).map_err(broken)?.len();
                    (end, end)
                }
                (other, _) => return Err(broken(format!("{other} stands between the items of {tag}"))),
            };
            if items.len() == max {
                return Err(DataSetError::TooManyItems { tag, max });
            }
            items.push(Self { bytes: &bytes[item.value..end], encoding });
            at = next;
        }
        Ok(items)
    }

    /// The value of an element, and how what is nested in it is encoded.
    fn find(&self, tag: Tag) -> Result<Option<(&'a [u8], Encoding)>, DataSetError> {
        let bytes = self.bytes;
        let mut at = 0;
        while at < bytes.len() {
            let header = element::header(bytes, at, self.encoding).map_err(broken)?;
            let end = if header.length == UNDEFINED {
                element::skip_nested(bytes, &header, self.encoding).map_err(broken)?
            } else {
                header.value + element::defined(bytes, &header).map_err(broken)?.len()
            };
            if header.tag == tag {
                return Ok(Some((&bytes[header.value..end], element::inner(header.vr, self.encoding))));
            }
            at = end;
        }
        Ok(None)
    }
}

fn broken(what: String) -> DataSetError {
    DataSetError::Broken { what }
}

/// Writes a data set in implicit VR little endian, which every peer takes (PS3.5 section 10.1). The caller keeps the
/// tags ascending.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Adds text, padded to even length with a space.
    pub fn text(self, tag: Tag, value: impl AsRef<[u8]>) -> Self {
        self.padded(tag, value.as_ref(), b' ')
    }

    /// Adds a UID, padded with a NUL (PS3.5 section 9.1).
    pub fn uid(self, tag: Tag, value: &str) -> Self {
        self.padded(tag, value.as_bytes(), 0)
    }

    /// Adds an unsigned 16-bit number.
    pub fn u16(self, tag: Tag, value: u16) -> Self {
        self.padded(tag, &value.to_le_bytes(), 0)
    }

    /// Adds a sequence.
    pub fn sequence(self, tag: Tag, items: impl IntoIterator<Item = Writer>) -> Self {
        let mut value = Vec::new();
        for item in items {
            begin(&mut value, ITEM, item.bytes.len());
            value.extend(item.bytes);
        }
        self.padded(tag, &value, 0)
    }

    /// The data set.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn padded(mut self, tag: Tag, value: &[u8], padding: u8) -> Self {
        let odd = value.len() % 2;
        begin(&mut self.bytes, tag, value.len() + odd);
        self.bytes.extend(value);
        self.bytes.extend(std::iter::repeat_n(padding, odd));
        self
    }
}

/// Tag and length, which no data set of ours exceeds (they repeat bounded requests).
fn begin(bytes: &mut Vec<u8>, tag: Tag, length: usize) {
    bytes.extend(tag.group().to_le_bytes());
    bytes.extend(tag.element().to_le_bytes());
    bytes.extend((length as u32).to_le_bytes());
}

#[cfg(test)]
#[path = "dataset_tests.rs"]
mod tests;
