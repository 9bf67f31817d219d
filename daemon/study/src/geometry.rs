//! Where a slice lies in the patient (PS3.3 section C.7.6.2, Image Plane).

/// The image plane of one slice, as its header states it. Values may be nonsense: the gate judges them.
#[derive(Debug, Clone, PartialEq)]
pub struct SliceGeometry {
    /// Rows (0028,0010).
    pub rows: usize,
    /// Columns (0028,0011).
    pub columns: usize,
    /// Distance between the centres of neighbouring rows (0028,0030, first value).
    pub row_spacing_mm: f64,
    /// Distance between the centres of neighbouring columns (0028,0030, second value).
    pub column_spacing_mm: f64,
    /// Centre of the first voxel in patient coordinates (0020,0032): x to the left, y to the back, z to the head.
    pub position_mm: [f64; 3],
    /// Direction cosines of a row and of a column (0020,0037).
    pub orientation: [f64; 6],
    /// Gantry/Detector Tilt (0018,1120), where the header has it.
    pub gantry_tilt_deg: Option<f64>,
}

impl SliceGeometry {
    /// The unit normal of the plane: row direction × column direction.
    pub fn normal(&self) -> [f64; 3] {
        let [a, b, c, d, e, f] = self.orientation;
        let n = [b * f - c * e, c * d - a * f, a * e - b * d];
        let length = n.iter().map(|v| v * v).sum::<f64>().sqrt();
        n.map(|v| v / length)
    }

    /// Distance of the plane from the origin along `normal`.
    pub fn offset_mm(&self, normal: [f64; 3]) -> f64 {
        self.position_mm.iter().zip(normal).map(|(p, n)| p * n).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_of_axial_points_to_the_head() {
        let g = SliceGeometry {
            rows: 2,
            columns: 2,
            row_spacing_mm: 1.0,
            column_spacing_mm: 1.0,
            position_mm: [3.0, 4.0, -120.5],
            orientation: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            gantry_tilt_deg: None,
        };
        assert_eq!(g.normal(), [0.0, 0.0, 1.0]);
        assert_eq!(g.offset_mm(g.normal()), -120.5);
    }
}
