//! What is said of a cluster: one place for the state, one Service for each version and one more that is flipped, and edges
//! that find each other.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::{Findings, Spot, quoted};
use crate::file::{File, LiveServiceFile, ReplicasFile, RetireFile, RouteFile, VersionFile};
use crate::read::{Either, Written};
use crate::scalar::{Count, LabelKey, ObjectName, Text, Value, is_label_value};
use crate::units::print_duration;
use crate::{
    Backends, Endpoint, KubernetesState, LiveService, Peers, Replicas, Retire, State, Version, VersionId,
    VersionService,
};

use super::{items, required};

const DEFAULT_LEASE: &str = "pointsman";
const DEFAULT_LEASE_DURATION: Duration = Duration::from_secs(10);
const LEASE_DURATIONS: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_mins(1);
const DEFAULT_SELECTOR_KEY: &str = "version";
const DEFAULT_REPLICAS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9901);

/// Where the Lease is, and how long it lasts.
pub(super) fn state(file: &crate::file::KubernetesStateFile, findings: &Findings) -> KubernetesState {
    KubernetesState {
        namespace: name(&file.namespace),
        lease: name(&file.lease).unwrap_or_else(|| DEFAULT_LEASE.to_owned()),
        lease_duration: lease_duration(&file.lease_duration, findings),
    }
}

/// The API counts whole seconds, and a leader that is replaced too slowly is none.
fn lease_duration(value: &Value<Duration>, findings: &Findings) -> Duration {
    let duration = value.or(DEFAULT_LEASE_DURATION);
    let fits = duration.subsec_nanos() == 0 && LEASE_DURATIONS.contains(&duration);
    if let (false, Some(spot)) = (fits, value.spot()) {
        let what = format!("{} cannot be {}", spot.key(), print_duration(duration));
        findings.error(spot, what, "write whole seconds from 2s to 60s");
    }
    duration
}

fn name(value: &Value<ObjectName>) -> Option<String> {
    value.scalar().map(|ObjectName(name)| name.clone())
}

/// The namespace of everything that a route names: its own, else the state's.
pub(super) fn namespace(route: &RouteFile, state: &State) -> Option<String> {
    let own = route.kubernetes.value().and_then(|file| name(&file.namespace));
    own.or_else(|| match state {
        State::Kubernetes(state) => state.namespace.clone(),
        State::File(_) => None,
    })
}

/// The Service that discovers a version; none where its endpoints are listed, or where what is said of it is bad.
pub(super) fn version_service(
    spot: &Spot,
    file: &VersionFile,
    namespace: Option<&str>,
    findings: &Findings,
) -> Option<VersionService> {
    if matches!(file.service, Written::Absent) {
        refuse_service_keys(file, findings);
        return None;
    }
    if let Some(spot) = file.endpoints.spot() {
        let what = "`endpoints` cannot stand beside `service`, whose endpoint slices say where the version answers";
        findings.error(spot, what, "remove one of them");
    }
    let port = required(&file.port, "port", spot, "write which port, such as `port: http`", findings);
    let service = name(&file.service)?;
    let workload = name(&file.workload).unwrap_or_else(|| service.clone());
    Some(VersionService { namespace: namespace.map(str::to_owned), service, port: port?.1.0.clone(), workload })
}

/// `port` and `workload` say something about a Service, and there is none.
fn refuse_service_keys(file: &VersionFile, findings: &Findings) {
    for spot in [file.port.spot(), file.workload.spot()].into_iter().flatten() {
        let what = format!("{} belongs to a Service", spot.key());
        findings.error(spot, what, "remove it, or write `service: NAME` in place of `endpoints`");
    }
}

/// The Service that is flipped, if the route has one. A route without one has no place for its state in a cluster, and a
/// live Service holds the state, so that one write moves both.
pub(super) fn live_service(
    spot: &Spot,
    file: &RouteFile,
    (state, good): (&State, &std::collections::BTreeMap<VersionId, Version>),
    findings: &Findings,
) -> Option<LiveService> {
    let Some((place, live)) = file.kubernetes.good() else {
        if matches!((&file.kubernetes, state), (Written::Absent, State::Kubernetes(_))) {
            let what = "`state.kubernetes` keeps the state of a route on its live Service, and this route has none";
            findings.error(spot, what, "add `kubernetes: { service: NAME }`, or keep state in a file");
        }
        return None;
    };
    if matches!(state, State::File(_)) {
        let what = "a live Service holds the state of its route, and `state` does not say so";
        findings.error(place, what, "write `state: { kubernetes: { namespace: NAME } }`");
    }
    check_versions(file, live, good, findings);
    let way_out = "name the Service that clients use, such as `service: delivery-time`";
    let service = required(&live.service, "service", place, way_out, findings);
    let selector_key = live.selector_key.or(LabelKey(DEFAULT_SELECTOR_KEY.to_owned())).0;
    let retire = retire(&live.retire, findings);
    let (_, Text(ObjectName(service))) = service?;
    Some(LiveService { namespace: namespace(file, state), service: service.clone(), selector_key, retire: retire? })
}

fn retire(written: &Written<RetireFile>, findings: &Findings) -> Option<Retire> {
    match written {
        Written::Bad(_) => None,
        Written::Absent | Written::Good(_, Either::Word(_)) => Some(Retire::None),
        Written::Good(spot, Either::Mapping(file)) => {
            let way_out = "write how many replicas stay, such as `scale_to: 0`";
            required(&file.scale_to, "scale_to", spot, way_out, findings)
                .map(|(_, Text(Count(replicas)))| Retire::ScaleTo(*replicas))
        }
    }
}

/// What a live Service can select: versions that each have pods of their own, known by a label with the version's name.
fn check_versions(
    file: &RouteFile,
    live: &LiveServiceFile,
    good: &std::collections::BTreeMap<VersionId, Version>,
    findings: &Findings,
) {
    let live_name = live.service.scalar();
    let mut lines = HashMap::new();
    for (id, written) in file.versions.value().into_iter().flat_map(|entries| &entries.0) {
        let (Some((name_spot, Text(id))), Some((spot, version))) = (id.good(), written.good()) else { continue };
        if !is_label_value(id.as_str()) {
            let what = format!("no pod can have the label {}, which is the name of this version", quoted(id.as_str()));
            findings.error(name_spot, what, "end the name with a letter or digit");
        }
        if good.get(id).is_some_and(|version| matches!(&version.backends, Backends::Endpoints(_))) {
            if let Some(place) = version.endpoints.spot() {
                let what = "a live Service selects pods, and these endpoints are no Service's";
                findings.error(place, what, "write `service: NAME` and `port` in place of `endpoints`");
            }
            continue;
        }
        let Some((place, Text(service))) = version.service.good() else { continue };
        if Some(service) == live_name {
            let what = format!("{} is the live Service, whose pods change with the rollout", quoted(&service.0));
            findings.error(place, what, "give the version a Service of its own");
        } else if let Some(line) = lines.insert(service, spot.line) {
            let what = format!("the Service {} is that of another version as well, on line {line}", quoted(&service.0));
            findings.error(place, what, "give each version a Service of its own");
        }
    }
}

/// Two routes that flip one Service would flip it back and forth.
pub(super) fn refuse_double_services(routes: &[(&Spot, &RouteFile)], state: &State, findings: &Findings) {
    let mut lines = HashMap::new();
    for (_, route) in routes {
        let Some((spot, Text(service))) = route.kubernetes.value().and_then(|live| live.service.good()) else {
            continue;
        };
        if let Some(line) = lines.insert((namespace(route, state), service), spot.line) {
            let what = format!("the live Service {} belongs to another route, on line {line}", quoted(&service.0));
            findings.error(spot, what, "give each route a live Service of its own");
        }
    }
}

/// Each edge would sign users' cookies with a secret of its own, and users would change versions between edges.
pub(super) fn refuse_own_secrets(routes: &[(&Spot, &RouteFile)], state: &State, findings: &Findings) {
    if matches!(state, State::File(_)) {
        return;
    }
    for (_, route) in routes {
        let Some(sticky) = route.sticky.value() else { continue };
        if let (Some(spot), Written::Absent) = (sticky.cookie.spot(), &sticky.secret_file) {
            let what = "in a cluster no edge keeps a secret, and nothing says with which one this cookie is signed";
            findings.error(spot, what, "add `secret_file`, the same for every edge");
        }
    }
}

/// How edges talk to each other, if they do.
pub(super) fn replicas(file: &File, state: &State, findings: &Findings) -> Option<Replicas> {
    warn_of_edges_alone(file, findings);
    let (spot, written) = file.replicas.good()?;
    if matches!(state, State::File(_)) {
        let what = "edges that decide together keep their state together, and a file is one edge's own";
        findings.error(spot, what, "write `state: { kubernetes: { namespace: NAME } }`, or remove `replicas`");
    }
    let way_out = "write the file with the token that all edges share, such as `token_file: replicas-token`";
    let token_file = required(&written.token_file, "token_file", spot, way_out, findings);
    let address = written.address.or(DEFAULT_REPLICAS);
    let peers = peers(spot, written, address, findings);
    Some(Replicas { address, peers: peers?, token_file: token_file?.1.0.clone() })
}

/// A Lease alone makes nobody follow: it keeps two edges from writing one Service, and each would still move its own weights.
fn warn_of_edges_alone(file: &File, findings: &Findings) {
    let kubernetes = file.state.value().and_then(|state| state.kubernetes.spot());
    if let (Some(spot), Written::Absent) = (kubernetes, &file.replicas) {
        let what =
            "without `replicas` every edge that has this file decides alone, on the requests that it sees itself";
        findings.warning(spot, what, "add `replicas`, or run one edge and no more");
    }
}

fn peers(spot: &Spot, file: &ReplicasFile, address: SocketAddr, findings: &Findings) -> Option<Peers> {
    let way_out = "write either `service: pointsman-replicas`, a headless Service, or `endpoints`";
    match (&file.service, &file.endpoints) {
        (Written::Absent, Written::Absent) => {
            findings.error(spot, "nothing says where the other edges are", way_out);
            None
        }
        (Written::Absent, list) => {
            let way_out = "list every edge, such as `endpoints: [10.0.0.7:9901, 10.0.0.8:9901]`";
            let given: Vec<Endpoint> =
                items(list.good(), way_out, findings).into_iter().map(|(_, Text(endpoint))| endpoint.clone()).collect();
            (!given.is_empty()).then_some(Peers::Endpoints(given))
        }
        (service, Written::Absent) => {
            if let (0, Some(spot)) = (address.port(), file.address.spot()) {
                let what = "with port 0 no other edge would know where to find this one";
                findings.error(spot, what, "write a port, the same for every edge, such as 0.0.0.0:9901");
            }
            name(service).map(Peers::Service)
        }
        (_, _) => {
            findings.error(spot, "the other edges are in one place, and this names two", way_out);
            None
        }
    }
}
