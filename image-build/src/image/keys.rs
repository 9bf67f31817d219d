//! The keys of a build: Secure Boot, verity, the TPM's policy (OpenSSL), updates and sites (minisign).
//!
//! Owns: their names, making throw-away ones, signing. Never does: keep a release key; those stay in the folder that `--keys` names.

use std::io::Cursor;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use minisign::{KeyPair, PublicKeyBox, SecretKeyBox};

use super::place::{Place, output};
use super::tools;

/// Pairs of a private key and a certificate: `NAME.key`, `NAME.crt`.
const CERTIFICATES: [&str; 3] = ["secureboot", "verity", "pcr"];
/// minisign's: `NAME.key`, `NAME.pub`.
const SIGNERS: [&str; 2] = ["update", "site"];
/// The password of minisign's private keys, where they have one.
const PASSWORD: &str = "TRIAGED_KEY_PASSWORD";

/// One of the files: its name and its kind.
pub type File = (&'static str, &'static str);
/// What an image is built with: it has the public keys of updates and sites, and signs neither.
pub const OF_IMAGE: [File; 8] = [
    ("secureboot", "key"),
    ("secureboot", "crt"),
    ("verity", "key"),
    ("verity", "crt"),
    ("pcr", "key"),
    ("pcr", "crt"),
    ("update", "pub"),
    ("site", "pub"),
];
/// What a stick's update is signed with.
pub const OF_UPDATE: [File; 2] = [("update", "key"), ("update", "pub")];
/// What a stick's site is signed with: it may be another organisation's.
pub const OF_SITE: [File; 2] = [("site", "key"), ("site", "pub")];

/// A folder of keys.
#[derive(Debug, Clone)]
pub struct Keys {
    folder: PathBuf,
}

impl Keys {
    /// The operator's keys, which must have these files, or throw-away ones under `target`, which are made once.
    pub fn open(place: &Place, folder: Option<&Path>, files: &[File]) -> anyhow::Result<Self> {
        match folder {
            Some(folder) => {
                let keys =
                    Self { folder: folder.canonicalize().with_context(|| folder.display().to_string())? };
                keys.check(files)?;
                tools::show(&keys.folder);
                Ok(keys)
            }
            None => Self::throw_away(place, "keys"),
        }
    }

    /// Throw-away keys in `target/image/NAME`; those that are there stay.
    pub fn throw_away(place: &Place, name: &str) -> anyhow::Result<Self> {
        let keys = Self { folder: place.folder(name)? };
        println!(
            "throw-away keys in {}: nothing signed with them is for a hospital, name your own by --keys",
            keys.folder.display()
        );
        let has = |files: [File; 2]| keys.check(&files).is_ok();
        for name in CERTIFICATES.into_iter().filter(|name| !has([(*name, "key"), (*name, "crt")])) {
            output(
                tools::command("openssl")?
                    .args(["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650"])
                    .args(["-subj", &format!("/CN=triaged throw-away {name}/")])
                    .args(["-keyout".into(), keys.file(name, "key"), "-out".into(), keys.file(name, "crt")]),
            )?;
        }
        for name in SIGNERS.into_iter().filter(|name| !has([(*name, "key"), (*name, "pub")])) {
            let pair = KeyPair::generate_unencrypted_keypair()?;
            let secret = keys.file(name, "key");
            let _ = std::fs::remove_file(&secret);
            let mut file =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&secret)?;
            std::io::Write::write_all(&mut file, pair.sk.to_box(None)?.to_string().as_bytes())?;
            std::fs::write(keys.file(name, "pub"), pair.pk.to_box()?.to_string())?;
        }
        Ok(keys)
    }

    fn check(&self, files: &[File]) -> anyhow::Result<()> {
        for file in files.iter().map(|(name, kind)| self.file(name, kind)) {
            ensure!(
                file.is_file(),
                "{} is missing: keys.example/README.md says how to make it",
                file.display()
            );
        }
        Ok(())
    }

    /// A folder for what is signed; programs of the tools see it.
    pub fn scratch(&self) -> &Path {
        &self.folder
    }

    /// One of its files.
    pub fn file(&self, name: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{name}.{kind}"))
    }

    /// The text of a `.minisig` file for `bytes`, by the key `name`.
    pub fn sign(&self, name: &str, bytes: &[u8]) -> anyhow::Result<String> {
        let text = std::fs::read_to_string(self.file(name, "key"))?;
        let boxed = SecretKeyBox::from_string(&text).with_context(|| format!("{name}.key"))?;
        let secret = match std::env::var(PASSWORD) {
            Ok(password) => boxed.into_secret_key(Some(password)),
            Err(_) => boxed.into_unencrypted_secret_key(),
        }
        .with_context(|| format!("{name}.key: a key with a password wants it in ${PASSWORD}"))?;
        let public = PublicKeyBox::from_string(&std::fs::read_to_string(self.file(name, "pub"))?)?;
        let public = public.into_public_key().with_context(|| format!("{name}.pub"))?;
        let signature = minisign::sign(Some(&public), &secret, Cursor::new(bytes), Some("triaged"), None)
            .with_context(|| format!("{name}.key and {name}.pub: a pair?"))?;
        Ok(signature.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn whoever_has_the_sites_key_alone_can_sign_a_site() {
        let dir = tempfile::tempdir().unwrap();
        let pair = KeyPair::generate_unencrypted_keypair().unwrap();
        std::fs::write(dir.path().join("site.key"), pair.sk.to_box(None).unwrap().to_string()).unwrap();
        std::fs::write(dir.path().join("site.pub"), pair.pk.to_box().unwrap().to_string()).unwrap();
        let open = |files: &[File]| Keys::open(&Place::find(), Some(dir.path()), files);
        let signature = open(&OF_SITE).unwrap().sign("site", b"x").unwrap();
        let public = std::fs::read_to_string(dir.path().join("site.pub")).unwrap();
        ::stick::verify(&public, b"x", &signature, "x").unwrap();
        for (files, missing) in
            [(&OF_UPDATE[..], "update.key is missing"), (&OF_IMAGE, "secureboot.key is missing")]
        {
            let error = open(files).unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
        }
    }
}
