//! What a listener proves to its clients, and they to it.
//!
//! Line: listener ► **certificates** ► socket. A handshake asks for what is in force at that moment; connections that
//! stand are not touched when certificates change.

use std::sync::Arc;

use pointsman_config::ListenerTls;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::tls::{Pair, Roots, TlsFileError, Watched, provider};

/// What clients are offered, in this order (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Reads the files of a listener; they are read again when they change.
///
/// # Errors
/// If they cannot be used as they are.
pub(super) fn server_config(files: &ListenerTls) -> Result<Arc<ServerConfig>, TlsFileError> {
    let certificates: Result<Vec<_>, _> = files.certificates.iter().map(Watched::pair).collect();
    let settings = |source| TlsFileError::Settings { source };
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(settings)?;
    let builder = match &files.client_ca {
        Some(path) => builder.with_client_cert_verifier(Arc::new(Clients::new(path.clone())?)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByName(certificates?)));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    if files.client_ca.is_some() {
        // A resumed session is not verified anew: a client whose root was taken out would stay welcome.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(settings)?;
    }
    Ok(Arc::new(config))
}

/// Certificates, of which the one is shown whose names fit.
#[derive(Debug)]
struct ByName(Vec<Arc<Watched<Pair>>>);

impl ByName {
    fn first_that(&self, fits: impl Fn(&Pair) -> bool) -> Option<Arc<CertifiedKey>> {
        self.0
            .iter()
            .map(|pair| pair.current())
            .find(|pair| fits(&pair.value))
            .map(|pair| Arc::clone(&pair.value.certified))
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let any = || self.first_that(|_| true);
        let Some(name) = hello.server_name().map(str::to_ascii_lowercase) else { return any() };
        self.first_that(|pair| pair.is_for(&name)).or_else(|| self.first_that(|pair| pair.covers(&name))).or_else(any)
    }
}

/// Verifies clients against the roots in force.
#[derive(Debug)]
struct Clients {
    roots: Arc<Watched<Roots>>,
    provider: Arc<CryptoProvider>,
}

impl Clients {
    fn new(path: std::path::PathBuf) -> Result<Self, TlsFileError> {
        let clients = Self { roots: Watched::load(vec![path.clone()])?, provider: provider() };
        match clients.verifier() {
            Ok(_) => Ok(clients),
            Err(source) => Err(TlsFileError::Roots { path, source }),
        }
    }

    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, rustls::server::VerifierBuilderError> {
        let store = Arc::clone(&self.roots.current().value.store);
        WebPkiClientVerifier::builder_with_provider(store, Arc::clone(&self.provider)).build()
    }
}

impl ClientCertVerifier for Clients {
    /// No hints: they are borrowed for as long as the verifier lives, and the roots may change under it.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verifier = self.verifier().map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_client_cert(leaf, chain, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, leaf, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
