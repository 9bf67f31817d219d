//! `cargo xtask image`: the appliance image, its updates, and their tests in a virtual machine.
//!
//! Owns: the subcommands. Never does: run a program of the image outside a virtual machine. Recipes are data (`image-build/x86-64`,
//! `image-build/rootfs`); [`x86`] fills in what differs from build to build.

mod check;
mod keys;
mod lock;
mod nvidia;
pub mod place;
mod sbom;
mod stick;
mod tools;
mod vm;
mod x86;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ::stick::{Board, Variant};
use anyhow::{Context, ensure};
use clap::Subcommand;

use keys::{File, Keys, OF_IMAGE, OF_SITE, OF_UPDATE};
use place::Place;
use x86::Recipe;

/// What can be done with the image.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the tools (a Debian trixie with mkosi and QEMU) if they are not there; the other commands do it, too.
    Tools,
    /// Build the x86-64 image, its update set and its SBOM into target/image/x86-64-VERSION; with NVIDIA's parts, x86-64-nvidia-VERSION.
    Build {
        /// Version of the image; by default the workspace's.
        #[arg(long)]
        version: Option<String>,
        /// Folder with the keys (keys.example/README.md); by default throw-away keys under target.
        #[arg(long, value_name = "DIR")]
        keys: Option<PathBuf>,
        /// Folder with NVIDIA's packages and their list (image-build/nvidia.toml is an example).
        #[arg(long, value_name = "DIR")]
        nvidia: Option<PathBuf>,
        /// Fail when a package's version is not that of packages.lock.
        #[arg(long, conflicts_with = "update_lock")]
        locked: bool,
        /// Write packages.lock anew.
        #[arg(long)]
        update_lock: bool,
        /// Build twice and compare root, verity and first stage.
        #[arg(long)]
        check_reproducible: bool,
    },
    /// Write a field engineer's stick: a signed update, a signed site, or both, as one FAT file system.
    Stick {
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Version of a built image whose update set goes onto the stick.
        #[arg(long)]
        version: Option<String>,
        /// Which of its variants, plain or nvidia; may be given twice, and a box takes its own.
        #[arg(long, default_value = "plain", requires = "version")]
        variant: Vec<Variant>,
        /// Another board's update files, as BOARD=DIR (jetson-orin=target/...).
        #[arg(long, value_name = "BOARD=DIR")]
        set: Vec<String>,
        /// The version of an update that is of such sets alone: that of the overlay in them; by default the workspace's.
        #[arg(long, value_name = "VERSION", requires = "set", conflicts_with = "version")]
        set_version: Option<String>,
        /// The site's settings.
        #[arg(long, value_name = "site.toml")]
        site: Option<PathBuf>,
        /// Let boxes with a newer version take it.
        #[arg(long)]
        allow_older: bool,
        /// Folder with the keys.
        #[arg(long, value_name = "DIR")]
        keys: Option<PathBuf>,
    },
    /// Build, boot in a virtual machine, try it: what CI runs.
    Test {
        /// Updates, rollbacks, foreign keys, power cuts, too: before each release.
        #[arg(long)]
        full: bool,
        /// Only the parts of the full test whose names contain this; may be given several times.
        #[arg(long, value_name = "NAME", requires = "full")]
        only: Vec<String>,
    },
    /// Run a program of the tools.
    #[command(hide = true)]
    Inside {
        /// More folders that it sees.
        #[arg(long, value_name = "DIR")]
        see: Vec<PathBuf>,
        /// The program and its arguments.
        #[arg(required = true, last = true)]
        program: Vec<OsString>,
    },
}

/// Runs one.
pub fn run(command: Command) -> anyhow::Result<()> {
    let place = Place::find();
    match command {
        Command::Tools => tools::ensure(&place),
        Command::Inside { see, program } => tools::inside(&place, &see, &program),
        Command::Build { version, keys, nvidia, locked, update_lock, check_reproducible } => {
            tools::ensure(&place)?;
            let keys = Keys::open(&place, keys.as_deref(), &OF_IMAGE)?;
            let version = version.unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned());
            let out = x86::folder(&place, &version, x86::variant(nvidia.is_some()));
            x86::program(&place)?;
            let recipe = Recipe { version: &version, keys: &keys, nvidia: nvidia.as_deref(), over: &[], out };
            let built = x86::build(&place, &recipe)?;
            let packages = lock::packages(&built)?;
            if update_lock {
                lock::write(&place, &packages)?;
            } else if nvidia.is_none() {
                lock::check(&place, &packages, locked)?;
            }
            println!("SBOM: {}", sbom::write(&place, &built, &packages)?.display());
            if check_reproducible {
                reproducible(&place, recipe, &built)?;
            }
            println!("update set: {}", x86::update_set(&built)?.display());
            println!("disk: {}", built.disk().display());
            Ok(())
        }
        Command::Stick { out, version, variant, set, set_version, site, allow_older, keys } => {
            tools::ensure(&place)?;
            let update = (version.is_some() || !set.is_empty()).then_some(OF_UPDATE);
            let site_keys = site.is_some().then_some(OF_SITE);
            let files: Vec<File> = update.into_iter().chain(site_keys).flatten().collect();
            let keys = Keys::open(&place, keys.as_deref(), &files)?;
            let mut sets = Vec::new();
            for (version, variant) in version.iter().flat_map(|v| variant.iter().map(move |of| (v, *of))) {
                let folder = x86::folder(&place, version, variant).join("update");
                let nvidia = if variant == Variant::Nvidia { " --nvidia DIR" } else { "" };
                ensure!(
                    folder.is_dir(),
                    "{} is missing: cargo xtask image build --version {version}{nvidia}; another variant is named with --variant",
                    folder.display()
                );
                sets.push((Board::X86_64, folder));
            }
            for set in &set {
                let (board, folder) =
                    set.split_once('=').with_context(|| format!("--set {set}: BOARD=DIR"))?;
                sets.push((board.parse()?, PathBuf::from(folder)));
            }
            let (commit, _) = place.commit();
            let named = version.as_deref().or(set_version.as_deref());
            let named = named.or(if sets.is_empty() { None } else { Some(env!("CARGO_PKG_VERSION")) });
            let update = named.map(|version| (version, commit.as_str()));
            let contents = stick::Contents { update, sets, site: site.as_deref(), allow_older };
            stick::write(&contents, &keys, &place.work, &out)?;
            println!("{}", out.display());
            Ok(())
        }
        Command::Test { full, only } => check::run(&place, full, &only),
    }
}

/// Builds again, without what the first build left, and compares.
fn reproducible(place: &Place, recipe: Recipe<'_>, first: &x86::Built) -> anyhow::Result<()> {
    let fresh = Place { cache: place.folder("cache-again")?, ..place.clone() };
    let second = x86::build(&fresh, &Recipe { out: place.work.join("again"), ..recipe })?;
    let (one, two) = (x86::fingerprints(first)?, x86::fingerprints(&second)?);
    for (part, hash) in &one {
        println!("{part}: {hash}");
    }
    remove(&fresh.cache)?;
    ensure!(one == two, "the second build differs: {two:?}; it is kept in {}", second.out.display());
    remove(&second.out)
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    std::fs::remove_dir_all(folder).with_context(|| folder.display().to_string())
}
