//! A part of the suite: checks, tables and figures, on the disk from the first line on.
//!
//! Owns: the form of `parts/NAME.json`, which the Python part writes too. Never does: judge figures; the report does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// What a part found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// Name of the part.
    pub part: String,
    /// Whether it came to its end.
    pub finished: bool,
    /// Sizes of a rehearsal.
    pub quick: bool,
    /// Why it did not come to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took.
    pub seconds: f64,
    /// What was right or wrong.
    pub checks: Vec<Check>,
    /// For people.
    pub tables: Vec<Table>,
    /// Figures that targets are about, units last in their names.
    pub figures: BTreeMap<String, f64>,
}

/// Something that was compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it was right.
    pub passed: bool,
    /// With what difference.
    pub detail: String,
}

/// Rows for people.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Above it.
    pub title: String,
    /// Below its title.
    #[serde(default)]
    pub note: String,
    /// Heads.
    pub columns: Vec<String>,
    /// As many cells a row as heads.
    pub rows: Vec<Vec<String>>,
}

/// A part at work.
pub struct Part {
    found: Found,
    path: PathBuf,
    start: Instant,
}

impl Part {
    /// Begins the part `name`.
    pub fn start(out: &Path, name: &str, quick: bool) -> anyhow::Result<Self> {
        let found = Found { part: name.to_owned(), quick, ..Found::default() };
        let dir = out.join("parts");
        std::fs::create_dir_all(&dir)?;
        let part = Self { found, path: dir.join(format!("{name}.json")), start: Instant::now() };
        part.save()?;
        Ok(part)
    }

    /// Notes a comparison.
    pub fn check(
        &mut self,
        name: impl Into<String>,
        passed: bool,
        detail: impl Into<String>,
    ) -> anyhow::Result<()> {
        let check = Check { name: name.into(), passed, detail: detail.into() };
        println!("{} {}: {}", if passed { "ok    " } else { "WRONG " }, check.name, check.detail);
        self.found.checks.push(check);
        self.save()
    }

    /// Begins a table.
    pub fn table(&mut self, title: &str, note: &str, columns: &[&str]) -> anyhow::Result<()> {
        println!("{title}: {}", columns.join(" | "));
        self.found.tables.push(Table {
            title: title.to_owned(),
            note: note.to_owned(),
            columns: columns.iter().map(|&c| c.to_owned()).collect(),
            rows: Vec::new(),
        });
        self.save()
    }

    /// Adds a row to the last table.
    pub fn row(&mut self, cells: Vec<String>) -> anyhow::Result<()> {
        println!("  {}", cells.join(" | "));
        if let Some(table) = self.found.tables.last_mut() {
            table.rows.push(cells);
        }
        self.save()
    }

    /// Notes a figure that a target may be about.
    pub fn figure(&mut self, name: impl Into<String>, value: f64) -> anyhow::Result<()> {
        self.found.figures.insert(name.into(), value);
        self.save()
    }

    /// Ends the part: whether all was right.
    pub fn finish(mut self, done: anyhow::Result<()>) -> anyhow::Result<bool> {
        self.found.finished = done.is_ok();
        if let Err(error) = &done {
            eprintln!("{}: {error:#}", self.found.part);
            self.found.error = Some(format!("{error:#}"));
        }
        self.save()?;
        Ok(self.found.finished && self.found.checks.iter().all(|check| check.passed))
    }

    fn save(&self) -> anyhow::Result<()> {
        let found = Found { seconds: self.start.elapsed().as_secs_f64(), ..self.found.clone() };
        // A crash must not leave half a file.
        let partial = self.path.with_extension("partial");
        std::fs::write(&partial, serde_json::to_string_pretty(&found)?)?;
        Ok(std::fs::rename(&partial, &self.path)?)
    }
}
