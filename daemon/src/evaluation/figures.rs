//! The paper's figures for a data set: ROC curves, figure 5 (who is flagged, and their order) and figure 6 (severity by CT category).

use super::dataset::Group;
use super::drawing::{Anchor, Colour, Drawing};
use super::metrics;
use super::score::By;
use super::table::{COLUMNS, Row};

const INK: Colour = [40, 40, 48];
const FAINT: Colour = [120, 124, 134];
const GRID: Colour = [226, 228, 233];
const WARNING: &str = "Not for diagnostic use.";
/// Told apart by people who see colours differently, too (Okabe and Ito 2008, and two greys).
const COLOURS: [Colour; 8] = [
    [0, 114, 178],
    [213, 94, 0],
    [0, 158, 115],
    [204, 121, 167],
    [86, 180, 233],
    [230, 159, 0],
    [90, 90, 90],
    [150, 110, 60],
];

fn colour_of(group: Group) -> Colour {
    match group {
        Group::Covid => [213, 94, 0],
        Group::BacterialPneumonia => [0, 114, 178],
        Group::Nodules => [230, 159, 0],
        Group::Normal => [0, 158, 115],
        Group::Other => [150, 150, 150],
    }
}

/// A method's rows, under its name.
pub struct Named<'a> {
    /// The name.
    pub name: String,
    /// Studies and results.
    pub rows: Vec<Row<'a>>,
}

impl Named<'_> {
    /// What its studies are identified by.
    pub fn by(&self) -> By {
        By::of(self.rows.iter().map(|(_, scored)| *scored))
    }
}

/// ROC curves of all methods, one panel a comparison.
pub fn roc(methods: &[Named<'_>]) -> Drawing {
    let (side, gap, left, top) = (150.0, 46.0, 40.0, 34.0);
    let panel_height = side + gap + 8.0 * methods.len() as f32 + 14.0;
    let mut drawing = Drawing::new(2.0 * left + 2.0 * side + gap, top + 2.0 * panel_height + 4.0);
    drawing.title((left, 16.0), "ROC curves of COVID-19 studies", INK, Anchor::Start);
    for (number, (metric, _, title)) in COLUMNS.iter().take(4).enumerate() {
        let x = left + (number % 2) as f32 * (side + gap);
        let y = top + (number / 2) as f32 * panel_height;
        axes(&mut drawing, [x, y + 12.0, side, side], ["0", "0.5", "1"], ["0", "0.5", "1"]);
        drawing.title((x, y + 6.0), title, INK, Anchor::Start);
        drawing.text((x + side / 2.0, y + side + 30.0), "false positive rate", FAINT, Anchor::Middle);
        drawing.line(vec![(x, y + 12.0 + side), (x + side, y + 12.0)], GRID, 0.8);
        for (index, method) in methods.iter().enumerate() {
            // Dashes, longer with each round through the colours.
            let (colour, dash) = (COLOURS[index % COLOURS.len()], 2.0 * (index / COLOURS.len()) as f32);
            let scored = metric.scored(&method.rows, method.by());
            let said = match (metrics::roc_curve(&scored), metrics::roc_auc(&scored)) {
                (Ok(curve), Ok(auc)) => {
                    let points = curve
                        .iter()
                        .map(|(false_rate, true_rate)| {
                            (x + side * *false_rate as f32, y + 12.0 + side * (1.0 - *true_rate as f32))
                        })
                        .collect();
                    drawing.dashed(points, colour, 1.4, dash);
                    format!("{} {auc:.2}", method.name)
                }
                _ => format!("{} n/a", method.name),
            };
            let key = y + side + 40.0 + 9.0 * index as f32;
            drawing.dashed(vec![(x, key - 2.0), (x + 10.0, key - 2.0)], colour, 1.6, dash);
            drawing.text((x + 14.0, key), &said, INK, Anchor::Start);
        }
    }
    drawing.text((left, top + 2.0 * panel_height - 2.0), WARNING, FAINT, Anchor::Start);
    drawing
}

/// Figure 5: the confusion by group at `point`, studies without an answer beside it, and the flagged studies by descending severity. `None`
/// where nothing measures severity.
pub fn triage(method: &Named<'_>, point: f64, by: By) -> Option<Drawing> {
    let groups: Vec<Group> =
        Group::ALL.into_iter().filter(|g| method.rows.iter().any(|(s, _)| s.group == Ok(*g))).collect();
    let answered: Vec<(Group, bool, f64)> = method
        .rows
        .iter()
        .filter_map(|(study, scored)| {
            Some((*study.group.as_ref().ok()?, scored.identification(by)? >= point, scored.severity?))
        })
        .collect();
    if answered.is_empty() {
        return None;
    }
    let mut flagged: Vec<(Group, f64)> = answered
        .iter()
        .filter(|(_, positive, _)| *positive)
        .map(|(group, _, severity)| (*group, *severity))
        .collect();
    flagged.sort_by(|a, b| b.1.total_cmp(&a.1));

    let (cell_w, cell_h, x, y) = (62.0, 34.0, 78.0, 62.0);
    let (bars_x, bars_w) = (x + 3.0 * cell_w + 40.0, 220.0);
    let bars_h = (5.0 * flagged.len() as f32).max(cell_h * groups.len() as f32);
    let mut drawing = Drawing::new(bars_x + bars_w + 90.0, y + bars_h + 52.0);
    drawing.title((12.0, 16.0), &format!("Triage by {}", method.name), INK, Anchor::Start);
    let subtitle = format!("identified by {} at or above {point}", by.name());
    drawing.text((12.0, 28.0), &subtitle, FAINT, Anchor::Start);
    for (column, name) in ["negative", "positive", "no answer"].into_iter().enumerate() {
        drawing.text((x + (column as f32 + 0.5) * cell_w, y - 6.0), name, FAINT, Anchor::Middle);
    }
    for (row, group) in groups.iter().enumerate() {
        let top = y + row as f32 * cell_h;
        let all = method.rows.iter().filter(|(study, _)| study.group == Ok(*group)).count();
        let found = |of: bool| answered.iter().filter(|(g, p, _)| g == group && *p == of).count();
        let counts = [found(false), found(true), all - found(false) - found(true)];
        drawing.text((x - 6.0, top + cell_h / 2.0 + 3.0), group.title(), INK, Anchor::End);
        for (column, count) in counts.into_iter().enumerate() {
            let share = count as f32 / all.max(1) as f32;
            let fill = [255, 255, 255].map(|v: i32| v as f32);
            // Not evaluated, or broken: neither one nor the other, and grey.
            let deep = if column == 2 { [110.0, 110.0, 110.0] } else { [0.0, 90.0, 150.0] };
            let mixed = [0, 1, 2].map(|i| (fill[i] + (deep[i] - fill[i]) * share) as u8);
            let left = x + column as f32 * cell_w;
            drawing.rectangle([left, top, cell_w - 2.0, cell_h - 2.0], GRID);
            drawing.rectangle([left + 0.5, top + 0.5, cell_w - 3.0, cell_h - 3.0], mixed);
            let ink = if share > 0.5 { [255; 3] } else { INK };
            let middle = (left + cell_w / 2.0 - 1.0, top + cell_h / 2.0 + 3.0);
            drawing.title(middle, &count.to_string(), ink, Anchor::Middle);
        }
    }
    drawing.title((bars_x, y - 20.0), "Positive studies by severity", INK, Anchor::Start);
    let height = bars_h / flagged.len().max(1) as f32;
    let most = flagged.first().map_or(1.0, |(_, severity)| severity.max(0.05));
    for (row, (group, severity)) in flagged.iter().enumerate() {
        let length = (bars_w * (*severity / most) as f32).max(0.6);
        let top = y + row as f32 * height;
        drawing.rectangle([bars_x, top, length, (height - 0.6).min(12.0)], colour_of(*group));
    }
    let bottom = y + bars_h;
    drawing.line(vec![(bars_x, y), (bars_x, bottom), (bars_x + bars_w, bottom)], FAINT, 0.8);
    for part in 0..=4 {
        let at = bars_x + bars_w * part as f32 / 4.0;
        drawing.line(vec![(at, bottom), (at, bottom + 3.0)], FAINT, 0.8);
        let share = format!("{:.0}%", 100.0 * most * f64::from(part) / 4.0);
        drawing.text((at, bottom + 12.0), &share, FAINT, Anchor::Middle);
    }
    drawing.text(
        (bars_x + bars_w / 2.0, bottom + 23.0),
        "predicted affected share of the worse lung",
        FAINT,
        Anchor::Middle,
    );
    for (row, group) in groups.iter().enumerate() {
        let top = y + 11.0 * row as f32;
        drawing.rectangle([bars_x + bars_w + 14.0, top, 7.0, 7.0], colour_of(*group));
        drawing.text((bars_x + bars_w + 25.0, top + 6.5), group.title(), INK, Anchor::Start);
    }
    drawing.text((12.0, bottom + 42.0), WARNING, FAINT, Anchor::Start);
    Some(drawing)
}

/// Figure 6: the predicted severity of each study by its CT category. `None` where there are no categories, or no severity.
pub fn by_category(method: &Named<'_>) -> Option<Drawing> {
    let points: Vec<(u8, f64)> =
        method.rows.iter().filter_map(|(study, scored)| Some((study.category?, scored.severity?))).collect();
    if points.is_empty() {
        return None;
    }
    let (x, y, width, height) = (48.0, 44.0, 300.0, 190.0);
    let mut drawing = Drawing::new(x + width + 24.0, y + height + 50.0);
    drawing.title((12.0, 16.0), &format!("Severity by CT category: {}", method.name), INK, Anchor::Start);
    drawing.text((12.0, 30.0), "predicted affected share of the worse lung", FAINT, Anchor::Start);
    let at = |severity: f64| y + height * (1.0 - severity as f32);
    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        drawing.line(vec![(x, at(share)), (x + width, at(share))], GRID, 0.8);
        drawing.text((x - 6.0, at(share) + 3.0), &format!("{:.0}%", 100.0 * share), FAINT, Anchor::End);
    }
    let step = width / 5.0;
    for category in 0..=4u8 {
        let middle = x + (f32::from(category) + 0.5) * step;
        let mut values: Vec<f64> =
            points.iter().filter(|(c, _)| *c == category).map(|(_, severity)| *severity).collect();
        values.sort_by(f64::total_cmp);
        // The share that readers mean by the category.
        let (low, high) = if category == 0 {
            (0.0, 0.005)
        } else {
            (f64::from(category - 1) / 4.0, f64::from(category) / 4.0)
        };
        let band = [middle - step * 0.42, at(high), step * 0.84, at(low) - at(high)];
        drawing.rectangle(band, [238, 243, 248]);
        if !values.is_empty() {
            for (index, value) in values.iter().enumerate() {
                // Beside each other, by their order: equal ones would hide each other.
                let shift = (index * 7 % 11) as f32 / 10.0 - 0.5;
                drawing.circle((middle + shift * step * 0.6, at(*value)), 2.0, COLOURS[0]);
            }
            let median = at(metrics::percentile(&values, 0.5));
            drawing.line(
                vec![(middle - step * 0.36, median), (middle + step * 0.36, median)],
                COLOURS[1],
                1.6,
            );
        }
        drawing.text((middle, y + height + 13.0), &format!("CT-{category}"), INK, Anchor::Middle);
        drawing.text((middle, y + height + 24.0), &format!("n = {}", values.len()), FAINT, Anchor::Middle);
    }
    let legend = "Bands: the category's own range. Lines: medians.";
    drawing.text((12.0, y + height + 42.0), &format!("{legend} {WARNING}"), FAINT, Anchor::Start);
    Some(drawing)
}

fn axes(drawing: &mut Drawing, [x, y, width, height]: [f32; 4], across: [&str; 3], up: [&str; 3]) {
    for (part, (name, other)) in across.iter().zip(up).enumerate() {
        let share = part as f32 / 2.0;
        let (gx, gy) = (x + width * share, y + height * (1.0 - share));
        drawing.line(vec![(gx, y), (gx, y + height)], GRID, 0.6);
        drawing.line(vec![(x, gy), (x + width, gy)], GRID, 0.6);
        drawing.text((gx, y + height + 9.0), name, FAINT, Anchor::Middle);
        drawing.text((x - 4.0, gy + 3.0), other, FAINT, Anchor::End);
    }
    drawing.line(vec![(x, y), (x, y + height), (x + width, y + height)], FAINT, 0.8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::dataset::{Image, Study, Truth};
    use crate::evaluation::score::Scored;

    fn study(group: Group) -> Study {
        let (id, image) = ("x".to_owned(), Image::Nifti("x.nii".into()));
        Study { id, group: Ok(group), category: Some(2), image, truth: Truth::default() }
    }

    #[test]
    fn the_median_of_two_lies_between_them() {
        let study = study(Group::Covid);
        let scored = [0.2, 0.4].map(|severity| Scored { severity: Some(severity), ..Scored::default() });
        let rows = scored.iter().map(|scored| (&study, scored)).collect();
        let svg = by_category(&Named { name: "m".into(), rows }).unwrap().svg();
        // 100 % is at 44, 0 % at 234: 30 % is at 177.
        let median = svg.lines().find(|line| line.contains("#d55e00")).unwrap();
        assert!(median.contains(",177.00 ") && median.contains(",177.00\""), "{median}");
        assert!(
            svg.contains(">n = 2</text>") && svg.contains("cy=\"196.00\"") && svg.contains("cy=\"158.00\"")
        );
    }

    #[test]
    fn nine_curves_are_nine_kinds_of_line() {
        let studies = [study(Group::Covid), study(Group::Normal)];
        let scored = [0.9, 0.1].map(|p| Scored { probability: Some(p), ..Scored::default() });
        let named =
            |number: usize| Named { name: format!("m{number}"), rows: studies.iter().zip(&scored).collect() };
        let svg = roc(&(0..9).map(named).collect::<Vec<_>>()).svg();
        let first = web_lines(&svg, "#0072b2");
        // Of two panels with both classes curve and key, of two the key alone; the first and the ninth method.
        assert_eq!(
            (first.len(), first.iter().filter(|line| line.contains("stroke-dasharray=\"2 1\"")).count()),
            (12, 6)
        );
        assert!(svg.contains(">m8 1.00</text>") && svg.contains(">m8 n/a</text>"), "{svg}");
    }

    fn web_lines<'a>(svg: &'a str, colour: &str) -> Vec<&'a str> {
        svg.lines().filter(|line| line.starts_with("<polyline") && line.contains(colour)).collect()
    }
}
