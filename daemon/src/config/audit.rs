//! `[audit]`: how long the audit trail is kept, and who collects it.
use anyhow::bail;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The audit trail.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// The site's audit repository: `tls://host:6514`, `tcp://host:port` or `udp://host:514`. Without it the trail is in
    /// the database only.
    pub syslog: Option<SyslogAddress>,
    /// Days after which an event is deleted from the box.
    pub keep_days: f64,
}

impl Default for Audit {
    /// Six years: what 45 CFR 164.316(b)(2)(i) (HIPAA) asks for, the longest that a rule names for such records. A site
    /// whose collector keeps them may say less.
    fn default() -> Self {
        Self { syslog: None, keep_days: 2_192.0 }
    }
}

/// How syslog travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyslogTransport {
    /// RFC 5426.
    Udp,
    /// RFC 6587.
    Tcp,
    /// RFC 5425; needs `[tls]`.
    Tls,
}

/// Where to send it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SyslogAddress {
    /// How.
    pub transport: SyslogTransport,
    /// `host:port`.
    pub address: String,
}

impl FromStr for SyslogAddress {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (scheme, address) = text.split_once("://").unwrap_or_default();
        let transport = match scheme {
            "udp" => SyslogTransport::Udp,
            "tcp" => SyslogTransport::Tcp,
            "tls" => SyslogTransport::Tls,
            _ => bail!("audit.syslog is {text:?}: neither udp://, tcp:// nor tls:// with host:port"),
        };
        super::check::check_address("audit.syslog", address)?;
        Ok(Self { transport, address: address.to_owned() })
    }
}

impl TryFrom<String> for SyslogAddress {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

impl From<SyslogAddress> for String {
    fn from(address: SyslogAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for SyslogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            SyslogTransport::Udp => "udp",
            SyslogTransport::Tcp => "tcp",
            SyslogTransport::Tls => "tls",
        };
        write!(f, "{scheme}://{}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_how_and_where() {
        for text in ["udp://collector:514", "tcp://10.0.0.9:601", "tls://[2001:db8::1]:6514"] {
            assert_eq!(text.parse::<SyslogAddress>().unwrap().to_string(), text);
        }
        let cases = [
            ("collector:514", "neither udp://"),
            ("http://collector:514", "neither udp://"),
            ("tcp://collector", "is no host:port"),
            ("tcp://collector:601/path", "is no host:port"),
            ("tcp://:601", "is no host:port"),
            ("", "neither udp://"),
        ];
        for (text, want) in cases {
            let error = text.parse::<SyslogAddress>().unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
