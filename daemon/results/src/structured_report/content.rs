//! Content items (PS3.3 section C.17.3): their encoding, whatever they say.
use super::code::Code;
use crate::case::{ST_MAX, ascii};
use crate::dataset::DataSet;
use crate::references;
use crate::source::{SourceImage, Tag};

/// Concept Name Code Sequence.
const CONCEPT_NAME: Tag = Tag(0x0040, 0xa043);

/// The number of the template of PS3.16 that a container's content follows, where it is one of its own.
pub(super) type Template = Option<&'static str>;

/// How an item relates to the one above it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Relation {
    Contains,
    HasObsContext,
    HasConceptMod,
    HasAcqContext,
}

impl Relation {
    fn name(self) -> &'static str {
        match self {
            Self::Contains => "CONTAINS",
            Self::HasObsContext => "HAS OBS CONTEXT",
            Self::HasConceptMod => "HAS CONCEPT MOD",
            Self::HasAcqContext => "HAS ACQ CONTEXT",
        }
    }
}

/// One item with all below it.
#[derive(Debug)]
pub(super) struct Item {
    value_type: &'static str,
    elements: DataSet,
    children: Vec<Item>,
}

impl Item {
    fn new(relation: Relation, value_type: &'static str, name: Option<Code>) -> Self {
        let mut elements = DataSet::default();
        elements.put(Tag(0x0040, 0xa010), b"CS", relation.name());
        Self::within(elements, value_type, name)
    }

    fn within(mut elements: DataSet, value_type: &'static str, name: Option<Code>) -> Self {
        elements.put(Tag(0x0040, 0xa040), b"CS", value_type);
        if let Some(name) = name {
            elements.put_sequence(CONCEPT_NAME, [coded(name)]);
        }
        Self { value_type, elements, children: Vec::new() }
    }

    /// A coded value.
    pub(super) fn code(relation: Relation, name: Code, value: Code) -> Self {
        let mut item = Self::new(relation, "CODE", Some(name));
        item.elements.put_sequence(Tag(0x0040, 0xa168), [coded(value)]);
        item
    }

    /// Whether its value is a number.
    pub(super) fn is_number(&self) -> bool {
        self.value_type == "NUM"
    }

    /// Adds items below this one.
    pub(super) fn with(mut self, children: impl IntoIterator<Item = Item>) -> Self {
        self.children.extend(children);
        self
    }

    fn into_set(self) -> DataSet {
        let mut set = self.elements;
        if !self.children.is_empty() {
            set.put_sequence(Tag(0x0040, 0xa730), self.children.into_iter().map(Self::into_set));
        }
        set
    }
}

/// A text in ASCII; `None` for an empty one, which the standard does not allow.
pub(super) fn text(relation: Relation, name: Code, value: &str) -> Option<Item> {
    let value = ascii(value.trim(), ST_MAX);
    (!value.is_empty()).then(|| {
        let mut item = Item::new(relation, "TEXT", Some(name));
        item.elements.put(Tag(0x0040, 0xa160), b"UT", value);
        item
    })
}

/// A UID.
pub(super) fn uid_ref(relation: Relation, name: Code, uid: &str) -> Item {
    let mut item = Item::new(relation, "UIDREF", Some(name));
    item.elements.put(Tag(0x0040, 0xa124), b"UI", uid);
    item
}

/// A number, finite.
pub(super) fn number(relation: Relation, name: Code, value: f64, unit: Code) -> Item {
    let mut measured = DataSet::default();
    measured.put_sequence(Tag(0x0040, 0x08ea), [coded(unit)]);
    measured.put(Tag(0x0040, 0xa30a), b"DS", decimal(value));
    let mut item = Item::new(relation, "NUM", Some(name));
    item.elements.put_sequence(Tag(0x0040, 0xa300), [measured]);
    item
}

/// A reference to an image.
pub(super) fn image(relation: Relation, source: &SourceImage) -> Item {
    let mut item = Item::new(relation, "IMAGE", None);
    item.elements.put_sequence(Tag(0x0008, 0x1199), [references::instance(source)]);
    item
}

/// A container.
pub(super) fn container(relation: Relation, name: Code, template: Template, children: Vec<Item>) -> Item {
    let item = Item::new(relation, "CONTAINER", Some(name));
    filled(item, template, children)
}

/// The uppermost container, whose attributes lie in the document itself, beside those of `header`.
pub(super) fn document(header: DataSet, name: Code, template: Template, children: Vec<Item>) -> DataSet {
    filled(Item::within(header, "CONTAINER", Some(name)), template, children).into_set()
}

fn filled(mut container: Item, template: Template, children: Vec<Item>) -> Item {
    container.elements.put(Tag(0x0040, 0xa050), b"CS", "SEPARATE"); // Continuity of Content
    if let Some(template) = template {
        let mut identification = DataSet::default();
        identification.put(Tag(0x0008, 0x0105), b"CS", "DCMR"); // Mapping Resource
        identification.put(Tag(0x0040, 0xdb00), b"CS", template);
        container.elements.put_sequence(Tag(0x0040, 0xa504), [identification]);
    }
    container.with(children)
}

fn coded(code: Code) -> DataSet {
    references::Code(code.value, code.scheme, code.meaning).item()
}

/// The value as a DS of at most 16 characters (PS3.5 section 6.2), with the seven digits that single precision, in
/// which the networks compute, carries: the shortest text that reads back as the same f32.
fn decimal(value: f64) -> String {
    let value = value as f32;
    let plain = value.to_string();
    if plain.len() <= 16 { plain } else { format!("{value:e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_their_vr_and_read_back() {
        for (value, want) in [
            (0.0, "0"),
            (34.2, "34.2"),
            (0.342 * 100.0, "34.2"),
            (2021.4, "2021.4"),
            (1e-9, "0.000000001"),
            (-1.234_567_8e-20, "-1.2345678e-20"),
            (3.4e38, "3.4e38"),
            (1.0 / 3.0, "0.33333334"),
        ] {
            let text = decimal(value);
            assert_eq!(text, want);
            assert!(text.len() <= 16 && text.parse::<f32>().unwrap() == value as f32, "{text}");
        }
    }

    #[test]
    fn an_empty_text_is_no_item() {
        let name = super::super::concept::COMMENT;
        assert!(text(Relation::Contains, name, " ").is_none());
        assert!(text(Relation::Contains, name, "a").is_some());
    }
}
