//! Which route takes a request: by host first, then by the longest path prefix.
//!
//! Line: snapshot ► **route** ► split. A look-up costs one hash per host label and one per path segment that some route
//! names, however many routes there are, and allocates nothing but for an encoded segment that is longer than any that
//! somebody would write.
//!
//! Paths are compared segment by segment, with `%XX` decoded and empty segments skipped, because that is how the model
//! server behind the route may read them: `//v1/%70redict` belongs to the route of `/v1/predict`. Paths that change
//! their meaning when dot segments are resolved never get here: `guard` refuses them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use pointsman_config::{Host, Limits, Match};

use crate::snapshot::ServedRoute;

/// The longest host name that DNS allows, in bytes; a longer one belongs to no host.
const MAX_HOST_BYTES: usize = 255;
/// Room for a decoded path segment, in bytes; the few that are longer are decoded elsewhere.
const SEGMENT_BYTES: usize = 255;

/// Every route, found by what it matches.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Box<[Arc<ServedRoute>]>,
    exact: HashMap<Box<str>, Prefixes>,
    suffix: HashMap<Box<str>, Prefixes>,
    any: Prefixes,
    largest_head_bytes: u64,
}

/// The path prefixes of one host, as a tree of segments.
#[derive(Debug, Default)]
struct Prefixes {
    route: Option<usize>,
    below: HashMap<Box<[u8]>, Prefixes>,
}

impl RouteTable {
    /// The table of `routes`; of two routes that match the same, the first one wins.
    pub fn new(routes: Vec<(Match, Arc<ServedRoute>)>) -> Self {
        let mut table = Self { largest_head_bytes: Limits::default().header_bytes, ..Self::default() };
        if let Some(largest) = routes.iter().map(|(_, route)| route.settings.limits.header_bytes).max() {
            table.largest_head_bytes = largest;
        }
        for (position, (matches, _)) in routes.iter().enumerate() {
            table.host_mut(&matches.host).insert(&matches.path_prefix, position);
        }
        table.routes = routes.into_iter().map(|(_, route)| route).collect();
        table
    }

    fn host_mut(&mut self, host: &Host) -> &mut Prefixes {
        match host {
            Host::Any => &mut self.any,
            Host::Exact(name) => self.exact.entry(name.as_str().into()).or_default(),
            Host::Suffix(name) => self.suffix.entry(name.as_str().into()).or_default(),
        }
    }

    /// The route of a request for `host` (as in the Host header, a port is ignored) and `path` (without its query).
    ///
    /// The exact host goes first, then the longest `*.suffix`, then routes for any host; a host whose prefixes do not
    /// fit the path leaves it to the next.
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<&Arc<ServedRoute>> {
        self.position(host, path).and_then(|position| self.at(position))
    }

    /// Where [`RouteTable::find`] finds it, for who keeps the table and cannot keep a reference into it.
    pub(crate) fn position(&self, host: Option<&str>, path: &str) -> Option<usize> {
        let mut room = [0; MAX_HOST_BYTES];
        host.and_then(|host| plain_host(host, &mut room))
            .and_then(|host| self.position_for(host, path))
            .or_else(|| self.any.longest(path))
    }

    fn position_for(&self, host: &str, path: &str) -> Option<usize> {
        let exact = self.exact.get(host).and_then(|prefixes| prefixes.longest(path));
        if exact.is_some() || self.suffix.is_empty() {
            return exact;
        }
        parent_domains(host).find_map(|domain| self.suffix.get(domain)?.longest(path))
    }

    /// The route at a position that [`RouteTable::position`] gave.
    pub(crate) fn at(&self, position: usize) -> Option<&Arc<ServedRoute>> {
        self.routes.get(position)
    }

    /// Every route, in the order of the config file.
    pub fn routes(&self) -> &[Arc<ServedRoute>] {
        &self.routes
    }

    /// The largest request head that any route takes, in bytes; the default where there is no route.
    pub fn largest_head_bytes(&self) -> u64 {
        self.largest_head_bytes
    }
}

impl Prefixes {
    fn insert(&mut self, prefix: &str, position: usize) {
        let mut node = self;
        for segment in segments(prefix) {
            let mut room = [0; SEGMENT_BYTES];
            let key = decoded(segment, &mut room);
            node = node.below.entry((*key).into()).or_default();
        }
        node.route.get_or_insert(position);
    }

    fn longest(&self, path: &str) -> Option<usize> {
        let mut node = self;
        let mut best = node.route;
        for segment in segments(path) {
            let Some(next) = node.child(segment) else { break };
            node = next;
            best = node.route.or(best);
        }
        best
    }

    fn child(&self, segment: &str) -> Option<&Self> {
        if self.below.is_empty() {
            return None;
        }
        let mut room = [0; SEGMENT_BYTES];
        self.below.get(&*decoded(segment, &mut room))
    }
}

/// The segments of a path; empty ones say nothing.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// A segment with `%XX` decoded, in `room` if that holds it.
fn decoded<'a>(segment: &'a str, room: &'a mut [u8; SEGMENT_BYTES]) -> Cow<'a, [u8]> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment.as_bytes());
    }
    let mut length = 0;
    let mut rest = segment.as_bytes();
    while let Some((byte, after)) = next_byte(rest) {
        let Some(place) = room.get_mut(length) else {
            return Cow::Owned(percent_decode_str(segment).collect());
        };
        *place = byte;
        length += 1;
        rest = after;
    }
    Cow::Borrowed(room.get(..length).unwrap_or_default())
}

/// The first byte of an encoded text, and what follows it; a `%` without two digits stands for itself.
pub(crate) fn next_byte(text: &[u8]) -> Option<(u8, &[u8])> {
    match text {
        [b'%', high, low, rest @ ..] => match (hex_digit(*high), hex_digit(*low)) {
            (Some(high), Some(low)) => Some((high << 4 | low, rest)),
            (None | Some(_), _) => text.split_first().map(|(byte, rest)| (*byte, rest)),
        },
        [byte, rest @ ..] => Some((*byte, rest)),
        [] => None,
    }
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The host in lower case, without port and without the final dot; none if it is empty or too long.
fn plain_host<'a>(host: &str, room: &'a mut [u8; MAX_HOST_BYTES]) -> Option<&'a str> {
    let name = without_port(host);
    let name = name.strip_suffix('.').unwrap_or(name);
    let place = room.get_mut(..name.len()).filter(|place| !place.is_empty())?;
    place.copy_from_slice(name.as_bytes());
    place.make_ascii_lowercase();
    std::str::from_utf8(place).ok()
}

/// `example.com` of `example.com:8080`, `[::1]` of `[::1]:8080`.
fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => host.get(..colon).unwrap_or(host),
        Some(_) | None => host,
    }
}

/// `b.c` and `c` of `a.b.c`.
fn parent_domains(host: &str) -> impl Iterator<Item = &str> {
    host.match_indices('.').filter_map(|(dot, _)| host.get(dot + 1..))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::fuzzing::served as route;

    fn table(routes: &[(&str, Host, &str)]) -> RouteTable {
        let entry = |(name, host, prefix): &(&str, Host, &str)| {
            (Match { host: host.clone(), path_prefix: (*prefix).to_owned() }, route(name))
        };
        RouteTable::new(routes.iter().map(entry).collect())
    }

    fn exact(host: &str) -> Host {
        Host::Exact(host.to_owned())
    }

    fn suffix(host: &str) -> Host {
        Host::Suffix(host.to_owned())
    }

    #[track_caller]
    fn check(table: &RouteTable, host: Option<&str>, path: &str, expected: Option<&str>) {
        assert_eq!(table.find(host, path).map(|route| route.name.as_str()), expected, "{host:?} {path}");
    }

    #[test]
    fn the_longest_prefix_at_a_segment_border_wins() {
        let table =
            table(&[("root", Host::Any, "/"), ("v1", Host::Any, "/v1"), ("batch", Host::Any, "/v1/predict/batch")]);
        check(&table, None, "/", Some("root"));
        check(&table, None, "/v10", Some("root"));
        check(&table, None, "/v1", Some("v1"));
        check(&table, None, "/v1/", Some("v1"));
        check(&table, None, "/v1/predict", Some("v1"));
        check(&table, None, "/v1/predict/batch", Some("batch"));
        check(&table, None, "/v1/predict/batch/7", Some("batch"));
        check(&table, None, "/v1/predict/batches", Some("v1"));
        check(&table, None, "*", Some("root"));
    }

    #[test]
    fn without_a_root_an_unknown_path_has_no_route() {
        let table = table(&[("v1", Host::Any, "/v1/")]);
        check(&table, None, "/", None);
        check(&table, None, "/v2", None);
        check(&table, None, "/v1", Some("v1"));
    }

    #[test]
    fn the_exact_host_goes_before_the_longest_suffix_before_any() {
        let table = table(&[
            ("any", Host::Any, "/"),
            ("com", suffix("example.com"), "/"),
            ("eu", suffix("eu.example.com"), "/"),
            ("one", exact("one.eu.example.com"), "/v1"),
        ]);
        check(&table, Some("one.eu.example.com"), "/v1/x", Some("one"));
        check(&table, Some("one.eu.example.com"), "/v2", Some("eu"));
        check(&table, Some("ONE.EU.Example.Com:8080"), "/v1", Some("one"));
        check(&table, Some("one.eu.example.com."), "/v1", Some("one"));
        check(&table, Some("two.eu.example.com"), "/v1", Some("eu"));
        check(&table, Some("eu.example.com"), "/v1", Some("com"));
        check(&table, Some("example.com"), "/v1", Some("any"));
        check(&table, Some("notexample.com"), "/v1", Some("any"));
        check(&table, Some(""), "/v1", Some("any"));
        check(&table, None, "/v1", Some("any"));
        check(&table, Some(&"a.".repeat(300)), "/v1", Some("any"));
    }

    #[test]
    fn an_ipv6_host_keeps_its_brackets() {
        let table = table(&[("six", exact("[::1]"), "/")]);
        check(&table, Some("[::1]"), "/", Some("six"));
        check(&table, Some("[::1]:8080"), "/", Some("six"));
        check(&table, Some("[::2]:8080"), "/", None);
    }

    #[test]
    fn another_spelling_of_a_path_reaches_the_same_route() {
        let table = table(&[("root", Host::Any, "/"), ("admin", Host::Any, "/admin/x y")]);
        check(&table, None, "/admin/x%20y", Some("admin"));
        check(&table, None, "//admin///x%20y/z", Some("admin"));
        check(&table, None, "/%61dm%69n/x%20y", Some("admin"));
        check(&table, None, "/admin/x%2", Some("root"));
        check(&table, None, &format!("/admin/{}", "%41".repeat(400)), Some("root"));
    }

    /// Else a request could leave its route by another spelling.
    #[test]
    fn a_long_segment_is_found_however_it_is_spelled() {
        let long = format!("/{}", "a".repeat(300));
        let table = table(&[("root", Host::Any, "/"), ("long", Host::Any, &long)]);
        check(&table, None, &long, Some("long"));
        check(&table, None, &long.replace('a', "%61"), Some("long"));
        check(&table, None, &format!("{}%62", long.replace('a', "%61")), Some("root"));
    }

    #[test]
    fn a_thousand_routes_cost_about_as_much_as_one() {
        let one = table(&[("r0", Host::Any, "/r0/v1")]);
        let names: Vec<(String, String)> = (0..1000).map(|i| (format!("r{i}"), format!("/r{i}/v1"))).collect();
        let many = RouteTable::new(
            names
                .iter()
                .map(|(name, prefix)| (Match { host: Host::Any, path_prefix: prefix.clone() }, route(name)))
                .collect(),
        );
        let (one, many) = (cost(&one), cost(&many));
        assert!(many < one * 4, "{many:?} for a thousand, {one:?} for one");
    }

    fn cost(table: &RouteTable) -> Duration {
        let round = || {
            let began = Instant::now();
            for _ in 0..20_000 {
                std::hint::black_box(table.find(Some("example.com"), std::hint::black_box("/r0/v1/predict")));
            }
            began.elapsed()
        };
        (0..5).map(|_| round()).min().unwrap()
    }
}
