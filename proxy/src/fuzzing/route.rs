//! Whether the table finds the route that a look at every single one finds.

use std::cmp::Reverse;
use std::sync::{Arc, OnceLock};

use percent_encoding::{percent_decode_str, percent_encode_byte};
use pointsman_config::{Host, Match};

use crate::route::RouteTable;
use crate::snapshot::ServedRoute;

/// The longest host name that DNS allows, in bytes.
const MAX_HOST_BYTES: usize = 255;

/// For any routes and any request the table finds what comparing each route with it finds, and it finds the same however
/// the path is spelled.
///
/// A line `+HOST PREFIX` is a route (`*` for any host, `*.example.com` for those below), any other line `HOST PATH` a
/// request (`-` for one without a host).
///
/// # Panics
/// If that does not hold.
pub fn route(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (mut routes, mut asked) = (Vec::new(), Vec::new());
    for (host, path) in text.lines().filter_map(|line| line.split_once(' ')) {
        match host.strip_prefix('+') {
            Some(host) => routes.extend(matches(host, path)),
            None => asked.push((Some(host).filter(|host| *host != "-"), path)),
        }
    }
    let table = RouteTable::new(routes.iter().map(|matches| (matches.clone(), served())).collect());
    for (host, path) in asked {
        let found = table.position(host, path);
        assert_eq!(found, slowly(&routes, host, path), "{host:?} {path:?} among {routes:?}");
        let spelled = otherwise_spelled(path);
        assert_eq!(found, table.position(host, &spelled), "{host:?} {path:?} spelled {spelled:?} among {routes:?}");
    }
}

/// What a config file could say; none if it could not.
fn matches(host: &str, prefix: &str) -> Option<Match> {
    let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || b"-_.0123456789".contains(&byte));
    let host = match host.strip_prefix("*.") {
        _ if host == "*" => Host::Any,
        Some(name) if plain(name) => Host::Suffix(name.to_owned()),
        None if plain(host) => Host::Exact(host.to_owned()),
        Some(_) | None => return None,
    };
    let is_prefix = prefix.starts_with('/') && !prefix.contains(['%', '?', '#']) && !prefix.contains("//");
    is_prefix.then(|| Match { host, path_prefix: prefix.to_owned() })
}

/// One route is as good as another: what counts is its position.
fn served() -> Arc<ServedRoute> {
    static SERVED: OnceLock<Arc<ServedRoute>> = OnceLock::new();
    Arc::clone(SERVED.get_or_init(|| super::served("route")))
}

/// The position of the route whose host says most, then the one whose prefix says most, then the first.
fn slowly(routes: &[Match], host: Option<&str>, path: &str) -> Option<usize> {
    let host = host.and_then(plain_host);
    let path = segments(path);
    let fitting = routes.iter().enumerate().filter_map(|(position, matches)| {
        let of_host = takes_host(&matches.host, host.as_deref())?;
        let prefix = segments(&matches.path_prefix);
        path.starts_with(&prefix).then_some((of_host, prefix.len(), Reverse(position)))
    });
    fitting.max().map(|(_, _, Reverse(position))| position)
}

/// How much a pattern says of this host; none if it does not take it.
fn takes_host(pattern: &Host, host: Option<&str>) -> Option<usize> {
    match pattern {
        Host::Any => Some(0),
        Host::Exact(name) => (host? == name).then_some(usize::MAX),
        Host::Suffix(domain) => host?.ends_with(&format!(".{domain}")).then_some(1 + domain.len()),
    }
}

/// In lower case, without a port and the final dot.
fn plain_host(host: &str) -> Option<String> {
    let name = match host.rsplit_once(':') {
        Some((name, _)) if !host.ends_with(']') => name,
        Some(_) | None => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    (1..=MAX_HOST_BYTES).contains(&name.len()).then(|| name.to_ascii_lowercase())
}

/// The segments of a path, decoded.
fn segments(path: &str) -> Vec<Vec<u8>> {
    let named = path.split('/').filter(|segment| !segment.is_empty());
    named.map(|segment| percent_decode_str(segment).collect()).collect()
}

/// The same path with every byte written as `%XX`, and slashes doubled.
fn otherwise_spelled(path: &str) -> String {
    let mut spelled = String::new();
    for segment in segments(path) {
        spelled.push_str("//");
        spelled.extend(segment.into_iter().map(percent_encode_byte));
    }
    spelled
}
