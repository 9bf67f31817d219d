//! The keys that a box trusts and that sign for it.
//!
//! Owns: which files a folder of keys has, and throw-away ones for tests and first tries. Never does: keep release keys; `hw-docs/keys.md`
//! says how people do.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::Keys;
use crate::image::place::Place;

/// Public keys of minisign, which the stick is signed with.
pub const MINISIGN: [&str; 2] = ["update.pub", "site.pub"];
/// RAUC's certificate; the same one is the box's keyring.
pub const RAUC_CERTIFICATE: &str = "rauc.crt";
/// Its secret key.
pub const RAUC_KEY: &str = "rauc.key";

impl Keys {
    /// The folder that was given, or one of throw-away keys.
    pub fn folder(&self) -> anyhow::Result<PathBuf> {
        // Those of the x86-64 image: one stick is for every board.
        let Some(dir) = &self.keys else { return throw_away(&Place::find().folder("keys")?) };
        for name in MINISIGN.into_iter().chain([RAUC_CERTIFICATE]) {
            ensure!(dir.join(name).is_file(), "{} has no {name}; see hw-docs/keys.md", dir.display());
        }
        Ok(dir.clone())
    }
}

/// Keys that nobody keeps secret, in `dir`; those that are there stay.
pub fn throw_away(dir: &Path) -> anyhow::Result<PathBuf> {
    eprintln!("throw-away keys in {}: nothing signed with them is for a hospital", dir.display());
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let has = |public: &str| dir.join(public).is_file() && dir.join(public).with_extension("key").is_file();
    for name in MINISIGN.into_iter().filter(|name| !has(name)) {
        let pair = minisign::KeyPair::generate_unencrypted_keypair()?;
        std::fs::write(dir.join(name), pair.pk.to_box()?.to_string())?;
        std::fs::write(dir.join(name).with_extension("key"), pair.sk.to_box(None)?.to_string())?;
    }
    if !has(RAUC_CERTIFICATE) {
        certificate(dir)?;
    }
    Ok(dir.to_owned())
}

/// A self-signed certificate, 30 years: boxes in cellars have no clock to speak of, and are not reached to renew it.
fn certificate(dir: &Path) -> anyhow::Result<()> {
    let mut parameters = rcgen::CertificateParams::new(Vec::new())?;
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "triaged updates (throw-away)");
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2050, 1, 1);
    let key = rcgen::KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?;
    std::fs::write(dir.join(RAUC_CERTIFICATE), certificate.pem())?;
    Ok(std::fs::write(dir.join(RAUC_KEY), key.serialize_pem())?)
}
