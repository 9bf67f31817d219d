//! What a configuration must hold beyond its form: past it, values are valid. Each refusal names the key and the value.
use super::{Config, Destination, SyslogTransport};
use crate::limits;
use anyhow::{Context, bail};
use dimse::rustls::pki_types::ServerName;
use results::Kind;
use std::net::{IpAddr, SocketAddr};
use study::Mode;

impl Config {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.check_peers()?;
        self.check_tls()?;
        self.check_screen()?;
        self.check_listeners()?;
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
        let method = self.engine.method;
        if !method.measures_severity() && self.policy.mode != Mode::Identification {
            bail!(
                "policy.mode is \"{}\", and engine.method is \"{method}\", which doesn't measure severity: set policy.mode = \
                 \"identification\", or choose another method",
                if self.policy.mode == Mode::Both { "both" } else { "severity" }
            );
        }
        let worklist = self.worklist.as_ref().map(|w| ("worklist.timeout_s", w.timeout_s));
        for (name, seconds) in [
            ("dicom.idle_timeout_s", self.dicom.idle_timeout_s),
            ("dicom.association_request_timeout_s", self.dicom.association_request_timeout_s),
            ("completion.quiet_short_s", self.completion.quiet_short_s),
            ("completion.quiet_long_s", self.completion.quiet_long_s),
        ]
        .into_iter()
        .chain(worklist)
        {
            if !(0.01..=86_400.0).contains(&seconds) {
                bail!("{name} is {seconds}, outside of 0.01 to 86400");
            }
        }
        if !(0.0..=36_500.0).contains(&self.storage.keep_days) {
            bail!("storage.keep_days is {}, outside of 0 to 36500", self.storage.keep_days);
        }
        if !(1.0..=36_500.0).contains(&self.audit.keep_days) {
            bail!("audit.keep_days is {}, outside of 1 to 36500", self.audit.keep_days);
        }
        if !(64..=1 << 20).contains(&self.engine.gpu_memory_mib) {
            bail!("engine.gpu_memory_mib is {}, outside of 64 to 1048576", self.engine.gpu_memory_mib);
        }
        if let Some(threads) = self.engine.threads
            && !(1..=limits::THREADS_MAX).contains(&threads)
        {
            bail!("engine.threads is {threads}, outside of 1 to {}", limits::THREADS_MAX);
        }
        if self.results.slices > limits::SLICES_SENT_MAX {
            bail!("results.slices is {}, more than {}", self.results.slices, limits::SLICES_SENT_MAX);
        }
        Ok(())
    }

    fn check_screen(&self) -> anyhow::Result<()> {
        let Some(screen) = &self.screen else { return Ok(()) };
        if screen.tls && self.tls.is_none() {
            bail!("screen.tls is true, and there is no [tls]: name certificate, key and authorities there");
        }
        if !screen.tls && !screen.unencrypted && !screen.listen.ip().is_loopback() {
            bail!(
                "screen.listen is {}, which others reach, without TLS: set screen.tls = true, or screen.unencrypted = true \
                 if something else encrypts it",
                screen.listen
            );
        }
        if !(1.0..=86_400.0).contains(&screen.escalate_after_s) {
            bail!("screen.escalate_after_s is {}, outside of 1 to 86400", screen.escalate_after_s);
        }
        Ok(())
    }

    /// Each listener and its key, in the order in which the daemon opens them.
    pub fn listeners(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let all = [
            ("dicom.listen", self.dicom.listen),
            ("dicom.listen_tls", self.dicom.listen_tls),
            ("screen.listen", self.screen.as_ref().map(|screen| screen.listen)),
        ];
        all.into_iter().filter_map(|(key, at)| at.map(|at| (key, at)))
    }

    /// The second of two listeners on one port would end the daemon.
    fn check_listeners(&self) -> anyhow::Result<()> {
        let listeners: Vec<_> = self.listeners().collect();
        for (index, (key, at)) in listeners.iter().enumerate() {
            if let Some((other, there)) = listeners[..index].iter().find(|(_, there)| collide(*at, *there)) {
                bail!("{key} is {at}, and {other} is {there}: give each of them a port of its own");
            }
        }
        Ok(())
    }

    /// AE titles, names and addresses.
    fn check_peers(&self) -> anyhow::Result<()> {
        let titles = self.destinations.iter().filter_map(Destination::ae_title);
        let scanners = self.scanners.iter().map(|s| s.ae_title.as_str());
        let worklist = self.worklist.iter().map(|w| w.ae_title.as_str());
        let archive = self.results.archive_ae_title.as_deref();
        for title in self.called().chain(titles).chain(scanners).chain(worklist).chain(archive) {
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
        if let Some(name) = repeated(self.destinations.iter().map(Destination::name)) {
            bail!("two destinations are named {name:?}");
        }
        if let Some(title) = repeated(self.scanners.iter().map(|s| s.ae_title.as_str())) {
            bail!("two scanners have the AE title {title:?}");
        }
        for destination in &self.destinations {
            let name = destination.name();
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_graphic()) {
                bail!(
                    "a destination is named {name:?}: letters, digits and punctuation are possible, no spaces"
                );
            }
            check_address(&format!("destination {name:?}"), destination.address())?;
            // Only these two say why a study was not evaluated; who gets neither would hear nothing of it.
            if let Destination::Dicom(d) = destination
                && !d.results.iter().any(|kind| matches!(kind, Kind::Picture | Kind::Report))
            {
                bail!(
                    "destination {name:?}: results holds neither \"picture\" nor \"report\", which say of every study what became of it"
                );
            }
        }
        for scanner in &self.scanners {
            check_address(&format!("scanner {:?}", scanner.ae_title), &scanner.address)?;
        }
        if let Some(worklist) = &self.worklist {
            check_address("worklist", &worklist.address)?;
        }
        Ok(())
    }

    /// Whoever is to be spoken to over TLS can be.
    pub fn check_tls(&self) -> anyhow::Result<()> {
        if self.dicom.listen.is_none() && self.dicom.listen_tls.is_none() {
            bail!("neither dicom.listen nor dicom.listen_tls is there: the box would hear nobody");
        }
        if self.tls.is_some() {
            return Ok(());
        }
        let destination = self.destinations.iter().find(|d| d.tls()).map(Destination::name);
        let scanner = self.scanners.iter().find(|s| s.tls).map(|s| s.ae_title.as_str());
        let worklist = self.worklist.iter().find(|w| w.tls).map(|w| w.ae_title.as_str());
        if let Some(peer) = destination.or(scanner).or(worklist) {
            bail!("{peer:?} wants TLS, and there is no [tls] with a certificate, a key and authorities");
        }
        if self.audit.syslog.as_ref().is_some_and(|to| to.transport == SyslogTransport::Tls) {
            bail!("tls:// in audit.syslog needs [tls] with a certificate, a key and authorities");
        }
        if self.dicom.listen_tls.is_some() {
            bail!("dicom.listen_tls needs [tls] with a certificate, a key and authorities");
        }
        Ok(())
    }
}

/// Whether no two sockets can listen there at once. Port 0 is any free one; `[::]` takes IPv4 too.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |a: IpAddr, b: IpAddr| a == b || a.is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    a.port() != 0 && a.port() == b.port() && (covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
}

/// `host:port`, the host being a name, an IPv4 address, or an IPv6 address in brackets.
pub(super) fn check_address(whose: &str, address: &str) -> anyhow::Result<()> {
    let port = address.rsplit_once(':').and_then(|(host, port)| {
        let plain = !host.contains(':') || host.starts_with('[');
        // What TLS and the resolver take for a host; an IPv6 address with a scope is none to TLS.
        let is_host = ServerName::try_from(host.trim_matches(['[', ']'])).is_ok();
        let is_host = plain && is_host || address.parse::<SocketAddr>().is_ok();
        is_host.then(|| port.parse::<u16>().ok()).flatten()
    });
    match port {
        Some(1..) => Ok(()),
        _ => bail!("{whose}: the address {address:?} is no host:port"),
    }
}

/// The first value that is there twice.
fn repeated<'a>(values: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut values: Vec<&str> = values.collect();
    values.sort_unstable();
    values.windows(2).find(|w| w[0] == w[1]).map(|w| w[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::LEAST;

    #[test]
    fn two_listeners_that_meet_are_refused() {
        for (plain, screen, meet) in [
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:104", "127.0.0.2:104", false),
            ("0.0.0.0:104", "[::1]:104", false),
            ("0.0.0.0:104", "127.0.0.1:105", false),
            ("127.0.0.1:104", "127.0.0.1:104", true),
            ("0.0.0.0:104", "127.0.0.1:104", true),
            ("127.0.0.1:104", "[::]:104", true),
        ] {
            let text = LEAST.replace("127.0.0.1:0", plain)
                + &format!("[screen]\nlisten = \"{screen}\"\nunencrypted = true");
            match Config::parse(&text) {
                Ok(_) => assert!(!meet, "{plain} and {screen}"),
                Err(error) => assert_eq!(
                    (meet, error.to_string()),
                    (
                        true,
                        format!(
                            "screen.listen is {screen}, and dicom.listen is {plain}: give each of them a port of its own"
                        )
                    )
                ),
            }
        }
    }

    #[test]
    fn hosts_are_taken_as_people_name_them() {
        for address in ["pacs:104", "pacs_1.hospital:104", "10.0.0.2:104", "[fe80::1]:104", "[fe80::1%2]:104"]
        {
            check_address("x", address).unwrap();
        }
    }
}
