//! Authorities and certificates, made anew for each test.

use std::sync::Arc;

use dimse::TlsClient;
use dimse::rustls::pki_types::PrivateKeyDer;
use dimse::rustls::server::WebPkiClientVerifier;
use dimse::rustls::{ClientConfig, RootCertStore, ServerConfig};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Who certifies.
pub struct Authority {
    pub certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub struct Identity {
    pub certificate: Certificate,
    pub key: KeyPair,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("random numbers");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("valid");
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// A certificate for `host`, as client and as server.
    pub fn certify(&self, host: &str) -> Identity {
        let key = KeyPair::generate().expect("random numbers");
        let mut params = CertificateParams::new([host.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, host);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("valid");
        Identity { certificate, key }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).expect("a root");
        roots
    }
}

impl Identity {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialize_der().into())
    }
}

/// A client that trusts `authority` and answers for itself as `identity`, if it has one.
pub fn client(authority: &Authority, identity: Option<&Identity>) -> TlsClient {
    let config = ClientConfig::builder().with_root_certificates(authority.roots());
    let config = match identity {
        Some(us) => {
            config.with_client_auth_cert(vec![us.certificate.der().clone()], us.key()).expect("a pair")
        }
        None => config.with_no_client_auth(),
    };
    TlsClient { config: Arc::new(config), server_name: None }
}

/// A server that wants a certificate of `authority` from its clients.
pub fn server(authority: &Authority, identity: &Identity) -> Arc<ServerConfig> {
    let verifier = WebPkiClientVerifier::builder(Arc::new(authority.roots())).build().expect("a root");
    let config = ServerConfig::builder().with_client_cert_verifier(verifier);
    Arc::new(
        config.with_single_cert(vec![identity.certificate.der().clone()], identity.key()).expect("a pair"),
    )
}
