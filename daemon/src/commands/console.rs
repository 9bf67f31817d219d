//! `triaged console`: what the box's own monitor shows: who it is, where its screen is, how to set it up, what a stick is doing.
//!
//! Whoever stands before the box may read the setup code: that is what it is for. No patient is named.
use crate::access::{self, Setup};
use crate::config::Config;
use crate::layout::Layout;
use crate::status::{Status, TOLD};
use crate::{database::Database, version};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(2);
/// Clears a terminal and goes to its first line (ECMA-48).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Arguments of `triaged console`.
#[derive(clap::Args)]
pub struct Args {
    /// The daemon's configuration file (TOML).
    #[arg(long, value_name = "FILE", default_value = "/run/triaged/triaged.toml")]
    config: PathBuf,
    /// Folder of what the other commands tell.
    #[arg(long, value_name = "DIR")]
    status_dir: Option<PathBuf>,
    /// Go on, and show every change on a cleared terminal.
    #[arg(long)]
    watch: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let status_dir = args.status_dir.clone().unwrap_or_else(|| Layout::at(Path::new("/")).status_dir());
    let mut shown = String::new();
    loop {
        let text = describe(&args.config, &status_dir);
        if text != shown {
            let clear = if args.watch { CLEAR } else { "" };
            let mut out = std::io::stdout().lock();
            write!(out, "{clear}{text}")?;
            out.flush()?;
            shown = text;
        }
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(LOOK);
    }
}

fn describe(config: &Path, status_dir: &Path) -> String {
    let image = version::Image::here().map(|image| format!(", {image}")).unwrap_or_default();
    let mut text = format!(
        "triaged {} (commit {}){image}. Not for diagnostic use.\n\n",
        version::VERSION,
        version::short(version::COMMIT)
    );
    text += &ports(&interfaces());
    match Config::load(config) {
        Ok(config) => text += &of(&config),
        // It may not be there yet.
        Err(error) => text += &format!("starting: {error:#}\n"),
    }
    for (file, what) in TOLD {
        if let Some(Status { state, lines, .. }) = Status::read(&status_dir.join(file)) {
            let _ = write!(text, "\n{what}: {state}\n");
            lines.iter().for_each(|line| text += &format!("  {}\n", printable(line)));
        }
    }
    text
}

fn of(config: &Config) -> String {
    let mut text = String::new();
    let addresses: Vec<IpAddr> = interfaces().into_iter().flat_map(|(_, _, addresses)| addresses).collect();
    if addresses.is_empty() {
        text += "No address: is the network's cable in?\n";
    }
    for listen in config.dicom.listen.iter().chain(&config.dicom.listen_tls) {
        let at: Vec<String> = shown(listen.ip(), &addresses).map(|ip| ip.to_string()).collect();
        let _ =
            writeln!(text, "DICOM   {} at {}, port {}", config.dicom.ae_title, at.join(" "), listen.port());
    }
    if let Some(screen) = &config.screen {
        let scheme = if screen.tls { "https" } else { "http" };
        for ip in shown(screen.listen.ip(), &addresses) {
            let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
            let _ = writeln!(text, "Screen  {scheme}://{host}:{}/", screen.listen.port());
        }
    }
    let database = Database::open_beside_the_daemon(&config.storage.dir.join("triaged.db"));
    let setup = match database {
        Ok(database) => access::read_setup_code(&database, &config.storage.setup_code()).ok().flatten(),
        // Before its first start the daemon has none.
        Err(_) => None,
    };
    if let Some((setup, code)) = setup {
        let said = if code.starts_with("sha256:") { "the one of the site's stick" } else { code.as_str() };
        let _ = match setup {
            Setup::First => writeln!(
                text,
                "\nNobody is set up yet. Open the screen in a browser; the setup code is {said}"
            ),
            Setup::Another => writeln!(
                text,
                "\nA further engineer can be set up. Open the screen's page /setup in a browser; the setup code is {said}"
            ),
        };
    }
    text
}

/// A network port: its name, whether there is a link, and its addresses that others can reach.
type Port = (String, bool, Vec<IpAddr>);

/// The box's network ports, by their names.
fn interfaces() -> Vec<Port> {
    let ip = |address: nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    let far = |ip: &IpAddr| !ip.is_loopback() && !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let mut ports = BTreeMap::new();
    for entry in getifaddrs().into_iter().flatten() {
        if entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let linked = entry.flags.contains(InterfaceFlags::IFF_RUNNING);
        let (_, addresses) = ports.entry(entry.interface_name).or_insert((linked, Vec::new()));
        addresses.extend(entry.address.and_then(ip).filter(far));
    }
    ports.into_iter().map(|(name, (linked, addresses))| (name, linked, addresses)).collect()
}

/// What a site's `network.interface` may name.
fn ports(all: &[Port]) -> String {
    let one = |(name, linked, addresses): &Port| match (linked, addresses.as_slice()) {
        (false, _) => format!("{name}: no link"),
        (true, []) => format!("{name}: no address"),
        (true, some) => {
            format!("{name}: {}", some.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "))
        }
    };
    let all: Vec<String> = all.iter().map(one).collect();
    if all.is_empty() { String::new() } else { format!("Ports   {}\n", all.join(", ")) }
}

/// The addresses behind one that is listened on.
fn shown(listen: IpAddr, all: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let same = |ip: &&IpAddr| listen.is_unspecified() && (listen.is_ipv6() || ip.is_ipv4());
    let own = (!listen.is_unspecified()).then_some(listen);
    all.iter().filter(same).copied().chain(own).collect::<Vec<_>>().into_iter()
}

/// A stick's words must not move the cursor.
fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_listens_everywhere_is_shown_as_those_of_the_box() {
        let all: Vec<IpAddr> = ["10.0.0.9", "2001:db8::9"].map(|ip| ip.parse().unwrap()).to_vec();
        let seen =
            |listen: &str| shown(listen.parse().unwrap(), &all).map(|ip| ip.to_string()).collect::<Vec<_>>();
        assert_eq!(seen("0.0.0.0"), ["10.0.0.9"]);
        assert_eq!(seen("::"), ["10.0.0.9", "2001:db8::9"]);
        assert_eq!(seen("127.0.0.1"), ["127.0.0.1"]);
    }

    #[test]
    fn ports_are_named_as_a_site_names_them() {
        let port = |name: &str, linked, ips: &[&str]| {
            (name.to_owned(), linked, ips.iter().map(|ip| ip.parse().unwrap()).collect())
        };
        let all = [
            port("eno1", true, &["10.0.0.9", "2001:db8::9"]),
            port("eno2", false, &["10.0.0.9"]),
            port("enp3s0", true, &[]),
        ];
        let want = "Ports   eno1: 10.0.0.9 2001:db8::9, eno2: no link, enp3s0: no address\n";
        assert_eq!(ports(&all), want);
        assert_eq!(ports(&[]), "");
    }

    #[test]
    fn what_commands_tell_is_shown_and_moves_no_cursor() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("stick.json"),
            r#"{"state":"waiting","since":"","lines":["Update\u001b[2J"]}"#,
        )
        .unwrap();
        let text = describe(Path::new("/nowhere.toml"), dir.path());
        assert!(text.contains("\nStick: waiting\n  Update\u{fffd}[2J\n"), "{text}");
        assert!(text.contains("starting: "), "{text}");
    }
}
