//! The last warnings and errors of the log, for the box's page. Messages hold no patient's name: see the log's rule.
use chrono::Local;
use log::{Level, Log, Metadata, Record};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Lines that are kept.
const LINES_MAX: usize = 50;
/// Characters of a line that are kept.
const CHARACTERS_MAX: usize = 400;

/// The last lines; clones share them.
#[derive(Clone, Default)]
pub struct Recent(Arc<Mutex<VecDeque<Line>>>);

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Local time.
    pub at: String,
    /// Whether it is an error.
    pub error: bool,
    /// What it says.
    pub text: String,
}

impl Recent {
    /// The lines, the last one first.
    pub fn lines(&self) -> Vec<Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }

    fn keep(&self, level: Level, text: &str) {
        let text = text.chars().take(CHARACTERS_MAX).collect();
        let at = Local::now().format("%Y-%m-%d %H:%M:%S").to_string();
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(Line { at, error: level == Level::Error, text });
    }

    /// A log that also keeps its warnings and errors here.
    pub fn beside<L: Log + 'static>(&self, log: L) -> impl Log + 'static {
        Beside { log, recent: self.clone() }
    }
}

struct Beside<L> {
    log: L,
    recent: Recent,
}

impl<L: Log> Log for Beside<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.log.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if record.level() <= Level::Warn && self.log.enabled(record.metadata()) {
            self.recent.keep(record.level(), &record.args().to_string());
        }
        self.log.log(record);
    }

    fn flush(&self) {
        self.log.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct All;
    impl Log for All {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn log(&self, _: &Record<'_>) {}
        fn flush(&self) {}
    }

    #[test]
    fn warnings_are_kept_the_last_first_and_no_more_than_fit() {
        let recent = Recent::default();
        let log = recent.beside(All);
        for n in 0..LINES_MAX + 3 {
            for level in [Level::Warn, Level::Info] {
                let text = format!("{level} {n}");
                log.log(&Record::builder().level(level).args(format_args!("{text}")).build());
            }
        }
        let lines = recent.lines();
        assert_eq!((lines.len(), lines[0].text.as_str()), (LINES_MAX, "WARN 52"));
        log.log(&Record::builder().level(Level::Error).args(format_args!("{}", "x".repeat(999))).build());
        assert_eq!((recent.lines()[0].error, recent.lines()[0].text.len()), (true, CHARACTERS_MAX));
    }
}
