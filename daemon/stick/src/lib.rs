//! What a field engineer's USB stick holds: the formats, and how they are checked.
//!
//! Owns the layout of the stick, the update's manifest, the site's own settings, the comparison of versions and the verification of
//! signatures. It never touches a disk, a clock or a network: bytes in, values or reasons out; whoever calls it reads and writes. Past
//! [`Manifest::parse`] and [`Site::parse`] values are valid: a path leads nowhere but to a file of its board, an address is one.
//!
//! ```text
//! (FAT, label TRIAGED)
//! /triaged/update/manifest.toml           version, commit, files of every board with length and SHA-256
//! /triaged/update/manifest.toml.minisig   by the update key
//! /triaged/update/x86-64/…  x86-64-nvidia/…  jetson-orin/…  jetson-xavier/…
//! /triaged/site/site.toml                 what the site is like; optional
//! /triaged/site/site.toml.minisig         by the site key
//! ```
//! Both signatures are minisign's (prehashed). A stick may hold an update, a site, or both; an update, sets of
//! several boards and variants, of which a box takes its own.
mod board;
mod manifest;
mod net;
mod signature;
mod site;
mod variant;

pub use board::{Board, UnknownBoard};
pub use manifest::{FILE_BYTES_MAX, FILES_MAX, Manifest, ManifestError, Sha256, Step, UpdateFile};
pub use net::{Address, AddressError};
pub use semver::Version;
pub use signature::{SignatureError, public_key, verify};
pub use site::{Certificates, Firewall, Head, Network, Setup, Site, SiteError, Time, setup_code_sha256};
pub use variant::{UnknownVariant, Variant};

/// The file system's label, by which the box knows a stick.
pub const LABEL: &str = "TRIAGED";
/// Folder of the update, in the stick's root.
pub const UPDATE_DIR: &str = "triaged/update";
/// The update's manifest.
pub const MANIFEST: &str = "triaged/update/manifest.toml";
/// The site's settings.
pub const SITE: &str = "triaged/site/site.toml";
/// What a signature's file name has beyond the name of what it signs.
pub const SIGNATURE_SUFFIX: &str = ".minisig";
/// Bytes of a manifest, a `site.toml` or a signature at the most: they are read whole.
pub const TEXT_BYTES_MAX: u64 = 256 << 10;
