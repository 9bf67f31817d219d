//! Who we are over TLS, and whom we trust: certificates and keys of the configuration, made ready for both roles.
//!
//! Owns reading them, from files or from the credentials that systemd hands to the service, and saying which of them is
//! wrong. Authentication is always mutual: a peer without a certificate of our authorities is no peer, whichever side
//! connects. TLS 1.2 and 1.3 with the cipher suites of BCP 195, as PS3.15 section B.12 asks for. It never writes.
use crate::config::Tls;
use anyhow::{Context, bail};
use dimse::rustls::crypto::{CryptoProvider, ring};
use dimse::rustls::pki_types::pem::PemObject;
use dimse::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use dimse::rustls::server::WebPkiClientVerifier;
use dimse::rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a value begins with that names a credential of systemd.
const CREDENTIAL: &str = "credential:";

/// Our side of every connection over TLS.
#[derive(Clone)]
pub struct Identity {
    /// Where we connect.
    pub client: Arc<ClientConfig>,
    /// Where we accept.
    pub server: Arc<ServerConfig>,
    /// Where browsers connect: they have no certificate, a user logs in.
    pub web: Arc<ServerConfig>,
}

impl Identity {
    /// Reads what the configuration names.
    ///
    /// # Errors
    /// Names the key of the configuration, the file, and what is wrong: not there, no PEM, no certificate in it, or a
    /// key that does not belong to the certificate.
    pub fn load(tls: &Tls) -> anyhow::Result<Self> {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        Self::read(tls, credentials.as_deref())
    }

    fn read(tls: &Tls, credentials: Option<&Path>) -> anyhow::Result<Self> {
        let certificate = resolve("tls.certificate", &tls.certificate, credentials)?;
        let key = resolve("tls.key", &tls.key, credentials)?;
        let authorities = resolve("tls.authorities", &tls.authorities, credentials)?;
        let chain = certificates("tls.certificate", &certificate)?;
        let private_key =
            || PrivateKeyDer::from_pem_file(&key).with_context(|| format!("tls.key {}", key.display()));
        let mut roots = RootCertStore::empty();
        for authority in certificates("tls.authorities", &authorities)? {
            roots.add(authority).with_context(|| format!("tls.authorities {}", authorities.display()))?;
        }
        let roots = Arc::new(roots);
        let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
        let mismatch = || format!("tls.certificate {} with tls.key {}", certificate.display(), key.display());
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(chain.clone(), private_key()?)
            .with_context(mismatch)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
        let mut web = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), private_key()?)
            .with_context(mismatch)?;
        web.alpn_protocols = vec![b"http/1.1".to_vec()];
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, private_key()?)
            .with_context(mismatch)?;
        Ok(Self { client: Arc::new(client), server: Arc::new(server), web: Arc::new(web) })
    }
}

/// The file that a value names.
fn resolve(name: &str, value: &str, credentials: Option<&Path>) -> anyhow::Result<PathBuf> {
    let Some(credential) = value.strip_prefix(CREDENTIAL) else { return Ok(PathBuf::from(value)) };
    if credential.is_empty() || credential.contains('/') || credential == ".." {
        bail!("{name} is {value:?}: a credential's name is no path");
    }
    let Some(folder) = credentials else {
        bail!(
            "{name} is {value:?}, and $CREDENTIALS_DIRECTORY is not set: add LoadCredential={credential}:PATH to \
             the unit, or name a file"
        );
    };
    Ok(folder.join(credential))
}

fn certificates(name: &str, path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let which = || format!("{name} {}", path.display());
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).with_context(which)?;
    if certificates.is_empty() {
        bail!("{}: there is no certificate in it", which());
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, Issuer, KeyPair};

    /// An authority, and a certificate and key that it signed, as files.
    fn files(folder: &Path) -> Tls {
        let authority_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&authority_key).unwrap();
        let issuer = Issuer::from_params(&params, &authority_key);
        let key = KeyPair::generate().unwrap();
        let ours = CertificateParams::new(vec!["box".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        Tls {
            certificate: write("box.pem", ours.pem()),
            key: write("box.key", key.serialize_pem()),
            authorities: write("authorities.pem", authority.pem()),
        }
    }

    #[test]
    fn files_and_credentials_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let tls = files(folder.path());
        Identity::read(&tls, None).unwrap();
        let credentials = Tls {
            certificate: "credential:box.pem".into(),
            key: "credential:box.key".into(),
            authorities: "credential:authorities.pem".into(),
        };
        Identity::read(&credentials, Some(folder.path())).unwrap();
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let good = files(folder.path());
        let other = files(tempfile::tempdir().unwrap().path());
        let other_key = KeyPair::generate().unwrap().serialize_pem();
        std::fs::write(folder.path().join("other.key"), other_key).unwrap();
        let in_folder = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(folder.path().join("empty.pem"), "").unwrap();
        let cases = [
            (Tls { certificate: other.certificate, ..good.clone() }, "tls.certificate"),
            (Tls { certificate: in_folder("empty.pem"), ..good.clone() }, "there is no certificate in it"),
            (Tls { key: in_folder("box.pem"), ..good.clone() }, "tls.key"),
            (Tls { key: in_folder("other.key"), ..good.clone() }, "with tls.key"),
            (Tls { authorities: in_folder("nothing.pem"), ..good.clone() }, "tls.authorities"),
            (Tls { key: "credential:../box.key".into(), ..good.clone() }, "is no path"),
            (Tls { key: "credential:key".into(), ..good.clone() }, "LoadCredential=key:PATH"),
        ];
        for (tls, want) in cases {
            let error = format!("{:#}", Identity::read(&tls, None).err().unwrap());
            assert!(error.contains(want), "{want}: {error}");
        }
    }
}
