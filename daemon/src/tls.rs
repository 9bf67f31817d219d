//! Who we are over TLS, and whom we trust: certificates and keys of the configuration, made ready for both roles.
//!
//! Owns reading them, from files or from the credentials that systemd hands to the service, and saying which of them is
//! wrong. Authentication is always mutual: a peer without a certificate of our authorities is no peer, whichever side
//! connects. TLS 1.2 and 1.3 with the cipher suites of BCP 195, as PS3.15 section B.12 asks for. It never writes.
use crate::config::Tls;
use anyhow::{Context, bail};
use dimse::rustls::client::verify_server_cert_signed_by_trust_anchor;
use dimse::rustls::crypto::{CryptoProvider, ring};
use dimse::rustls::pki_types::pem::PemObject;
use dimse::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use dimse::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use dimse::rustls::{CertificateError, ClientConfig, Error, RootCertStore, ServerConfig};
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
        let read = |name: &str, value: &str| -> anyhow::Result<Pem> {
            let path = resolve(name, value, credentials)?;
            let name = format!("{name} {}", path.display());
            let text = std::fs::read(&path).with_context(|| name.clone())?;
            Ok(Pem { name, text })
        };
        Self::of(
            &read("tls.certificate", &tls.certificate)?,
            &read("tls.key", &tls.key)?,
            &read("tls.authorities", &tls.authorities)?,
        )
    }

    /// What a site brings, before it is a file of the box: as [`Identity::load`], and the chain must be one, of which peers and browsers would
    /// complain and the daemon doesn't.
    ///
    /// # Errors
    /// Names the key of the site, and what is wrong.
    pub fn of_site(site: &stick::Certificates) -> anyhow::Result<Self> {
        let pem = |key: &str, text: &str| Pem { name: format!("certificates.{key}"), text: text.into() };
        let certificate = pem("certificate", &site.certificate);
        let identity =
            Self::of(&certificate, &pem("key", &site.key), &pem("authorities", &site.authorities))?;
        check_chain(&certificates(&certificate)?).with_context(|| {
            format!(
                "{}: the box's own must be the first, each other one the issuer of that before it",
                certificate.name
            )
        })?;
        Ok(identity)
    }

    fn of(certificate: &Pem, key: &Pem, authorities: &Pem) -> anyhow::Result<Self> {
        let chain = certificates(certificate)?;
        let private_key = || PrivateKeyDer::from_pem_slice(&key.text).with_context(|| key.name.clone());
        let mut roots = RootCertStore::empty();
        for authority in certificates(authorities)? {
            roots.add(authority).with_context(|| authorities.name.clone())?;
        }
        let roots = Arc::new(roots);
        let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
        let mismatch = || format!("{} with {}", certificate.name, key.name);
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

/// A text in PEM, and what errors call it.
struct Pem {
    name: String,
    text: Vec<u8>,
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

fn certificates(pem: &Pem) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem.text)
        .collect::<Result<_, _>>()
        .with_context(|| pem.name.clone())?;
    if certificates.is_empty() {
        bail!("{}: there is no certificate in it", pem.name);
    }
    Ok(certificates)
}

/// Whether each certificate of a chain was signed by the next one. Dates are not judged: the clock may be wrong until the site's time servers
/// are known.
fn check_chain(chain: &[CertificateDer<'_>]) -> Result<(), Error> {
    let [own, between @ .., last] = chain else { return Ok(()) };
    let mut roots = RootCertStore::empty();
    roots.add(last.clone().into_owned())?;
    let own = ParsedCertificate::try_from(own)?;
    let algorithms = ring::default_provider().signature_verification_algorithms.all;
    match verify_server_cert_signed_by_trust_anchor(&own, &roots, between, UnixTime::now(), algorithms) {
        Err(Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => Ok(()),
        judged => judged,
    }
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

    #[test]
    fn a_sites_chain_is_one_whatever_the_clock_says() {
        let authority = |name: &str, signed_by: Option<&Issuer<'_, KeyPair>>| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let made = match signed_by {
                Some(issuer) => params.signed_by(&key, issuer),
                None => params.self_signed(&key),
            };
            (made.unwrap().pem(), Issuer::new(params, key))
        };
        let (root, root_issuer) = authority("root", None);
        let (between, between_issuer) = authority("between", Some(&root_issuer));
        let (other, _) = authority("other", Some(&root_issuer));
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["box".to_owned()]).unwrap();
        let own = params.clone().signed_by(&key, &between_issuer).unwrap().pem();
        params.not_after = rcgen::date_time_ymd(1990, 1, 1);
        let old = params.signed_by(&key, &between_issuer).unwrap().pem();
        let cases = [
            (own.clone(), None),
            (format!("{own}{between}"), None),
            (format!("{own}{between}{root}"), None),
            (format!("{old}{between}{root}"), None),
            (format!("{own}{other}"), Some("certificates.certificate: the box's own must be the first")),
            (format!("{own}{root}"), Some("the issuer of that before it")),
            (format!("{between}{own}"), Some("certificates.certificate with certificates.key")),
            ("-----BEGIN CERTIFICATE-----\n".to_owned(), Some("certificates.certificate")),
        ];
        for (certificate, want) in cases {
            let site =
                stick::Certificates { certificate, key: key.serialize_pem(), authorities: root.clone() };
            match (Identity::of_site(&site), want) {
                (Ok(_), None) => {}
                (Err(error), Some(want)) => assert!(format!("{error:#}").contains(want), "{want}: {error:#}"),
                (found, _) => panic!("{want:?}: {:?}", found.err()),
            }
        }
        let site = stick::Certificates { certificate: own, key: "-----BEGIN".into(), authorities: root };
        assert!(format!("{:#}", Identity::of_site(&site).err().unwrap()).contains("certificates.key"));
    }
}
