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

/// A folder that has all keys.
#[derive(Debug, Clone)]
pub struct Keys {
    folder: PathBuf,
}

impl Keys {
    /// The operator's keys, or throw-away ones under `target`, which are made once.
    pub fn open(place: &Place, folder: Option<&Path>) -> anyhow::Result<Self> {
        match folder {
            Some(folder) => {
                let keys =
                    Self { folder: folder.canonicalize().with_context(|| folder.display().to_string())? };
                keys.check()?;
                tools::show(&keys.folder);
                Ok(keys)
            }
            None => Self::throw_away(place, "keys"),
        }
    }

    /// Throw-away keys in `target/image/NAME`.
    pub fn throw_away(place: &Place, name: &str) -> anyhow::Result<Self> {
        let keys = Self { folder: place.folder(name)? };
        println!(
            "throw-away keys in {}: nothing signed with them is for a hospital, name your own by --keys",
            keys.folder.display()
        );
        if keys.check().is_ok() {
            return Ok(keys);
        }
        for name in CERTIFICATES {
            output(
                tools::command("openssl")?
                    .args(["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650"])
                    .args(["-subj", &format!("/CN=triaged throw-away {name}/")])
                    .args(["-keyout".into(), keys.file(name, "key"), "-out".into(), keys.file(name, "crt")]),
            )?;
        }
        for name in SIGNERS {
            let pair = KeyPair::generate_unencrypted_keypair()?;
            let secret = keys.file(name, "key");
            let _ = std::fs::remove_file(&secret);
            let mut file =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&secret)?;
            std::io::Write::write_all(&mut file, pair.sk.to_box(None)?.to_string().as_bytes())?;
            std::fs::write(keys.file(name, "pub"), pair.pk.to_box()?.to_string())?;
        }
        keys.check()?;
        Ok(keys)
    }

    fn check(&self) -> anyhow::Result<()> {
        let certificates =
            CERTIFICATES.iter().flat_map(|name| [self.file(name, "key"), self.file(name, "crt")]);
        let signers = SIGNERS.iter().flat_map(|name| [self.file(name, "key"), self.file(name, "pub")]);
        for file in certificates.chain(signers) {
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
