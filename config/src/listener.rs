//! Where clients connect, and what they speak there.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

use crate::endpoints::CertificateFiles;

/// One address that clients connect to. HTTP/1.1 and HTTP/2 are told apart by what the client says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// Port 0 takes a free one.
    pub address: SocketAddr,
    /// None: clients connect without TLS.
    pub tls: Option<ListenerTls>,
}

/// What the edge proves to clients, and they to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListenerTls {
    /// At least one; the one whose names fit what the client asks for is shown, else the first. Read again when the files
    /// change.
    pub certificates: Vec<CertificateFiles>,
    /// File with the certificates that sign those of clients; none: clients need none.
    pub client_ca: Option<PathBuf>,
}
