//! One route: its names fit together, its addresses differ, its limits make sense.

use std::collections::{BTreeMap, HashMap};

use crate::error::{Findings, Spot, listed, nearest, quoted};
use crate::file::{MatchFile, RouteFile, VersionFile};
use crate::read::Written;
use crate::scalar::PathPrefix;
use crate::{Backends, Endpoint, Host, Match, Route, State, Version, VersionId};

use super::{assign, cluster, drift, endpoints, guard, items, limits, mirror, plan, required, retries, tls};

/// The versions of a route as far as they could be read. A bad one counts as known, so that using it is no second
/// problem.
pub(super) struct Versions {
    pub(super) known: Vec<VersionId>,
    good: BTreeMap<VersionId, Version>,
}

/// The route, unless something without a default is missing or bad.
pub(super) fn route(spot: &Spot, file: &RouteFile, state: &State, findings: &Findings) -> Option<Route> {
    let name = required(&file.name, "name", spot, "name the route, such as `name: delivery-time`", findings);
    let versions = versions(file, spot, state, findings);
    let live_service = cluster::live_service(spot, file, (state, &versions.good), findings);
    let stable =
        required(&file.stable, "stable", spot, "name the version in production, such as `stable: v1`", findings);
    let stable_is_known = stable.is_none_or(|(place, id)| is_known(&id.0, place, &versions.known, findings));
    let trusted = stable.filter(|_| stable_is_known).map(|(_, id)| &id.0);
    let plan = plan::plan(file, spot, trusted, &versions.known, findings);
    let timeouts = limits::timeouts(&file.timeouts, findings);
    let guard = guard::guard(&file.guard, findings);
    guard::warn_of_mute_latency(file, &guard, &timeouts, findings);
    drift::warn_of_blind_drift(file, plan.as_ref(), &guard, findings);
    plan::warn_of_short_comparison(file, plan.as_ref(), &guard, findings);
    let limits = limits::limits(&file.limits, findings);
    let sticky = assign::sticky(&file.sticky, findings);
    let overrides = assign::overrides(file, &versions.known, findings);
    let retries = retries::retries(&file.retries, &timeouts, findings);
    let mirror = mirror::mirror(&file.mirror, trusted, &versions.known, findings);
    let health_check = endpoints::health_check(&file.health_check, findings);
    let warm_up = endpoints::warm_up(&file.warm_up, findings);
    let slow_start = endpoints::slow_start(file, findings);
    let ejection = endpoints::ejection(&file.ejection, findings);
    let (protocol, upstream_tls) = tls::upstream(file, spot, findings);
    Some(Route {
        name: name?.1.0.clone(),
        matches: unreported_match(&file.matches)?,
        stable: trusted?.clone(),
        versions: versions.good,
        plan: plan?,
        live_service,
        guard,
        timeouts,
        limits,
        sticky,
        overrides,
        retries,
        mirror,
        health_check,
        warm_up,
        slow_start,
        ejection,
        protocol,
        upstream_tls,
        version_header: file.version_header.or(true),
        server_timing: file.server_timing.or(false),
    })
}

/// Reports a version that the route does not have.
pub(super) fn is_known(id: &VersionId, spot: &Spot, known: &[VersionId], findings: &Findings) -> bool {
    // Without a single version the missing `versions` is the problem, not every use of one.
    if known.is_empty() || known.contains(id) {
        return true;
    }
    let all = listed(known.iter().take(20).map(VersionId::as_str));
    let way_out = match nearest(id.as_str(), known.iter().map(VersionId::as_str)) {
        Some(near) => format!("did you mean `{near}`? It has {all}"),
        None => format!("use one of {all}, or add it to `versions`"),
    };
    findings.error(spot, format!("this route has no version {}", quoted(id.as_str())), way_out);
    false
}

/// The match with its defaults, unless a part of it is bad.
pub(super) fn unreported_match(matches: &Written<MatchFile>) -> Option<Match> {
    let default = MatchFile::default();
    let file = match matches {
        Written::Absent => &default,
        Written::Bad(_) => return None,
        Written::Good(_, file) => file,
    };
    let bad = matches!(file.host, Written::Bad(_)) || matches!(file.path_prefix, Written::Bad(_));
    let PathPrefix(path_prefix) = file.path_prefix.or(PathPrefix("/".to_owned()));
    (!bad).then(|| Match { host: file.host.or(Host::Any), path_prefix })
}

/// Each is a label of metrics, and every name in the route is looked for among them.
const MOST_VERSIONS: usize = 64;

fn versions(file: &RouteFile, route: &Spot, state: &State, findings: &Findings) -> Versions {
    let way_out = "list the versions that can serve, such as `versions: { v1: { endpoints: [127.0.0.1:9001] } }`";
    let mut versions = Versions { known: Vec::new(), good: BTreeMap::new() };
    let Some((spot, entries)) = required(&file.versions, "versions", route, way_out, findings) else { return versions };
    if entries.0.is_empty() {
        findings.error(spot, "there is no version", way_out);
    }
    if entries.0.len() > MOST_VERSIONS {
        let what = format!("there are {} versions, and a route has at most {MOST_VERSIONS}", entries.0.len());
        findings.error(spot, what, "remove those that serve no more");
    }
    let mut users = HashMap::new();
    let namespace = cluster::namespace(file, state);
    for (name, written) in entries.0.iter().take(MOST_VERSIONS) {
        let Some(id) = name.scalar() else { continue };
        versions.known.push(id.clone());
        if let Some((spot, written)) = written.good() {
            let backends = match cluster::version_service(spot, written, namespace.as_deref(), findings) {
                Some(service) => Backends::Service(service),
                None => Backends::Endpoints(listed_endpoints(id, spot, written, &mut users, findings)),
            };
            versions.good.insert(id.clone(), Version { backends, revision: written.revision.scalar().cloned() });
        }
    }
    versions
}

/// The endpoints of a version that no Service discovers; `users` holds who uses an endpoint, and on which line.
fn listed_endpoints<'a>(
    id: &'a VersionId,
    spot: &Spot,
    file: &'a VersionFile,
    users: &mut HashMap<&'a Endpoint, (&'a VersionId, usize)>,
    findings: &Findings,
) -> Vec<Endpoint> {
    if file.service.spot().is_some() {
        // What is wrong with the Service is the problem.
        return Vec::new();
    }
    let way_out =
        "write where it answers, such as `endpoints: [127.0.0.1:9001]`, or its Service with `service` and `port`";
    let given = items(required(&file.endpoints, "endpoints", spot, way_out, findings), way_out, findings);
    for (place, endpoint) in &given {
        match users.insert(&endpoint.0, (id, place.line)) {
            Some((user, line)) if user == id => {
                findings.error(
                    place,
                    format!("the endpoint {} stands twice in this version, first on line {line}", endpoint.0),
                    "keep one of them",
                );
            }
            Some((user, _)) => {
                let what = format!(
                    "the endpoint {} also serves version {}, so answers of both look alike",
                    endpoint.0,
                    quoted(user.as_str())
                );
                findings.warning(place, what, "give each version its own endpoints, or comparing them means nothing");
            }
            None => {}
        }
    }
    given.into_iter().map(|(_, endpoint)| endpoint.0.clone()).collect()
}
