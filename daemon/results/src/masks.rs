//! Which voxel of the evaluated series is right lung, left lung, lesion. It owns how the labels are read, eight voxels
//! at a time; what the marks are drawn or sent as is others' business.
use crate::source::SourceSeries;

/// The lowest bit of every byte of a word.
const ONES: u64 = 0x0101_0101_0101_0101;

/// Lungs and lesions, voxel by voxel, on the grid of the source series.
///
/// Every result shows the lesions *inside the lungs* only: those are what severity and volumes count.
#[derive(Debug, Clone, Copy)]
pub struct Masks<'a> {
    /// One byte a voxel, slice-major: `[images.len()][rows][columns]` of the [`SourceSeries`], slice 0 nearest the
    /// head, the pixels in the order of the source image.
    pub labels: &'a [u8],
    /// The bit of the patient's right lung: exactly one.
    pub right_lung: u8,
    /// The bit of the patient's left lung: exactly one.
    pub left_lung: u8,
    /// The bit of a lesion, inside the lungs or not: exactly one.
    pub lesion: u8,
}

/// Marked voxels of a slice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// In either lung.
    pub lung: u64,
    /// Lesions inside the lungs.
    pub lesion: u64,
}

impl<'a> Masks<'a> {
    /// Whether there is one label for each voxel of `series`, which has some.
    pub(crate) fn fit(&self, series: &SourceSeries) -> bool {
        let voxels = series.images.len().checked_mul(series.rows).and_then(|n| n.checked_mul(series.columns));
        voxels == Some(self.labels.len()) && !self.labels.is_empty()
    }

    /// The labels of one slice of a series that [fits](Self::fit).
    pub(crate) fn slice(&self, series: &SourceSeries, index: usize) -> &'a [u8] {
        let pixels = series.rows * series.columns;
        &self.labels[index * pixels..][..pixels]
    }

    /// Of eight voxels, one a byte: 1 where there is right lung.
    pub(crate) fn right(&self, word: u64) -> u64 {
        word >> self.right_lung.trailing_zeros() & ONES
    }

    /// 1 where there is left lung.
    pub(crate) fn left(&self, word: u64) -> u64 {
        word >> self.left_lung.trailing_zeros() & ONES
    }

    /// 1 where there is a lesion inside a lung.
    pub(crate) fn lesion(&self, word: u64) -> u64 {
        word >> self.lesion.trailing_zeros() & (self.right(word) | self.left(word))
    }

    /// Counts the marked voxels of a slice's labels.
    pub(crate) fn count(&self, labels: &[u8]) -> Counts {
        let mut counts = Counts::default();
        words(labels).filter(|word| *word != 0).for_each(|word| {
            counts.lung += u64::from((self.right(word) | self.left(word)).count_ones());
            counts.lesion += u64::from(self.lesion(word).count_ones());
        });
        counts
    }
}

/// The bytes eight at a time, the first in the lowest byte; the last word is filled up with zeros.
pub(crate) fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (whole, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let rest = (!rest.is_empty()).then(|| u64::from_le_bytes(last));
    whole.iter().map(|chunk| u64::from_le_bytes(*chunk)).chain(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_counted_whatever_their_bits_and_lesions_inside_the_lungs_only() {
        for (right_lung, left_lung, lesion) in [(1, 2, 4), (128, 64, 1), (2, 128, 8)] {
            // Lung, lung, lesion outside, lesion in each lung, another bit, nothing; a length that is no multiple of 8.
            let other = !(right_lung | left_lung | lesion);
            let pattern = [right_lung, left_lung, lesion, lesion | right_lung, lesion | left_lung, other, 0];
            let labels: Vec<u8> = pattern.iter().copied().cycle().take(7 * 11 + 4).collect();
            let masks = Masks { labels: &labels, right_lung, left_lung, lesion };
            assert_eq!(masks.count(&labels), Counts { lung: 4 * 11 + 3, lesion: 2 * 11 + 1 });
        }
    }
}
