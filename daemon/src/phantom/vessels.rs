//! Tubes: the great vessels, the airways, and the vessel trees of the lungs.
//!
//! Owns: growing the trees and the share of each pixel that tubes cover. Never decides HU.

use super::anatomy::{Anatomy, HEIGHT_MM, Section};
use super::math::{Point, Random, cover, cube_root, segment};

/// What a tube is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A vessel of the mediastinum.
    Great,
    /// A vessel inside a lung.
    Lung,
    /// A windpipe or bronchus: lumen of the tube's radius inside a wall.
    Airway,
}

/// A straight piece of a tube.
#[derive(Clone, Copy, Debug)]
pub struct Tube {
    /// Ends in canonical mm.
    pub ends: [Point; 2],
    /// Radius at either end, mm; of the lumen for an airway.
    pub radii: [f32; 2],
    /// Thickness of the wall, mm.
    pub wall: f32,
    /// What it is.
    pub kind: Kind,
}

/// A vessel of a lung ends where it would have this radius, mm.
const TERMINAL_RADIUS_MM: f32 = 0.52;
/// Bronchi are drawn along arteries that feed at least so many ends.
const BRONCHUS_ENDS_MIN: usize = 16;

/// All tubes of a patient.
pub fn grow(anatomy: &Anatomy, seed: u64) -> Vec<Tube> {
    let mut tubes = Vec::with_capacity(16 * 1024);
    mediastinum(&mut tubes);
    let mut random = Random::new(seed, 2);
    for (side, artery, bronchus, vein) in [
        (-1.0, [-34.0, 2.0, 124.0], [-35.0, 15.0, 136.0], [-30.0, 12.0, 144.0]),
        (1.0, [34.0, 10.0, 112.0], [40.0, 19.0, 144.0], [32.0, 14.0, 142.0]),
    ] {
        for (root, airway, ends) in [(artery, Some(bronchus), 1300), (vein, None, 900)] {
            let mut targets = targets(anatomy, side, ends, &mut random);
            let mut tree = Tree { random: &mut random, tubes: &mut tubes };
            tree.branch(&mut targets, root, airway.map(|end| (end, 5.0)));
        }
    }
    tubes
}

/// Points spread over a lung, where its vessels end.
fn targets(anatomy: &Anatomy, side: f32, count: usize, random: &mut Random) -> Vec<Point> {
    let mut points = Vec::with_capacity(count);
    // A lung fills a quarter of the box; the bound only guards against an anatomy without lungs.
    for _ in 0..200 * count {
        let depth = random.between(15.0, HEIGHT_MM - 15.0);
        let section = Section::new(anatomy, depth);
        let (x, y) = (side * random.between(2.0, 135.0), random.between(-110.0, 95.0));
        if section.inside_lung(x, y) > 3.0 {
            points.push([x, y, depth]);
            if points.len() == count {
                break;
            }
        }
    }
    points
}

struct Tree<'a> {
    random: &'a mut Random,
    tubes: &'a mut Vec<Tube>,
}

impl Tree<'_> {
    /// Grows the tree that feeds `targets` from `node`: the targets are split in two across their widest direction, and a
    /// branch goes part of the way to each half's middle (after Tawhai et al. 2000, who grow airways so). `airway` is
    /// the end of the bronchus that runs along, with its radius.
    fn branch(&mut self, targets: &mut [Point], node: Point, airway: Option<(Point, f32)>) {
        let radius = TERMINAL_RADIUS_MM * cube_root(targets.len() as f32);
        if targets.len() == 1 {
            self.tubes.push(Tube {
                ends: [node, targets[0]],
                radii: [radius, 0.7 * radius],
                wall: 0.0,
                kind: Kind::Lung,
            });
            return;
        }
        let split = split(targets);
        let (left, right) = targets.split_at_mut(split);
        for half in [left, right] {
            let middle = centroid(half);
            let share = self.random.between(0.38, 0.55);
            let end: Point = std::array::from_fn(|i| node[i] + share * (middle[i] - node[i]));
            let half_radius = TERMINAL_RADIUS_MM * cube_root(half.len() as f32);
            self.bend(node, end, [radius.min(1.15 * half_radius), half_radius]);
            let airway = airway.filter(|_| half.len() >= BRONCHUS_ENDS_MIN).map(|(start, start_radius)| {
                let lumen = (0.8 * half_radius).min(start_radius);
                let aside = half_radius + lumen + 0.7;
                let next =
                    [end[0] - 0.3 * aside * end[0].signum(), end[1] + 0.75 * aside, end[2] + 0.5 * aside];
                let wall = 0.5 + 0.15 * lumen;
                self.tubes.push(Tube {
                    ends: [start, next],
                    radii: [start_radius.min(1.3 * lumen), lumen],
                    wall,
                    kind: Kind::Airway,
                });
                (next, lumen)
            });
            self.branch(half, end, airway);
        }
    }

    /// A slightly bent vessel, as two tubes.
    fn bend(&mut self, from: Point, to: Point, radii: [f32; 2]) {
        let length = (0..3).map(|i| (to[i] - from[i]) * (to[i] - from[i])).sum::<f32>().sqrt();
        let middle: Point =
            std::array::from_fn(|i| 0.5 * (from[i] + to[i]) + 0.08 * length * self.random.between(-1.0, 1.0));
        let middle_radius = 0.5 * (radii[0] + radii[1]);
        self.tubes.push(Tube {
            ends: [from, middle],
            radii: [radii[0], middle_radius],
            wall: 0.0,
            kind: Kind::Lung,
        });
        self.tubes.push(Tube {
            ends: [middle, to],
            radii: [middle_radius, radii[1]],
            wall: 0.0,
            kind: Kind::Lung,
        });
    }
}

fn centroid(points: &[Point]) -> Point {
    let sum = points.iter().fold([0.0f32; 3], |s, p| [s[0] + p[0], s[1] + p[1], s[2] + p[2]]);
    sum.map(|v| v / points.len() as f32)
}

/// Reorders the points (at least two) into two halves; returns where the second begins.
fn split(points: &mut [Point]) -> usize {
    const AXES: [Point; 3] = [[0.8, 0.6, 0.0], [-0.48, 0.64, 0.6], [0.36, -0.48, 0.8]];
    let middle = centroid(points);
    let along = |p: &Point, axis: &Point| (0..3).map(|i| (p[i] - middle[i]) * axis[i]).sum::<f32>();
    let spread = |axis: &Point| points.iter().map(|p| along(p, axis) * along(p, axis)).sum::<f32>();
    let mut widest = (AXES[0], spread(&AXES[0]));
    for axis in &AXES[1..] {
        let s = spread(axis);
        if s > widest.1 {
            widest = (*axis, s);
        }
    }
    points.sort_by(|a, b| along(a, &widest.0).total_cmp(&along(b, &widest.0)));
    let first = points.partition_point(|p| along(p, &widest.0) < 0.0);
    first.clamp(1, points.len() - 1)
}

fn mediastinum(tubes: &mut Vec<Tube>) {
    let mut path = |points: &[Point], radius: f32, wall: f32, kind: Kind| {
        for pair in points.windows(2) {
            tubes.push(Tube { ends: [pair[0], pair[1]], radii: [radius, radius], wall, kind });
        }
    };
    let great: [(&[Point], f32); 13] = [
        (&[[-6.0, -30.0, 152.0], [-12.0, -32.0, 125.0], [-12.0, -27.0, 97.0]], 15.0),
        (&[[-12.0, -27.0, 97.0], [-3.0, -14.0, 83.0], [12.0, 8.0, 79.0], [22.0, 32.0, 88.0]], 12.5),
        (&[[22.0, 32.0, 88.0], [21.0, 37.0, 140.0], [15.0, 34.0, 210.0], [5.0, 22.0, 300.0]], 11.5),
        (&[[-6.0, -18.0, 82.0], [-14.0, -8.0, 50.0], [-24.0, 0.0, 10.0]], 6.0),
        (&[[4.0, -6.0, 78.0], [14.0, 0.0, 40.0], [20.0, 2.0, 0.0]], 3.8),
        (&[[13.0, 8.0, 76.0], [22.0, 14.0, 40.0], [34.0, 8.0, 20.0]], 4.8),
        (&[[-24.0, -18.0, 150.0], [-25.0, -20.0, 60.0], [-28.0, -14.0, 10.0]], 8.5),
        (&[[-24.0, -24.0, 64.0], [4.0, -34.0, 54.0], [28.0, -24.0, 38.0], [34.0, -10.0, 8.0]], 6.0),
        (&[[16.0, -42.0, 142.0], [15.0, -26.0, 116.0], [16.0, -12.0, 110.0]], 13.5),
        (&[[15.0, -16.0, 114.0], [-10.0, -8.0, 122.0], [-34.0, 2.0, 124.0]], 10.0),
        (&[[16.0, -12.0, 110.0], [34.0, 10.0, 112.0]], 10.0),
        (&[[-30.0, 12.0, 144.0], [0.0, 8.0, 146.0], [32.0, 14.0, 142.0]], 8.0),
        (&[[4.0, 24.0, 0.0], [6.0, 28.0, 110.0], [7.0, 22.0, 215.0], [18.0, 4.0, 250.0]], 6.5),
    ];
    for (points, radius) in great {
        path(points, radius, 0.0, Kind::Great);
    }
    path(&[[-14.0, 4.0, 195.0], [-20.0, 6.0, 300.0]], 11.0, 0.0, Kind::Great);
    // Trachea, carina, main bronchi.
    path(&[[0.0, 4.0, -20.0], [1.0, 6.0, 60.0], [0.0, 13.0, 113.0]], 8.2, 1.6, Kind::Airway);
    path(&[[0.0, 13.0, 113.0], [-16.0, 14.0, 122.0], [-35.0, 15.0, 136.0]], 6.2, 1.3, Kind::Airway);
    path(&[[0.0, 13.0, 113.0], [20.0, 17.0, 130.0], [40.0, 19.0, 144.0]], 5.4, 1.2, Kind::Airway);
}

/// Where the pixels of a slice lie in the canonical chest: column and row steps from the first pixel's centre.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Columns and rows.
    pub size: usize,
    /// Centre of the first pixel.
    pub origin: [f32; 2],
    /// Step to the next column.
    pub column: [f32; 2],
    /// Step to the next row.
    pub row: [f32; 2],
}

impl Grid {
    /// The point of a pixel.
    pub fn at(&self, row: usize, column: usize) -> [f32; 2] {
        let (r, c) = (row as f32, column as f32);
        std::array::from_fn(|i| self.origin[i] + c * self.column[i] + r * self.row[i])
    }

    /// Rows and columns of the pixels that may lie in a box, as half-open ranges.
    fn pixels(&self, low: [f32; 2], high: [f32; 2]) -> [std::ops::Range<usize>; 2] {
        let determinant = self.column[0] * self.row[1] - self.column[1] * self.row[0];
        let (mut from, mut to) = ([f32::MAX; 2], [f32::MIN; 2]);
        for corner in [low, [low[0], high[1]], [high[0], low[1]], high] {
            let (x, y) = (corner[0] - self.origin[0], corner[1] - self.origin[1]);
            let column = (x * self.row[1] - y * self.row[0]) / determinant;
            let row = (y * self.column[0] - x * self.column[1]) / determinant;
            from = [from[0].min(row), from[1].min(column)];
            to = [to[0].max(row), to[1].max(column)];
        }
        let clamp = |v: f32| (v.max(0.0) as usize).min(self.size);
        [clamp(from[0])..clamp(to[0] + 2.0), clamp(from[1])..clamp(to[1] + 2.0)]
    }
}

/// Shares of the pixels of a slice that tubes cover.
pub struct Covers {
    /// Vessels of the mediastinum.
    pub great: Vec<f32>,
    /// Vessels of the lungs.
    pub lung: Vec<f32>,
    /// Airways with their walls.
    pub wall: Vec<f32>,
    /// Lumina of the airways.
    pub lumen: Vec<f32>,
}

/// Draws the tubes that a slice at `depth` of `thickness` canonical mm meets, averaged over the slice's thickness.
pub fn draw(tubes: &[Tube], grid: &Grid, depth: f32, thickness: f32, edge_mm: f32) -> Covers {
    let empty = vec![0.0f32; grid.size * grid.size];
    let mut covers = Covers { great: empty.clone(), lung: empty.clone(), wall: empty.clone(), lumen: empty };
    for tube in tubes {
        let reach = tube.radii[0].max(tube.radii[1]) + tube.wall + edge_mm;
        let (a, b) = (tube.ends[0], tube.ends[1]);
        let margin = reach + 0.5 * thickness;
        if depth < a[2].min(b[2]) - margin || depth > a[2].max(b[2]) + margin {
            continue;
        }
        let low = [a[0].min(b[0]) - reach, a[1].min(b[1]) - reach];
        let high = [a[0].max(b[0]) + reach, a[1].max(b[1]) + reach];
        let [rows, columns] = grid.pixels(low, high);
        for row in rows {
            for column in columns.clone() {
                let [x, y] = grid.at(row, column);
                let i = row * grid.size + column;
                let (mut inner, mut outer) = (0.0, 0.0);
                for offset in [-1.0 / 3.0, 0.0, 1.0 / 3.0] {
                    let inside = segment([x, y, depth + offset * thickness], a, b, tube.radii);
                    inner += cover(inside, edge_mm) / 3.0;
                    outer += cover(inside + tube.wall, edge_mm) / 3.0;
                }
                match tube.kind {
                    Kind::Great => covers.great[i] = covers.great[i].max(inner),
                    Kind::Lung => covers.lung[i] = covers.lung[i].max(inner),
                    Kind::Airway => {
                        covers.lumen[i] = covers.lumen[i].max(inner);
                        covers.wall[i] = covers.wall[i].max(outer);
                    }
                }
            }
        }
    }
    covers
}
