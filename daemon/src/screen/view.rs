//! How the screen says things: patients as configured, times, shares, states. Every page takes them from here.
use super::App;
use super::board::Live;
use crate::config::Patient;
use crate::database::{Listed, Subject};
use chrono::{DateTime, Local, TimeZone};
use maud::{Markup, html};
use serde::Deserialize;

/// What the screen reads of an outcome's line.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Line {
    pub outcome: String,
    pub reason: Option<String>,
    pub priority: String,
    pub probability: Option<f32>,
    pub severity: Option<Shares>,
    pub category: Option<String>,
    pub lung_volume_ml: Option<Volumes>,
    pub lesion_volume_ml: Option<Volumes>,
    pub method: Option<String>,
    pub engine: Option<String>,
    pub model_version: Option<String>,
    #[serde(default)]
    pub timings_ms: std::collections::HashMap<String, f64>,
}

/// Lesion fractions, 0 to 1.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Shares {
    pub left: f64,
    pub right: f64,
}

/// Millilitres.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Volumes {
    pub left: f64,
    pub right: f64,
}

impl Line {
    /// Of a listed study; `None`: it has no outcome, or one that this version can't read.
    pub fn of(study: &Listed) -> Option<Self> {
        serde_json::from_str(study.outcome.as_deref()?).ok()
    }
}

/// A patient's name as people write it: DICOM's `Family^Given^^Prefix=ideographic=phonetic`.
pub fn person(name: &str) -> String {
    let group = name.split('=').find(|group| !group.trim().is_empty()).unwrap_or_default();
    let parts: Vec<&str> = group.split('^').map(str::trim).collect();
    let part = |index: usize| parts.get(index).copied().unwrap_or_default();
    let given = [part(1), part(2)].into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" ");
    match (part(0), given.as_str()) {
        ("", given) => given.to_owned(),
        (family, "") => family.to_owned(),
        (family, given) => format!("{family}, {given}"),
    }
}

/// Family and given name's first letters: `B. C.`; of an ID its last three characters.
fn initials(subject: &Subject) -> (String, String) {
    let letters = person(&subject.patient_name)
        .split([',', ' '])
        .filter_map(|word| word.chars().next())
        .take(3)
        .map(|letter| format!("{letter}."))
        .collect::<Vec<_>>()
        .join(" ");
    let id: Vec<char> = subject.patient_id.chars().collect();
    // Of a short one nothing would be hidden.
    let id = if id.len() > 5 { id[id.len() - 3..].iter().collect::<String>() } else { String::new() };
    (letters, if id.is_empty() { id } else { format!("…{id}") })
}

/// A date of DICOM (`19700131`) as ISO 8601 writes it; anything else as it is.
fn date(da: &str) -> String {
    if da.len() == 8 && da.bytes().all(|b| b.is_ascii_digit()) {
        format!("{}-{}-{}", &da[..4], &da[4..6], &da[6..])
    } else {
        da.to_owned()
    }
}

impl App {
    /// Whose study it is, as far as the configuration lets the screen say, in one line of text.
    pub fn patient_text(&self, subject: &Subject) -> String {
        match self.screen.patient {
            Patient::Full => {
                let name = person(&subject.patient_name);
                if name.is_empty() { self.t("no_name").to_owned() } else { name }
            }
            Patient::Initials => {
                let (letters, _) = initials(subject);
                if letters.is_empty() { self.t("no_name").to_owned() } else { letters }
            }
            Patient::None if subject.accession.is_empty() => self.t("hidden_patient").to_owned(),
            Patient::None => subject.accession.clone(),
        }
    }

    /// Whose study it is, with what tells two of one name apart.
    pub fn patient(&self, subject: &Subject) -> Markup {
        let details = match self.screen.patient {
            Patient::Full => {
                let born = (!subject.birth_date.is_empty())
                    .then(|| format!("{} {}", self.t("born"), date(&subject.birth_date)));
                [Some(subject.patient_id.clone()).filter(|id| !id.is_empty()), born]
            }
            Patient::Initials => [Some(initials(subject).1).filter(|id| !id.is_empty()), None],
            Patient::None => [None, None],
        };
        let details: Vec<String> = details.into_iter().flatten().collect();
        html! {
            // Names run either way; one of another direction must not turn its surroundings round.
            bdi.name { (self.patient_text(subject)) }
            @if !details.is_empty() { bdi.details { (details.join(" · ")) } }
        }
    }

    /// Whether more than the accession number may be shown.
    pub fn shows_patients(&self) -> bool {
        self.screen.patient != Patient::None
    }

    /// A time of today, or day and time.
    pub fn time(&self, ms: i64) -> String {
        let Some(time) = local(ms) else { return "?".to_owned() };
        let format =
            if time.date_naive() == Local::now().date_naive() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M" };
        time.format(format).to_string()
    }

    /// What a study is doing or ended as: class, word, and the words beside it.
    pub fn state(&self, study: &Listed) -> State {
        let live = self.board.live(&study.study_uid);
        let line = Line::of(study);
        let again = live.is_some() || study.state != "done";
        if let Some(line) = line {
            let (class, word, hint) = match line.outcome.as_str() {
                "flagged" => ("flagged", "state_flagged", self.t("state_flagged_hint").to_owned()),
                "not_flagged" => {
                    ("not-flagged", "state_not_flagged", self.t("state_not_flagged_hint").to_owned())
                }
                _ => (
                    "not-evaluated",
                    "state_not_evaluated",
                    line.reason.clone().unwrap_or_else(|| self.t("state_not_evaluated_hint").to_owned()),
                ),
            };
            let again = again.then(|| self.t("state_again").to_owned());
            return State { class, word: self.t(word).to_owned(), hint, again, percent: None };
        }
        if study.outcome.is_some() {
            // An outcome that this version can't read.
            let (class, word) = if study.flagged {
                ("flagged", "state_flagged")
            } else {
                ("not-evaluated", "state_not_evaluated")
            };
            let (word, hint) = (self.t(word).to_owned(), self.t("error_inside").to_owned());
            return State { class, word, hint, again: None, percent: None };
        }
        let (class, word, hint, percent) = match live {
            Some(Live::Receiving(n)) => {
                ("busy", "state_receiving", format!("{n} {}", self.t("state_receiving_hint")), None)
            }
            Some(Live::Waiting(n)) => {
                ("busy", "state_waiting", format!("{n} {}", self.t("state_waiting_hint")), None)
            }
            Some(Live::Analysing(percent)) => {
                ("busy", "state_analysing", format!("{percent} %"), Some(percent))
            }
            None => ("busy", "state_open", String::new(), None),
        };
        State { class, word: self.t(word).to_owned(), hint, again: None, percent }
    }
}

/// What a study is doing or ended as.
pub struct State {
    /// Of the style sheet.
    pub class: &'static str,
    /// In one word or two.
    pub word: String,
    /// What that means, or why.
    pub hint: String,
    /// Another reception has begun since.
    pub again: Option<String>,
    /// How far the analysis is.
    pub percent: Option<u8>,
}

impl State {
    /// A sign that needs no colour and no English.
    pub fn sign(&self) -> &'static str {
        match self.class {
            "flagged" => "▲",
            "not-evaluated" => "?",
            "not-flagged" => "–",
            _ => "…",
        }
    }
}

/// Seconds, in tenths where they count.
pub fn seconds(ms: f64) -> String {
    let s = ms / 1e3;
    if s < 60.0 { format!("{s:.1} s") } else { format!("{:.0} min", s / 60.0) }
}

/// Local time of milliseconds since 1970.
pub fn local(ms: i64) -> Option<DateTime<Local>> {
    Local.timestamp_millis_opt(ms).single()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_patients() {
        for (dicom, people) in [
            ("Müller^Anna", "Müller, Anna"),
            ("Adams^John Robert Quincy^^Rev.", "Adams, John Robert Quincy"),
            ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou"),
            ("=山田^太郎", "山田, 太郎"),
            ("^Only", "Only"),
            ("", ""),
            ("^^^^", ""),
            ("<b>x</b>", "<b>x</b>"),
        ] {
            assert_eq!(person(dicom), people);
        }
    }

    #[test]
    fn initials_hide() {
        let subject = |name: &str, id: &str| Subject {
            patient_name: name.into(),
            patient_id: id.into(),
            ..Subject::default()
        };
        assert_eq!(initials(&subject("Müller^Anna", "12345678")), ("M. A.".into(), "…678".into()));
        assert_eq!(initials(&subject("", "12345")), (String::new(), String::new()));
    }

    #[test]
    fn dates_are_read_where_they_are_dates() {
        assert_eq!((date("19700131"), date("1970")), ("1970-01-31".into(), "1970".into()));
    }
}
