//! A small chest, made of integers.

use engine::SpacingMm;

pub const SHAPE: [usize; 3] = [14, 90, 112];
pub const SPACING: SpacingMm = SpacingMm { slice: 7.5, row: 2.9, column: 2.4 };

/// The same integers as `chest` in `make_golden.py`.
pub fn chest() -> Vec<f32> {
    let [slices, rows, columns] = SHAPE.map(|n| n as i64);
    let square = |v: i64| v * v;
    let mut out = Vec::new();
    for s in 0..slices {
        for r in 0..rows {
            for c in 0..columns {
                let body = 9 * square(r - 45) + 5 * square(c - 56) <= 12600;
                let radius = 10 + s.min(slices - 1 - s) + 12;
                let lung =
                    [33, 79].iter().any(|centre| square(r - 44) + 3 * square(c - centre) <= square(radius));
                let lesion = square(r - 55) + square(c - 30) + 4 * square(s - 7) <= 80;
                let hu = match (lesion, lung, body) {
                    (true, _, _) => -250,
                    (_, true, _) => -850,
                    (_, _, true) => 40,
                    _ => -1000,
                };
                let index = ((s * rows + r) * columns + c) as u64;
                let noise = (index * 2_654_435_761 % (1 << 32)) >> 25;
                out.push((hu + noise as i64 - 64) as f32);
            }
        }
    }
    out
}
