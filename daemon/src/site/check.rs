//! What the daemon would find at its start, tried before a site is taken: a refusal then costs a stick, afterwards it costs the box.
//!
//! Each check is the daemon's own, called with what the site brings; what only the box can tell (a port of another program, a full disk) is left
//! to the trial ([`super::trial`]).
use crate::config::Config;
use crate::{appliance, tls};
use anyhow::{Context, bail};
use engine::Method;
use stick::Site;

/// The lowest port that the box lets its daemon listen on: `net.ipv4.ip_unprivileged_port_start` of the image.
const PORT_MIN: u16 = 100;

/// Whether the daemon would start with a site, whose sections were rendered and parsed.
///
/// # Errors
/// Names the key, the value, and what to do.
pub fn check(site: &Site, config: &Config) -> anyhow::Result<()> {
    match &site.certificates {
        Some(brought) => drop(tls::Identity::of_site(brought).context("in [certificates]")?),
        // The box's own is there for the screen alone.
        None => Config { tls: None, screen: None, ..config.clone() }.check_tls().context(
            "nobody vouches for the certificate that the box makes itself: put the site's into [certificates]",
        )?,
    }
    for (key, at) in config.listeners() {
        if (1..PORT_MIN).contains(&at.port()) {
            bail!(
                "{key} is {at}: the box lets its daemon listen on ports from {PORT_MIN}, choose such a one"
            );
        }
    }
    let method = config.engine.method;
    // The default is the image's own, which its self-test has run: reading it again takes seconds.
    if method != Method::default() {
        appliance::models(config.engine.zoo.as_deref(), method).with_context(|| {
            format!(
                "engine.method is \"{method}\", which this box can't run: choose another one, or leave it out for \"{}\"",
                Method::default()
            )
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;
    use crate::site::{render, tests::SITE};
    use std::path::Path;

    fn checked(from: &str, to: &str) -> anyhow::Result<()> {
        assert!(SITE.contains(from), "{from}");
        let site = Site::parse(&SITE.replacen(from, to, 1))?;
        let rendered = render(Some(&site), &Layout::at(Path::new("/")))?;
        check(&site, &rendered.config)
    }

    #[test]
    fn what_the_daemon_would_find_at_its_start_is_found_before() {
        checked("serial = 3", "serial = 4").unwrap();
        checked("[triaged.screen]", "[triaged.engine]\nmethod = \"unet2d\"\n[triaged.screen]").unwrap();
        let pem = "[certificates]\ncertificate = \"-----BEGIN C\"\nkey = \"-----BEGIN K\"\nauthorities = \"-----BEGIN A\"\n[triaged.dicom]";
        for (from, to, want) in [
            ("[triaged.dicom]", pem, "in [certificates]: certificates.certificate: "),
            (
                "[triaged.screen]",
                "[triaged.engine]\nmethod = \"unet3d\"\n[triaged.screen]",
                "engine.method is \"unet3d\", which this box can't run: choose another one",
            ),
            ("[triaged.screen]", "[triaged.engine]\nmethod = \"unet3d\"\n[triaged.screen]", "is untrained"),
            (
                "0.0.0.0:443",
                "0.0.0.0:11112",
                "screen.listen is 0.0.0.0:11112, and dicom.listen is 0.0.0.0:11112",
            ),
            (
                "0.0.0.0:443",
                "0.0.0.0:80",
                "screen.listen is 0.0.0.0:80: the box lets its daemon listen on ports from 100",
            ),
            ("pacs.hospital:104", "pacs hospital:104", "\"pacs hospital:104\" is no host:port"),
            ("ae_title = \"PACS\"", "ae_title = \"PACS\"\ntls = true", "put the site's into [certificates]"),
            (
                "callers = [\"CT1\"]",
                "callers = [\"CT1\"]\nlisten_tls = \"0.0.0.0:2762\"",
                "dicom.listen_tls needs [tls]",
            ),
        ] {
            let error = format!("{:#}", checked(from, to).unwrap_err());
            assert!(error.contains(want), "{to}: {error}");
        }
    }

    #[test]
    fn the_image_lets_the_daemon_listen_from_there() {
        let sysctl = include_str!("../../../image-build/rootfs/usr/lib/sysctl.d/60-triaged.conf");
        assert!(sysctl.contains(&format!("net.ipv4.ip_unprivileged_port_start = {PORT_MIN}\n")), "{sysctl}");
    }

    #[test]
    fn the_documents_site_is_one() {
        let document = include_str!("../../../hw-docs/network.md");
        let text = document.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let site = Site::parse(text).unwrap();
        let rendered = render(Some(&site), &Layout::at(Path::new("/"))).unwrap();
        check(&site, &rendered.config).unwrap();
    }
}
