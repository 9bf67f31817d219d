//! Which voxel of the evaluated series is right lung, left lung, lesion. It owns how the labels are read, 64 voxels at a
//! time; what the marks are drawn or sent as is others' business.
use crate::source::SourceSeries;

/// The lowest bit of every byte of a word.
const ONES: u64 = 0x0101_0101_0101_0101;
/// Eight bits, each the lowest of its byte, become the highest byte of a product with this: the first in its lowest bit.
const GATHER: u64 = 0x0102_0408_1020_4080;

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

    /// What 64 voxels are: each plane has a bit a voxel, the first in the lowest.
    pub(crate) fn planes(&self, block: &Block) -> Planes {
        let plane = |bit: u8| {
            let shift = bit.trailing_zeros();
            let gathered = |word: &u64| (word >> shift & ONES).wrapping_mul(GATHER) >> 56;
            block.iter().rev().fold(0, |plane, word| plane << 8 | gathered(word))
        };
        let (right, left) = (plane(self.right_lung), plane(self.left_lung));
        Planes { right, left, lesion: plane(self.lesion) & (right | left) }
    }

    /// Counts the marked voxels of a slice's labels.
    pub(crate) fn count(&self, labels: &[u8]) -> Counts {
        let mut counts = Counts::default();
        for block in blocks(labels).filter(is_marked) {
            let planes = self.planes(&block);
            counts.lung += u64::from((planes.right | planes.left).count_ones());
            counts.lesion += u64::from(planes.lesion.count_ones());
        }
        counts
    }
}

/// The labels of 64 voxels, the first in the lowest byte of the first word.
pub(crate) type Block = [u64; 8];

/// What 64 voxels are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Planes {
    pub right: u64,
    pub left: u64,
    /// Inside the lungs.
    pub lesion: u64,
}

/// The labels, 64 at a time; the last block is filled up with zeros.
pub(crate) fn blocks(labels: &[u8]) -> impl Iterator<Item = Block> {
    let word = |chunk: &[u8; 64], i: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&chunk[8 * i..][..8]);
        u64::from_le_bytes(word)
    };
    let block = move |chunk: &[u8; 64]| std::array::from_fn(|i| word(chunk, i));
    let (whole, rest) = labels.as_chunks::<64>();
    let mut last = [0; 64];
    last[..rest.len()].copy_from_slice(rest);
    whole.iter().map(block).chain((!rest.is_empty()).then(|| block(&last)))
}

/// Whether anything is marked: most of a chest is neither lung nor lesion, and is passed over by this.
pub(crate) fn is_marked(block: &Block) -> bool {
    block.iter().fold(0, |any, word| any | word) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_counted_whatever_their_bits_and_lesions_inside_the_lungs_only() {
        for (right_lung, left_lung, lesion) in [(1, 2, 4), (128, 64, 1), (2, 128, 8)] {
            // Lung, lung, lesion outside, lesion in each lung, another bit, nothing; a length that is no multiple of 64.
            let other = !(right_lung | left_lung | lesion);
            let pattern = [right_lung, left_lung, lesion, lesion | right_lung, lesion | left_lung, other, 0];
            let labels: Vec<u8> = pattern.iter().copied().cycle().take(7 * 11 + 4).collect();
            let masks = Masks { labels: &labels, right_lung, left_lung, lesion };
            assert_eq!(masks.count(&labels), Counts { lung: 4 * 11 + 3, lesion: 2 * 11 + 1 });
        }
    }
}
