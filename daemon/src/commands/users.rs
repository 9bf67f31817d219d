//! `triaged users`: who may log in to the screen, for the engineer at the box.
//!
//! Works beside the running daemon, on the same database, which takes a change at once; the audit trail says who was at the
//! box. A password is typed without being shown, or read from standard input where that is no terminal; never an argument,
//! which everybody on the machine could read.
use crate::access::{Access, Role};
use crate::audit::{Trail, Who};
use crate::intake::now_ms;
use anyhow::{Context, bail};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use std::io::{BufRead, IsTerminal, Stdin};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Bytes of a line that is read for a password: more than any password has.
const LINE_BYTES_MAX: u64 = 4_096;

/// Arguments of `triaged users`.
#[derive(clap::Args)]
pub struct Args {
    /// The daemon's configuration file (TOML).
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// One line a user: role and name.
    List,
    /// Add a user; the first one must be an engineer. Asks for the password.
    Add {
        /// Name or badge number; upper and lower case are the same.
        name: String,
        /// What the user may do.
        #[arg(long)]
        role: Role,
    },
    /// Give a user another password, and end their sessions. Asks for it.
    Password {
        /// Name or badge number.
        name: String,
    },
    /// Remove a user, and end their sessions; never the last engineer.
    Remove {
        /// Name or badge number.
        name: String,
    },
    /// Print the code with which an engineer sets this box up on the screen.
    SetupCode,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (config, database) = super::beside_the_daemon(args.config.as_deref())?;
    let database = Arc::new(database);
    // The daemon sends what is taken down here.
    let (trail, _) = Trail::new(Arc::clone(&database), config.audit.syslog.is_some());
    let access = Access::new(database, config.storage.setup_code(), Arc::new(trail))?;
    let by = Who { user: Some(at_the_box()), peer: None };
    match &args.action {
        Action::List => {
            let users = access.users()?;
            for user in &users {
                println!("{:12}{}", user.role.name(), user.name);
            }
            if users.is_empty() {
                eprintln!("nobody may log in yet; `users setup-code` shows how to begin");
            }
        }
        Action::Add { name, role } => {
            access.add_user(name, *role, &ask_for_password(name)?, &by, now_ms())?;
            println!("{} was added as {}", name.trim(), role.name());
        }
        Action::Password { name } => {
            access.set_password(name, &ask_for_password(name)?, &by, now_ms())?;
            println!("{} has another password, and was logged out everywhere", name.trim());
        }
        Action::Remove { name } => {
            access.remove_user(name, &by, now_ms())?;
            println!("{} was removed", name.trim());
        }
        Action::SetupCode => match access.read_setup_code()? {
            Some((_, code)) if code.starts_with("sha256:") => {
                println!("the site chose the code, in its site.toml; the box has its hash alone");
            }
            Some((_, code)) => println!("{code}"),
            None if access.needs_setup()? => bail!(
                "there is no code in {}: the daemon draws it when it starts with the screen",
                access.setup_code_path().display()
            ),
            None => bail!("this box is set up already; `users password NAME` helps who forgot theirs"),
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// Who runs this, for the audit trail.
fn at_the_box() -> String {
    let uid = nix::unistd::getuid();
    let name = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    format!("{} at the box", name.unwrap_or_else(|| format!("uid {uid}")))
}

/// Typed twice at a terminal, else a line of standard input.
fn ask_for_password(name: &str) -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return read_line(stdin.lock());
    }
    let once = |question: &str| -> anyhow::Result<String> {
        eprint!("{question}: ");
        let typed = {
            let _silent = Silent::new(&stdin)?;
            read_line(stdin.lock())?
        };
        eprintln!();
        Ok(typed)
    };
    let password = once(&format!("password for {}", name.trim()))?;
    if password != once("once more")? {
        bail!("the two are not the same");
    }
    Ok(password)
}

fn read_line(from: impl BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    from.take(LINE_BYTES_MAX).read_line(&mut line).context("the password")?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silent<'a> {
    terminal: &'a Stdin,
    before: Termios,
}

impl<'a> Silent<'a> {
    fn new(terminal: &'a Stdin) -> anyhow::Result<Self> {
        let before = tcgetattr(terminal).context("the terminal")?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(terminal, SetArg::TCSAFLUSH, &silent).context("the terminal")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // It worked a moment ago; if it does not now, `stty sane` is all that helps.
        let _ = tcsetattr(self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn no_password_is_an_argument() {
        let parse = |line: &str| {
            let line = format!("users --config triaged.toml {line}");
            Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.args)
        };
        for line in [
            "list",
            "add 4711 --role engineer",
            "add ada --role technician",
            "password ada",
            "remove ada",
            "setup-code",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        for line in [
            "",
            "add ada",
            "add --role engineer",
            "add ada --role root",
            "add ada --role engineer secret",
            "password ada secret",
            "password ada --password secret",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_line_is_a_password_without_its_end() {
        for (input, want) in [
            ("secret\n", "secret"),
            ("secret\r\n", "secret"),
            (" se cret \nmore\n", " se cret "),
            ("secret", "secret"),
            ("", ""),
        ] {
            assert_eq!(read_line(input.as_bytes()).unwrap(), want);
        }
        assert!(read_line(&b"\xff\n"[..]).is_err());
    }
}
