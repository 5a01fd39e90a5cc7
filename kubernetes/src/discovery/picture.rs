//! All slices of a Service, merged into one picture of its endpoints. Pure.
//!
//! The rules are those of the EndpointSlice API: a Service has any number of slices; while endpoints move from one to
//! another the same one may stand in two of them; a pod of a dual-stack Service stands in one slice of each family.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointPort, EndpointSlice};

/// Which port of a Service's pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortChoice {
    /// The one of this name in the Service.
    Name(String),
    /// The one on which its pods listen under this number.
    Number(u16),
    /// The first, by name: for a Service of which only the members matter.
    Any,
}

impl fmt::Display for PortChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "`{name}`"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Any => f.write_str("any"),
        }
    }
}

/// What an endpoint is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// For nothing yet, or not any more.
    NotReady,
    /// It ends what it has; new requests only where nobody else is left.
    Draining,
    /// For requests.
    Ready,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// What it is good for.
    pub condition: Condition,
    /// Whether it passes its checks: a Service that publishes addresses that are not ready calls all of them ready.
    pub serving: bool,
    /// The pod behind it, by its uid or its name; none where slices are made by hand and name nothing.
    pub pod: Option<Arc<str>>,
}

/// The endpoints of a Service at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// Each address once. Of a pod with addresses of both families, the IPv4 one.
    pub endpoints: BTreeMap<SocketAddr, Endpoint>,
    /// What someone should look at, such as a port that no slice has.
    pub problem: Option<String>,
}

/// An endpoint as one slice has it.
struct Entry {
    address: SocketAddr,
    endpoint: Endpoint,
    /// The slice's resource version, where it is a number: the API server counts writes by it.
    written: Option<u64>,
}

impl Picture {
    /// What `slices`, in any order, say of `port`.
    pub fn of<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>, port: &PortChoice) -> Self {
        let slices: Vec<&EndpointSlice> = slices.into_iter().filter(|slice| is_of_addresses(slice)).collect();
        let mut said: BTreeMap<SocketAddr, Vec<Entry>> = BTreeMap::new();
        for entry in slices.iter().flat_map(|slice| entries(slice, port)) {
            said.entry(entry.address).or_default().push(entry);
        }
        let endpoints = said.into_iter().filter_map(|(address, entries)| Some((address, believed(entries)?))).collect();
        Self { endpoints: one_family_per_pod(endpoints), problem: missing_port(&slices, port) }
    }

    /// How many endpoints are ready.
    pub fn ready(&self) -> usize {
        self.endpoints.values().filter(|endpoint| endpoint.condition == Condition::Ready).count()
    }
}

/// Slices of host names are deprecated, and nothing makes them.
fn is_of_addresses(slice: &EndpointSlice) -> bool {
    matches!(slice.address_type.as_str(), "IPv4" | "IPv6")
}

/// What to believe of an address that several slices have: the one written last, since the controller never writes an
/// endpoint where it no longer is. Where it is not known which that is, the worst condition.
fn believed(entries: Vec<Entry>) -> Option<Endpoint> {
    let all_known = entries.iter().all(|entry| entry.written.is_some());
    let newest = entries.iter().map(|entry| entry.written).max().filter(|_| all_known);
    let believed = entries.into_iter().filter(|entry| newest.is_none_or(|newest| entry.written == newest));
    believed
        .map(|entry| entry.endpoint)
        .min_by(|one, other| (one.condition, one.serving, &one.pod).cmp(&(other.condition, other.serving, &other.pod)))
}

fn entries<'a>(slice: &'a EndpointSlice, port: &PortChoice) -> impl Iterator<Item = Entry> + use<'a> {
    let port = port_of(slice, port);
    let written = slice.metadata.resource_version.as_deref().and_then(|version| version.parse().ok());
    slice.endpoints.iter().flatten().filter_map(move |endpoint| {
        // Addresses beyond the first mean nothing, as the API says.
        let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        Some(Entry { address: SocketAddr::new(address, port?), endpoint: read(endpoint), written })
    })
}

fn read(endpoint: &SliceEndpoint) -> Endpoint {
    let (condition, serving) = condition(endpoint);
    Endpoint { condition, serving, pod: endpoint.target_ref.as_ref().and_then(pod) }
}

/// What it is good for, and whether it serves. What is not said is true of `ready`, true of `serving` and false of
/// `terminating`, as the API says. One that terminates is not ready even where its Service publishes those that are not ready.
fn condition(endpoint: &SliceEndpoint) -> (Condition, bool) {
    let conditions = endpoint.conditions.as_ref();
    let says = |of: Option<bool>, otherwise: bool| of.unwrap_or(otherwise);
    let ready = says(conditions.and_then(|said| said.ready), true);
    let serving = says(conditions.and_then(|said| said.serving), true);
    let condition = match says(conditions.and_then(|said| said.terminating), false) {
        false if ready => Condition::Ready,
        true if serving => Condition::Draining,
        true | false => Condition::NotReady,
    };
    (condition, serving)
}

fn pod(target: &ObjectReference) -> Option<Arc<str>> {
    target.uid.as_deref().or(target.name.as_deref()).filter(|name| !name.is_empty()).map(Arc::from)
}

/// A pod that has an IPv4 address counts once, with that.
fn one_family_per_pod(endpoints: BTreeMap<SocketAddr, Endpoint>) -> BTreeMap<SocketAddr, Endpoint> {
    let with_v4: BTreeSet<Arc<str>> = endpoints
        .iter()
        .filter(|(address, _)| address.is_ipv4())
        .filter_map(|(_, endpoint)| endpoint.pod.clone())
        .collect();
    let is_double = |address: &SocketAddr, endpoint: &Endpoint| {
        address.is_ipv6() && endpoint.pod.as_ref().is_some_and(|pod| with_v4.contains(pod))
    };
    endpoints.into_iter().filter(|(address, endpoint)| !is_double(address, endpoint)).collect()
}

/// The number of the chosen port in this slice.
fn port_of(slice: &EndpointSlice, choice: &PortChoice) -> Option<u16> {
    let mut ports: Vec<&EndpointPort> = tcp_ports(slice).collect();
    ports.sort_by_key(|port| port.name.as_deref().unwrap_or_default());
    let number = |port: &&EndpointPort| port.port.and_then(|number| u16::try_from(number).ok());
    match choice {
        PortChoice::Name(name) => {
            ports.iter().find(|port| port.name.as_deref().unwrap_or_default() == name).and_then(number)
        }
        // A port without a number stands for all of them.
        PortChoice::Number(wanted) => {
            ports.iter().any(|port| port.port.is_none() || port.port == Some(i32::from(*wanted))).then_some(*wanted)
        }
        PortChoice::Any => ports.iter().find_map(number),
    }
}

fn tcp_ports(slice: &EndpointSlice) -> impl Iterator<Item = &EndpointPort> {
    slice.ports.iter().flatten().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP")
}

/// Says which ports there are where the chosen one is in no slice that has endpoints.
fn missing_port(slices: &[&EndpointSlice], choice: &PortChoice) -> Option<String> {
    let mut filled =
        slices.iter().filter(|slice| slice.endpoints.as_ref().is_some_and(|endpoints| !endpoints.is_empty()));
    if filled.clone().count() == 0 || filled.any(|slice| port_of(slice, choice).is_some()) {
        return None;
    }
    let known: BTreeSet<String> = slices.iter().flat_map(|slice| tcp_ports(slice)).map(in_words).collect();
    let known: Vec<String> = known.into_iter().collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Some(format!("its EndpointSlices have no TCP port {choice}; they have {known}: correct `port` in the config file"))
}

fn in_words(port: &EndpointPort) -> String {
    let number = port.port.map_or_else(|| "any number".to_owned(), |number| number.to_string());
    match port.name.as_deref() {
        Some(name) if !name.is_empty() => format!("`{name}` ({number})"),
        Some(_) | None => number,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn slice(version: &str, endpoints: impl Into<Value>) -> EndpointSlice {
        with_ports("IPv4", version, json!([{ "name": "http", "port": 8000 }]), endpoints)
    }

    fn with_ports(family: &str, version: &str, ports: impl Into<Value>, endpoints: impl Into<Value>) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": { "name": format!("live-{version}"), "resourceVersion": version },
            "addressType": family, "ports": ports.into(), "endpoints": endpoints.into(),
        }))
        .unwrap()
    }

    fn endpoint(address: &str, conditions: impl Into<Value>) -> Value {
        json!({ "addresses": [address], "conditions": conditions.into() })
    }

    fn http() -> PortChoice {
        PortChoice::Name("http".to_owned())
    }

    /// What the picture says, as `10.244.0.1:8000 Ready`.
    #[track_caller]
    fn check(slices: &[EndpointSlice], port: &PortChoice, wanted: &[&str]) {
        let picture = Picture::of(slices, port);
        let said: Vec<String> =
            picture.endpoints.iter().map(|(address, seen)| format!("{address} {:?}", seen.condition)).collect();
        assert_eq!(said, wanted);
    }

    #[test]
    fn all_slices_of_a_service_are_joined() {
        let first = slice("7", json!([endpoint("10.244.0.1", json!({ "ready": true }))]));
        let second = slice("8", json!([endpoint("10.244.0.2", json!({ "ready": true }))]));
        check(&[first, second], &http(), &["10.244.0.1:8000 Ready", "10.244.0.2:8000 Ready"]);
    }

    #[test]
    fn conditions_mean_what_the_api_says_also_where_they_are_absent() {
        let endpoints = json!([
            endpoint("10.244.0.1", json!({})),
            endpoint("10.244.0.2", json!({ "ready": false, "serving": false, "terminating": false })),
            endpoint("10.244.0.3", json!({ "ready": false, "serving": true, "terminating": true })),
            endpoint("10.244.0.4", json!({ "ready": false, "serving": false, "terminating": true })),
            endpoint("10.244.0.5", json!({ "ready": true, "serving": true, "terminating": true })),
            json!({ "addresses": ["10.244.0.6"] }),
        ]);
        check(
            &[slice("7", endpoints)],
            &http(),
            &[
                "10.244.0.1:8000 Ready",
                "10.244.0.2:8000 NotReady",
                "10.244.0.3:8000 Draining",
                "10.244.0.4:8000 NotReady",
                "10.244.0.5:8000 Draining",
                "10.244.0.6:8000 Ready",
            ],
        );
    }

    #[test]
    fn of_what_a_service_publishes_before_it_is_ready_serving_tells_who_is() {
        let endpoints = json!([
            endpoint("10.244.0.1", json!({ "ready": true, "serving": true, "terminating": false })),
            endpoint("10.244.0.2", json!({ "ready": true, "serving": false, "terminating": false })),
            endpoint("10.244.0.3", json!({ "ready": true })),
        ]);
        let slices = [slice("7", endpoints)];
        check(&slices, &http(), &["10.244.0.1:8000 Ready", "10.244.0.2:8000 Ready", "10.244.0.3:8000 Ready"]);
        let serving: Vec<bool> =
            Picture::of(&slices, &http()).endpoints.values().map(|endpoint| endpoint.serving).collect();
        assert_eq!(serving, [true, false, true]);
    }

    #[test]
    fn an_endpoint_in_two_slices_is_what_the_slice_written_last_says() {
        let old = slice("99", json!([endpoint("10.244.0.1", json!({ "ready": true }))]));
        let new = slice("100", json!([endpoint("10.244.0.1", json!({ "ready": false }))]));
        check(&[old.clone(), new.clone()], &http(), &["10.244.0.1:8000 NotReady"]);
        check(&[new, old], &http(), &["10.244.0.1:8000 NotReady"]);
        let back = slice("101", json!([endpoint("10.244.0.1", json!({ "ready": true }))]));
        let gone = slice("100", json!([endpoint("10.244.0.1", json!({ "ready": false }))]));
        check(&[back, gone], &http(), &["10.244.0.1:8000 Ready"]);
    }

    #[test]
    fn where_nobody_knows_which_slice_is_newer_the_worse_condition_counts() {
        let one = slice("a", json!([endpoint("10.244.0.1", json!({ "ready": true }))]));
        let other = slice("b", json!([endpoint("10.244.0.1", json!({ "ready": false }))]));
        check(&[one.clone(), other.clone()], &http(), &["10.244.0.1:8000 NotReady"]);
        check(&[other, one], &http(), &["10.244.0.1:8000 NotReady"]);
    }

    #[test]
    fn ports_are_chosen_by_name_or_by_the_number_on_which_pods_listen() {
        let ports = json!([{ "name": "metrics", "port": 9090 }, { "name": "http", "port": 8000 },
            { "name": "dns", "port": 53, "protocol": "UDP" }]);
        let slices = [with_ports("IPv4", "7", ports, json!([endpoint("10.244.0.1", json!({}))]))];
        check(&slices, &http(), &["10.244.0.1:8000 Ready"]);
        check(&slices, &PortChoice::Number(9090), &["10.244.0.1:9090 Ready"]);
        check(&slices, &PortChoice::Any, &["10.244.0.1:8000 Ready"]);
        check(&slices, &PortChoice::Number(53), &[]);
        check(&slices, &PortChoice::Name("grpc".to_owned()), &[]);
    }

    #[test]
    fn pods_that_listen_on_different_numbers_under_one_name_are_each_reached_on_theirs() {
        let old = with_ports(
            "IPv4",
            "7",
            json!([{ "name": "http", "port": 8000 }]),
            json!([endpoint("10.244.0.1", json!({}))]),
        );
        let new = with_ports(
            "IPv4",
            "8",
            json!([{ "name": "http", "port": 8080 }]),
            json!([endpoint("10.244.0.2", json!({}))]),
        );
        check(&[old, new], &http(), &["10.244.0.1:8000 Ready", "10.244.0.2:8080 Ready"]);
    }

    #[test]
    fn a_port_that_no_slice_has_is_told_with_those_that_there_are() {
        let slices = [slice("7", json!([endpoint("10.244.0.1", json!({}))]))];
        let picture = Picture::of(&slices, &PortChoice::Name("grpc".to_owned()));
        assert_eq!(
            picture.problem.as_deref(),
            Some(
                "its EndpointSlices have no TCP port `grpc`; they have `http` (8000): correct `port` in the config file"
            )
        );
        assert_eq!(Picture::of(&slices, &http()).problem, None);
        assert_eq!(Picture::of(&[slice("7", json!([]))], &PortChoice::Number(1)).problem, None);
    }

    #[test]
    fn a_pod_with_addresses_of_both_families_counts_once() {
        let named =
            |address: &str, pod: &str| json!({ "addresses": [address], "targetRef": { "kind": "Pod", "uid": pod } });
        let ports = json!([{ "name": "http", "port": 8000 }]);
        let v4 = with_ports("IPv4", "7", ports.clone(), json!([named("10.244.0.1", "a")]));
        let v6 = with_ports("IPv6", "8", ports, json!([named("fd00::1", "a"), named("fd00::2", "b")]));
        check(&[v6, v4], &http(), &["10.244.0.1:8000 Ready", "[fd00::2]:8000 Ready"]);
    }

    #[test]
    fn slices_of_host_names_and_addresses_that_are_none_are_passed_over() {
        let names = with_ports(
            "FQDN",
            "7",
            json!([{ "name": "http", "port": 8000 }]),
            json!([endpoint("model.internal", json!({}))]),
        );
        let odd = slice("8", json!([endpoint("nonsense", json!({})), { "addresses": [] }]));
        check(&[names, odd], &http(), &[]);
    }

    proptest! {
        #[test]
        fn a_picture_does_not_depend_on_the_order_of_slices_and_has_nothing_that_no_slice_has(
            slices in prop::collection::vec(
                (0..6_u8, prop::collection::vec((0..5_u8, any::<bool>(), any::<bool>()), 0..5)), 0..5),
            turn in 0..5_usize,
        ) {
            let slices: Vec<EndpointSlice> = slices.iter().map(|(version, endpoints)| {
                let endpoints: Vec<Value> = endpoints.iter().map(|(host, ready, terminating)| {
                    endpoint(&format!("10.244.0.{host}"), json!({ "ready": ready, "terminating": terminating }))
                }).collect();
                // Half of them have no number.
                let version = if version % 2 == 0 { version.to_string() } else { format!("v{version}") };
                slice(&version, json!(endpoints))
            }).collect();
            let picture = Picture::of(&slices, &http());
            let mut turned = slices.clone();
            turned.rotate_left(turn.min(slices.len()));
            for address in picture.endpoints.keys() {
                let text = address.ip().to_string();
                prop_assert!(slices.iter().flat_map(|slice| slice.endpoints.iter().flatten())
                    .any(|endpoint| endpoint.addresses.contains(&text)));
            }
            prop_assert_eq!(&Picture::of(&turned, &http()), &picture);
            prop_assert!(picture.ready() <= picture.endpoints.len());
        }
    }
}
