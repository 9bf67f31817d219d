//! The paper's Table 2 for a data set: each method's metrics, over its weight sets, as Markdown, CSV and JSON.

use super::dataset::{Dataset, Group, Study};
use super::metrics::{self, Undefined};
use super::score::{By, Scored};
use crate::version::short;
use engine::Method;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::{Display, Formatter, Write};

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// ROC AUC of COVID-19 against a group, or against all others.
    Auc(Option<Group>),
    /// Spearman's rank correlation of the severity, over COVID-19 studies.
    Rho,
    /// Mean Dice score, over COVID-19 studies.
    Dice,
}

/// The paper's columns, in its order.
pub const COLUMNS: [(Metric, &str, &str); 6] = [
    (Metric::Auc(None), "auc_all", "vs all others"),
    (Metric::Auc(Some(Group::Normal)), "auc_normal", "vs normal"),
    (Metric::Auc(Some(Group::BacterialPneumonia)), "auc_bacterial_pneumonia", "vs bac. pneum."),
    (Metric::Auc(Some(Group::Nodules)), "auc_nodules", "vs nodules"),
    (Metric::Rho, "spearman_rho", "Spearman's rho"),
    (Metric::Dice, "dice", "Dice"),
];

/// What tables and boards say of Spearman's rho: whose lungs a severity is taken in.
pub fn severities(without_lungs: usize) -> String {
    format!(
        "The severity of our methods is taken in the lungs that the lung net finds, as the appliance does; that of readers' and other people's masks in \
         the data set's lungs, or, of studies without ({without_lungs} here), in those that the lung net finds."
    )
}

/// A study with its result.
pub type Row<'a> = (&'a Study, &'a Scored);

impl Metric {
    /// Score and label of the studies that an AUC is over: those that have the run's kind of score.
    pub fn scored(self, rows: &[Row<'_>], by: By) -> Vec<(f64, bool)> {
        let Self::Auc(against) = self else { return Vec::new() };
        let counts =
            |group: &Group| *group == Group::Covid || against.is_none_or(|against| against == *group);
        rows.iter()
            .filter_map(|(study, scored)| {
                let group = study.group.as_ref().ok().filter(|group| counts(group))?;
                Some((scored.identification(by)?, *group == Group::Covid))
            })
            .collect()
    }

    /// Its value over some studies.
    ///
    /// # Errors
    /// [`Undefined`].
    pub fn of(self, rows: &[Row<'_>], by: By) -> Result<f64, Undefined> {
        self.value(rows, by).0
    }

    /// Its value, and over how many studies it is.
    fn value(self, rows: &[Row<'_>], by: By) -> (Result<f64, Undefined>, usize) {
        let covid =
            rows.iter().filter(|(study, _)| study.group == Ok(Group::Covid)).map(|(_, scored)| *scored);
        let answered: Vec<&Scored> = covid.filter(|scored| scored.problem.is_none()).collect();
        let none =
            |measured: fn(&Scored) -> bool| !answered.is_empty() && !answered.iter().any(|s| measured(s));
        match self {
            Self::Auc(_) => {
                let scored = self.scored(rows, by);
                (metrics::roc_auc(&scored), scored.len())
            }
            Self::Rho if none(|scored| scored.severity.is_some()) => (Err(Undefined::NotMeasured), 0),
            Self::Rho if none(|scored| scored.true_severity.is_some()) => (Err(Undefined::NoTruth), 0),
            Self::Rho => {
                let pairs: Vec<_> =
                    answered.iter().filter_map(|s| Some((s.true_severity?, s.severity?))).collect();
                (metrics::spearman(&pairs), pairs.len())
            }
            // A mask has a severity, or a Dice where the data set has no lungs.
            Self::Dice if none(|scored| scored.severity.is_some() || scored.dice.is_some()) => {
                (Err(Undefined::NotMeasured), 0)
            }
            Self::Dice => {
                let dice: Vec<f64> = answered.iter().filter_map(|scored| scored.dice).collect();
                (metrics::mean_std(&dice).map(|(mean, _)| mean), dice.len())
            }
        }
    }
}

/// A metric over the weight sets of a method.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    /// Mean over weight sets.
    pub mean: Option<f64>,
    /// Standard deviation over them; `None` for one set.
    pub std: Option<f64>,
    /// 95 % interval of the mean, by drawing studies again.
    pub interval: Option<[f64; 2]>,
    /// Studies that it is over, in the set that has fewest.
    pub studies: usize,
    /// Why there is no value.
    pub reason: Option<String>,
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Method, or the name of somebody's predictions.
    pub name: String,
    /// The sets of weights that it is over; none of predictions.
    pub weights: Vec<Weights>,
    /// Studies with an answer, in the set that has fewest.
    pub studies: usize,
    /// Studies of the data set.
    pub of: usize,
    /// Labelled studies without an answer to identify them by, in any of the sets.
    pub unanswered: BTreeSet<String>,
    /// In the order of [`COLUMNS`].
    pub cells: Vec<Cell>,
    /// Mean time a study.
    pub seconds: Option<f64>,
}

/// What computed a line's figures: one set of weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// Name of its folder; `None` for the zoo's.
    pub set: Option<String>,
    /// Version, as its card has it.
    pub version: String,
    /// Digest of the method's network; of the lung net where it has none.
    pub model: String,
    /// Digest of its head, where it has one.
    pub head: Option<String>,
    /// Digest of the lung net.
    pub lungs: String,
    /// The engine.
    pub engine: String,
}

impl Display for Weights {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let set = self.set.as_deref().unwrap_or("the zoo's");
        let (model, lungs) = (short(&self.model), short(&self.lungs));
        let head = self.head.as_deref().map_or(String::new(), |head| format!(", head {}", short(head)));
        write!(f, "{set} {}, model {model}{head}, lungs {lungs}, {}", self.version, self.engine)
    }
}

/// How intervals are drawn.
#[derive(Debug, Clone, Copy)]
pub struct Bootstrap {
    /// How often.
    pub rounds: usize,
    /// From where.
    pub seed: u64,
}

/// The line of a method from its weight sets and their results, or of one set of predictions.
pub fn line(
    name: &str,
    dataset: &Dataset,
    weights: Vec<Weights>,
    sets: &[&[Scored]],
    bootstrap: Bootstrap,
) -> Line {
    let rows: Vec<Vec<Row<'_>>> =
        sets.iter().map(|results| dataset.studies.iter().zip(results.iter()).collect()).collect();
    let by = By::of(sets.iter().copied().flatten());
    let places: Vec<usize> = (0..dataset.studies.len()).collect();
    // Over the sets, of the studies at these places, which are the same in each set.
    let over_sets = |metric: Metric, places: &[usize]| {
        let of =
            |rows: &Vec<Row<'_>>| metric.of(&places.iter().map(|place| rows[*place]).collect::<Vec<_>>(), by);
        metrics::mean_std(&rows.iter().map(of).collect::<Result<Vec<f64>, Undefined>>()?)
    };
    let cell = |metric: Metric| {
        let studies = rows.iter().map(|rows| metric.value(rows, by).1).min().unwrap_or(0);
        match over_sets(metric, &places) {
            Ok((mean, std)) => Cell {
                mean: Some(mean),
                std: (sets.len() > 1).then_some(std),
                interval: metrics::bootstrap(&places, bootstrap.rounds, bootstrap.seed, |drawn| {
                    over_sets(metric, drawn).map(|(mean, _)| mean)
                }),
                studies,
                reason: None,
            },
            Err(why) => {
                Cell { mean: None, std: None, interval: None, studies, reason: Some(why.to_string()) }
            }
        }
    };
    let answered = |results: &&[Scored]| results.iter().filter(|scored| scored.problem.is_none()).count();
    let labelled = places.iter().filter(|place| dataset.studies[**place].group.is_ok());
    let unanswered =
        labelled.filter(|place| sets.iter().any(|results| results[**place].identification(by).is_none()));
    let seconds: Vec<f64> = sets.iter().flat_map(|set| set.iter().filter_map(|s| s.seconds)).collect();
    Line {
        name: name.to_owned(),
        weights,
        studies: sets.iter().map(answered).min().unwrap_or(0),
        of: dataset.studies.len(),
        unanswered: unanswered.map(|place| dataset.studies[*place].id.clone()).collect(),
        cells: COLUMNS.iter().map(|(metric, _, _)| cell(*metric)).collect(),
        seconds: metrics::mean_std(&seconds).ok().map(|(mean, _)| mean),
    }
}

/// The paper's own Table 2: mean and standard deviation by column.
pub fn paper(method: Method) -> [Option<(f64, f64)>; 6] {
    let row = |values: [(u8, u8); 6]| values.map(|(m, s)| Some((f64::from(m) / 100.0, f64::from(s) / 100.0)));
    match method {
        Method::Threshold => row([(51, 0), (68, 0), (46, 0), (45, 0), (92, 0), (42, 0)]),
        Method::Unet3d => row([(76, 2), (89, 2), (59, 1), (79, 3), (97, 1), (65, 0)]),
        Method::Unet2d => row([(78, 1), (93, 1), (62, 1), (79, 0), (97, 0), (63, 0)]),
        Method::Unet2dPlus => row([(86, 1), (98, 1), (68, 2), (91, 1), (80, 3), (59, 1)]),
        Method::Resnet50 => {
            let [a, b, c, d, _, _] = row([(62, 19), (67, 21), (55, 13), (65, 22), (0, 0), (0, 0)]);
            [a, b, c, d, None, None]
        }
        Method::MultitaskLatent => row([(79, 6), (84, 5), (73, 6), (80, 7), (97, 0), (61, 2)]),
        Method::MultitaskSpatial4 => row([(89, 3), (94, 3), (83, 5), (91, 3), (98, 0), (61, 2)]),
        Method::MultitaskSpatial1 => row([(93, 1), (97, 1), (87, 1), (93, 0), (97, 1), (61, 2)]),
    }
}

/// The table for people, the paper's own figures below it.
pub fn markdown(dataset: &Dataset, lines: &[Line], bootstrap: Bootstrap) -> String {
    let mut text = format!(
        "# Methods on {}\n\nNot for diagnostic use. ROC AUC of COVID-19 against the groups; Spearman's rho of severity and mean Dice over the \
         COVID-19 studies; n counts the studies behind a figure. In brackets: 95 % intervals of the mean over weight sets, from {} bootstrap \
         samples of studies (seed {}); ± is the standard deviation over weight sets. {} {}.\n\n",
        dataset.name,
        bootstrap.rounds,
        bootstrap.seed,
        severities(dataset.without_lungs()),
        counts(dataset)
    );
    let header = COLUMNS.map(|(_, _, title)| title).join(" | ");
    let _ = writeln!(text, "| method | {header} | studies | s a study |\n|---|{}---|---|", "---|".repeat(6));
    let mut notes: Vec<String> = Vec::new();
    for line in lines {
        let cells: Vec<String> = line.cells.iter().map(|cell| cell_text(cell, &mut notes)).collect();
        let seconds = line.seconds.map_or("–".to_owned(), |s| format!("{s:.1}"));
        let sets =
            if line.weights.len() > 1 { format!(" ({} sets)", line.weights.len()) } else { String::new() };
        let studies = format!("{} of {}", line.studies, line.of);
        let _ = writeln!(text, "| {}{sets} | {} | {studies} | {seconds} |", line.name, cells.join(" | "));
    }
    for (number, note) in (1..).zip(&notes) {
        let _ = writeln!(text, "\n[{number}] {note}.");
    }
    for line in lines.iter().filter(|line| !line.weights.is_empty()) {
        let weights: Vec<String> = line.weights.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "\n{}: {}.", line.name, weights.join("; "));
    }
    let known: Vec<Method> = Method::ALL
        .into_iter()
        .filter(|method| lines.iter().any(|line| line.name == method.name()))
        .collect();
    if !known.is_empty() {
        let _ = writeln!(
            text,
            "\n## The paper's own figures\n\nFrom Goncharov et al. 2020, Table 2: its weights, on its test set. They say nothing about the \
             weights above.\n\n| method | {header} |\n|---|{}",
            "---|".repeat(6)
        );
        for method in known {
            let cells =
                paper(method).map(|c| c.map_or("n/a".to_owned(), |(m, s)| format!("{m:.2} ± {s:.2}")));
            let _ = writeln!(text, "| {method} | {} |", cells.join(" | "));
        }
    }
    text
}

fn counts(dataset: &Dataset) -> String {
    let count = |group: Group| dataset.studies.iter().filter(|study| study.group == Ok(group)).count();
    let groups: Vec<String> = Group::ALL
        .into_iter()
        .filter(|group| count(*group) > 0)
        .map(|group| format!("{} {}", count(group), group.name()))
        .collect();
    format!("{} studies: {}", dataset.studies.len(), groups.join(", "))
}

fn cell_text(cell: &Cell, notes: &mut Vec<String>) -> String {
    if let Some(mean) = cell.mean {
        let std = cell.std.map_or(String::new(), |std| format!(" ± {std:.2}"));
        let interval = cell.interval.map_or(String::new(), |[l, h]| format!(" [{l:.2}, {h:.2}]"));
        return format!("{mean:.2}{std}{interval} (n = {})", cell.studies);
    }
    let reason = cell.reason.clone().unwrap_or_default();
    let number = notes.iter().position(|note| *note == reason).unwrap_or_else(|| {
        notes.push(reason);
        notes.len() - 1
    });
    format!("n/a [{}]", number + 1)
}

/// The table for programs.
///
/// # Errors
/// None that memory can have.
pub fn csv(lines: &[Line]) -> anyhow::Result<Vec<u8>> {
    let mut out = csv::Writer::from_writer(Vec::new());
    let mut header =
        vec!["method".to_owned(), "weight_sets".to_owned(), "studies".to_owned(), "of".to_owned()];
    for (_, key, _) in COLUMNS {
        header.extend(["", "_std", "_low", "_high", "_studies"].map(|end| format!("{key}{end}")));
    }
    header.push("seconds_a_study".to_owned());
    out.write_record(&header)?;
    let number = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
    for line in lines {
        let mut row = vec![
            line.name.clone(),
            line.weights.len().to_string(),
            line.studies.to_string(),
            line.of.to_string(),
        ];
        for cell in &line.cells {
            let [low, high] = cell.interval.map_or([None, None], |[low, high]| [Some(low), Some(high)]);
            row.extend([cell.mean, cell.std, low, high].map(number));
            row.push(cell.studies.to_string());
        }
        row.push(number(line.seconds));
        out.write_record(&row)?;
    }
    Ok(out.into_inner()?)
}

/// Every result as a row.
///
/// # Errors
/// None that memory can have.
pub fn studies_csv<'a>(
    dataset: &Dataset,
    runs: impl Iterator<Item = (String, &'a [Scored])>,
) -> anyhow::Result<Vec<u8>> {
    let mut out = csv::Writer::from_writer(Vec::new());
    out.write_record([
        "run",
        "id",
        "group",
        "category",
        "probability",
        "severity",
        "true_severity",
        "dice",
        "seconds",
        "problem",
        "note",
    ])?;
    let number = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
    for (name, results) in runs {
        for (study, scored) in dataset.studies.iter().zip(results) {
            out.write_record([
                name.clone(),
                study.id.clone(),
                study.group.as_ref().map_or("", |group| group.name()).to_owned(),
                study.category.map_or(String::new(), |category| format!("CT-{category}")),
                number(scored.probability),
                number(scored.severity),
                number(scored.true_severity),
                number(scored.dice),
                number(scored.seconds),
                scored.problem.clone().unwrap_or_default(),
                scored.note.clone().unwrap_or_default(),
            ])?;
        }
    }
    Ok(out.into_inner()?)
}
