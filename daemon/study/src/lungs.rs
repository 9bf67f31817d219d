//! Left and right lung: k-means with k = 2 on voxel positions (paper section 2.5; numbers from its implementation).
use serde::{Deserialize, Serialize};

/// A lung of the patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The patient's left lung, at the larger columns of a supine axial slice.
    Left,
    /// The patient's right lung, at the smaller columns.
    Right,
}

/// A value for each lung.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sides<T> {
    /// The patient's left lung.
    pub left: T,
    /// The patient's right lung.
    pub right: T,
}

impl<T: Copy> Sides<T> {
    /// The value of one side.
    pub fn get(&self, side: Side) -> T {
        match side {
            Side::Left => self.left,
            Side::Right => self.right,
        }
    }

    /// The value of one side, to change.
    pub fn get_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Left => &mut self.left,
            Side::Right => &mut self.right,
        }
    }

    /// Both values, each through `f`.
    pub fn map<U>(self, f: impl Fn(T) -> U) -> Sides<U> {
        Sides { left: f(self.left), right: f(self.right) }
    }
}

/// Lung masks of at most this many voxels are fitted on all of them; larger ones on every [`FIT_EVERY`]th.
pub const FIT_ALL_MAX: usize = 60;
/// Every how manieth voxel of a large lung mask the split is fitted on.
pub const FIT_EVERY: usize = 30;
/// Lloyd's iterations end here even if a point still changes its centre; lungs converge in about ten.
const ITERATIONS_MAX: usize = 300;

/// The fitted split: two centres, in voxel indices (slice, row, column).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SplitModel {
    right: [f64; 3],
    left: [f64; 3],
}

impl SplitModel {
    /// The lung to which a voxel belongs. A voxel equally far from both centres is the right lung's.
    pub fn side(&self, position: [f64; 3]) -> Side {
        if distance2(position, self.left) < distance2(position, self.right) {
            Side::Left
        } else {
            Side::Right
        }
    }

    /// The centres (right, left), in voxel indices (slice, row, column).
    pub fn centres(&self) -> ([f64; 3], [f64; 3]) {
        (self.right, self.left)
    }
}

/// Fits the two centres on voxel positions `[slice, row, column]` by Lloyd's algorithm.
///
/// The start is the mean position moved to the outermost column at either side, so that the split found is the one
/// between the lungs, not between their upper and lower halves (in many thin slices that has less inertia, and a
/// random start finds it), and is the same at every run. `None` for an empty mask. A mask in a single
/// column gets two equal centres: everything counts as the right lung.
pub fn fit_split(points: &[[f64; 3]]) -> Option<SplitModel> {
    let count = points.len() as f64;
    let mean_of = |axis: usize| points.iter().map(|p| p[axis]).sum::<f64>() / count;
    let columns = points.iter().map(|p| p[2]);
    let right = [mean_of(0), mean_of(1), columns.clone().min_by(f64::total_cmp)?];
    let left = [mean_of(0), mean_of(1), columns.max_by(f64::total_cmp)?];
    let mut model = SplitModel { right, left };
    let mut sides: Vec<Side> = Vec::new();
    for _ in 0..ITERATIONS_MAX {
        let next: Vec<Side> = points.iter().map(|p| model.side(*p)).collect();
        if next == sides {
            break;
        }
        sides = next;
        model = SplitModel {
            right: mean(points, &sides, Side::Right).unwrap_or(model.right),
            left: mean(points, &sides, Side::Left).unwrap_or(model.left),
        };
    }
    // The side axis is the one with the larger spread; for a supine axial series these are the columns.
    if model.left[2] < model.right[2] {
        std::mem::swap(&mut model.left, &mut model.right);
    }
    Some(model)
}

fn distance2(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3).map(|i| (a[i] - b[i]) * (a[i] - b[i])).sum()
}

fn mean(points: &[[f64; 3]], sides: &[Side], side: Side) -> Option<[f64; 3]> {
    let (mut sum, mut count) = ([0.0; 3], 0.0);
    for (point, _) in points.iter().zip(sides).filter(|(_, s)| **s == side) {
        for i in 0..3 {
            sum[i] += point[i];
        }
        count += 1.0;
    }
    (count > 0.0).then(|| sum.map(|v| v / count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(slices: std::ops::Range<i32>, columns: std::ops::Range<i32>) -> Vec<[f64; 3]> {
        slices
            .flat_map(|s| {
                columns
                    .clone()
                    .flat_map(move |c| (0..9).map(move |r| [f64::from(s), f64::from(r), f64::from(c)]))
            })
            .collect()
    }

    #[test]
    fn tall_lungs_are_split_between_not_across() {
        // 300 slices against 20 columns: a split across the height would have less inertia.
        let mut points = block(0..300, 0..20);
        points.extend(block(0..300, 40..60));
        let model = fit_split(&points).unwrap();
        assert!(points.iter().all(|p| (model.side(*p) == Side::Right) == (p[2] < 30.0)));
        let (right, left) = model.centres();
        assert!((right[2] - 9.5).abs() < 1e-9 && (left[2] - 49.5).abs() < 1e-9);
    }

    #[test]
    fn degenerate_masks() {
        assert_eq!(fit_split(&[]), None);
        let one = fit_split(&[[1.0, 2.0, 3.0]]).unwrap();
        assert_eq!(one.side([1.0, 2.0, 3.0]), Side::Right);
    }
}
