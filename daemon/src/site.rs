//! What the site's settings mean for the box: the files of one boot.
//!
//! Owns turning a `site.toml` (crate `stick` has its form) into the daemon's configuration, the network, the time servers and the
//! firewall, and what a box does that has none: it gets its address by DHCP, serves its screen over TLS with a certificate of its own,
//! answers one AE title, and sends nothing to anybody. It never writes: [`render`] is pure, `triaged site` puts the files in place.
//!
//! The daemon's sections are checked with the daemon's own parser before anything is rendered, and [`check()`] tries what the daemon does at its
//! start, so that no stick can leave a box with a configuration that its daemon refuses. What it can't foresee ends by [`trial`].
mod check;
mod network;
pub mod trial;

pub use check::check;

use crate::config::Config;
use crate::layout::Layout;
use anyhow::{Context, bail};
use std::path::PathBuf;
use stick::Site;
use toml::{Table, Value};

/// The AE title that a box without a site lets in: a field engineer's, for acceptance.
pub const ACCEPTANCE_AE_TITLE: &str = "ACCEPTANCE";
/// PS3.8 annex A: the port that is registered for DICOM.
const DICOM_LISTEN: &str = "0.0.0.0:11112";
/// The screen's, unless the site says otherwise.
const SCREEN_LISTEN: &str = "0.0.0.0:8443";

/// A file of this boot.
#[derive(Debug, PartialEq, Eq)]
pub struct RunFile {
    /// Where.
    pub path: PathBuf,
    /// What it holds.
    pub text: String,
    /// Whether only the daemon may read it.
    pub secret: bool,
}

/// Everything that one boot needs.
#[derive(Debug)]
pub struct Rendered {
    /// The files.
    pub files: Vec<RunFile>,
    /// The daemon's configuration among them, parsed.
    pub config: Config,
    /// The host name, if the site gives one.
    pub hostname: Option<String>,
    /// What the first engineer's setup code must hash to.
    pub setup_code: Option<stick::Sha256>,
    /// Whether the certificate that the box makes itself is needed.
    pub own_certificate: bool,
}

/// Renders a site, or what a box does without one.
///
/// # Errors
/// Names the key that the daemon's own parser refuses, or that is not a site's to set.
pub fn render(site: Option<&Site>, layout: &Layout) -> anyhow::Result<Rendered> {
    let mut table = match site {
        Some(site) => site.triaged.clone(),
        None => without_a_site(),
    };
    complete(&mut table, layout)?;
    let own_certificate = tls(&mut table, site, layout)?;
    let text = toml::to_string(&table)?;
    let config = Config::parse(&text).context("in [triaged] of site.toml")?;
    let default = stick::Network::default();
    let (network, time) = site.map_or((&default, &[][..]), |site| (&site.network, &site.time.servers[..]));
    let mut ports: Vec<u16> = site.map_or_else(Vec::new, |site| site.firewall.ports.clone());
    let open_ports = config.listeners().filter(|(_, at)| !at.ip().is_loopback());
    ports.extend(open_ports.map(|(_, at)| at.port()));
    ports.sort_unstable();
    ports.dedup();
    let hostname = site.and_then(|site| site.site.hostname.clone());
    let open = |path, text| RunFile { path, text, secret: false };
    let mut files = vec![
        open(layout.network(), network::networkd(network, time, hostname.is_some())),
        open(layout.firewall(), network::nftables(&ports)),
    ];
    if let Some(name) = &hostname {
        files.push(open(layout.hostname(), format!("{name}\n")));
    }
    if let Some(pem) = site.and_then(|site| site.certificates.as_ref()) {
        let dir = layout.tls_dir();
        for (name, text) in [
            ("certificate.pem", &pem.certificate),
            ("key.pem", &pem.key),
            ("authorities.pem", &pem.authorities),
        ] {
            files.push(RunFile { path: dir.join(name), text: text.clone(), secret: true });
        }
    }
    // The last: where it is, the others are.
    files.push(open(layout.config(), header(site) + &text));
    let setup_code = site.and_then(|site| site.setup.as_ref()).and_then(stick::Setup::sha256);
    Ok(Rendered { files, config, hostname, setup_code, own_certificate })
}

/// The text of a site without what is secret, for whoever is asked for help.
///
/// # Errors
/// It is no TOML.
pub fn without_secrets(text: &str) -> anyhow::Result<String> {
    let mut table: Table = text.parse()?;
    for section in ["setup", "certificates"] {
        if table.contains_key(section) {
            table.insert(section.to_owned(), "left out".into());
        }
    }
    Ok(toml::to_string(&table)?)
}

fn header(site: Option<&Site>) -> String {
    match site {
        Some(site) => {
            format!("# {}, serial {}: made from site.toml at boot\n", site.site.name, site.site.serial)
        }
        None => "# This box has no site.toml: plug in a stick with one\n".to_owned(),
    }
}

/// A box that nobody has set up: it can be tested, and sends nothing to anybody. The thresholds are those of the README's example.
fn without_a_site() -> Table {
    let text = format!(
        "[dicom]\nae_title = \"TRIAGED\"\ncallers = [\"{ACCEPTANCE_AE_TITLE}\"]\n\
         [policy]\nmode = \"both\"\noperating_point = 0.5\nseverity_min = 0.05\n"
    );
    text.parse().expect("this text is TOML, as a test sees")
}

/// What is the box's and not the site's.
fn complete(table: &mut Table, layout: &Layout) -> anyhow::Result<()> {
    for (section, key, why) in [
        ("storage", "dir", "the box keeps everything on its encrypted disk"),
        ("engine", "zoo", "the models come with the image"),
        ("screen", "strings", "a stick can't bring that file"),
    ] {
        if table.get(section).and_then(|section| section.get(key)).is_some() {
            bail!("[triaged.{section}] {key} is not the site's to set: {why}");
        }
    }
    if table.contains_key("tls") {
        bail!("[triaged.tls] is not the site's to set: put the PEM texts into [certificates]");
    }
    let dicom = section(table, "dicom")?;
    if !dicom.contains_key("listen") && !dicom.contains_key("listen_tls") {
        dicom.insert("listen".into(), DICOM_LISTEN.into());
    }
    section(table, "storage")?.insert("dir".into(), path(&layout.storage_dir())?);
    let screen = section(table, "screen")?;
    if !screen.contains_key("listen") {
        screen.insert("listen".into(), SCREEN_LISTEN.into());
        screen.entry("tls").or_insert(true.into());
    }
    Ok(())
}

/// `[tls]`: the site's certificates, or where something wants one and the site brings none, the box's own. Whether it is the latter.
fn tls(table: &mut Table, site: Option<&Site>, layout: &Layout) -> anyhow::Result<bool> {
    let brought = site.is_some_and(|site| site.certificates.is_some());
    let is_true = |section: &str, key: &str| {
        table.get(section).and_then(|section| section.get(key)).and_then(Value::as_bool).unwrap_or(false)
    };
    // The screen alone: where peers must prove who they are, a certificate that nobody vouches for proves nothing.
    let own = !brought && is_true("screen", "tls");
    if !brought && !own {
        return Ok(false);
    }
    let dir = layout.tls_dir();
    let mut tls = Table::new();
    for key in ["certificate", "key", "authorities"] {
        tls.insert(key.into(), path(&dir.join(format!("{key}.pem")))?);
    }
    table.insert("tls".into(), Value::Table(tls));
    Ok(own)
}

fn section<'a>(table: &'a mut Table, name: &str) -> anyhow::Result<&'a mut Table> {
    let value = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
    value.as_table_mut().with_context(|| format!("triaged.{name} is no table"))
}

fn path(path: &std::path::Path) -> anyhow::Result<Value> {
    Ok(path.to_str().with_context(|| format!("{} is no UTF-8", path.display()))?.into())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::path::Path;

    pub const SITE: &str = r#"
        [site]
        name = "St Elsewhere"
        serial = 3
        hostname = "triage-ct2"
        [network]
        address = "10.0.0.9/24"
        gateway = "10.0.0.1"
        dns = ["10.0.0.2"]
        [time]
        servers = ["ntp.hospital"]
        [firewall]
        ports = [9100]
        [triaged.dicom]
        ae_title = "TRIAGED"
        callers = ["CT1"]
        [triaged.policy]
        mode = "both"
        operating_point = 0.5
        severity_min = 0.05
        [triaged.screen]
        listen = "0.0.0.0:443"
        tls = true
        [[triaged.destination]]
        protocol = "dicom"
        name = "pacs"
        ae_title = "PACS"
        address = "pacs.hospital:104"
    "#;

    fn rendered(site: &str) -> anyhow::Result<Rendered> {
        render(Some(&Site::parse(site)?), &Layout::at(Path::new("/")))
    }

    fn file<'a>(rendered: &'a Rendered, name: &str) -> &'a str {
        let file = rendered.files.iter().find(|file| file.path.ends_with(name));
        &file.unwrap_or_else(|| panic!("no {name}")).text
    }

    #[test]
    fn a_box_without_a_site_can_be_tested_and_sends_nothing() {
        let box_ = render(None, &Layout::at(Path::new("/"))).unwrap();
        assert_eq!(box_.config.dicom.callers, [ACCEPTANCE_AE_TITLE]);
        assert!(box_.config.destinations.is_empty() && box_.own_certificate);
        let screen = box_.config.screen.as_ref().unwrap();
        assert!(screen.tls && !screen.unencrypted);
        assert_eq!(box_.config.storage.dir, Path::new("/var/lib/triaged"));
        assert!(file(&box_, "10-site.network").contains("DHCP=yes"));
        assert!(file(&box_, "nftables.conf").contains("open { 8443, 11112 }"));
        assert_eq!(
            Config::parse(file(&box_, "triaged.toml")).unwrap().dicom.listen,
            box_.config.dicom.listen
        );
    }

    #[test]
    fn a_site_says_what_is_open_and_to_whom_results_go() {
        let site = rendered(SITE).unwrap();
        assert_eq!(site.config.destinations[0].name(), "pacs");
        assert_eq!(site.hostname.as_deref(), Some("triage-ct2"));
        let firewall = file(&site, "nftables.conf");
        assert!(firewall.contains("open { 443, 9100, 11112 }"), "{firewall}");
        assert!(site.files.iter().all(|file| !file.secret));
        // Nobody from outside reaches what listens on loopback.
        let local = rendered(&SITE.replace("0.0.0.0:443", "127.0.0.1:443")).unwrap();
        assert!(file(&local, "nftables.conf").contains("{ 9100, 11112 }"));
    }

    #[test]
    fn certificates_of_the_site_take_the_place_of_the_boxs_own() {
        let pem = "[certificates]\ncertificate = \"-----BEGIN C\"\nkey = \"-----BEGIN K\"\nauthorities = \"-----BEGIN A\"\n[triaged.dicom]\nlisten_tls = \"0.0.0.0:2762\"";
        let site = rendered(&SITE.replace("[triaged.dicom]", pem)).unwrap();
        assert!(!site.own_certificate);
        assert_eq!(file(&site, "tls/key.pem"), "-----BEGIN K");
        assert!(site.files.iter().any(|file| file.secret && file.path.ends_with("key.pem")));
        assert_eq!(site.config.tls.unwrap().key, "/run/triaged/tls/key.pem");
        // Encrypted, and nothing else.
        assert_eq!(site.config.dicom.listen, None);
    }

    #[test]
    fn the_daemons_own_parser_has_the_last_word() {
        for (from, to, want) in [
            ("severity_min = 0.05", "severity_min = 5", "policy.severity_min is 5"),
            ("severity_min = 0.05", "", "missing field `severity_min`"),
            ("callers = [\"CT1\"]", "calers = [\"CT1\"]", "unknown field `calers`"),
            ("[triaged.screen]", "[triaged.sceen]", "unknown field `sceen`"),
            (
                "[triaged.policy]",
                "[triaged.storage]\ndir = \"/tmp\"\n[triaged.policy]",
                "[triaged.storage] dir is not the site's to set",
            ),
            (
                "[triaged.policy]",
                "[triaged.engine]\nzoo = \"/tmp\"\n[triaged.policy]",
                "[triaged.engine] zoo is not",
            ),
            ("[triaged.policy]", "[triaged.tls]\nkey = \"/tmp\"\n[triaged.policy]", "[certificates]"),
            ("tls = true", "tls = false", "without TLS"),
            (
                "callers = [\"CT1\"]",
                "callers = [\"CT1\"]\nlisten_tls = \"0.0.0.0:2762\"\n[[triaged.scanner]]\nae_title = \"A\"\naddress = \"a:1\"\ntls = true\n[triaged.audit]\nkeep_days = 0",
                "keep_days",
            ),
        ] {
            let error = format!("{:#}", rendered(&SITE.replace(from, to)).unwrap_err());
            assert!(error.contains(want), "{to}: {error}");
        }
    }
}
