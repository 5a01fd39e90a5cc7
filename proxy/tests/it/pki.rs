//! Certificates for tests: an authority, and what it signs, in files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pointsman_config::{CertificateFiles, ListenerTls};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// An authority and a folder for what it signs.
pub struct Pki {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Pki {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.path().join("ca.crt"), certificate.pem()).unwrap();
        let certificate = certificate.der().clone();
        Self { folder, issuer: Issuer::new(params, key), certificate }
    }

    pub fn ca(&self) -> PathBuf {
        self.path("ca.crt")
    }

    pub fn ca_pem(&self) -> String {
        fs::read_to_string(self.ca()).unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a pair for these names (or addresses) into `NAME.crt` and `NAME.key`.
    pub fn issue(&self, name: &str, subjects: &[&str]) -> CertificateFiles {
        let files = self.files(name);
        let (certificate, key) = self.pair(subjects);
        fs::write(&files.certificate, certificate).unwrap();
        fs::write(&files.private_key, key).unwrap();
        files
    }

    pub fn files(&self, name: &str) -> CertificateFiles {
        CertificateFiles {
            certificate: self.path(&format!("{name}.crt")),
            private_key: self.path(&format!("{name}.key")),
        }
    }

    /// A certificate and its key, as PEM.
    pub fn pair(&self, subjects: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let subjects: Vec<String> = subjects.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(subjects).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// A listener that shows these.
    pub fn listener(certificates: Vec<CertificateFiles>) -> ListenerTls {
        ListenerTls { certificates, client_ca: None }
    }

    /// A client that trusts the authority, speaks `alpn` and, with an identity, proves who it is.
    pub fn client(&self, alpn: &[&str], identity: Option<&CertificateFiles>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            Some(files) => builder.with_client_auth_cert(chain(&files.certificate), key(&files.private_key)).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// A server that shows `files`, speaks `alpn` and, with `asks`, wants clients of the authority.
    pub fn server(&self, alpn: &[&str], files: &CertificateFiles, asks: bool) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let builder = if asks {
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(chain(&files.certificate), key(&files.private_key)).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

pub fn chain(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
}

pub fn key(path: &Path) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(path).unwrap()
}
