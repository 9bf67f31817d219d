//! The leaderboard of a data set: our methods and other people's models, ranked. A file that stays and grows.

use super::dataset::{Dataset, json};
use super::table::{COLUMNS, Line};
use anyhow::bail;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// A run on the board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Method, or the name that somebody gave to predictions.
    pub name: String,
    /// `triaged`, or `predictions`.
    pub source: String,
    /// Studies with an answer.
    pub studies: usize,
    /// Studies of the data set.
    pub of: usize,
    /// By the columns' keys; null where there is none.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// Studies that each of them is over.
    #[serde(default)]
    pub answered: BTreeMap<String, usize>,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Board {
    /// The data set's name.
    pub dataset: String,
    /// Of its studies and groups.
    pub fingerprint: String,
    /// Best first.
    pub entries: Vec<Entry>,
}

impl Board {
    /// The board at `path`, or an empty one.
    ///
    /// # Errors
    /// A board of another data set: its ranks would compare what can't be compared.
    pub fn open(path: &Path, dataset: &Dataset) -> anyhow::Result<Self> {
        let fingerprint = dataset.fingerprint();
        if !path.exists() {
            return Ok(Self { dataset: dataset.name.clone(), fingerprint, entries: Vec::new() });
        }
        let board: Self = json(path)?;
        if board.fingerprint != fingerprint {
            bail!(
                "{} is of another data set ({}, with other studies or labels): name another --out",
                path.display(),
                board.dataset
            );
        }
        Ok(board)
    }

    /// Adds a line, in the place of one of the same name and source: somebody's predictions may have a method's name.
    pub fn add(&mut self, line: &Line, source: &str) {
        let cells = || COLUMNS.iter().zip(&line.cells).map(|((_, key, _), cell)| ((*key).to_owned(), cell));
        let entry = Entry {
            name: line.name.clone(),
            source: source.to_owned(),
            studies: line.studies,
            of: line.of,
            metrics: cells().map(|(key, cell)| (key, cell.mean)).collect(),
            answered: cells().map(|(key, cell)| (key, cell.studies)).collect(),
        };
        self.entries.retain(|other| (&other.name, &other.source) != (&entry.name, &entry.source));
        self.entries.push(entry);
        self.rank();
    }

    /// By identification against all others, then severity, then Dice. Whoever left studies out comes after those that have them all.
    fn rank(&mut self) {
        let key = |entry: &Entry, name: &str| entry.metrics.get(name).copied().flatten().unwrap_or(-2.0);
        self.entries.sort_by(|a, b| {
            let whole = |entry: &Entry| {
                let scored = entry.answered.get("auc_all").copied().unwrap_or(0);
                entry.studies.min(scored) < entry.of
            };
            let by = |name: &str| key(b, name).total_cmp(&key(a, name));
            whole(a)
                .cmp(&whole(b))
                .then_with(|| by("auc_all"))
                .then_with(|| by("spearman_rho"))
                .then_with(|| by("dice"))
                .then_with(|| a.name.cmp(&b.name))
        });
    }

    /// For people.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "# Leaderboard: {}\n\nRanked by ROC AUC against all others, then Spearman's rho, then Dice; runs without an answer for every study come \
             last; n counts the studies behind a figure. Not for diagnostic use.\n\n| rank | run | by | {} | studies |\n|---|---|---|{}---|\n",
            self.dataset,
            COLUMNS.map(|(_, _, title)| title).join(" | "),
            "---|".repeat(COLUMNS.len())
        );
        for (rank, entry) in (1..).zip(&self.entries) {
            let cells = COLUMNS.map(|(_, key, _)| {
                let studies = entry.answered.get(key).copied().unwrap_or(0);
                let value = entry.metrics.get(key).copied().flatten();
                value.map_or("n/a".to_owned(), |v| format!("{v:.3} (n = {studies})"))
            });
            let _ = writeln!(
                text,
                "| {rank} | {} | {} | {} | {} of {} |",
                entry.name.replace('|', "/"),
                entry.source,
                cells.join(" | "),
                entry.studies,
                entry.of
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::table::Cell;

    fn line(name: &str, auc: Option<f64>, studies: usize) -> Line {
        let cell = Cell { mean: auc, std: None, interval: None, studies, reason: None };
        Line { name: name.to_owned(), weight_sets: 1, studies, of: 4, cells: vec![cell; 6], seconds: None }
    }

    #[test]
    fn the_best_complete_run_is_first_and_another_data_set_is_refused() {
        let mut board = Board { dataset: "d".into(), fingerprint: "f".into(), entries: Vec::new() };
        for (name, auc, studies) in
            [("a", Some(0.7), 4), ("b", Some(0.9), 4), ("partial", Some(1.0), 3), ("none", None, 4)]
        {
            board.add(&line(name, auc, studies), "triaged");
        }
        board.add(&line("a", Some(0.95), 4), "triaged");
        board.add(&line("a", Some(0.6), 4), "predictions");
        // Every study has a mask, and one of them no probability.
        let mut unscored = line("unscored", Some(1.0), 4);
        unscored.cells[0].studies = 3;
        board.add(&unscored, "predictions");
        let order: Vec<&str> = board.entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(order, ["a", "b", "a", "none", "partial", "unscored"]);
        assert!(board.markdown().contains("| 1 | a | triaged | 0.950 (n = 4) |"));

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leaderboard.json");
        std::fs::write(&path, serde_json::to_string(&board).unwrap()).unwrap();
        let error = Board::open(&path, &Dataset { name: "x".into(), studies: Vec::new() }).unwrap_err();
        assert!(error.to_string().contains("of another data set"), "{error}");
    }
}
