//! The configuration file: TOML, unknown keys refused, clinical thresholds explicit.
//!
//! Parsed once at the start; past it, values are valid. Nothing leaves the box but to the destinations named here.
mod audit;
mod check;
mod screen;

pub use screen::{Patient, Screen, Viewers};

pub use audit::{Audit, SyslogAddress, SyslogTransport};

use anyhow::Context;
use results::Kind;
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
    /// What the results look like.
    #[serde(default)]
    pub results: ResultSettings,
    /// The technician's screen; without it there is none.
    #[serde(default)]
    pub screen: Option<Screen>,
    /// Who we are over TLS, and whom we trust.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Who gets the results.
    #[serde(default, rename = "destination")]
    pub destinations: Vec<Destination>,
    /// Scanners that we call back, with the answers to their storage commitment requests.
    #[serde(default, rename = "scanner")]
    pub scanners: Vec<Scanner>,
    /// The modality worklist that is asked for priorities; never written to.
    #[serde(default)]
    pub worklist: Option<Worklist>,
    /// The audit trail.
    #[serde(default)]
    pub audit: Audit,
}

/// The DICOM side of the box.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dicom {
    /// Our AE title; an association that calls another is rejected.
    pub ae_title: String,
    /// Address and port to listen on without encryption; left out where everybody must use TLS.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// Address and port to listen on with TLS (PS3.15 section B.12; 2762 is registered for it). Needs `[tls]`.
    #[serde(default)]
    pub listen_tls: Option<SocketAddr>,
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
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// The method: one of the paper's, `multitask-spatial-1` unless something else is asked for.
    pub method: engine::Method,
    /// Which engine: `auto` is TensorRT, else our own CUDA kernels, else the processor. One that is named must be there at the start; where any
    /// fails later, the study is finished by the next one.
    pub backend: engine::Choice,
    /// Which GPU.
    pub gpu: usize,
    /// How much of the GPU's memory is used at most. Jetsons share theirs with everything else.
    pub gpu_memory_mib: u64,
    /// Folder of TensorRT's libraries; by default the system's loader finds them.
    pub tensorrt_dir: Option<PathBuf>,
    /// The DLA core of a Jetson that runs what it can run.
    pub dla: Option<u32>,
    /// Folder of the models; by default the one that was installed with the binary.
    pub zoo: Option<PathBuf>,
    /// Threads; by default one a core.
    pub threads: Option<usize>,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            method: engine::Method::default(),
            backend: engine::Choice::Auto,
            gpu: 0,
            gpu_memory_mib: 2048,
            tensorrt_dir: None,
            dla: None,
            zoo: None,
            threads: None,
        }
    }
}

/// What the results look like.
///
/// Marks on lesions are a regulatory question, not one of taste: a triage device (in the United States, 21 CFR 892.2080)
/// notifies, beside the standard of care, with a preview that is not marked and not for diagnosis; a lesion overlay on
/// the technician's screen moved a comparable product to 892.2090, computer-assisted detection. So the outlines are off
/// unless the site turns them on; a site that must not show any mark turns the colours of the picture off, too.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResultSettings {
    /// Whether the coronal picture shows the affected share along each ray in colour.
    pub picture_colours: bool,
    /// Whether lesions are outlined on the axial slices.
    pub lesion_outlines: bool,
    /// How many of the most affected axial slices are sent to those who get `slices`.
    pub slices: usize,
    /// AE title of the archive from which the study's images can be retrieved: named in work items.
    pub archive_ae_title: Option<String>,
}

impl Default for ResultSettings {
    fn default() -> Self {
        Self { picture_colours: true, lesion_outlines: false, slices: 6, archive_ae_title: None }
    }
}

/// Certificates and keys in PEM: a path, or `credential:NAME` for one that systemd hands to the service
/// (`LoadCredential=`, in `$CREDENTIALS_DIRECTORY`). Authentication is always mutual.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Our certificate, with the intermediate ones.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// The authorities that we trust to name our peers.
    pub authorities: String,
}

/// Who gets results, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "protocol", rename_all = "lowercase")]
pub enum Destination {
    /// A console or an archive: C-STORE.
    Dicom(DicomDestination),
    /// A radiology information system: HL7 v2.5.1 ORU^R01 over MLLP.
    Hl7(Hl7Destination),
    /// A worklist manager: a Unified Procedure Step, pushed by N-CREATE.
    Ups(UpsDestination),
}

/// A console or an archive.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DicomDestination {
    /// Its name in logs and in the outbox.
    pub name: String,
    /// Its AE title.
    pub ae_title: String,
    /// `host:port`.
    pub address: String,
    /// Whether it is spoken to over TLS.
    #[serde(default)]
    pub tls: bool,
    /// Which results it gets.
    #[serde(default = "default_results")]
    pub results: Vec<Kind>,
    /// Whether a result counts as delivered only when the peer has committed to keep it (PS3.4 annex J).
    #[serde(default)]
    pub storage_commitment: bool,
}

/// A radiology information system.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hl7Destination {
    /// Its name in logs and in the outbox.
    pub name: String,
    /// `host:port`.
    pub address: String,
    /// Whether it is spoken to over TLS.
    #[serde(default)]
    pub tls: bool,
    /// MSH-4.
    #[serde(default)]
    pub sending_facility: String,
    /// MSH-5.
    #[serde(default)]
    pub receiving_application: String,
    /// MSH-6.
    #[serde(default)]
    pub receiving_facility: String,
    /// The character set of the messages (MSH-18).
    #[serde(default)]
    pub character_set: results::hl7::CharacterSet,
}

/// A worklist manager.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpsDestination {
    /// Its name in logs and in the outbox.
    pub name: String,
    /// Its AE title.
    pub ae_title: String,
    /// `host:port`.
    pub address: String,
    /// Whether it is spoken to over TLS.
    #[serde(default)]
    pub tls: bool,
}

/// A scanner that is called back.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scanner {
    /// Its AE title, as it calls and as it is called.
    pub ae_title: String,
    /// `host:port`.
    pub address: String,
    /// Whether it is spoken to over TLS.
    #[serde(default)]
    pub tls: bool,
}

/// The modality worklist.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worklist {
    /// Its AE title.
    pub ae_title: String,
    /// `host:port`.
    pub address: String,
    /// Whether it is spoken to over TLS.
    #[serde(default)]
    pub tls: bool,
    /// How long an answer may take. The evaluation does not wait for it.
    #[serde(default = "default_worklist_timeout")]
    pub timeout_s: f64,
}

impl Destination {
    /// Its name in logs and in the outbox.
    pub fn name(&self) -> &str {
        match self {
            Self::Dicom(d) => &d.name,
            Self::Hl7(d) => &d.name,
            Self::Ups(d) => &d.name,
        }
    }

    /// Its AE title, where its protocol has them.
    pub fn ae_title(&self) -> Option<&str> {
        match self {
            Self::Dicom(d) => Some(&d.ae_title),
            Self::Hl7(_) => None,
            Self::Ups(d) => Some(&d.ae_title),
        }
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        match self {
            Self::Dicom(d) => &d.address,
            Self::Hl7(d) => &d.address,
            Self::Ups(d) => &d.address,
        }
    }

    /// Whether it is spoken to over TLS.
    pub fn tls(&self) -> bool {
        match self {
            Self::Dicom(d) => d.tls,
            Self::Hl7(d) => d.tls,
            Self::Ups(d) => d.tls,
        }
    }
}

impl Dicom {
    /// Associations at a time, unless configured.
    pub const ASSOCIATIONS_DEFAULT: usize = 16;
    /// Silence that ends an association, unless configured.
    pub const IDLE_DEFAULT_S: f64 = 60.0;
    /// Time for the association request, unless configured.
    pub const ARTIM_DEFAULT_S: f64 = 10.0;
}

impl Storage {
    /// Where the code that sets a new box up is kept.
    pub fn setup_code(&self) -> PathBuf {
        self.dir.join("setup-code")
    }

    /// Days that images are kept, unless configured.
    pub const KEEP_DAYS_DEFAULT: f64 = 7.0;
}

fn default_associations() -> usize {
    Dicom::ASSOCIATIONS_DEFAULT
}
fn default_idle() -> f64 {
    Dicom::IDLE_DEFAULT_S
}
fn default_artim() -> f64 {
    Dicom::ARTIM_DEFAULT_S
}
fn default_min_free() -> u64 {
    2048
}
fn default_keep_days() -> f64 {
    Storage::KEEP_DAYS_DEFAULT
}
fn default_results() -> Vec<Kind> {
    vec![Kind::Picture]
}
fn default_worklist_timeout() -> f64 {
    5.0
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

    /// The engines that the file describes.
    pub fn engines(&self, threads: usize) -> engine::Setup {
        let e = &self.engine;
        let tensorrt = engine::tensorrt::Options {
            library_dir: e.tensorrt_dir.clone(),
            plan_dir: self.storage.dir.join("plans"),
            dla: e.dla,
        };
        engine::Setup {
            gpu: e.gpu,
            gpu_memory_max: e.gpu_memory_mib << 20,
            tensorrt,
            required: false,
            ..engine::Setup::new(e.backend, threads)
        }
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
pub mod tests {
    use super::*;

    pub const LEAST: &str = r#"
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
    fn the_readmes_configuration_is_one() {
        let readme = include_str!("../../README.md");
        let blocks: Vec<&str> = readme
            .split("```toml\n")
            .skip(1)
            .map(|rest| rest.split("```").next().expect("split yields one piece at least"))
            .collect();
        let [all, tls] = blocks[..] else { panic!("{} blocks of TOML", blocks.len()) };
        let config = Config::parse(all).unwrap();
        assert_eq!(config.destinations.len(), 4);
        let own_table = tls.split("[tls]").nth(1).unwrap();
        let encrypted = format!("{}\n[tls]\n{own_table}", all.replacen("listen = ", "listen_tls = ", 1));
        assert!(Config::parse(&encrypted).unwrap().tls.is_some());
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
            ("[policy]", "[engine]\nmethod = \"unet\"\n[policy]", "unknown variant `unet`"),
            (
                "[policy]",
                "[engine]\nmethod = \"resnet50\"\n[policy]",
                "policy.mode is \"both\", and engine.method is \"resnet50\", which doesn't measure severity",
            ),
            ("[storage]", "[completion]\nquiet_short_s = 0\n[storage]", "completion.quiet_short_s is 0"),
            ("127.0.0.1:0", "somewhere", "invalid socket address"),
            ("listen = \"127.0.0.1:0\"", "", "neither dicom.listen nor dicom.listen_tls"),
            ("listen = ", "listen_tls = ", "dicom.listen_tls needs [tls]"),
            (
                "[policy]",
                "[[destination]]\nprotocol = \"hl7\"\nname = \"ris\"\naddress = \"ris:2575\"\ntls = true\n[policy]",
                "\"ris\" wants TLS",
            ),
            (
                "[policy]",
                "[[destination]]\nprotocol = \"hl7\"\nname = \"ris\"\naddress = \"ris:2575\"\nae_title = \"R\"\n[policy]",
                "unknown field `ae_title`",
            ),
            (
                "[policy]",
                "[[destination]]\nprotocol = \"dicom\"\nname = \"p\"\nae_title = \"P\"\naddress = \"p:104\"\nresults = [\"segmentation\"]\n[policy]",
                "neither \"picture\" nor \"report\"",
            ),
            (
                "[policy]",
                "[[destination]]\nprotocol = \"hl7\"\nname = \"ris\"\naddress = \"ris\"\n[policy]",
                "\"ris\" is no host:port",
            ),
            (
                "[policy]",
                "[[destination]]\nprotocol = \"hl7\"\nname = \"\"\naddress = \"ris:1\"\n[policy]",
                "a destination is named \"\"",
            ),
            (
                "[policy]",
                "[[scanner]]\nae_title = \"CT1\"\naddress = \"::1\"\n[policy]",
                "\"::1\" is no host:port",
            ),
            ("[policy]", "[worklist]\nae_title = \"\"\naddress = \"ris:104\"\n[policy]", "AE title \"\""),
            ("[policy]", "[results]\nslices = 1000\n[policy]", "results.slices is 1000"),
            ("[policy]", "[engine]\nthreads = 0\n[policy]", "engine.threads is 0"),
            ("[policy]", "[worklist]\nae_title = \"RIS\"\naddress = \"ris 1:104\"\n[policy]", "no host:port"),
            (
                "[policy]",
                "[worklist]\nae_title = \"RIS\"\naddress = \"10.0.0.300:104\"\n[policy]",
                "no host:port",
            ),
            (
                "[policy]",
                "[audit]\nsyslog = \"collector:514\"\n[policy]",
                "audit.syslog is \"collector:514\"",
            ),
            (
                "[policy]",
                "[audit]\nsyslog = \"tls://collector:6514\"\n[policy]",
                "tls:// in audit.syslog needs [tls]",
            ),
            ("[policy]", "[audit]\nkeep_days = 0\n[policy]", "audit.keep_days is 0"),
        ];
        for (from, to, want) in cases {
            let error = format!("{:#}", Config::parse(&LEAST.replace(from, to)).unwrap_err());
            assert!(error.contains(want), "{to}: {error}");
        }
        let twice = format!(
            "{LEAST}{}",
            "[[destination]]\nprotocol = \"dicom\"\nname = \"pacs\"\nae_title = \"PACS\"\naddress = \"pacs:104\"\n".repeat(2)
        );
        assert!(
            Config::parse(&twice).unwrap_err().to_string().contains("two destinations are named \"pacs\"")
        );
    }
}
