//! `triaged site`: puts the files of this boot in place, as the site's settings want them. Run before the network and the daemon start.
//!
//! Repeating it changes nothing. Each file is whole or as it was; the daemon's configuration is the last.
use crate::layout::Layout;
use crate::site::{self, Rendered};
use crate::{access, files};
use anyhow::{Context, bail};
use nix::unistd::{User, chown};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use stick::Site;

/// The user that the daemon runs as, where there is one of that name.
const DAEMON_USER: &str = "triaged";

/// Arguments of `triaged site`.
#[derive(clap::Args)]
pub struct Args {
    /// The site's settings; where there is no such file the box is set up as one that has no site yet.
    #[arg(long, value_name = "FILE", default_value = "/var/lib/triaged-site/site.toml")]
    site: PathBuf,
    /// Folder below which the files are written; / on the box.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let site = read(&args.site)?;
    let layout = Layout::at(&args.root);
    let rendered = site::render(site.as_ref(), &layout)
        .with_context(|| format!("{}: nothing was changed", args.site.display()))?;
    write(&rendered, &layout, args.site.parent().unwrap_or(Path::new(".")))?;
    match &site {
        Some(site) => println!("site {:?}, serial {}", site.site.name, site.site.serial),
        None => println!("no {}: this box has no site yet", args.site.display()),
    }
    for file in &rendered.files {
        println!("{}", file.path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The settings that are in force; `None` if there are none.
pub fn read(path: &Path) -> anyhow::Result<Option<Site>> {
    let mut text = String::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(stick::TEXT_BYTES_MAX).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(Some(Site::parse(&text).with_context(|| path.display().to_string())?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => bail!("cannot read {}: {error}", path.display()),
    }
}

fn write(rendered: &Rendered, layout: &Layout, site_dir: &Path) -> anyhow::Result<()> {
    let daemon = User::from_name(DAEMON_USER).ok().flatten();
    let give = |path: &Path| -> anyhow::Result<()> {
        let Some(daemon) = daemon.as_ref().filter(|_| layout.is_the_box()) else { return Ok(()) };
        chown(path, Some(daemon.uid), Some(daemon.gid))
            .with_context(|| format!("cannot give {} to {DAEMON_USER}", path.display()))
    };
    if rendered.own_certificate {
        for (name, pem) in own_certificate(site_dir)? {
            let path = layout.tls_dir().join(name);
            files::write(&path, pem.as_bytes(), 0o600)?;
            give(&path)?;
        }
    }
    if let Some(code) = rendered.setup_code {
        let path = rendered.config.storage.setup_code();
        let new = !layout.storage_dir().exists();
        // The daemon removes it once there is a user.
        files::write(&path, access::setup_code_line(&code).as_bytes(), 0o600)?;
        give(&path)?;
        if new {
            give(&layout.storage_dir())?;
        }
    }
    let status = layout.status_dir();
    std::fs::create_dir_all(&status).with_context(|| status.display().to_string())?;
    // `triaged provision`, which runs as the daemon, tells there, too.
    give(&status)?;
    for file in &rendered.files {
        files::write(&file.path, file.text.as_bytes(), if file.secret { 0o600 } else { 0o644 })?;
        if file.secret {
            give(&file.path)?;
        }
    }
    match &rendered.hostname {
        Some(name) if layout.is_the_box() => {
            nix::unistd::sethostname(name).with_context(|| format!("cannot set the host name {name}"))
        }
        _ => Ok(()),
    }
}

/// The certificate that the box made itself, made now if there is none: browsers warn of it once, and it keeps passwords off the wire.
/// It vouches for nobody but itself.
fn own_certificate(site_dir: &Path) -> anyhow::Result<[(&'static str, String); 3]> {
    let (certificate, key) = (site_dir.join("own/certificate.pem"), site_dir.join("own/key.pem"));
    let read = |path: &Path| std::fs::read_to_string(path).ok().filter(|pem| pem.ends_with("-----\n"));
    let (certificate, key) = match (read(&certificate), read(&key)) {
        (Some(certificate_pem), Some(key_pem)) => (certificate_pem, key_pem),
        _ => {
            let made =
                rcgen::generate_simple_self_signed(vec!["triaged".to_owned(), "localhost".to_owned()])?;
            let (certificate_pem, key_pem) =
                (made.cert.pem().replace('\r', ""), made.signing_key.serialize_pem().replace('\r', ""));
            // The key first: a certificate without its key would be taken for whole.
            files::write(&key, key_pem.as_bytes(), 0o600)?;
            files::write(&certificate, certificate_pem.as_bytes(), 0o600)?;
            (certificate_pem, key_pem)
        }
    };
    Ok([("authorities.pem", certificate.clone()), ("certificate.pem", certificate), ("key.pem", key)])
}
