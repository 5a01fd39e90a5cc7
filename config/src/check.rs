//! File to [`Config`]: how the values fit together. Every function reports what is wrong and gives what it can, so
//! that one run finds every problem; whether the file is refused is decided once, at the end.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::error::{Findings, Spot, quoted};
use crate::file::{AdminFile, File, List, ListenerFile, RouteFile, StateFile};
use crate::read::Written;
use crate::scalar::Text;
use crate::{Admin, Config, Listener, Match, Replicas, Route, State};

mod assign;
mod cluster;
mod drift;
mod endpoints;
mod guard;
mod limits;
mod mirror;
mod notify;
mod observe;
mod outside;
mod plan;
mod range;
mod retries;
mod route;
mod tls;

const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9900);
const DEFAULT_STATE: &str = "/var/lib/pointsman/state.db";

/// The config, unless something without a default is missing or bad.
pub(crate) fn config(file: &Written<File>, findings: &Findings) -> Option<Config> {
    let (spot, file) = file.good()?;
    let listeners = listeners(&file.listeners, spot, findings);
    let admin = admin(&file.admin, findings);
    let state = state(&file.state, findings);
    let replicas = cluster::replicas(file, &state, findings);
    refuse_shared_addresses(&listeners, &admin, file, findings);
    refuse_shared_replicas(&listeners, &admin, (replicas.as_ref(), file), findings);
    let routes = routes(file, spot, &state, findings);
    refuse_loops(file, &listeners, findings);
    let access_log = observe::access_log(&file.access_log);
    let traces = observe::traces(&file.traces, findings);
    let notifications = notify::webhooks(file, findings);
    let freeze = outside::freezes(file, &routes, findings);
    let fast_lane = file.fast_lane.or(true);
    let listeners = listeners.into_iter().map(|(_, listener)| listener).collect();
    Some(Config { listeners, admin, state, replicas, access_log, traces, notifications, freeze, fast_lane, routes })
}

/// What stands for a required key; a missing one is reported at its owner.
fn required<'a, T>(
    field: &'a Written<T>,
    key: &str,
    owner: &Spot,
    way_out: &str,
    findings: &Findings,
) -> Option<(&'a Spot, &'a T)> {
    if matches!(field, Written::Absent) {
        findings.error(owner, format!("the required key `{key}` is missing"), way_out);
    }
    field.good()
}

/// The items of a required list that are good; an empty list is reported.
fn items<'a, T>(
    list: Option<(&'a Spot, &'a Vec<Written<T>>)>,
    way_out: &str,
    findings: &Findings,
) -> Vec<(&'a Spot, &'a T)> {
    let Some((spot, items)) = list else { return Vec::new() };
    if items.is_empty() {
        findings.error(spot, "the list is empty", way_out);
    }
    items.iter().filter_map(Written::good).collect()
}

/// Every listener is compared with every other one and with every endpoint.
const MOST_LISTENERS: usize = 64;

fn listeners<'a>(list: &'a List<ListenerFile>, file: &Spot, findings: &Findings) -> Vec<(&'a Spot, Listener)> {
    let way_out = "say where clients connect, such as `listeners: [{ address: 0.0.0.0:8080 }]`";
    let given = items(required(list, "listeners", file, way_out, findings), way_out, findings);
    range::at_most(&given, MOST_LISTENERS, "listeners", findings);
    let good = given.into_iter().take(MOST_LISTENERS).filter_map(|(spot, listener)| {
        let tls = tls::listener(&listener.tls, findings);
        let way_out = "write one such as `address: 0.0.0.0:8080`";
        let (spot, Text(address)) = required(&listener.address, "address", spot, way_out, findings)?;
        Some((spot, Listener { address: *address, tls }))
    });
    good.collect()
}

fn admin(admin: &Written<AdminFile>, findings: &Findings) -> Admin {
    let Some((spot, written)) = admin.good() else {
        return Admin { address: DEFAULT_ADMIN, token_file: None };
    };
    let address = written.address.or(DEFAULT_ADMIN);
    if !address.ip().is_loopback() && matches!(written.token_file, Written::Absent) {
        let spot = written.address.spot().unwrap_or(spot);
        let what = format!("the admin API on {address} could be used by anyone who reaches it");
        findings.error(spot, what, "add `token_file`, or listen on 127.0.0.1");
    }
    Admin { address, token_file: written.token_file.scalar().cloned() }
}

fn state(state: &Written<StateFile>, findings: &Findings) -> State {
    let default = PathBuf::from(DEFAULT_STATE);
    let Some(written) = state.value() else { return State::File(default) };
    let Some((_, kubernetes)) = written.kubernetes.good() else { return State::File(written.file.or(default)) };
    if let Some(spot) = written.file.spot() {
        findings.error(
            spot,
            "`file` cannot stand beside `kubernetes`, since state is kept in one place",
            "remove one of them",
        );
    }
    State::Kubernetes(cluster::state(kubernetes, findings))
}

/// Two sockets on one address: the second cannot be opened.
fn refuse_shared_addresses(listeners: &[(&Spot, Listener)], admin: &Admin, file: &File, findings: &Findings) {
    for (index, (spot, Listener { address, .. })) in listeners.iter().enumerate() {
        for (earlier, Listener { address: other, .. }) in listeners.iter().take(index) {
            let name = format!("the listener on line {}", earlier.line);
            compare_addresses(spot, *address, (*other, &name), findings);
        }
        let admin_spot = file.admin.value().and_then(|written| written.address.spot());
        let name = admin_spot.map_or_else(
            || "the admin API (its default)".to_owned(),
            |spot| format!("the admin API on line {}", spot.line),
        );
        compare_addresses(spot, *address, (admin.address, &name), findings);
    }
}

/// The other edges connect to a socket of their own.
fn refuse_shared_replicas(
    listeners: &[(&Spot, Listener)],
    admin: &Admin,
    (replicas, file): (Option<&Replicas>, &File),
    findings: &Findings,
) {
    let (Some(replicas), Some((spot, written))) = (replicas, file.replicas.good()) else { return };
    let spot = written.address.spot().unwrap_or(spot);
    for (earlier, listener) in listeners {
        let name = format!("the listener on line {}", earlier.line);
        compare_addresses(spot, replicas.address, (listener.address, &name), findings);
    }
    compare_addresses(spot, replicas.address, (admin.address, "the admin API"), findings);
}

fn compare_addresses(spot: &Spot, address: SocketAddr, (other, name): (SocketAddr, &str), findings: &Findings) {
    if address.port() == 0 || address.port() != other.port() {
        return;
    }
    if address == other {
        findings.error(spot, format!("{address} is taken by {name}"), "give each its own port");
    } else if address.ip().is_unspecified() || other.ip().is_unspecified() {
        findings.warning(
            spot,
            format!("{address} overlaps with {name} on {other}"),
            "give each its own port, or name the addresses of both",
        );
    }
}

/// The good routes.
fn routes(file: &File, spot: &Spot, state: &State, findings: &Findings) -> Vec<Route> {
    let way_out = "say what is served, as in config/examples/minimal.yaml";
    let given = items(required(&file.routes, "routes", spot, way_out, findings), way_out, findings);
    refuse_double_names(&given, findings);
    refuse_double_matches(&given, findings);
    cluster::refuse_double_services(&given, state, findings);
    cluster::refuse_own_secrets(&given, state, findings);
    given.into_iter().filter_map(|(spot, written)| route::route(spot, written, state, findings)).collect()
}

fn refuse_double_names(routes: &[(&Spot, &RouteFile)], findings: &Findings) {
    let mut lines = HashMap::new();
    for (spot, name) in routes.iter().filter_map(|(_, route)| route.name.good()) {
        if let Some(line) = lines.insert(&name.0, spot.line) {
            findings.error(
                spot,
                format!("another route is named {} as well, on line {line}", quoted(name.0.as_str())),
                "give each route its own name",
            );
        }
    }
}

fn refuse_double_matches(routes: &[(&Spot, &RouteFile)], findings: &Findings) {
    let mut lines = HashMap::new();
    for (spot, route) in routes {
        let Some(Match { host, path_prefix }) = route::unreported_match(&route.matches) else { continue };
        let place = route.matches.spot().unwrap_or(spot);
        if let Some(line) = lines.insert((host, path_prefix), place.line) {
            let what = format!("this route takes the same host and path as the one on line {line}");
            findings.error(place, what, "give one of them another `host` or `path_prefix`, or remove one");
        }
    }
}

/// An endpoint that is a listener of ours sends each request round in circles.
fn refuse_loops(file: &File, listeners: &[(&Spot, Listener)], findings: &Findings) {
    let routes = file.routes.value().into_iter().flatten().filter_map(Written::value);
    let versions = routes
        .filter_map(|route| route.versions.value())
        .flat_map(|entries| &entries.0)
        .filter_map(|(_, version)| version.value());
    let endpoints = versions.filter_map(|version| version.endpoints.value()).flatten().filter_map(Written::good);
    for (spot, Text(endpoint)) in endpoints {
        if listeners.iter().any(|(_, listener)| reaches(&endpoint.host, endpoint.port, listener.address)) {
            findings.error(
                spot,
                format!("the endpoint {endpoint} is a listener of Pointsman itself"),
                "write the address of the model server",
            );
        }
    }
}

fn reaches(host: &str, port: u16, listener: SocketAddr) -> bool {
    let same_host = match host.parse::<IpAddr>() {
        Ok(ip) => ip == listener.ip() || ip.is_unspecified() || (listener.ip().is_unspecified() && ip.is_loopback()),
        Err(_) => host == "localhost" && (listener.ip().is_loopback() || listener.ip().is_unspecified()),
    };
    same_host && port == listener.port()
}
