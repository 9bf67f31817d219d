//! The leaderboard of a data set: our methods and other people's models, ranked. A file that stays and grows.

use super::dataset::{Dataset, json};
use super::score::Scored;
use super::table::{COLUMNS, Line, Weights, severities};
use crate::{files, version};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A run on the board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Method, or the name that somebody gave to predictions.
    pub name: String,
    /// `triaged`, or `predictions`.
    pub source: String,
    /// The sets of weights that it is over; none of predictions.
    pub weights: Vec<Weights>,
    /// The commit that this program was built from.
    pub commit: String,
    /// Studies with an answer.
    pub studies: usize,
    /// Studies of the data set.
    pub of: usize,
    /// Labelled studies that it does not identify.
    pub unanswered: BTreeSet<String>,
    /// By the columns' keys; null where there is none.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// Studies that each of them is over.
    pub answered: BTreeMap<String, usize>,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Board {
    /// The data set's name.
    pub dataset: String,
    /// Of its studies, groups, images and masks; the file's name has it.
    pub fingerprint: String,
    /// Studies without a lung mask in the data set.
    pub without_lungs: usize,
    /// Studies whose image this program can't read: nobody is ranked by them.
    pub unread: BTreeSet<String>,
    /// Best first.
    pub entries: Vec<Entry>,
}

impl Board {
    /// The data set's board in `folder`, or an empty one. Each state of a data set has its own: its ranks compare what can be compared.
    ///
    /// # Errors
    /// A board, or a file of the data set, that can't be read.
    pub fn open(folder: &Path, dataset: &Dataset) -> anyhow::Result<Self> {
        let fingerprint = dataset.fingerprint()?;
        let empty = Self {
            dataset: dataset.name.clone(),
            fingerprint,
            without_lungs: dataset.without_lungs(),
            unread: BTreeSet::new(),
            entries: Vec::new(),
        };
        let path = empty.path(folder, "json");
        if path.exists() { json(&path) } else { Ok(empty) }
    }

    /// Its file in `folder`.
    pub fn path(&self, folder: &Path, ending: &str) -> PathBuf {
        folder.join(format!("leaderboard-{}.{ending}", self.fingerprint))
    }

    /// Writes it into `folder`, for programs and for people.
    ///
    /// # Errors
    /// The system's.
    pub fn save(&self, folder: &Path) -> anyhow::Result<()> {
        files::write(&self.path(folder, "json"), serde_json::to_string_pretty(self)?.as_bytes(), 0o644)?;
        files::write(&self.path(folder, "md"), self.markdown().as_bytes(), 0o644)
    }

    /// Learns from the results of our own methods which studies can't be read.
    pub fn learn_unread(&mut self, dataset: &Dataset, results: &[Vec<Scored>]) {
        let Some(first) = results.first() else { return };
        let unread = |at: &usize| results.iter().any(|results| results[*at].unread);
        self.unread = (0..first.len()).filter(unread).map(|at| dataset.studies[at].id.clone()).collect();
        self.rank();
    }

    /// Adds a line, in the place of one of the same name, source and weights: somebody's predictions may have a method's name, and other
    /// weights are another line.
    pub fn add(&mut self, line: &Line, source: &str) {
        let cells = || COLUMNS.iter().zip(&line.cells).map(|((_, key, _), cell)| ((*key).to_owned(), cell));
        let entry = Entry {
            name: line.name.clone(),
            source: source.to_owned(),
            weights: line.weights.clone(),
            commit: version::COMMIT.to_owned(),
            studies: line.studies,
            of: line.of,
            unanswered: line.unanswered.clone(),
            metrics: cells().map(|(key, cell)| (key, cell.mean)).collect(),
            answered: cells().map(|(key, cell)| (key, cell.studies)).collect(),
        };
        self.entries.retain(|other| other.key() != entry.key());
        self.entries.push(entry);
        self.rank();
    }

    /// By labelled, readable studies that a run left out, then identification against all others, severity, Dice.
    fn rank(&mut self) {
        let key = |entry: &Entry, name: &str| entry.metrics.get(name).copied().flatten().unwrap_or(-2.0);
        let left_out = |entry: &Entry| entry.unanswered.difference(&self.unread).count();
        self.entries.sort_by(|a, b| {
            let by = |name: &str| key(b, name).total_cmp(&key(a, name));
            left_out(a)
                .cmp(&left_out(b))
                .then_with(|| by("auc_all"))
                .then_with(|| by("spearman_rho"))
                .then_with(|| by("dice"))
                .then_with(|| a.name.cmp(&b.name))
        });
    }

    /// For people.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "# Leaderboard: {}\n\nRanked by the labelled studies that a run gives no answer for, fewest first, those left out whose image can't be \
             read ({} of them); then by ROC AUC against all others, Spearman's rho and Dice; n counts the studies behind a figure. {} \
             Not for diagnostic use.\n\n| rank | run | by | {} | studies | weights | commit |\n|---|---|---|{}---|---|---|\n",
            self.dataset,
            self.unread.len(),
            severities(self.without_lungs),
            COLUMNS.map(|(_, _, title)| title).join(" | "),
            "---|".repeat(COLUMNS.len())
        );
        for (rank, entry) in (1..).zip(&self.entries) {
            let cells = COLUMNS.map(|(_, key, _)| {
                let studies = entry.answered.get(key).copied().unwrap_or(0);
                let value = entry.metrics.get(key).copied().flatten();
                value.map_or("n/a".to_owned(), |v| format!("{v:.3} (n = {studies})"))
            });
            let weights: Vec<String> = entry.weights.iter().map(ToString::to_string).collect();
            let _ = writeln!(
                text,
                "| {rank} | {} | {} | {} | {} of {} | {} | {} |",
                entry.name.replace('|', "/"),
                entry.source,
                cells.join(" | "),
                entry.studies,
                entry.of,
                weights.join("; ").replace('|', "/"),
                version::short(&entry.commit)
            );
        }
        text
    }
}

impl Entry {
    /// What it is replaced by; a newer build, or another engine, with the same weights is the same line.
    fn key<'a>(&'a self) -> (&'a str, &'a str, Vec<[&'a str; 3]>) {
        let digests = |of: &'a Weights| [&of.model, of.head.as_deref().unwrap_or(""), &of.lungs];
        let weights = self.weights.iter().map(digests).collect();
        (&self.name, &self.source, weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::table::Cell;

    fn weights(model: &str) -> Vec<Weights> {
        let of = |text: &str| text.to_owned();
        vec![Weights {
            set: None,
            version: of("1"),
            model: of(model),
            head: None,
            lungs: of("lung"),
            engine: of("cpu"),
        }]
    }

    fn line(name: &str, auc: Option<f64>, unanswered: &[&str]) -> Line {
        let cell = Cell { mean: auc, std: None, interval: None, studies: 4 - unanswered.len(), reason: None };
        Line {
            name: name.to_owned(),
            weights: weights("m"),
            studies: 4 - unanswered.len(),
            of: 4,
            unanswered: unanswered.iter().map(|id| (*id).to_owned()).collect(),
            cells: vec![cell; 6],
            seconds: None,
        }
    }

    fn board() -> Board {
        Board {
            dataset: "d".into(),
            fingerprint: "f".into(),
            without_lungs: 2,
            unread: BTreeSet::new(),
            entries: Vec::new(),
        }
    }

    fn order(board: &Board) -> Vec<&str> {
        board.entries.iter().map(|entry| entry.name.as_str()).collect()
    }

    #[test]
    fn the_best_is_first_and_what_was_left_out_counts_also_beside_a_broken_study() {
        let mut board = board();
        for (name, auc, unanswered) in [
            ("a", Some(0.7), &["broken"][..]),
            ("b", Some(0.9), &["broken"]),
            ("partial", Some(1.0), &["broken", "x"]),
            ("lazy", Some(1.0), &["x"]),
            ("none", None, &["broken"]),
        ] {
            board.add(&line(name, auc, unanswered), "triaged");
        }
        assert!(board.markdown().contains("(2 here)"));
        board.unread = BTreeSet::from(["broken".to_owned()]);
        board.add(&line("a", Some(0.95), &["broken"]), "triaged");
        board.add(&line("a", Some(0.6), &["broken"]), "predictions");
        assert_eq!(order(&board), ["a", "b", "a", "none", "lazy", "partial"]);
        assert!(board.markdown().contains("| 1 | a | triaged | 0.950 (n = 3) |"), "{}", board.markdown());
    }

    #[test]
    fn other_weights_are_another_line() {
        let mut board = board();
        let other = Line { weights: weights("n"), ..line("a", Some(0.8), &[]) };
        for line in [line("a", Some(0.7), &[]), other, line("a", Some(0.6), &[])] {
            board.add(&line, "triaged");
        }
        let aucs: Vec<_> = board.entries.iter().map(|entry| entry.metrics["auc_all"]).collect();
        assert_eq!(aucs, [Some(0.8), Some(0.6)]);
        assert!(
            board.markdown().contains("| the zoo's 1, model n, lungs lung, cpu |"),
            "{}",
            board.markdown()
        );
    }
}
