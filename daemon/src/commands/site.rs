//! `triaged site`: puts the files of this boot in place, as the site's settings want them. Run before the network and the daemon start.
//!
//! Repeating it changes nothing but the starts of settings on trial. Each file is whole or as it was; the daemon's configuration is the last.
use crate::layout::Layout;
use crate::site::trial::{self, STARTS_MAX, Start};
use crate::site::{self, Rendered};
use crate::status::Teller;
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
    /// After the self-test: it has passed, settings that were on trial stay.
    #[arg(long)]
    passed: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let layout = Layout::at(&args.root);
    if args.passed {
        if trial::passed(&args.site)? {
            on_trial(&layout, false)?;
            tell(&layout, "done", &[format!("The settings {} passed the self-test.", called(&args.site))]);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let start = trial::begin(&args.site).unwrap_or_else(|error| {
        // What can't be counted must not keep the box from starting.
        log::warn!("the starts of the settings are not counted: {error:#}");
        Start::Settled
    });
    on_trial(&layout, matches!(start, Start::OnTrial(_)))?;
    if let Err(error) = tell_of_trial(start, &args.site, &layout) {
        log::warn!("what became of the settings is not told: {error:#}");
    }
    let site = read(&args.site)?;
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

/// Tells the image's scripts. Of a start that was not counted they must not know: they would have the box start again for ever.
fn on_trial(layout: &Layout, is: bool) -> anyhow::Result<()> {
    let path = layout.site_on_trial();
    if is {
        return files::write(&path, b"", 0o644);
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot delete {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Says on the screen, the box's monitor and in the journal what is on trial, or was refused.
fn tell_of_trial(start: Start, path: &Path, layout: &Layout) -> anyhow::Result<()> {
    let called = called(path);
    if let Start::OnTrial(number) = start {
        let line = format!(
            "The settings {called} are on trial, start {number} of {STARTS_MAX}: if the self-test passes in none, the box goes back to those before."
        );
        tell(layout, "on trial", &[line]);
    }
    let for_bundle = layout.refused_site();
    let Some(text) = trial::refused_text(path)? else {
        let _ = std::fs::remove_file(&for_bundle);
        return Ok(());
    };
    files::write(&for_bundle, site::without_secrets(&text).unwrap_or_default().as_bytes(), 0o644)?;
    let refused = Site::parse(&text).map_or_else(|error| error.to_string(), |site| name(&site));
    let lines = [
        format!("The settings {refused} are refused: the self-test passed in none of {STARTS_MAX} starts."),
        format!("The box went back to those before: {called}."),
        "Mend them and raise the serial: the support bundle has them, and the log of those starts."
            .to_owned(),
    ];
    tell(layout, "refused", &lines);
    Ok(())
}

fn tell(layout: &Layout, state: &str, lines: &[String]) {
    lines.iter().for_each(|line| println!("{line}"));
    Teller::new(Some(&layout.status_dir().join("site.json"))).tell(state, lines);
}

/// What people call the settings in force.
fn called(path: &Path) -> String {
    match read(path) {
        Ok(Some(site)) => name(&site),
        Ok(None) => "there were none".to_owned(),
        Err(error) => format!("{error:#}"),
    }
}

fn name(site: &Site) -> String {
    format!("of {:?}, serial {}", site.site.name, site.site.serial)
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
    let setup_code = rendered.config.storage.setup_code();
    match rendered.setup_code {
        Some(code) => {
            let new = !layout.storage_dir().exists();
            // The daemon removes it once it was used.
            files::write(&setup_code, access::setup_code_line(&code).as_bytes(), 0o600)?;
            give(&setup_code)?;
            if new {
                give(&layout.storage_dir())?;
            }
        }
        None => access::remove_sites_setup_code(&setup_code)?,
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
