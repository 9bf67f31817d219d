//! The frames of a segmentation: which there are, where each lies, and their bits.
//!
//! Bits run on over the borders of frames (PS3.5 section 8.1.1): where rows × columns is no multiple of 8, a byte holds
//! pixels of two frames.
use super::SEGMENTS;
use crate::dataset::DataSet;
use crate::masks::{Masks, Planes, blocks, is_marked};
use crate::references::{Code, source_image};
use crate::source::{SourceSeries, Tag};

/// PS3.16 CID 7203.
const SEGMENTATION: Code = Code("113076", "DCM", "Segmentation");
/// Longest DS value (PS3.5 section 6.2).
const DS_MAX: usize = 16;

const REFERENCED_SEGMENT_NUMBER: Tag = Tag(0x0062, 0x000b);
const SEGMENT_IDENTIFICATION: Tag = Tag(0x0062, 0x000a);
const IMAGE_POSITION: Tag = Tag(0x0020, 0x0032);
const PLANE_POSITION: Tag = Tag(0x0020, 0x9113);

/// Of one slice: the frame of each segment, where there is one.
type OfSlice = [Option<usize>; SEGMENTS.len()];

/// The frames that are not empty, numbered by segment, then from head to feet.
pub(super) struct Frames {
    of_slices: Vec<OfSlice>,
    count: usize,
    /// Bytes of all frames, even (PS3.5 section 7.1).
    bytes: usize,
}

/// The planes in the order of the segments.
fn by_segment(planes: Planes) -> [u64; SEGMENTS.len()] {
    [planes.right, planes.left, planes.lesion]
}

impl Frames {
    /// Finds the frames; `None` where there is none, or where the labels are not the series'.
    pub(super) fn of(series: &SourceSeries, masks: &Masks<'_>) -> Option<Self> {
        // PS3.3 section C.7.6.3: Rows and Columns have 16 bits.
        if !masks.fit(series) || series.rows.max(series.columns) > usize::from(u16::MAX) {
            return None;
        }
        let mut of_slices = vec![OfSlice::default(); series.images.len()];
        for (index, of_slice) in of_slices.iter_mut().enumerate() {
            for block in blocks(masks.slice(series, index)).filter(is_marked) {
                for (frame, plane) in of_slice.iter_mut().zip(by_segment(masks.planes(&block))) {
                    *frame = frame.or((plane != 0).then_some(0));
                }
                if of_slice.iter().all(Option::is_some) {
                    break;
                }
            }
        }
        let mut count = 0;
        for segment in 0..SEGMENTS.len() {
            for number in of_slices.iter_mut().filter_map(|of_slice| of_slice[segment].as_mut()) {
                *number = count;
                count += 1;
            }
        }
        let bytes = (count.checked_mul(series.rows * series.columns)?.div_ceil(8)).next_multiple_of(2);
        let holdable = u32::try_from(bytes).is_ok_and(|bytes| bytes < u32::MAX - 1);
        (count > 0 && holdable).then_some(Self { of_slices, count, bytes })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Slice and segment of every frame, in order.
    fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
        (0..SEGMENTS.len()).flat_map(move |segment| {
            let there = self.of_slices.iter().enumerate().filter(move |(_, of)| of[segment].is_some());
            there.map(move |(slice, _)| (slice, segment))
        })
    }

    /// Puts the dimensions and the functional groups (PS3.3 sections C.7.6.16 and C.7.6.17).
    pub(super) fn put_groups(&self, set: &mut DataSet, series: &SourceSeries, dimensions_uid: &str) {
        let mut organization = DataSet::default();
        organization.put(Tag(0x0020, 0x9164), b"UI", dimensions_uid); // Dimension Organization UID
        set.put_sequence(Tag(0x0020, 0x9221), [organization]); // Dimension Organization Sequence
        let dimensions = [
            dimension(REFERENCED_SEGMENT_NUMBER, SEGMENT_IDENTIFICATION, "Segment", dimensions_uid),
            dimension(IMAGE_POSITION, PLANE_POSITION, "Position, head to feet", dimensions_uid),
        ];
        set.put_sequence(Tag(0x0020, 0x9222), dimensions); // Dimension Index Sequence
        set.put_sequence(Tag(0x5200, 0x9229), [shared_groups(series)]);
        // Index values start at 1 and leave none out: slices without a frame have none.
        let mut used = 0;
        let places: Vec<u32> = self
            .of_slices
            .iter()
            .map(|of_slice| {
                used += u32::from(of_slice.iter().any(Option::is_some));
                used
            })
            .collect();
        let groups = self.iter().map(|(slice, segment)| frame_groups(series, slice, segment, places[slice]));
        set.put_sequence(Tag(0x5200, 0x9230), groups);
    }

    /// Appends the element Pixel Data to a data set in explicit VR little endian.
    pub(super) fn append_pixel_data(&self, series: &SourceSeries, masks: &Masks<'_>, set: &mut Vec<u8>) {
        set.reserve_exact(12 + self.bytes);
        set.extend([0xe0, 0x7f, 0x10, 0x00, b'O', b'B', 0, 0]); // (7FE0,0010)
        set.extend((self.bytes as u32).to_le_bytes());
        let start = set.len();
        set.resize(start + self.bytes, 0);
        let pixels = series.rows * series.columns;
        for (index, of_slice) in self.of_slices.iter().enumerate() {
            if of_slice.iter().any(Option::is_some) {
                let first_bits = of_slice.map(|frame| frame.map(|frame| frame * pixels));
                pack(masks, masks.slice(series, index), first_bits, &mut set[start..]);
            }
        }
    }
}

/// Sets the bits of one slice's voxels in the frames that begin at `first_bits`. The frames must be zero before.
fn pack(masks: &Masks<'_>, labels: &[u8], first_bits: OfSlice, out: &mut [u8]) {
    for (i, block) in blocks(labels).enumerate().filter(|(_, block)| is_marked(block)) {
        for (plane, first_bit) in by_segment(masks.planes(&block)).into_iter().zip(first_bits) {
            if let Some(first_bit) = first_bit {
                set_bits(out, first_bit + 64 * i, plane);
            }
        }
    }
}

/// Sets the bits of `plane` from bit `first` on. What is zero may lie behind the end.
fn set_bits(out: &mut [u8], first: usize, plane: u64) {
    let out = &mut out[first / 8..];
    match (first % 8, out.first_chunk_mut::<8>()) {
        (0, Some(bytes)) => *bytes = (u64::from_le_bytes(*bytes) | plane).to_le_bytes(),
        (shift, _) => {
            let bits = (u128::from(plane) << shift).to_le_bytes();
            out.iter_mut().zip(bits).take(9).for_each(|(byte, bits)| *byte |= bits);
        }
    }
}

fn dimension(index: Tag, group: Tag, label: &str, dimensions_uid: &str) -> DataSet {
    let pointer = |Tag(group, element): Tag| [group.to_le_bytes(), element.to_le_bytes()].concat();
    let mut item = DataSet::default();
    item.put(Tag(0x0020, 0x9164), b"UI", dimensions_uid); // Dimension Organization UID
    item.put(Tag(0x0020, 0x9165), b"AT", pointer(index)); // Dimension Index Pointer
    item.put(Tag(0x0020, 0x9167), b"AT", pointer(group)); // Functional Group Pointer
    item.put(Tag(0x0020, 0x9421), b"LO", label); // Dimension Description Label
    item
}

fn shared_groups(series: &SourceSeries) -> DataSet {
    // One thickness for all frames: the source's, if it has one for all.
    let thickness_mm = series.images[0].thickness_mm.filter(|t| *t > 0.0);
    let same = series.images.iter().all(|image| image.thickness_mm == thickness_mm);
    let thickness_mm = thickness_mm.filter(|_| same).unwrap_or(series.slice_spacing_mm);
    let mut measures = DataSet::default();
    measures.put(Tag(0x0018, 0x0050), b"DS", decimals(&[thickness_mm])); // Slice Thickness
    measures.put(Tag(0x0018, 0x0088), b"DS", decimals(&[series.slice_spacing_mm])); // Spacing Between Slices
    measures.put(Tag(0x0028, 0x0030), b"DS", decimals(&series.pixel_spacing_mm)); // Pixel Spacing
    let mut plane = DataSet::default();
    plane.put(Tag(0x0020, 0x0037), b"DS", decimals(&series.orientation)); // Image Orientation (Patient)
    let mut item = DataSet::default();
    item.put_sequence(Tag(0x0020, 0x9116), [plane]); // Plane Orientation Sequence
    item.put_sequence(Tag(0x0028, 0x9110), [measures]); // Pixel Measures Sequence
    item
}

fn frame_groups(series: &SourceSeries, slice: usize, segment: usize, place: u32) -> DataSet {
    let image = &series.images[slice];
    let number = segment as u16 + 1;
    let mut derivation = DataSet::default();
    derivation.put_sequence(Tag(0x0008, 0x2112), [source_image(image, true)]); // Source Image Sequence
    derivation.put_sequence(Tag(0x0008, 0x9215), [SEGMENTATION.item()]); // Derivation Code Sequence
    let mut content = DataSet::default();
    let values = [u32::from(number), place].map(u32::to_le_bytes).concat();
    content.put(Tag(0x0020, 0x9157), b"UL", values); // Dimension Index Values
    let mut position = DataSet::default();
    position.put(IMAGE_POSITION, b"DS", decimals(&image.position_mm));
    let mut identification = DataSet::default();
    identification.put_u16(REFERENCED_SEGMENT_NUMBER, number);
    let mut item = DataSet::default();
    item.put_sequence(Tag(0x0008, 0x9124), [derivation]); // Derivation Image Sequence
    item.put_sequence(Tag(0x0020, 0x9111), [content]); // Frame Content Sequence
    item.put_sequence(PLANE_POSITION, [position]);
    item.put_sequence(SEGMENT_IDENTIFICATION, [identification]);
    item
}

/// Numbers as a DS value. What came from one is written back as the same number.
fn decimals(values: &[f64]) -> String {
    values.iter().map(|v| decimal(*v)).collect::<Vec<_>>().join("\\")
}

/// A number in at most 16 characters, as exact as fits.
fn decimal(value: f64) -> String {
    let plain = value.to_string();
    if plain.len() <= DS_MAX {
        return plain;
    }
    let error = |text: &String| text.parse::<f64>().map_or(f64::INFINITY, |v| (v - value).abs());
    (0..DS_MAX)
        .flat_map(|digits| [format!("{value:.digits$}"), format!("{value:.digits$e}")])
        .filter(|text| text.len() <= DS_MAX)
        .min_by(|a, b| error(a).total_cmp(&error(b)))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_and_are_as_exact_as_fits() {
        let cases = [
            (0.0, "0"),
            (-180.25, "-180.25"),
            (0.6640625, "0.6640625"),
            (1e-15, "1e-15"),
            (-1.234_567_890_123e-15, "-1.23456789e-15"),
            (1.0 / 3.0, "0.33333333333333"),
            (-123.456_789_012_345_6, "-123.45678901235"),
        ];
        for (value, want) in cases {
            assert_eq!(decimal(value), want);
            assert!(decimal(value).len() <= DS_MAX);
        }
        for received in ["-179.638671875", "0.703125", "-1024.0000000001", "9.999999999e-10"] {
            let value: f64 = received.parse().unwrap();
            assert_eq!(decimal(value).parse::<f64>().unwrap(), value, "{received}");
        }
    }
}
