//! Cutting patients out of texts.
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Characters that a word must have to be cut out: Li, Wu and Ng are names, a single letter is everywhere and names nobody. Of scripts that
/// write a syllable or more in a character, one is enough.
const WORD_CHARS_MIN: usize = 2;
/// Characters from which a token of digits and dots with two dots is a UID, and no version.
const UID_CHARS_MIN: usize = 12;
/// DICOM's own UIDs (PS3.6): classes and syntaxes, no patient's.
const STANDARD: &str = "1.2.840.10008.";

/// Replaces UIDs and patients' words.
pub struct Scrubber {
    salt: [u8; 16],
    /// In lower case.
    words: BTreeSet<Vec<char>>,
}

impl Scrubber {
    /// One that knows no patient yet, with pseudonyms of its own.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn new() -> anyhow::Result<Self> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt)?;
        Ok(Self { salt, words: BTreeSet::new() })
    }

    /// Cuts these out from now on: whole, and each part of a name; dates also as people write them.
    pub fn cut(&mut self, words: &[String]) {
        for word in words {
            let parts = word.split(|c: char| !c.is_alphanumeric());
            for part in parts.chain([word.as_str()]) {
                let lower: Vec<char> = part.trim().chars().flat_map(char::to_lowercase).collect();
                if lower.len() >= WORD_CHARS_MIN || lower.first().is_some_and(|c| *c >= '\u{2e80}') {
                    self.words.insert(lower);
                }
            }
            if let [y, m, d] = [word.get(..4), word.get(4..6), word.get(6..8)]
                && word.len() == 8
                && word.bytes().all(|b| b.is_ascii_digit())
            {
                let (y, m, d) = (y.unwrap_or_default(), m.unwrap_or_default(), d.unwrap_or_default());
                for date in [
                    format!("{y}-{m}-{d}"),
                    format!("{d}.{m}.{y}"),
                    format!("{m}/{d}/{y}"),
                    format!("{d}/{m}/{y}"),
                ] {
                    self.words.insert(date.chars().collect());
                }
            }
        }
    }

    /// The text without patients.
    pub fn scrub(&self, text: &str) -> String {
        self.without_words(&self.without_uids(text))
    }

    fn without_uids(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
            let (before, from) = rest.split_at(start);
            out.push_str(before);
            let end = from.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(from.len());
            let (token, after) = from.split_at(end);
            // A full stop ends sentences, too.
            let uid = token.trim_end_matches('.');
            if is_uid(uid) {
                let _ = write!(out, "{}{}", self.pseudonym(uid), &token[uid.len()..]);
            } else {
                out.push_str(token);
            }
            rest = after;
        }
        out + rest
    }

    fn pseudonym(&self, uid: &str) -> String {
        let hash = Sha256::new().chain_update(self.salt).chain_update(uid).finalize();
        // Letters: a pseudonym must not look like another number.
        hash.iter().take(6).fold("uid-".to_owned(), |text, byte| {
            text + &[byte >> 4, byte & 15].map(|nibble| char::from(b'a' + nibble)).iter().collect::<String>()
        })
    }

    fn without_words(&self, text: &str) -> String {
        if self.words.is_empty() {
            return text.to_owned();
        }
        let chars: Vec<char> = text.chars().collect();
        // One lower case letter for each, so that places stay the same; what becomes several letters is compared as it is.
        let lower: Vec<char> = chars
            .iter()
            .map(|c| c.to_lowercase().next().filter(|_| c.to_lowercase().count() == 1).unwrap_or(*c))
            .collect();
        let is_letter = |at: usize| chars.get(at).is_some_and(|c| c.is_alphanumeric());
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        while at < chars.len() {
            let begins = is_letter(at) && (at == 0 || !is_letter(at - 1));
            let word = begins.then(|| {
                // The longest: a whole name before its parts.
                let fits = |word: &&Vec<char>| lower[at..].starts_with(word) && !is_letter(at + word.len());
                self.words
                    .range(vec![lower[at]]..)
                    .take_while(|word| word[0] == lower[at])
                    .filter(fits)
                    .map(Vec::len)
                    .max()
            });
            match word.flatten() {
                Some(length) => {
                    out.push_str("[patient]");
                    at += length;
                }
                None => {
                    out.push(chars[at]);
                    at += 1;
                }
            }
        }
        out
    }
}

/// Digits and dots that name a study, a series or an instance. Addresses, versions and times of day do not.
fn is_uid(token: &str) -> bool {
    let parts: Vec<&str> = token.split('.').collect();
    let is_ip = parts.len() == 4 && parts.iter().all(|part| part.parse::<u8>().is_ok());
    let long = parts.len() >= 5 || (parts.len() >= 3 && token.len() >= UID_CHARS_MIN);
    long && !is_ip && !parts.iter().any(|part| part.is_empty()) && !token.starts_with(STANDARD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_become_pseudonyms_that_hold() {
        let scrubber = Scrubber::new().unwrap();
        let text = "study 2.25.328961956362681805706466256213898009209: complete.\nstudy 2.25.328961956362681805706466256213898009209. 1.3.6.1.4.1 12.34.567.89";
        let clean = scrubber.scrub(text);
        assert!(!clean.contains("2.25.") && !clean.contains("1.3.6"), "{clean}");
        let names: Vec<&str> = clean.split("uid-").skip(1).map(|rest| &rest[..12]).collect();
        assert_eq!(names[0], names[1]);
        assert!(clean.contains(": complete.\n") && names[0] != names[2], "{clean}");
        assert_ne!(Scrubber::new().unwrap().scrub(text), clean, "another bundle has others");
        for kept in [
            "10.0.0.5:104",
            "192.168.100.200",
            "version 0.1.0",
            "1.2.840.10008.5.1.4.1.1.2",
            "0.0.0.0:11112",
            "12.5 ms",
            "2026-11-23T16:28:35.123Z",
        ] {
            assert_eq!(scrubber.scrub(kept), kept);
        }
    }

    #[test]
    fn a_patient_is_cut_out_in_every_form() {
        let mut scrubber = Scrubber::new().unwrap();
        scrubber.cut(&[
            "MÜLLER^Änne Lee".into(),
            "PID-0815".into(),
            "19700102".into(),
            "Ng^B".into(),
            "王^伟".into(),
        ]);
        for form in [
            "MÜLLER^Änne Lee",
            "müller, änne",
            "Änne Müller",
            "ÄNNE_MÜLLER",
            "PID-0815",
            "pid-0815",
            "19700102",
            "1970-01-02",
            "02.01.1970",
            "01/02/1970",
            "LEE",
        ] {
            let clean = scrubber.scrub(&format!("patient {form}; CT1")).to_lowercase();
            for word in ["müller", "änne", "lee", "0815", "1970"] {
                assert!(!clean.contains(word), "{form}: {clean}");
            }
            assert!(clean.starts_with("patient [patient]") && clean.ends_with("; ct1"), "{clean}");
        }
        // A single letter names nobody; a character of such a script does.
        assert_eq!(
            scrubber.scrub("B sleeping fleet of Ng and 伟"),
            "B sleeping fleet of [patient] and [patient]"
        );
    }
}
