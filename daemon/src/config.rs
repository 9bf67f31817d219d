//! The configuration file: TOML, unknown keys refused, clinical thresholds explicit.
//!
//! Parsed once at the start; past it, values are valid. Nothing leaves the box but to the destinations named here.
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::limits;

/// The whole file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How the box is called over DICOM.
    pub dicom: Dicom,
    /// Where received instances and the database are kept.
    pub storage: Storage,
    /// What flags a study.
    pub policy: study::Policy,
    /// When a study counts as complete.
    #[serde(default)]
    pub completion: Completion,
    /// How the networks are run.
    #[serde(default)]
    pub engine: Engine,
    /// Who gets the results.
    #[serde(default, rename = "destination")]
    pub destinations: Vec<Destination>,
}

/// The DICOM side of the box.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dicom {
    /// Our AE title; an association that calls another is rejected.
    pub ae_title: String,
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Further called AE titles that are accepted.
    #[serde(default)]
    pub also_called: Vec<String>,
    /// Calling AE titles that may associate; `["*"]` lets everybody.
    pub callers: Vec<String>,
    /// Associations at a time; more are refused as temporary congestion.
    #[serde(default = "default_associations")]
    pub associations_max: usize,
    /// Silence on an association after which it is aborted.
    #[serde(default = "default_idle")]
    pub idle_timeout_s: f64,
    /// Time that a TCP connection has to request an association (PS3.8 section 9.1.5, ARTIM).
    #[serde(default = "default_artim")]
    pub association_request_timeout_s: f64,
}

/// Where things are kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// Folder of the spool and the database.
    pub dir: PathBuf,
    /// Free space below which instances are refused as out of resources (0xA700).
    #[serde(default = "default_min_free")]
    pub min_free_mib: u64,
    /// Days after which the images of a finished study, whose results are all delivered, are deleted from the box.
    #[serde(default = "default_keep_days")]
    pub keep_days: f64,
}

/// When a study counts as complete (design: way of the data).
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Completion {
    /// Quiet time when the slices are contiguous and the association was released.
    pub quiet_short_s: f64,
    /// Quiet time otherwise.
    pub quiet_long_s: f64,
}

impl Default for Completion {
    fn default() -> Self {
        Self { quiet_short_s: 3.0, quiet_long_s: 15.0 }
    }
}

/// How the networks are run.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// Folder of the models; by default the one that was installed with the binary.
    pub zoo: Option<PathBuf>,
    /// Threads; by default one a core.
    pub threads: Option<usize>,
}

/// A peer that gets every result.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// Its name in logs and in the outbox.
    pub name: String,
    /// Its AE title.
    pub ae_title: String,
    /// `host:port`.
    pub address: String,
}

fn default_associations() -> usize {
    16
}
fn default_idle() -> f64 {
    60.0
}
fn default_artim() -> f64 {
    10.0
}
fn default_min_free() -> u64 {
    2048
}
fn default_keep_days() -> f64 {
    7.0
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|f| f.take(limits::CONFIG_BYTES_MAX).read_to_string(&mut text))
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in the configuration {}", path.display()))
    }

    /// Parses and checks the text of a file.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        for title in self.called().chain(self.destinations.iter().map(|d| d.ae_title.as_str())) {
            title.parse::<dimse::AeTitle>().with_context(|| format!("AE title {title:?}"))?;
        }
        if self.dicom.callers.is_empty() {
            bail!(
                "dicom.callers is empty: name the AE titles that may send, or write [\"*\"] to let everybody"
            );
        }
        for caller in self.dicom.callers.iter().filter(|c| *c != "*") {
            caller
                .parse::<dimse::AeTitle>()
                .with_context(|| format!("AE title {caller:?} in dicom.callers"))?;
        }
        if !(1..=limits::ASSOCIATIONS_MAX).contains(&self.dicom.associations_max) {
            bail!(
                "dicom.associations_max is {}, outside of 1 to {}",
                self.dicom.associations_max,
                limits::ASSOCIATIONS_MAX
            );
        }
        for (name, share) in
            [("operating_point", self.policy.operating_point), ("severity_min", self.policy.severity_min)]
        {
            if !(0.0..=1.0).contains(&share) {
                bail!("policy.{name} is {share}, outside of 0 to 1");
            }
        }
        for (name, seconds) in [
            ("dicom.idle_timeout_s", self.dicom.idle_timeout_s),
            ("dicom.association_request_timeout_s", self.dicom.association_request_timeout_s),
            ("completion.quiet_short_s", self.completion.quiet_short_s),
            ("completion.quiet_long_s", self.completion.quiet_long_s),
        ] {
            if !(0.01..=86_400.0).contains(&seconds) {
                bail!("{name} is {seconds}, outside of 0.01 to 86400");
            }
        }
        if !(0.0..=36_500.0).contains(&self.storage.keep_days) {
            bail!("storage.keep_days is {}, outside of 0 to 36500", self.storage.keep_days);
        }
        let mut names: Vec<&str> = self.destinations.iter().map(|d| d.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|w| w[0] == w[1]) {
            bail!("two destinations are named {:?}", pair[0]);
        }
        Ok(())
    }

    /// All AE titles under which we are called.
    pub fn called(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.dicom.ae_title.as_str()).chain(self.dicom.also_called.iter().map(String::as_str))
    }
}

/// A duration of the file, which was checked to be sensible.
pub fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#"
        [dicom]
        ae_title = "TRIAGED"
        listen = "127.0.0.1:0"
        callers = ["CT1"]
        [storage]
        dir = "/var/lib/triaged"
        [policy]
        mode = "both"
        operating_point = 0.5
        severity_min = 0.05
    "#;

    #[test]
    fn the_least_configuration_has_the_designs_defaults() {
        let config = Config::parse(LEAST).unwrap();
        assert_eq!((config.completion.quiet_short_s, config.completion.quiet_long_s), (3.0, 15.0));
        assert!(config.destinations.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases: &[(&str, &str, &str)] = &[
            ("callers = [\"CT1\"]", "callers = []", "dicom.callers is empty"),
            ("callers = [\"CT1\"]", "callers = [\"A TITLE THAT IS TOO LONG\"]", "AE title"),
            (
                "callers = [\"CT1\"]",
                "callers = [\"CT1\"]\nassociations_max = 0",
                "dicom.associations_max is 0",
            ),
            ("severity_min = 0.05", "severity_min = 5", "policy.severity_min is 5"),
            ("severity_min = 0.05", "severity_min = 0.05\nseverty = 1", "unknown field `severty`"),
            ("severity_min = 0.05", "", "missing field `severity_min`"),
            ("mode = \"both\"", "mode = \"all\"", "unknown variant `all`"),
            ("[storage]", "[completion]\nquiet_short_s = 0\n[storage]", "completion.quiet_short_s is 0"),
            ("127.0.0.1:0", "somewhere", "invalid socket address"),
        ];
        for (from, to, want) in cases {
            let error = format!("{:#}", Config::parse(&LEAST.replace(from, to)).unwrap_err());
            assert!(error.contains(want), "{to}: {error}");
        }
        let twice = format!(
            "{LEAST}{}",
            "[[destination]]\nname = \"pacs\"\nae_title = \"PACS\"\naddress = \"pacs:104\"\n".repeat(2)
        );
        assert!(
            Config::parse(&twice).unwrap_err().to_string().contains("two destinations are named \"pacs\"")
        );
    }
}
