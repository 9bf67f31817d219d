//! Certificates of an authority that lasts as long as its test.
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::fs;
use std::path::{Path, PathBuf};

/// An authority and where its files are.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
    /// Its certificate, PEM.
    pub certificate: PathBuf,
}

/// Somebody's certificate and key, PEM.
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one, whose files are in the folder `dir`, which is made.
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate whose subject is its issuer for one that signed itself.
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", dir.display()));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let certificate = dir.join("authority.pem");
        fs::write(&certificate, issuer.pem()).unwrap();
        Self { issuer, dir: dir.to_owned(), certificate }
    }

    /// A certificate for a peer on this machine.
    pub fn issue(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let path = |suffix: &str| self.dir.join(format!("{name}.{suffix}.pem"));
        let identity = Identity { certificate: path("certificate"), key: path("key") };
        fs::write(&identity.certificate, signed.pem()).unwrap();
        fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }

    /// The daemon's `[tls]` with a certificate of this authority.
    pub fn table(&self) -> String {
        let Identity { certificate, key } = self.issue("triaged");
        format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}\nauthorities = {:?}\n", self.certificate)
    }
}
