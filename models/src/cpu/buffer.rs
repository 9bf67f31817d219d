//! Buffers whose first value lies at the start of a cache line.

/// Bytes of a cache line, and of the widest vector.
const LINE_BYTES: usize = 64;

/// A vector of values aligned to cache lines.
#[derive(Debug, Default)]
pub(super) struct Aligned<T> {
    values: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// `len` times the default value.
    pub(super) fn new(len: usize) -> Self {
        let slack = LINE_BYTES / size_of::<T>();
        let values = vec![T::default(); len + slack];
        let start = values.as_ptr().align_offset(LINE_BYTES).min(slack);
        Self { values, start, len }
    }

    /// Makes room for `len` values; those that are there may be lost.
    pub(super) fn grow(&mut self, len: usize) {
        if self.len < len {
            // Freed first, so that both are never there at once.
            *self = Self::new(0);
            *self = Self::new(len);
        }
    }

    /// The values.
    pub(super) fn values(&self) -> &[T] {
        &self.values[self.start..self.start + self.len]
    }

    /// The values.
    pub(super) fn values_mut(&mut self) -> &mut [T] {
        &mut self.values[self.start..self.start + self.len]
    }
}
