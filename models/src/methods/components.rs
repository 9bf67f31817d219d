//! Connected parts of a mask, as `scipy.ndimage.label` finds them by default: voxels that share a face.

/// Clears every connected part of `mask` (slices × rows × columns) that has fewer than `voxels_min` voxels; returns the sizes of those that stay,
/// in the order of their first voxel.
///
/// # Panics
/// When `mask` has not the size of `shape`.
pub fn drop_small(mask: &mut [bool], shape: [usize; 3], voxels_min: f64) -> Vec<usize> {
    let [slices, rows, columns] = shape;
    assert_eq!(mask.len(), slices * rows * columns, "a mask of {shape:?}");
    let plane = rows * columns;
    let mut seen = vec![false; mask.len()];
    let mut sizes = Vec::new();
    // Voxels of the part at hand; those from `next` on have neighbours still to be looked at.
    let mut part: Vec<usize> = Vec::new();
    for start in 0..mask.len() {
        if !mask[start] || seen[start] {
            continue;
        }
        part.clear();
        part.push(start);
        seen[start] = true;
        let mut next = 0;
        while let Some(&at) = part.get(next) {
            next += 1;
            let (slice, row, column) = (at / plane, at / columns % rows, at % columns);
            let neighbours = [
                (slice > 0).then(|| at - plane),
                (slice + 1 < slices).then(|| at + plane),
                (row > 0).then(|| at - columns),
                (row + 1 < rows).then(|| at + columns),
                (column > 0).then(|| at - 1),
                (column + 1 < columns).then(|| at + 1),
            ];
            for neighbour in neighbours.into_iter().flatten() {
                if mask[neighbour] && !seen[neighbour] {
                    seen[neighbour] = true;
                    part.push(neighbour);
                }
            }
        }
        if (part.len() as f64) < voxels_min {
            part.iter().for_each(|&at| mask[at] = false);
        } else {
            sizes.push(part.len());
        }
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_touch_at_an_edge_are_two() {
        // Two voxels that share an edge, two that share a face, over two slices.
        let mut mask = [true, false, false, true, false, false, false, true];
        let sizes = drop_small(&mut mask, [2, 2, 2], 2.0);
        assert_eq!((sizes, mask), (vec![2], [false, false, false, true, false, false, false, true]));
        assert!(drop_small(&mut mask, [2, 2, 2], 2.5).is_empty());
        assert_eq!(mask, [false; 8]);
    }
}
