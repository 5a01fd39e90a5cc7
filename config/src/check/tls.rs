//! Certificates and keys that belong together, and servers whose name is known.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::error::{Findings, Spot};
use crate::file::{ListenerTlsFile, RouteFile, UpstreamTlsFile};
use crate::read::Written;
use crate::scalar::{ObjectName, ServerName, Text, Value};
use crate::{CertificateFiles, ListenerTls, Protocol, UpstreamTls};

use super::range::at_most;
use super::{items, required};

/// Each is read again when its file changes, and gone through at each handshake.
const MOST_CERTIFICATES: usize = 256;
const CERTIFICATE_WAY_OUT: &str = "write the file, such as `certificate: tls/tls.crt`";
const KEY_WAY_OUT: &str = "write the file, such as `private_key: tls/tls.key`";

/// What a listener proves to clients; none where it takes clients without TLS.
pub(super) fn listener(file: &Written<ListenerTlsFile>, findings: &Findings) -> Option<ListenerTls> {
    let (spot, file) = file.good()?;
    let certificates = match &file.certificates {
        Written::Absent => pair(&file.certificate, &file.private_key, spot, findings).into_iter().collect(),
        list @ (Written::Bad(_) | Written::Good(..)) => {
            refuse_both(file, findings);
            let way_out = "list at least one, such as `{ certificate: tls/tls.crt, private_key: tls/tls.key }`";
            let given = items(list.good(), way_out, findings);
            at_most(&given, MOST_CERTIFICATES, "certificates", findings);
            given.iter().filter_map(|(spot, one)| pair(&one.certificate, &one.private_key, spot, findings)).collect()
        }
    };
    Some(ListenerTls { certificates, client_ca: file.client_ca.scalar().cloned() })
}

/// A certificate beside the list of them would be shown by nobody.
fn refuse_both(file: &ListenerTlsFile, findings: &Findings) {
    for spot in [file.certificate.spot(), file.private_key.spot()].into_iter().flatten() {
        findings.error(
            spot,
            format!("{} cannot stand beside `certificates`", spot.key()),
            "move it into the list, or remove the list",
        );
    }
}

/// A certificate and its key; the one that is missing is reported.
fn pair(
    certificate: &Value<PathBuf>,
    private_key: &Value<PathBuf>,
    owner: &Spot,
    findings: &Findings,
) -> Option<CertificateFiles> {
    let certificate = required(certificate, "certificate", owner, CERTIFICATE_WAY_OUT, findings);
    let private_key = required(private_key, "private_key", owner, KEY_WAY_OUT, findings);
    Some(CertificateFiles { certificate: certificate?.1.0.clone(), private_key: private_key?.1.0.clone() })
}

/// What endpoints speak, and whether over TLS: HTTP/2 is, unless it is `h2c`.
pub(super) fn upstream(file: &RouteFile, route: &Spot, findings: &Findings) -> (Protocol, Option<UpstreamTls>) {
    let protocol = file.protocol.value().copied().unwrap_or_default();
    let written = file.upstream_tls.good().map(|(spot, tls)| (spot, upstream_tls(spot, tls, findings)));
    let tls = match (protocol, written) {
        (Protocol::H2c, Some((spot, _))) => {
            let what = "`protocol: h2c` is HTTP/2 without TLS, and `upstream_tls` asks for it";
            findings.error(spot, what, "write `protocol: h2`, or remove `upstream_tls`");
            None
        }
        (Protocol::H2, None) => Some(UpstreamTls::default()),
        (Protocol::Http1 | Protocol::H2c, None) => None,
        (Protocol::Http1 | Protocol::H2, Some((_, tls))) => Some(tls),
    };
    if tls.as_ref().is_some_and(|tls| tls.server_name.is_none())
        && matches!(server_name(file), Some(Written::Absent) | None)
    {
        let spot = file.upstream_tls.spot().or(file.protocol.spot()).unwrap_or(route);
        refuse_unknown_names(file, spot, findings);
    }
    (protocol, tls)
}

fn server_name(file: &RouteFile) -> Option<&Value<ServerName>> {
    file.upstream_tls.value().map(|tls| &tls.server_name)
}

fn upstream_tls(spot: &Spot, file: &UpstreamTlsFile, findings: &Findings) -> UpstreamTls {
    let identity = match (&file.certificate, &file.private_key) {
        (Written::Absent, Written::Absent) => None,
        (certificate, private_key) => pair(certificate, private_key, spot, findings),
    };
    UpstreamTls {
        ca: file.ca.scalar().cloned(),
        identity,
        server_name: file.server_name.scalar().map(|ServerName(name)| name.clone()),
    }
}

/// An address says nothing about the name that a certificate must hold.
fn refuse_unknown_names(file: &RouteFile, spot: &Spot, findings: &Findings) {
    let versions = file.versions.value().into_iter().flat_map(|entries| &entries.0);
    let versions: Vec<_> = versions.filter_map(|(_, version)| version.value()).collect();
    if let Some((place, Text(ObjectName(service)))) = versions.iter().find_map(|version| version.service.good()) {
        let what = format!(
            "the Service `{service}` on line {} gives addresses, and nothing says which name they prove",
            place.line
        );
        return findings.error(spot, what, "add `server_name` to `upstream_tls`");
    }
    let endpoints = versions.iter().filter_map(|version| version.endpoints.value()).flatten();
    let bare = endpoints.filter_map(Written::good).find(|(_, Text(endpoint))| endpoint.host.parse::<IpAddr>().is_ok());
    if let Some((place, Text(endpoint))) = bare {
        let what = format!(
            "the endpoint {endpoint} on line {} is an address, and nothing says which name it proves",
            place.line
        );
        findings.error(spot, what, "add `server_name` to `upstream_tls`, or write names as endpoints");
    }
}
