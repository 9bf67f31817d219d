//! The site's settings: `site.toml`.
//!
//! ```toml
//! [site]
//! name = "St Elsewhere, CT 2"
//! serial = 3                       # must not fall from stick to stick
//! box = "triage-ct2"               # optional: the machine-id or host name of the box that it is for
//! hostname = "triage-ct2"          # optional
//!
//! [network]                        # without an address: DHCP
//! interface = "en*"                # optional; by default en* and eth*
//! address = "10.0.0.9/24"
//! gateway = "10.0.0.1"             # optional
//! dns = ["10.0.0.2"]
//!
//! [time]
//! servers = ["ntp.hospital"]
//!
//! [setup]                          # what the first engineer types on the screen, or its SHA-256; a new one makes a further engineer
//! code = "ABCD-EFGH-2345-6789"
//!
//! [firewall]
//! ports = []                       # TCP ports beside those of DICOM and the screen
//!
//! [certificates]                   # optional: PEM, for TLS; the daemon's [tls] then names them
//! certificate = "-----BEGIN CERTIFICATE-----…"
//! key = "-----BEGIN PRIVATE KEY-----…"
//! authorities = "-----BEGIN CERTIFICATE-----…"
//!
//! [triaged.dicom]                  # the daemon's own configuration, section by section
//! ae_title = "TRIAGED"
//! ```
use crate::{Address, AddressError, Sha256};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Ports beside the daemon's own at the most.
const PORTS_MAX: usize = 16;
/// Name servers or time servers at the most.
const SERVERS_MAX: usize = 8;
/// Characters of a site's name at the most.
const NAME_CHARS_MAX: usize = 64;
/// Characters of a setup code without what stands between its groups.
const CODE_CHARS: usize = 16;
/// What people don't confuse: no I, O, 0, 1.
const CODE_ALPHABET: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";

/// What is wrong with a `site.toml`.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// Not TOML, or not these keys.
    #[error("site.toml can't be read: {0}")]
    Toml(#[from] toml::de::Error),
    /// Not a name.
    #[error("site.name is {0:?}: 1 to {NAME_CHARS_MAX} characters, no control characters")]
    Name(String),
    /// Not a host name (RFC 1123).
    #[error("{key} is {value:?}: letters, digits and hyphens, 1 to 63 in each part")]
    Host {
        /// Which key.
        key: &'static str,
        /// As it is written.
        value: String,
    },
    /// A pattern that would end its line.
    #[error(
        "network.interface is {0:?}: letters, digits, and * ? . _ - : are possible, and one blank between patterns"
    )]
    Interface(String),
    /// A gateway or a name server, and no address.
    #[error("network.{0} is there without network.address: with DHCP it is the DHCP server's to say")]
    WithoutAddress(&'static str),
    /// A gateway that can't be reached.
    #[error("network.gateway {gateway} is not in the network of network.address {address}")]
    Gateway {
        /// The gateway.
        gateway: IpAddr,
        /// The box.
        address: Address,
    },
    /// Not an address.
    #[error("network.address: {0}")]
    Address(#[from] AddressError),
    /// Too many.
    #[error("{key} holds {count}; {max} are possible")]
    TooMany {
        /// Which key.
        key: &'static str,
        /// How many there are.
        count: usize,
        /// How many are possible.
        max: usize,
    },
    /// Port 0.
    #[error("firewall.ports holds 0, which is no port")]
    Port,
    /// Neither a code nor a hash.
    #[error(
        "setup: needs either code (16 letters and digits without I, O, 0 and 1; hyphens and blanks don't count) or code_sha256"
    )]
    Code,
    /// Not PEM.
    #[error("certificates.{0} is no PEM: it begins with -----BEGIN")]
    Pem(&'static str),
}

/// A site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Which site, which edition, for which box.
    pub site: Head,
    /// How the box is reached.
    #[serde(default)]
    pub network: Network,
    /// Whom it asks for the time.
    #[serde(default)]
    pub time: Time,
    /// What the first engineer types.
    #[serde(default)]
    pub setup: Option<Setup>,
    /// What else is open.
    #[serde(default)]
    pub firewall: Firewall,
    /// Who the box is over TLS.
    #[serde(default)]
    pub certificates: Option<Certificates>,
    /// Sections of the daemon's configuration; the daemon checks them.
    #[serde(default)]
    pub triaged: toml::Table,
}

/// Which site, which edition, for which box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// For people.
    pub name: String,
    /// The edition: a box takes none that is older than what it has.
    pub serial: u64,
    /// The machine-id or the host name of the box that it is for; without it, any box.
    #[serde(default, rename = "box", skip_serializing_if = "Option::is_none")]
    pub for_box: Option<String>,
    /// The box's host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// How the box is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Patterns of interfaces' names, a blank between them.
    #[serde(default)]
    pub interface: Option<String>,
    /// The box's address; without it, DHCP.
    #[serde(default)]
    pub address: Option<Address>,
    /// The way out of its network, if there is one.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// Name servers.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
}

/// Whom the box asks for the time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Time {
    /// Names or addresses; none: those that DHCP names.
    #[serde(default)]
    pub servers: Vec<String>,
}

/// What the first engineer types on the screen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// In the clear: whoever reads the stick knows it.
    #[serde(default)]
    pub code: Option<String>,
    /// Its SHA-256, in capitals and without what stands between its groups ([`setup_code_sha256`]).
    #[serde(default)]
    pub code_sha256: Option<Sha256>,
}

/// What is open beside DICOM and the screen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firewall {
    /// TCP ports.
    #[serde(default)]
    pub ports: Vec<u16>,
}

/// Who the box is over TLS, and whom it trusts: PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificates {
    /// The box's certificate, with the intermediate ones.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// The authorities that it trusts.
    pub authorities: String,
}

/// The SHA-256 of a setup code as people write it; `None` if it is none.
pub fn setup_code_sha256(code: &str) -> Option<Sha256> {
    let plain: Vec<u8> =
        code.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_uppercase()).collect();
    let legal = plain.len() == CODE_CHARS && plain.iter().all(|byte| CODE_ALPHABET.contains(byte));
    legal.then(|| Sha256::of(&plain))
}

impl Setup {
    /// The hash of the code.
    pub fn sha256(&self) -> Option<Sha256> {
        match (&self.code, self.code_sha256) {
            (Some(code), None) => setup_code_sha256(code),
            (None, hash) => hash,
            (Some(_), Some(_)) => None,
        }
    }
}

impl Site {
    /// Reads and checks the text of a `site.toml`; what is in `[triaged]` is left to the daemon's own parser.
    ///
    /// # Errors
    /// [`SiteError`] names the key and the value.
    pub fn parse(text: &str) -> Result<Self, SiteError> {
        let site: Self = toml::from_str(text)?;
        site.check()?;
        Ok(site)
    }

    fn check(&self) -> Result<(), SiteError> {
        let name = &self.site.name;
        if name.trim().is_empty()
            || name.chars().count() > NAME_CHARS_MAX
            || name.chars().any(char::is_control)
        {
            return Err(SiteError::Name(name.clone()));
        }
        for (key, value) in [("site.box", &self.site.for_box), ("site.hostname", &self.site.hostname)] {
            if let Some(value) = value {
                check_host(key, value)?;
            }
        }
        self.network.check()?;
        at_most("time.servers", self.time.servers.len(), SERVERS_MAX)?;
        for server in &self.time.servers {
            if server.parse::<IpAddr>().is_err() {
                check_host("time.servers", server)?;
            }
        }
        at_most("firewall.ports", self.firewall.ports.len(), PORTS_MAX)?;
        if self.firewall.ports.contains(&0) {
            return Err(SiteError::Port);
        }
        if self.setup.as_ref().is_some_and(|setup| setup.sha256().is_none()) {
            return Err(SiteError::Code);
        }
        if let Some(c) = &self.certificates {
            for (key, pem) in
                [("certificate", &c.certificate), ("key", &c.key), ("authorities", &c.authorities)]
            {
                if !pem.trim_start().starts_with("-----BEGIN ") {
                    return Err(SiteError::Pem(key));
                }
            }
        }
        Ok(())
    }
}

impl Network {
    fn check(&self) -> Result<(), SiteError> {
        if let Some(interface) = &self.interface {
            let pattern = |p: &str| {
                !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b"*?._-:".contains(&b))
            };
            if !interface.split(' ').all(pattern) {
                return Err(SiteError::Interface(interface.clone()));
            }
        }
        at_most("network.dns", self.dns.len(), SERVERS_MAX)?;
        let Some(address) = self.address else {
            return match (self.gateway, self.dns.is_empty()) {
                (Some(_), _) => Err(SiteError::WithoutAddress("gateway")),
                (None, false) => Err(SiteError::WithoutAddress("dns")),
                (None, true) => Ok(()),
            };
        };
        match self.gateway {
            Some(gateway) if !address.holds(gateway) => Err(SiteError::Gateway { gateway, address }),
            _ => Ok(()),
        }
    }
}

fn at_most(key: &'static str, count: usize, max: usize) -> Result<(), SiteError> {
    if count > max { Err(SiteError::TooMany { key, count, max }) } else { Ok(()) }
}

/// RFC 1123, section 2.1.
fn check_host(key: &'static str, value: &str) -> Result<(), SiteError> {
    let part = |p: &str| {
        (1..=63).contains(&p.len())
            && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !p.starts_with('-')
            && !p.ends_with('-')
    };
    if value.len() <= 253 && value.split('.').all(part) {
        return Ok(());
    }
    Err(SiteError::Host { key, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
        [site]
        name = "St Elsewhere, CT 2"
        serial = 3
        box = "triage-ct2"
        hostname = "triage-ct2"
        [network]
        interface = "en* eth0"
        address = "10.0.0.9/24"
        gateway = "10.0.0.1"
        dns = ["10.0.0.2"]
        [time]
        servers = ["ntp.hospital", "10.0.0.3"]
        [setup]
        code = "abcd-efgh-2345-6789"
        [firewall]
        ports = [9100]
        [certificates]
        certificate = "-----BEGIN CERTIFICATE-----"
        key = "-----BEGIN PRIVATE KEY-----"
        authorities = "-----BEGIN CERTIFICATE-----"
        [triaged.dicom]
        ae_title = "TRIAGED"
    "#;

    #[test]
    fn a_site_is_read() {
        let site = Site::parse(FULL).unwrap();
        assert_eq!((site.site.serial, site.site.for_box.as_deref()), (3, Some("triage-ct2")));
        assert_eq!(site.triaged["dicom"]["ae_title"].as_str(), Some("TRIAGED"));
        assert_eq!(site.setup.unwrap().sha256(), Some(Sha256::of(b"ABCDEFGH23456789")));
        let least = Site::parse("[site]\nname = \"s\"\nserial = 0\n").unwrap();
        assert_eq!((least.network, least.setup), (Network::default(), None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, want) in [
            ("serial = 3", "serial = -3", "invalid value"),
            ("serial = 3", "seral = 3", "unknown field `seral`"),
            ("[time]", "[tiem]", "unknown field `tiem`"),
            ("name = \"St Elsewhere, CT 2\"", "name = \"a\\nb\"", "site.name"),
            ("box = \"triage-ct2\"", "box = \"../x\"", "site.box is \"../x\""),
            ("hostname = \"triage-ct2\"", "hostname = \"-a\"", "site.hostname is \"-a\""),
            ("interface = \"en* eth0\"", "interface = \"en0\\n[Network]\"", "network.interface"),
            ("address = \"10.0.0.9/24\"", "address = \"10.0.0.9\"", "no address of a box"),
            ("address = \"10.0.0.9/24\"", "", "network.gateway is there without network.address"),
            (
                "gateway = \"10.0.0.1\"",
                "gateway = \"10.0.1.1\"",
                "network.gateway 10.0.1.1 is not in the network of network.address 10.0.0.9/24",
            ),
            ("gateway = \"10.0.0.1\"", "gateway = \"fe80::1\"", "is not in the network"),
            ("dns = [\"10.0.0.2\"]", "dns = [\"ns\"]", "invalid IP address"),
            ("\"ntp.hospital\"", "\"ntp hospital\"", "time.servers is \"ntp hospital\""),
            ("code = \"abcd-efgh-2345-6789\"", "code = \"abcd-efgh-2345-678O\"", "setup: needs either code"),
            ("code = \"abcd-efgh-2345-6789\"", "", "setup: needs either code"),
            ("ports = [9100]", "ports = [0]", "firewall.ports holds 0"),
            ("ports = [9100]", "ports = [70000]", "invalid value"),
            ("key = \"-----BEGIN PRIVATE KEY-----\"", "key = \"/etc/key.pem\"", "certificates.key is no PEM"),
        ] {
            assert!(FULL.contains(from), "{from}");
            let error = Site::parse(&FULL.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(want), "{to}: {error}");
        }
    }
}
