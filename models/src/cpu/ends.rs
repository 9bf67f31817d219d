//! The maps of a layer: what is read, what is written, and what is done in between.
//!
//! Owns: which rows of a buffer a thread may write, cutting them. Never does: arithmetic.

use std::ops::Range;

use super::layout::Layout;

/// A map that is read.
#[derive(Clone, Copy)]
pub(super) struct From<'a> {
    /// The buffer.
    pub(super) values: &'a [f32],
    /// Its layout.
    pub(super) layout: &'a Layout,
}

/// A map that is written, or consecutive rows of one.
pub(super) struct Into<'a> {
    /// The buffer, or the part of it with these rows.
    pub(super) values: &'a mut [f32],
    /// Layout of the map.
    pub(super) layout: &'a Layout,
    /// Where `values` start in the buffer.
    pub(super) start: usize,
}

impl<'a> Into<'a> {
    /// Where a row starts in `values`, its margin included.
    pub(super) fn row_start(&self, row: usize) -> usize {
        self.layout.row_start(row) - self.start
    }

    /// Where the first pixel of a row is in `values`.
    pub(super) fn row(&self, row: usize) -> usize {
        self.layout.row(row) - self.start
    }

    /// Cuts a map that keeps all its rows before `row`.
    fn split(self, row: usize) -> (Self, Self) {
        let Self { values, layout, start } = self;
        assert!(layout.capacity >= layout.rows(), "a map that is cut keeps all rows");
        let at = row * layout.row_len() - start;
        let (above, below) = values.split_at_mut(at);
        (Self { values: above, layout, start }, Self { values: below, layout, start: start + at })
    }

    /// Fails unless `values` hold these rows.
    pub(super) fn check(&self, rows: &Range<usize>) {
        let Self { values, layout, start } = self;
        // Rows of a ring may lie anywhere in it.
        let ring = *start == 0 && layout.len() <= values.len();
        let part = rows.end <= layout.capacity
            && layout.row_start(rows.start) >= *start
            && layout.row_start(rows.end - 1) + layout.row_len() <= start + values.len();
        assert!(ring || part, "rows of a buffer");
    }

    /// Makes the margins of rows that were just written.
    pub(super) fn seal(&mut self, rows: Range<usize>) {
        for row in rows {
            let start = self.row_start(row);
            self.layout.seal(&mut self.values[start..start + self.layout.row_len()]);
        }
    }
}

/// What is done with a sum before it is written.
pub(super) struct Ends<'a> {
    /// Added to it.
    pub(super) residual: Option<From<'a>>,
    /// Clip at 0.
    pub(super) relu: bool,
    /// First output.
    pub(super) raw: Option<Into<'a>>,
    /// Second output: scale and shift by lane, clip at 0.
    pub(super) second: Option<(Into<'a>, &'a [f32], &'a [f32], bool)>,
}

impl<'a> Ends<'a> {
    /// Cuts maps that keep all their rows before `row`.
    pub(super) fn split(self, row: usize) -> (Self, Self) {
        let (raw, raw_below) = self.raw.map(|to| to.split(row)).unzip();
        let (second, second_below) = self
            .second
            .map(|(to, scale, shift, relu)| {
                let (above, below) = to.split(row);
                ((above, scale, shift, relu), (below, scale, shift, relu))
            })
            .unzip();
        let Self { residual, relu, .. } = self;
        (Self { residual, relu, raw, second }, Self { residual, relu, raw: raw_below, second: second_below })
    }

    /// Makes the margins of rows that were just written.
    pub(super) fn seal(&mut self, rows: &Range<usize>) {
        let second = self.second.as_mut().map(|second| &mut second.0);
        self.raw.iter_mut().chain(second).for_each(|to| to.seal(rows.clone()));
    }

    /// Layout of what is written.
    pub(super) fn output(&self) -> &Layout {
        let second = self.second.as_ref().map(|(to, ..)| to.layout);
        self.raw.as_ref().map(|to| to.layout).or(second).expect("every layer writes something")
    }
}
