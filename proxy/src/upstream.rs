//! How a connection to an endpoint is made and kept.
//!
//! Line: endpoint ► **upstream** ► version.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pointsman_config::{Config, Protocol, Route, UpstreamTls, Version};
use rustls::ClientConfig;
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio_rustls::TlsConnector;
use tracing::error;

use crate::tls::{self, Pair, Roots, TlsFileError, Watched};

/// How long a connection to an endpoint is kept unused. Common model servers close theirs after 5 s (uvicorn, Node); who
/// closes first does not lose a request to the race.
pub(crate) const IDLE: Duration = Duration::from_secs(4);
/// The same with HTTP/2, whose servers say that they close before they do (RFC 9113, section 6.8).
const IDLE_HTTP2: Duration = Duration::from_mins(1);
/// Requests on one HTTP/2 connection at a time, unless its server allows fewer: common servers allow 100, and more on one
/// connection wait for each other's packets.
const MAX_STREAMS: usize = 100;

/// How the endpoints of a route are spoken to.
#[derive(Debug, Default)]
pub struct Upstream(Security);

#[derive(Debug, Default)]
enum Security {
    #[default]
    Plain,
    Tls(Arc<UpstreamFiles>),
    /// The files could not be read when the route came into force: nothing is sent rather than sent in the clear.
    Unusable,
}

/// What is read from files for connections with the same settings.
#[derive(Debug)]
struct UpstreamFiles {
    /// None: the system's.
    roots: Option<Arc<Watched<Roots>>>,
    identity: Option<Arc<Watched<Pair>>>,
}

impl UpstreamFiles {
    fn load(settings: &UpstreamTls) -> Result<Self, TlsFileError> {
        let roots = settings.ca.as_ref().map(|path| Watched::load(vec![path.clone()])).transpose()?;
        let identity = settings.identity.as_ref().map(Watched::pair).transpose()?;
        Ok(Self { roots, identity })
    }

    /// The same for every route with the same settings, for as long as one of them is served.
    fn shared(settings: &UpstreamTls) -> Result<Arc<Self>, TlsFileError> {
        static SHARED: Mutex<Option<HashMap<UpstreamTls, Weak<UpstreamFiles>>>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = shared.get_or_insert_default();
        shared.retain(|_, files| files.strong_count() > 0);
        if let Some(files) = shared.get(settings).and_then(Weak::upgrade) {
            return Ok(files);
        }
        let files = Arc::new(Self::load(settings)?);
        shared.insert(settings.clone(), Arc::downgrade(&files));
        Ok(files)
    }

    /// For a connection that the framework does not make.
    fn client_config(&self, protocol: Protocol) -> Result<ClientConfig, rustls::Error> {
        let roots = self
            .roots
            .as_ref()
            .map_or_else(|| Arc::clone(&of_system().store), |roots| Arc::clone(&roots.current().value.store));
        let known = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            Some(identity) => {
                let certified = Arc::clone(&identity.current().value.certified);
                known.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
            None => known.with_no_client_auth(),
        };
        config.alpn_protocols = match protocol {
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::H2c | Protocol::H2 => vec![b"h2".to_vec()],
        };
        Ok(config)
    }

    /// Connections made with other contents are not reused.
    fn protect(&self, peer: &mut HttpPeer) {
        let roots = self.roots.as_ref().map(|roots| roots.current());
        peer.options.ca = Some(
            roots
                .as_ref()
                .map_or_else(|| Arc::clone(&of_system().authorities), |roots| Arc::clone(&roots.value.authorities)),
        );
        peer.group_key = roots.map_or(0, |roots| roots.fingerprint);
        if let Some(identity) = &self.identity {
            let identity = identity.current();
            peer.client_cert_key = Some(Arc::clone(&identity.value.identity));
            peer.group_key ^= identity.fingerprint.rotate_left(1);
        }
    }
}

/// What the system trusts, read once.
fn of_system() -> &'static Roots {
    static SYSTEM: OnceLock<Roots> = OnceLock::new();
    SYSTEM.get_or_init(Roots::of_system)
}

/// How an endpoint is spoken to over a connection that the framework does not make, as its checks do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Speech {
    /// What it speaks.
    pub(crate) protocol: Protocol,
    tls: Option<UpstreamTls>,
    /// What it must prove.
    server_name: String,
}

/// What a connection over TLS is made with.
pub(crate) struct Handshake {
    pub(crate) connector: TlsConnector,
    pub(crate) server_name: ServerName<'static>,
}

/// Why there is nothing to make a connection over TLS with.
#[derive(Debug, Error)]
pub(crate) enum HandshakeError {
    #[error("the certificates for endpoints cannot be used")]
    Files(#[from] TlsFileError),
    #[error("`{name}` is no name that an endpoint can prove; give one under `upstream_tls.server_name`")]
    Name { name: String, source: rustls_pki_types::InvalidDnsNameError },
    #[error("the TLS settings for endpoints cannot be used")]
    Settings(#[from] rustls::Error),
}

impl Speech {
    /// As `route` has it for `endpoint`.
    pub(crate) fn of(route: &Route, endpoint: SocketAddr) -> Self {
        Self { protocol: route.protocol, tls: tls_of(route), server_name: server_name(endpoint, route) }
    }

    /// Whether it is spoken to over TLS.
    pub(crate) fn is_secured(&self) -> bool {
        self.tls.is_some()
    }

    /// What a connection is made with, as the files are now; none if it is made in the clear.
    ///
    /// # Errors
    /// If the files or the name cannot be used.
    pub(crate) fn handshake(&self) -> Result<Option<Handshake>, HandshakeError> {
        let Some(settings) = &self.tls else { return Ok(None) };
        let config = UpstreamFiles::shared(settings)?.client_config(self.protocol)?;
        let name = self.server_name.clone();
        let server_name = ServerName::try_from(name.clone()).map_err(|source| HandshakeError::Name { name, source })?;
        Ok(Some(Handshake { connector: TlsConnector::from(Arc::new(config)), server_name }))
    }
}

/// The TLS settings in force on a route; none if its endpoints are spoken to in the clear.
fn tls_of(route: &Route) -> Option<UpstreamTls> {
    match route.protocol {
        Protocol::H2 => Some(route.upstream_tls.clone().unwrap_or_default()),
        Protocol::Http1 | Protocol::H2c => route.upstream_tls.clone(),
    }
}

/// Looks at every file that routes need for connections to their endpoints.
///
/// # Errors
/// The first file that cannot be used.
pub(crate) fn check(config: &Config) -> Result<(), TlsFileError> {
    config.routes.iter().filter_map(tls_of).try_for_each(|settings| UpstreamFiles::shared(&settings).map(drop))
}

impl Upstream {
    /// As `route` has it. Files that cannot be used are told to the log, and nothing is sent to its endpoints.
    pub fn new(route: &Route) -> Self {
        let Some(settings) = tls_of(route) else { return Self::default() };
        match UpstreamFiles::shared(&settings) {
            Ok(files) => Self(Security::Tls(files)),
            Err(problem) => {
                let error: &dyn std::error::Error = &problem;
                error!(route = %route.name, error, "endpoints cannot be spoken to");
                Self(Security::Unusable)
            }
        }
    }

    /// The endpoint for the framework; `fresh` asks for a connection that nobody has used. None if it cannot be spoken to
    /// safely. Timeouts for reading and writing are the exchange's: the framework's would run on while a client sends its
    /// body.
    pub(crate) fn peer(&self, endpoint: SocketAddr, settings: &Route, fresh: bool) -> Option<Box<HttpPeer>> {
        let mut peer = match &self.0 {
            Security::Plain => Box::new(HttpPeer::new(endpoint, false, String::new())),
            Security::Tls(files) => {
                let mut peer = Box::new(HttpPeer::new(endpoint, true, server_name(endpoint, settings)));
                files.protect(&mut peer);
                peer
            }
            Security::Unusable => return None,
        };
        if fresh {
            // Connections are kept by this: under a number of its own there is none.
            peer.group_key = rand::random();
        }
        peer.options.connection_timeout = Some(settings.timeouts.connect);
        match settings.protocol {
            Protocol::Http1 => peer.options.idle_timeout = Some(IDLE),
            Protocol::H2c | Protocol::H2 => {
                peer.options.set_http_version(2, 2);
                peer.options.max_h2_streams = MAX_STREAMS;
                peer.options.idle_timeout = Some(IDLE_HTTP2);
                peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
            }
        }
        Some(peer)
    }
}

/// The name that an endpoint must prove; never empty, since nothing would be verified then. Addresses that a name was
/// resolved to are told by their port.
fn server_name(endpoint: SocketAddr, settings: &Route) -> String {
    if let Some(name) = settings.upstream_tls.as_ref().and_then(|tls| tls.server_name.clone()) {
        return name;
    }
    let address = endpoint.ip().to_string();
    let written = || settings.versions.values().flat_map(Version::endpoints);
    let is_written = written().any(|known| known.port == endpoint.port() && known.host == address);
    let named =
        written().find(|known| known.port == endpoint.port() && known.host.parse::<std::net::IpAddr>().is_err());
    match named {
        Some(named) if !is_written => named.host.clone(),
        Some(_) | None => address,
    }
}

#[cfg(test)]
mod tests {
    use pointsman_config::{Endpoint, Version};

    use super::*;

    fn route(endpoints: &[(&str, u16)]) -> Route {
        let endpoints = endpoints.iter().map(|(host, port)| Endpoint { host: (*host).to_owned(), port: *port });
        let version = Version::at(endpoints.collect());
        let stable: pointsman_config::VersionId = "v1".parse().unwrap();
        Route::new("r".parse().unwrap(), stable.clone(), [(stable, version)].into())
    }

    #[test]
    fn an_endpoint_proves_its_name_as_written_unless_the_route_says_another() {
        let mut route = route(&[("10.0.0.1", 443), ("model.internal", 8443)]);
        let check = |route: &Route, address: &str, name: &str| {
            assert_eq!(server_name(address.parse().unwrap(), route), name, "{address}");
        };
        check(&route, "10.0.0.1:443", "10.0.0.1");
        check(&route, "10.0.0.9:8443", "model.internal");
        check(&route, "[::1]:7", "::1");
        route.upstream_tls = Some(UpstreamTls { server_name: Some("other".to_owned()), ..UpstreamTls::default() });
        check(&route, "10.0.0.1:443", "other");
    }

    #[test]
    fn http2_over_tls_is_never_spoken_in_the_clear() {
        let mut route = route(&[("10.0.0.1", 443)]);
        assert!(tls_of(&route).is_none());
        route.protocol = Protocol::H2c;
        assert!(tls_of(&route).is_none());
        route.protocol = Protocol::H2;
        assert!(tls_of(&route).is_some());
        let missing = std::path::PathBuf::from("/no/such/file");
        route.upstream_tls = Some(UpstreamTls { ca: Some(missing), ..UpstreamTls::default() });
        let unusable = Upstream::new(&route);
        assert!(unusable.peer("10.0.0.1:443".parse().unwrap(), &route, false).is_none());
    }

    #[test]
    fn a_fresh_connection_is_one_that_nobody_has() {
        let (route, plain) = (route(&[("10.0.0.1", 80)]), Upstream::default());
        let key = |fresh| plain.peer("10.0.0.1:80".parse().unwrap(), &route, fresh).unwrap().group_key;
        assert_eq!(key(false), key(false));
        assert_ne!(key(true), key(true));
    }
}
